//! Text of people and of packages: task sequences, packages of software, versions, lists of drivers, answer files.

use std::cmp::Ordering;

use remint::software::model::{self, Package};
use remint::software::version;
use remint::stdx::xml;
use remint::tasksequence::model::Sequence;
use remint::tasksequence::parser;

pub(crate) fn texts(input: &[u8]) {
    super::one_of(&[sequence, versions, drivers, answers], input);
}

/// A task sequence: every problem has its place, and what is sound survives being sent to a machine.
fn sequence(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let _ = parser::to_json(text);
    match parser::parse(text) {
        Ok(sequence) => {
            let sent = serde_json::to_string(&sequence).expect("a sequence is sent as JSON");
            let again: Sequence = serde_json::from_str(&sent).expect("what is sent is understood");
            assert_eq!(sequence.version(), again.version(), "{sent}");
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            // YAML breaks lines at a lone carriage return as well.
            let lines = text.matches(['\n', '\r']).count() as u64 + 2;
            for problem in problems {
                assert!(u64::from(problem.line) <= lines, "{problem}");
            }
        }
    }
}

/// A package as it is uploaded, in JSON.
pub(crate) fn package(input: &[u8]) {
    let Ok(package) = serde_json::from_slice::<Package>(input) else { return };
    if model::faults(&package).is_empty() {
        assert!(model::is_name(&package.name));
    }
}

/// Three versions, one a line: comparing them is an order.
fn versions(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.lines();
    let mut line = || lines.next().unwrap_or_default();
    let (a, b, c) = (line(), line(), line());
    assert_eq!(version::compare(a, a), Ordering::Equal);
    assert_eq!(version::compare(a, b), version::compare(b, a).reverse(), "{a} {b}");
    if version::compare(a, b).is_le() && version::compare(b, c).is_le() {
        assert!(version::compare(a, c).is_le(), "{a} {b} {c}");
    }
}

fn drivers(input: &[u8]) {
    #[cfg(feature = "agent")]
    super::machine::drivers(input);
    let _ = input;
}

/// A document of XML: a fault is in one of its lines, and a sound one stays sound within an element.
fn answers(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match xml::root(text) {
        // Neither a declaration nor depth may come in the way.
        Ok(_) if !text.contains("<?xml") && text.matches('<').count() < 200 => {
            assert!(xml::root(&format!("<r>{text}</r>")).is_ok(), "{text:?}");
        }
        Ok(_) => {}
        Err(fault) => assert!(fault.line as usize <= text.matches('\n').count() + 1, "{fault}"),
    }
}
