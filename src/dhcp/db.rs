//! Leases on disk: one row an address.

use std::net::Ipv4Addr;

use rusqlite::{Row, params};

use crate::db::{Db, Error, Migration};
use crate::dhcp::lease::{Lease, State};
use crate::dhcp::request::Identity;
use crate::stdx::hex;
use crate::stdx::mac::MacAddr;
use crate::stdx::time::Timestamp;

pub const MIGRATIONS: &[Migration] = &[Migration {
    name: "dhcp-1",
    sql: "CREATE TABLE dhcp_lease (
            address    INTEGER PRIMARY KEY, -- the 32 bits of the IPv4 address
            identity   TEXT NOT NULL,       -- client identifier in hexadecimal
            mac        TEXT NOT NULL,
            state      TEXT NOT NULL,       -- bound, declined
            stored_at  INTEGER NOT NULL,
            expires_at INTEGER NOT NULL,
            host_name  TEXT
          )",
}];

/// Writes leases in one transaction: they are durable when this returns.
pub fn save(db: &Db, leases: &[Lease]) -> Result<(), Error> {
    db.write(|tx| {
        let mut statement = tx.prepare_cached(
            "INSERT INTO dhcp_lease (address, identity, mac, state, stored_at, expires_at, host_name)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (address) DO UPDATE SET identity = excluded.identity, mac = excluded.mac,
               state = excluded.state, stored_at = excluded.stored_at, expires_at = excluded.expires_at,
               host_name = excluded.host_name",
        )?;
        for lease in leases {
            statement.execute(params![
                lease.address.to_bits(),
                hex::emit(&lease.identity.0),
                lease.mac.to_string(),
                state_name(lease.state),
                lease.stored.milliseconds(),
                lease.expires.milliseconds(),
                lease.host_name,
            ])?;
        }
        Ok(())
    })
}

/// All leases, the oldest first: of two addresses that one client had, the later wins when they are put back.
pub fn load(db: &Db) -> Result<Vec<Lease>, Error> {
    db.read(|connection| {
        let mut statement = connection.prepare_cached(
            "SELECT address, identity, mac, state, stored_at, expires_at, host_name FROM dhcp_lease ORDER BY stored_at",
        )?;
        let leases = statement.query_map([], lease)?.collect::<Result<Vec<Option<Lease>>, _>>()?;
        Ok(leases.into_iter().flatten().collect())
    })
}

/// `None` for a row that this version cannot read.
fn lease(row: &Row<'_>) -> rusqlite::Result<Option<Lease>> {
    let (identity, mac, state): (String, String, String) = (row.get(1)?, row.get(2)?, row.get(3)?);
    let (address, stored, expires): (u32, i64, i64) = (row.get(0)?, row.get(4)?, row.get(5)?);
    let host_name = row.get(6)?;
    let parsed = (hex::parse(&identity), mac.parse::<MacAddr>().ok(), state_from(&state));
    let (Some(identity), Some(mac), Some(state)) = parsed else { return Ok(None) };
    Ok(Some(Lease {
        address: Ipv4Addr::from_bits(address),
        identity: Identity(identity),
        mac,
        state,
        stored: Timestamp::from_milliseconds(stored),
        expires: Timestamp::from_milliseconds(expires),
        host_name,
    }))
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Offered => "offered",
        State::Bound => "bound",
        State::Declined => "declined",
    }
}

fn state_from(name: &str) -> Option<State> {
    [State::Offered, State::Bound, State::Declined].into_iter().find(|state| state_name(*state) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_leases_come_back_the_newest_last() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&folder.path().join("db"), &[MIGRATIONS], Timestamp::default()).unwrap();
        let lease = |last: u8, stored: i64, state| Lease {
            address: Ipv4Addr::new(10, 0, 0, last),
            identity: Identity(vec![1, last]),
            mac: MacAddr([2, 0, 0, 0, 0, last]),
            state,
            stored: Timestamp::from_milliseconds(stored),
            expires: Timestamp::from_milliseconds(stored + 9),
            host_name: Some("böx".into()),
        };
        let (new, old) = (lease(1, 200, State::Bound), lease(2, 100, State::Declined));
        save(&db, &[lease(1, 50, State::Bound)]).unwrap();
        save(&db, &[new.clone(), old.clone()]).unwrap();
        assert_eq!(load(&db).unwrap(), [old, new]);
    }
}
