//! Questions that people type: SQL over documented views, read-only, bounded in time, rows and bytes.
//!
//! The views are temporary and made on a connection of their own that cannot write. SQLite asks before it touches anything
//! (`sqlite3_set_authorizer`): a table may be read only on behalf of one of the views, so that nothing else of the site -
//! no password hash, no token - can be asked for.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::db::Db;
use crate::stdx::hint::Hint;

const TIME_MAX: Duration = Duration::from_secs(5);
const ROWS_MAX: usize = 10_000;
/// Machines of one collection.
const MEMBERS_MAX: usize = 200_000;
const BYTES_MAX: usize = 16 << 20;
const SQL_BYTES_MAX: i32 = 64 << 10;
/// SQLite looks at the clock after this many of its instructions: well under a millisecond.
const STEPS_BETWEEN_LOOKS: i32 = 10_000;

/// A view that people may ask: its name, its columns in words, what it stands for.
pub struct View {
    pub name: &'static str,
    pub about: &'static str,
    sql: &'static str,
}

/// The whole vocabulary of queries. docs/reference/inventory.md lists it with the columns.
pub const VIEWS: &[View] = &[
    View {
        name: "machines",
        about: "one row a machine: name, state, manufacturer, model, serial, firmware, secure_boot, architecture, processor, \
                cores, threads, memory_bytes, os, os_version, kernel, address, seen_at, id",
        sql: "SELECT m.name, m.state, h ->> '$.system.manufacturer' AS manufacturer, h ->> '$.system.product' AS model,
                h ->> '$.system.serial' AS serial, h ->> '$.firmware.kind' AS firmware,
                h ->> '$.firmware.secure_boot' AS secure_boot, h ->> '$.architecture' AS architecture,
                h ->> '$.processor.model' AS processor, h ->> '$.processor.cores' AS cores,
                h ->> '$.processor.threads' AS threads, h ->> '$.memory.total_bytes' AS memory_bytes,
                o ->> '$.id' AS os, o ->> '$.version' AS os_version, o ->> '$.kernel' AS kernel, m.address, m.seen_at,
                m.id
              FROM main.machine m LEFT JOIN (SELECT machine, hardware AS h, os AS o FROM main.inventory) i
                ON i.machine = m.id",
    },
    View {
        name: "disks",
        about: "one row a disk: machine, disk, bytes, model, serial, firmware, rotational, removable, transport, \
                failing, percent_used, reallocated_sectors, pending_sectors",
        sql: "SELECT m.name AS machine, d.value ->> '$.name' AS disk, d.value ->> '$.bytes' AS bytes,
                d.value ->> '$.model' AS model, d.value ->> '$.serial' AS serial, d.value ->> '$.firmware' AS firmware,
                d.value ->> '$.rotational' AS rotational, d.value ->> '$.removable' AS removable,
                d.value ->> '$.transport' AS transport, d.value ->> '$.health.failing' AS failing,
                d.value ->> '$.health.percent_used' AS percent_used,
                d.value ->> '$.health.reallocated_sectors' AS reallocated_sectors,
                d.value ->> '$.health.pending_sectors' AS pending_sectors
              FROM main.inventory i JOIN main.machine m ON m.id = i.machine, json_each(i.hardware, '$.disks') d",
    },
    View {
        name: "partitions",
        about: "one row a partition: machine, disk, partition, name, start, bytes, filesystem, label, used_bytes, mounted_at",
        sql: "SELECT m.name AS machine, d.value ->> '$.name' AS disk, p.value ->> '$.number' AS partition,
                p.value ->> '$.name' AS name, p.value ->> '$.start' AS start, p.value ->> '$.bytes' AS bytes,
                p.value ->> '$.filesystem' AS filesystem, p.value ->> '$.label' AS label,
                p.value ->> '$.used_bytes' AS used_bytes, p.value ->> '$.mounted_at' AS mounted_at
              FROM main.inventory i JOIN main.machine m ON m.id = i.machine, json_each(i.hardware, '$.disks') d,
                json_each(d.value, '$.partitions') p",
    },
    View {
        name: "adapters",
        about: "one row a network adapter: machine, adapter, mac, permanent_mac, driver, link, megabits, switch, switch_port",
        sql: "SELECT m.name AS machine, a.value ->> '$.name' AS adapter, a.value ->> '$.mac' AS mac,
                a.value ->> '$.permanent_mac' AS permanent_mac, a.value ->> '$.driver' AS driver,
                a.value ->> '$.link' AS link, a.value ->> '$.megabits' AS megabits,
                coalesce(a.value ->> '$.neighbour.system', a.value ->> '$.neighbour.chassis') AS switch,
                a.value ->> '$.neighbour.port' AS switch_port
              FROM main.inventory i JOIN main.machine m ON m.id = i.machine, json_each(i.hardware, '$.adapters') a",
    },
    View {
        name: "pci",
        about: "one row a PCI device: machine, address, class, vendor, device, driver, kind, \
                vendor_name, device_name",
        sql: "SELECT m.name AS machine, p.value ->> '$.address' AS address, p.value ->> '$.class' AS class,
                p.value ->> '$.vendor' AS vendor, p.value ->> '$.device' AS device, p.value ->> '$.driver' AS driver,
                p.value ->> '$.kind' AS kind, p.value ->> '$.vendor_name' AS vendor_name,
                p.value ->> '$.device_name' AS device_name
              FROM main.inventory i JOIN main.machine m ON m.id = i.machine, json_each(i.hardware, '$.pci') p",
    },
    View {
        name: "usb",
        about: "one row a USB device: machine, address, vendor, device, manufacturer, product, serial, vendor_name, device_name",
        sql: "SELECT m.name AS machine, u.value ->> '$.address' AS address, u.value ->> '$.vendor' AS vendor,
                u.value ->> '$.device' AS device, u.value ->> '$.manufacturer' AS manufacturer,
                u.value ->> '$.product' AS product, u.value ->> '$.serial' AS serial,
                u.value ->> '$.vendor_name' AS vendor_name, u.value ->> '$.device_name' AS device_name
              FROM main.inventory i JOIN main.machine m ON m.id = i.machine, json_each(i.hardware, '$.usb') u",
    },
    View {
        name: "packages",
        about: "one row an installed package: machine, package, version, architecture, manager",
        sql: "SELECT m.name AS machine, p.name AS package, p.version, p.architecture, p.manager
              FROM main.inventory_package p JOIN main.machine m ON m.id = p.machine",
    },
    View {
        name: "memory_modules",
        about: "one row a memory module: machine, slot, bytes, kind, mega_transfers, manufacturer, serial, part",
        sql: "SELECT m.name AS machine, d.value ->> '$.slot' AS slot, d.value ->> '$.bytes' AS bytes,
                d.value ->> '$.kind' AS kind, d.value ->> '$.mega_transfers' AS mega_transfers,
                d.value ->> '$.manufacturer' AS manufacturer, d.value ->> '$.serial' AS serial,
                d.value ->> '$.part' AS part
              FROM main.inventory i JOIN main.machine m ON m.id = i.machine, json_each(i.hardware, '$.memory.modules') d",
    },
    View {
        name: "services",
        about: "one row a service: machine, service, enabled, running",
        sql: "SELECT m.name AS machine, s.value ->> '$.name' AS service, s.value ->> '$.enabled' AS enabled,
                s.value ->> '$.running' AS running
              FROM main.inventory i JOIN main.machine m ON m.id = i.machine, json_each(i.running, '$.services') s",
    },
    View {
        name: "ports",
        about: "one row a listening port: machine, protocol, address, port, program",
        sql: "SELECT m.name AS machine, p.value ->> '$.protocol' AS protocol, p.value ->> '$.address' AS address,
                p.value ->> '$.port' AS port, p.value ->> '$.program' AS program
              FROM main.inventory i JOIN main.machine m ON m.id = i.machine, json_each(i.running, '$.ports') p",
    },
    View {
        name: "accounts",
        about: "one row an account: machine, account, uid, shell, groups",
        sql: "SELECT m.name AS machine, a.value ->> '$.name' AS account, a.value ->> '$.uid' AS uid,
                a.value ->> '$.shell' AS shell, a.value ->> '$.groups' AS groups
              FROM main.inventory i JOIN main.machine m ON m.id = i.machine, json_each(i.running, '$.accounts') a",
    },
    View {
        name: "changes",
        about: "one row a change: machine, at, subject, name, before, after",
        sql: "SELECT m.name AS machine, c.at, c.subject, c.name, c.before, c.after
              FROM main.inventory_change c JOIN main.machine m ON m.id = c.machine",
    },
    View {
        name: "compliance",
        about: "one row a machine and a package of its baseline: machine, package, version, state, reason, at",
        sql: "SELECT m.name AS machine, f.package, f.version, f.state, f.reason, f.at
              FROM main.compliance f JOIN main.machine m ON m.id = f.machine",
    },
];

