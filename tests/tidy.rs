//! Holds the tree to ARCHITECTURE.md: arrows between folders, roles of files, words that belong to one place, sizes.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 80;
const MOD_PROSE_LINES_MAX: usize = 40;

#[test]
fn folders_use_only_what_architecture_allows() {
    let allowed = may_use_table();
    let mut faults = Vec::new();
    for source in sources() {
        let Some(folder) = source.folder() else { continue };
        let Some(may_use) = allowed.get(&folder) else {
            faults.push(format!("{}: folder `{folder}` has no row in the table \"May use\"", source.name));
            continue;
        };
        for (number, line) in source.code() {
            for used in crate_paths(line) {
                let known = allowed.contains_key(&used);
                if known && used != folder && !may_use.contains(&used) {
                    faults.push(format!("{}:{number}: `{folder}` may not use `{used}`", source.name));
                }
            }
        }
    }
    assert_no(faults);
}

#[test]
fn the_may_use_table_has_no_cycle() {
    let allowed = may_use_table();
    for start in allowed.keys() {
        let mut seen = BTreeSet::new();
        let mut todo: Vec<&String> = allowed[start].iter().collect();
        while let Some(next) = todo.pop() {
            assert_ne!(next, start, "`{start}` may use itself by way of others");
            if seen.insert(next) {
                todo.extend(allowed.get(next).unwrap_or_else(|| panic!("`{next}` has no row")).iter());
            }
        }
    }
}

#[test]
fn files_keep_to_their_role() {
    let mut faults = Vec::new();
    let roles = table_after("A file of this name");
    assert!(roles.len() > 5, "the table of roles was not found in ARCHITECTURE.md");
    for source in sources() {
        let Some(forbidden) = roles.iter().find(|row| row[0] == source.file_name()).map(|row| list(&row[1])) else {
            continue;
        };
        for (number, line) in source.code() {
            for word in forbidden.iter().filter(|word| contains_word(line, word)) {
                faults.push(format!("{}:{number}: a {} must not contain `{word}`", source.name, source.file_name()));
            }
        }
    }
    assert_no(faults);
}

#[test]
fn words_stand_only_where_they_belong() {
    let mut faults = Vec::new();
    let rows = table_after("These words may stand only");
    assert!(rows.len() > 3, "the table of words was not found in ARCHITECTURE.md");
    for source in sources() {
        for row in &rows {
            if list(&row[1]).iter().any(|pattern| source.matches(pattern)) {
                continue;
            }
            for (number, line) in source.code().filter(|(_, line)| contains_word(line, &row[0])) {
                let line = line.trim();
                faults.push(format!("{}:{number}: `{}` belongs in {}: {line}", source.name, row[0], row[1]));
            }
        }
    }
    assert_no(faults);
}

#[test]
fn files_and_functions_stay_readable() {
    let mut faults = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            faults.push(format!("{}: {lines} lines, at most {FILE_LINES_MAX}", source.name));
        }
        for (number, name, lines) in source.functions() {
            if lines > FUNCTION_LINES_MAX {
                faults.push(format!("{}:{number}: fn {name} has {lines} lines", source.name));
            }
        }
        if source.file_name() == "mod.rs" && source.name.split('/').count() <= 4 {
            let prose = source.text.lines().take_while(|line| line.starts_with("//!")).count();
            if prose == 0 || prose > MOD_PROSE_LINES_MAX {
                faults.push(format!("{}: opens with {prose} lines of prose, 1 to {MOD_PROSE_LINES_MAX}", source.name));
            }
        }
    }
    assert_no(faults);
}

