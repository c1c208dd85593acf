//! One-time codes: whoever types one on a machine lets that machine in.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::access::secret::{Secret, random};
use crate::stdx::hex;
use crate::stdx::time::Timestamp;

/// Digits of Crockford's base 32, which has no letter that looks like another.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// 12 digits are 60 bits: a thousand guesses a second for a year find one of 100 codes with a chance of one in 300,000.
const LENGTH: usize = 12;

/// What a code lets in, as it is made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// For whom or what it is; it stands in the audit log as who approved.
    pub label: String,
    /// How many machines it lets in.
    pub uses: u32,
    pub hours: u32,
    /// Collections that a new machine joins.
    pub collections: Vec<String>,
    /// Task sequence that a new machine gets at once.
    pub deploy: Option<String>,
}

/// A code as it is listed; the code itself is shown once, when it is made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listed {
    pub label: String,
    pub uses_left: u32,
    pub expires_at: Timestamp,
    pub collections: Vec<String>,
    pub deploy: Option<String>,
}

/// A fresh code: `7KQ2-M0ZD-93XT`.
pub fn generate() -> Secret {
    let digits = random::<LENGTH>().map(|byte| char::from(DIGITS[usize::from(byte & 31)]));
    let groups: Vec<String> = digits.chunks(4).map(|group| group.iter().collect()).collect();
    Secret::new(groups.join("-"))
}

/// What is stored of a code, however a person has typed it: in lower case, with or without hyphens, `O` for `0`, `I` or `L`
/// for `1`. `None` when it cannot be a code.
pub fn digest(typed: &str) -> Option<String> {
    let digits: String = typed
        .chars()
        .filter(|c| !matches!(c, '-' | ' '))
        .map(|c| match c.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            other => other,
        })
        .collect();
    let is_code = digits.len() == LENGTH && digits.bytes().all(|digit| DIGITS.contains(&digit));
    is_code.then(|| hex::emit(&Sha256::digest(format!("remint enrolment code 1 {digits}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_recognised_however_it_is_typed() {
        let stored = digest("7KQ2-M0ZD-91XT").unwrap();
        for typed in ["7kq2m0zd91xt", "7KQ2 MOZD 9IXT", "7kq2-mozd-9lxt"] {
            assert_eq!(digest(typed).as_ref(), Some(&stored), "{typed}");
        }
        assert_ne!(digest("7KQ2-M0ZD-91XV"), Some(stored));
        for bad in ["", "7KQ2-M0ZD-91X", "7KQ2-M0ZD-91XTT", "7KQ2-M0ZD-91X!", "7KQ2-M0ZD-91XU"] {
            assert_eq!(digest(bad), None, "{bad}");
        }
        let (one, two) = (generate(), generate());
        assert!(digest(one.reveal()).is_some() && one != two);
    }
}
