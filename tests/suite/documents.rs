//! What documents say can be followed: their links lead somewhere, and the commands that they show are commands.

use std::fs;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use remint::cli::mistake;

/// Every page, and those of the folders below `docs`.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md"), root.join("ARCHITECTURE.md")];
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.extension() {
                _ if entry.is_dir() => folders.push(entry),
                Some(extension) if extension == "md" => pages.push(entry),
                _ => {}
            }
        }
    }
    pages
}

#[test]
fn links_lead_to_files_that_are_there() {
    let mut faults = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            let is_elsewhere = file.is_empty() || file.contains("://") || file.contains(char::is_whitespace);
            if !is_elsewhere && !page.parent().unwrap().join(file).exists() {
                faults.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// A reader who does not see a picture is told what is on it; a picture that nobody is shown is not kept.
#[test]
fn pictures_are_small_told_in_words_and_shown() {
    const BYTES_MAX: u64 = 150_000;
    let mut shown = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for (at, _) in text.match_indices("![") {
            let (words, target) = text[at + 2..].split_once("](").unwrap();
            assert!(words.len() > 20 && !words.contains('\n'), "{}: a picture without words: {words}", page.display());
            let file = page.parent().unwrap().join(target.split(')').next().unwrap());
            shown.push(file.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", file.display())));
        }
    }
    let kept = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/pictures")).unwrap();
    let kept: Vec<PathBuf> = kept.map(|entry| entry.unwrap().path().canonicalize().unwrap()).collect();
    assert!(kept.len() >= 6, "{kept:?}");
    for picture in kept {
        let bytes = fs::read(&picture).unwrap();
        assert!(
            bytes.starts_with(b"\x89PNG\r\n\x1a\n") && bytes.len() as u64 <= BYTES_MAX,
            "{}: {} bytes",
            picture.display(),
            bytes.len()
        );
        assert!(shown.contains(&picture), "no page shows {}", picture.display());
    }
}

/// Lines of blocks that begin with `remint` are whole commands; an explanation stands behind two blanks or a `#`.
#[test]
fn commands_in_blocks_are_commands() {
    let mut faults = Vec::new();
    let mut count = 0;
    for page in pages().iter().filter(|page| shows_commands(page)) {
        let text = fs::read_to_string(page).unwrap();
        for block in text.split("```").skip(1).step_by(2) {
            for line in
                block.lines().map(|line| line.trim_start_matches("sudo ")).filter(|line| line.starts_with("remint "))
            {
                let command = line.split("  ").next().unwrap().split(" #").next().unwrap().split(" > ").next().unwrap();
                count += 1;
                if let Some(error) = mistake(words(command).iter().map(String::as_str)) {
                    faults.push(format!("{}: {command}: {error}", page.display()));
                }
            }
        }
    }
    assert!(count > 40, "only {count} commands were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// In running text a command may lack its arguments, and has names for them.
#[test]
fn commands_in_sentences_exist() {
    let mut faults = Vec::new();
    for page in pages().iter().filter(|page| shows_commands(page)) {
        let text = fs::read_to_string(page).unwrap();
        for (at, _) in text.match_indices("`remint ") {
            let command = text[at + 1..].split(['`', '|', ';', '\\']).next().unwrap().replace(['[', ']'], "");
            let error = mistake(words(&command).iter().map(String::as_str));
            let is_wrong = |kind| matches!(kind, ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument);
            if error.as_ref().is_some_and(|error| is_wrong(error.kind())) {
                faults.push(format!("{}: `{command}`: {}", page.display(), error.unwrap()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Formats begin with the program's name too, and decisions speak of what was.
fn shows_commands(page: &Path) -> bool {
    !["formats", "decisions"].iter().any(|folder| page.components().any(|part| part.as_os_str() == *folder))
}

/// As a shell takes a line apart: at blanks, except within quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quote, mut word) = (Vec::new(), None, None::<String>);
    for character in line.chars() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, blank) if blank.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}