#[test]
fn pages_stay_short_and_every_module_is_reached() {
    for (page, most) in [("ARCHITECTURE.md", 300), ("README.md", 150)] {
        let lines = read(page).lines().count();
        assert!(lines <= most, "{page} has {lines} lines, at most {most}");
    }
    let known: BTreeSet<String> = sources().iter().map(|source| source.name.clone()).collect();
    let mut faults = Vec::new();
    for name in known.iter().filter(|name| !name.starts_with("src/bin/") && *name != "src/lib.rs") {
        let path = Path::new(name);
        let is_mod = path.file_name().is_some_and(|n| n == "mod.rs");
        let module = if is_mod { path.parent().unwrap() } else { path };
        let parent = module.parent().unwrap();
        let stem = module.file_stem().unwrap().to_string_lossy();
        let owners = [parent.join("mod.rs"), parent.join("lib.rs"), parent.with_extension("rs")];
        let declared = owners.iter().filter_map(|owner| fs::read_to_string(root().join(owner)).ok()).any(|text| {
            text.lines().any(|line| line.starts_with(['m', 'p']) && line.ends_with(&format!("mod {stem};")))
        });
        if !declared {
            faults.push(format!("{name}: no `mod {stem};` names it, so nothing compiles it"));
        }
    }
    assert_no(faults);
}

/// In SQLite `$2` is a name that gets the next free number where it first appears, so values bound by position land in the
/// wrong place as soon as `$2` stands before `$1`. `?2` is what it looks like.
#[test]
fn sql_parameters_are_numbered_with_question_marks() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| source.text.contains("rusqlite::")) {
        for (number, line) in source.code().filter(|(_, line)| line.contains("$1") || line.contains("$2")) {
            faults.push(format!("{}:{number}: write ?1 and not $1 in SQL: {}", source.name, line.trim()));
        }
    }
    assert_no(faults);
}

#[test]
fn pages_that_are_named_exist() {
    let mut texts: Vec<(String, String)> = sources().into_iter().map(|source| (source.name, source.text)).collect();
    texts.extend(["README.md", "ARCHITECTURE.md"].map(|page| (page.to_owned(), read(page))));
    let mut faults = BTreeSet::new();
    for (name, text) in &texts {
        for (at, _) in text.match_indices("docs/") {
            let path: String = text[at..].chars().take_while(|c| c.is_alphanumeric() || "/-_.".contains(*c)).collect();
            let path = path.trim_end_matches('.');
            if path.ends_with(".md") && !root().join(path).is_file() {
                faults.insert(format!("{name}: there is no {path}"));
            }
        }
    }
    assert_no(faults.into_iter().collect());
}

#[test]
fn dependencies_say_what_they_spare_us() {
    let manifest = read("Cargo.toml");
    let mut section = "";
    let mut faults = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.contains("dependencies]")
            && line.contains('=')
            && !line.starts_with('#')
            && !line.contains(" # ")
        {
            faults.push(format!("Cargo.toml: `{line}` does not say what it spares us"));
        }
    }
    assert_no(faults);
}

/// Firmware loads the initramfs over slow networks, and the agent lives in the memory of every machine.
#[test]
fn what_machines_load_stays_small() {
    const AGENT_BYTES_MAX: u64 = 6_000_000;
    const INITRAMFS_BYTES_MAX: u64 = 16_000_000;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    check_size(&target.join("x86_64-unknown-linux-gnu/small/remint-agent"), AGENT_BYTES_MAX, "scripts/agent builds it");
    match std::env::var_os("REMINT_VM_SITE") {
        Some(site) => {
            check_size(&Path::new(&site).join("boot/current/initrd.img"), INITRAMFS_BYTES_MAX, "scripts/test makes it")
        }
        None => skipped("the initramfs: REMINT_VM_SITE is not set; scripts/test sets it"),
    }
}

#[expect(clippy::print_stdout, reason = "a check that cannot run says why")]
fn skipped(why: &str) {
    println!("skipped: {why}");
}

fn check_size(path: &Path, most: u64, how: &str) {
    match fs::metadata(path) {
        Ok(found) => assert!(found.len() <= most, "{} has {} bytes, at most {most}", path.display(), found.len()),
        Err(_) => skipped(&format!("{} is not there: {how}", path.display())),
    }
}

#[test]
fn the_agent_depends_on_little() {
    const CRATES_MAX: usize = 100;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments =
        ["tree", "--offline", "--no-default-features", "--features", "agent", "--edges", "normal", "--prefix", "none"];
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let crates: BTreeSet<&str> =
        text.lines().filter_map(|line| line.split(' ').next()).filter(|name| !name.is_empty()).collect();
    for heavy in ["tokio", "axum", "hyper", "rusqlite", "clap", "maud", "serde-saphyr", "toml"] {
        assert!(!crates.contains(heavy), "remint-agent must not depend on {heavy}");
    }
    assert!(
        crates.len() > 20 && crates.len() <= CRATES_MAX,
        "remint-agent depends on {} crates, at most {CRATES_MAX}",
        crates.len()
    );
}

