//! The page on inventory queries says what the views are, and its examples run.

use remint::inventory::query::{VIEWS, run};
use remint::server::site::Site;

const PAGE: &str = include_str!("../../docs/reference/inventory.md");

#[test]
fn the_page_lists_every_view_as_the_program_describes_it() {
    for view in VIEWS {
        assert!(PAGE.contains(&format!("| `{}` | {} |", view.name, view.about)), "{}", view.name);
    }
    assert_eq!(PAGE.lines().filter(|line| line.starts_with("| `")).count(), VIEWS.len());
}

#[test]
fn the_examples_of_the_page_run() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::create(&folder.path().join("site"), "test").unwrap();
    let examples = PAGE.split("```sql\n").nth(1).unwrap().split("```").next().unwrap();
    for sql in examples.lines() {
        run(&site.db, sql.trim_end_matches(';')).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    assert!(run(&site.db, "SELECT * FROM token").is_err(), "only the views may be asked");
}