/// The rows, and whether there were more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Value>>,
    pub truncated: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("understand the query: {0}")]
    Sql(String),
    #[error("run the query: only these views may be asked: {}", names())]
    Forbidden,
    #[error("run the query: it took longer than {} seconds", TIME_MAX.as_secs())]
    Slow,
    #[error("run the query")]
    Db(#[source] rusqlite::Error),
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Error::Sql(_) | Error::Forbidden => Some("for instance: SELECT name, memory_bytes FROM machines".into()),
            Error::Slow => Some("narrow it with WHERE, or join on columns that are equal".into()),
            Error::Db(_) => None,
        }
    }
}

fn names() -> String {
    VIEWS.iter().map(|view| view.name).collect::<Vec<_>>().join(", ")
}

/// Asks one statement.
pub fn run(db: &Db, sql: &str) -> Result<Answer, Error> {
    ask(db, sql, ROWS_MAX)
}

/// The texts in the first column: how a collection finds its machines. All of them, up to a limit of its own.
pub fn first_column(db: &Db, sql: &str) -> Result<Vec<String>, Error> {
    let answer = ask(db, sql, MEMBERS_MAX)?;
    if answer.truncated {
        return Err(Error::Sql(format!("it finds more than {MEMBERS_MAX} machines")));
    }
    let texts = answer.rows.into_iter().filter_map(|row| row.into_iter().next()?.as_str().map(str::to_owned));
    Ok(texts.collect())
}