struct Source {
    /// Path from the top of the tree, with `/`.
    name: String,
    text: String,
}

impl Source {
    fn file_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap()
    }

    /// The top folder of `src/` it lies in; none for `lib.rs` and the programs.
    fn folder(&self) -> Option<String> {
        let mut parts = self.name.strip_prefix("src/")?.split('/');
        let first = parts.next()?;
        (parts.next().is_some() && first != "bin").then(|| first.to_owned())
    }

    /// Numbered lines outside comments and tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let tests = self.file_name() == "tests.rs" || self.name.contains("/tests/");
        let end = self.text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        let body = if tests { "" } else { &self.text[..end] };
        body.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")).map(|(n, line)| (n + 1, line))
    }

    fn matches(&self, pattern: &str) -> bool {
        let name = self.name.strip_prefix("src/").unwrap_or(&self.name);
        match (pattern.strip_prefix("*/"), pattern.strip_suffix("/*")) {
            (Some(file), _) => name.ends_with(&format!("/{file}")),
            (_, Some(folder)) => name.starts_with(&format!("{folder}/")),
            _ => name == pattern,
        }
    }

    /// (line, name, lines) of each function, found by indentation, which rustfmt guarantees.
    fn functions(&self) -> Vec<(usize, String, usize)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let mut found = Vec::new();
        for (start, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            let Some(at) = code.find("fn ").filter(|at| code[..*at].split_whitespace().all(is_qualifier)) else {
                continue;
            };
            let indent = line.len() - code.len();
            let closing = format!("{}}}", " ".repeat(indent));
            let Some(length) = lines[start..].iter().position(|line| *line == closing) else { continue };
            if lines[start..start + length]
                .iter()
                .any(|line| line.trim_end().ends_with(';') && line.len() - line.trim_start().len() == indent)
            {
                continue;
            }
            let name = code[at + 3..].split(['(', '<']).next().unwrap_or_default();
            found.push((start + 1, name.to_owned(), length + 1));
        }
        found
    }
}

fn is_qualifier(word: &str) -> bool {
    matches!(word, "pub" | "pub(crate)" | "pub(super)" | "async" | "const" | "unsafe" | "extern" | "\"C\"")
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root().join("src"), &mut found);
    assert!(found.len() > 5, "the sources were not found");
    found
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            found.push(Source { name, text: fs::read_to_string(&path).unwrap() });
        }
    }
}

/// The folders that `crate::folder` names in a line, `use crate::{a, b}` included.
fn crate_paths(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + 7..];
        let names = match rest.strip_prefix('{') {
            Some(group) => group.split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            found.push(name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    found
}

/// Whether `word` stands in `line` and does not merely end a longer name.
fn contains_word(line: &str, word: &str) -> bool {
    let line = line.split(" // ").next().unwrap_or(line);
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let name = |c: char| c.is_alphanumeric() || c == '_';
        !before.is_some_and(name) && (!word.ends_with(name) || !after.is_some_and(name))
    })
}

fn may_use_table() -> BTreeMap<String, BTreeSet<String>> {
    let rows = table_after("A folder may use");
    assert!(rows.len() > 10, "the table \"May use\" was not found in ARCHITECTURE.md");
    rows.into_iter().map(|row| (row[0].clone(), list(&row[1]).into_iter().collect())).collect()
}

/// The body rows of the first table after the line that starts with `opening`.
fn table_after(opening: &str) -> Vec<Vec<String>> {
    let page = read("ARCHITECTURE.md");
    let lines = page.lines().skip_while(|line| !line.starts_with(opening)).skip_while(|line| !line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    lines.take_while(|line| line.starts_with('|')).skip(2).map(cells).collect()
}

fn list(cell: &str) -> Vec<String> {
    cell.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn assert_no(faults: Vec<String>) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
