//! Debian version numbers: `[epoch:]upstream[-revision]` (Debian Policy 5.6.12).

use std::cmp::Ordering;

/// Compares as `dpkg --compare-versions` does. Any text has a place in the order; there is no invalid version.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (Parts::of(a), Parts::of(b));
    let epochs = a.epoch.cmp(&b.epoch);
    epochs.then_with(|| compare_part(a.upstream, b.upstream)).then_with(|| compare_part(a.revision, b.revision))
}

struct Parts<'a> {
    epoch: u64,
    upstream: &'a str,
    revision: &'a str,
}

impl<'a> Parts<'a> {
    fn of(version: &'a str) -> Parts<'a> {
        let version = version.trim();
        let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        Parts { epoch: epoch.parse().unwrap_or(0), upstream, revision }
    }
}

/// Alternately a run of non-digits, in which `~` sorts before the end and letters before the rest, and a number.
fn compare_part(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() || !b.is_empty() {
        let (text_a, text_b) = (take(&mut a, |c| !c.is_ascii_digit()), take(&mut b, |c| !c.is_ascii_digit()));
        let by_text = compare_text(text_a, text_b);
        let by_number =
            || number(take(&mut a, |c| c.is_ascii_digit())).cmp(&number(take(&mut b, |c| c.is_ascii_digit())));
        match by_text.then_with(by_number) {
            Ordering::Equal => {}
            order => return order,
        }
    }
    Ordering::Equal
}

fn take<'a>(bytes: &mut &'a [u8], of: impl Fn(&u8) -> bool) -> &'a [u8] {
    let len = bytes.iter().take_while(|c| of(c)).count();
    let (taken, rest) = bytes.split_at(len);
    *bytes = rest;
    taken
}

fn compare_text(a: &[u8], b: &[u8]) -> Ordering {
    let at = |text: &[u8], index: usize| text.get(index).map_or(0, |c| weight(*c));
    (0..a.len().max(b.len())).map(|i| at(a, i).cmp(&at(b, i))).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn weight(c: u8) -> i32 {
    match c {
        b'~' => -1,
        b'a'..=b'z' | b'A'..=b'Z' => i32::from(c),
        other => i32::from(other) + 256,
    }
}

/// (digits without leading zeros, as length and text): numbers of any size compare without overflow.
fn number(digits: &[u8]) -> (usize, &[u8]) {
    let zeros = digits.iter().take_while(|c| **c == b'0').count();
    (digits.len() - zeros, &digits[zeros..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_dpkg_compares_them() {
        for (a, order, b) in [
            ("1.0", Ordering::Equal, "1.0"),
            ("1.0", Ordering::Less, "1.1"),
            ("1.9", Ordering::Less, "1.10"),
            ("1.0~rc1", Ordering::Less, "1.0"),
            ("1.0~~", Ordering::Less, "1.0~"),
            ("1.0-1", Ordering::Less, "1.0-1.1"),
            ("1.0-1+deb12u1", Ordering::Greater, "1.0-1"),
            ("2:1.0", Ordering::Greater, "1:9.9"),
            ("1.0a", Ordering::Less, "1.0+"),
            ("1.00", Ordering::Equal, "1.0"),
            ("1.0-", Ordering::Equal, "1.0"),
            ("99999999999999999999999", Ordering::Greater, "9"),
            ("", Ordering::Less, "0.1"),
        ] {
            assert_eq!(compare(a, b), order, "{a} {b}");
            assert_eq!(compare(b, a), order.reverse(), "{b} {a}");
        }
    }

    /// Where dpkg is there, it is asked about every pair of a list of odd versions.
    #[test]
    fn dpkg_itself_agrees() {
        let odd =
            ["1.0", "1.0~rc1-1", "1:0.9-1", "1.0+b1", "1.0.a", "1.0a-3", "0", "1-1-1", "2.31-13+deb11u5", "2.31~~"];
        for a in odd {
            for b in odd {
                let Ok(status) = std::process::Command::new("dpkg").args(["--compare-versions", a, "lt", b]).status()
                else {
                    println!("skipped: there is no dpkg here");
                    return;
                };
                assert_eq!(status.success(), compare(a, b) == Ordering::Less, "{a} {b}");
            }
        }
    }
}