fn ask(db: &Db, sql: &str, rows_max: usize) -> Result<Answer, Error> {
    let mut connection = db.reader().map_err(Error::Db)?;
    make_views(&connection).map_err(Error::Db)?;
    connection.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, SQL_BYTES_MAX).map_err(Error::Db)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0).map_err(Error::Db)?;
    let tables = own_tables(&connection).map_err(Error::Db)?;
    connection.authorizer(Some(move |context: AuthContext<'_>| permit(&context, &tables))).map_err(Error::Db)?;
    let started = Instant::now();
    connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(move || started.elapsed() > TIME_MAX)).map_err(Error::Db)?;
    collect(&connection, sql, rows_max).map_err(explain)
}

/// Temporary, so that a reader may have them; the names of the site's own tables are written in full in the views, so that a
/// view may have the name that people expect.
fn make_views(connection: &Connection) -> Result<(), rusqlite::Error> {
    VIEWS
        .iter()
        .try_for_each(|view| connection.execute_batch(&format!("CREATE TEMP VIEW {} AS {}", view.name, view.sql)))
}

/// The names of everything that the site keeps, lower case.
fn own_tables(connection: &Connection) -> Result<BTreeSet<String>, rusqlite::Error> {
    let mut statement = connection.prepare("SELECT lower(name) FROM main.sqlite_schema")?;
    let names = statement.query_map([], |row| row.get(0))?;
    names.collect()
}

/// Reading is allowed from a view, and within one from what it stands for. A name of the query's own (WITH) is told from
/// a table's by not being one: SQLite asks for both in the same way when no column is read, as in `count(*)`.
fn permit(context: &AuthContext<'_>, tables: &BTreeSet<String>) -> Authorization {
    let is_view = |name: &str| VIEWS.iter().any(|view| view.name == name);
    let is_own = |name: &str| {
        let name = name.to_ascii_lowercase();
        !tables.contains(&name) && !name.starts_with("sqlite_") && !name.starts_with("pragma_")
    };
    let allowed = match context.action {
        AuthAction::Select | AuthAction::Recursive => true,
        AuthAction::Read { .. } if context.accessor.is_some_and(is_view) => true,
        AuthAction::Read { table_name, .. } if is_view(table_name) => context.database_name != Some("main"),
        AuthAction::Read { table_name, column_name: "" } => is_own(table_name),
        AuthAction::Function { function_name } => !function_name.eq_ignore_ascii_case("load_extension"),
        _ => false,
    };
    if allowed { Authorization::Allow } else { Authorization::Deny }
}

fn collect(connection: &Connection, sql: &str, rows_max: usize) -> Result<Answer, rusqlite::Error> {
    let mut statement = connection.prepare(sql)?;
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut answer = Answer { columns, ..Answer::default() };
    let mut rows = statement.query([])?;
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let cells = (0..answer.columns.len()).map(|at| row.get_ref(at).map(cell));
        let cells: Vec<Value> = cells.collect::<Result<_, _>>()?;
        bytes += cells.iter().map(|cell| cell.as_str().map_or(8, str::len)).sum::<usize>();
        if answer.rows.len() == rows_max || bytes > BYTES_MAX {
            answer.truncated = true;
            break;
        }
        answer.rows.push(cells);
    }
    Ok(answer)
}

fn cell(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => number.into(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
        ValueRef::Blob(bytes) => crate::stdx::hex::emit(bytes).into(),
    }
}

fn explain(error: rusqlite::Error) -> Error {
    match &error {
        rusqlite::Error::SqliteFailure(code, _) if code.code == ErrorCode::OperationInterrupted => Error::Slow,
        rusqlite::Error::SqliteFailure(code, _) if code.code == ErrorCode::AuthorizationForStatementDenied => {
            Error::Forbidden
        }
        rusqlite::Error::SqliteFailure(_, Some(text)) if text.contains("prohibited") => Error::Forbidden,
        rusqlite::Error::SqliteFailure(_, Some(text)) => Error::Sql(text.clone()),
        rusqlite::Error::SqlInputError { msg, .. } if msg.contains("prohibited") => Error::Forbidden,
        rusqlite::Error::SqlInputError { msg, .. } => Error::Sql(msg.clone()),
        rusqlite::Error::MultipleStatement => Error::Sql("one statement at a time".into()),
        _ => Error::Db(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::time::Timestamp;

    fn site(folder: &tempfile::TempDir) -> Db {
        let tables = &[
            crate::access::db::MIGRATIONS,
            crate::fleet::db::MIGRATIONS,
            crate::inventory::db::MIGRATIONS,
            &[crate::db::Migration {
                name: "secret-1",
                sql: "CREATE TABLE secret (value TEXT); INSERT INTO secret VALUES ('hunter2');
                    CREATE TABLE compliance (machine TEXT, package TEXT, version TEXT, state TEXT, reason TEXT, at INTEGER)",
            }] as &[crate::db::Migration],
        ];
        let db = Db::open(&folder.path().join("db"), tables, Timestamp::default()).unwrap();
        db.write::<_, crate::db::Error>(|tx| {
            tx.execute_batch(
                "INSERT INTO machine (id, name, state, next_boot, identity, stage, created_at, seen_at)
                 VALUES ('m1', 'one', 'managed', 'local-disk', '{}', 'x', 0, 0), ('m2', 'two', 'waiting', 'x', '{}', 'x', 0, 0);
                 INSERT INTO inventory (machine, hardware, os) VALUES ('m1',
                    '{\"memory\": {\"total_bytes\": 5}, \"disks\": [{\"name\": \"sda\", \"bytes\": 7}, {\"name\": \"sdb\", \"bytes\": 8}]}',
                    '{\"id\": \"debian\"}');
                 INSERT INTO inventory_package VALUES ('m1', 'deb', 'bash', 'amd64', '5.2');",
            )?;
            Ok(())
        })
        .unwrap();
        db
    }

    #[test]
    fn the_views_answer_for_machines_with_and_without_inventory() {
        let folder = tempfile::tempdir().unwrap();
        let db = site(&folder);
        let rows = |sql: &str| serde_json::to_string(&run(&db, sql).unwrap().rows).unwrap();
        assert_eq!(
            rows("SELECT name, memory_bytes, os FROM machines ORDER BY name"),
            r#"[["one",5,"debian"],["two",null,null]]"#
        );
        assert_eq!(rows("SELECT machine, disk, bytes FROM disks WHERE bytes > 7"), r#"[["one","sdb",8]]"#);
        assert_eq!(rows("SELECT p.version FROM packages p JOIN machines m ON m.name = p.machine"), r#"[["5.2"]]"#);
        for view in VIEWS {
            run(&db, &format!("SELECT * FROM {}", view.name)).unwrap();
        }
    }

    #[test]
    fn nothing_but_the_views_can_be_read_and_nothing_can_be_changed() {
        let folder = tempfile::tempdir().unwrap();
        let db = site(&folder);
        for sql in [
            "SELECT * FROM secret",
            "SELECT value FROM main.secret",
            "SELECT count(*) FROM secret",
            "SELECT count(*) FROM main.SECRET",
            "SELECT count(*) FROM sqlite_master",
            "SELECT count(*) FROM main.compliance",
            "SELECT count(*) FROM pragma_table_list",
            "SELECT * FROM machines, secret",
            "SELECT name FROM main.machine",
            "SELECT sql FROM sqlite_master",
            "SELECT * FROM temp.sqlite_master",
            "WITH x AS (SELECT value FROM secret) SELECT * FROM x",
            "DELETE FROM machine",
            "DROP VIEW machines",
            "CREATE TEMP VIEW packages2 AS SELECT * FROM secret",
            "ATTACH DATABASE '/tmp/x' AS x",
            "PRAGMA table_info(secret)",
            "SELECT load_extension('x')",
            "VACUUM INTO '/tmp/x'",
            "SELECT name FROM machines; DELETE FROM machine",
        ] {
            let refused = run(&db, sql);
            assert!(refused.is_err(), "{sql}: {refused:?}");
        }
    }

    #[test]
    fn a_query_that_would_run_for_an_hour_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let db = site(&folder);
        let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n";
        assert!(matches!(run(&db, endless), Err(Error::Slow)));
        let flood = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n";
        let answer = run(&db, flood).unwrap();
        assert!(answer.truncated && answer.rows.len() == ROWS_MAX);
    }
}
