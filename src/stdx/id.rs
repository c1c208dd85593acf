//! Identifiers that cannot be taken for each other.

/// Declares a newtype over `String` for an identifier that travels, is stored and is shown.
#[macro_export]
macro_rules! text_id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }
    };
}

/// A new identifier: `prefix-` and 16 digits of Crockford's base 32: 42 bits of milliseconds, so that identifiers sort by
/// age, then 38 bits from `random`.
pub fn fresh(prefix: &str, now: crate::stdx::time::Timestamp, random: [u8; 8]) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut text = format!("{prefix}-");
    let mut bits = (u128::from(now.milliseconds().unsigned_abs() & ((1 << 42) - 1)) << 38)
        | (u128::from(u64::from_be_bytes(random)) & ((1 << 38) - 1));
    bits <<= 128 - 80;
    for _ in 0..16 {
        text.push(char::from(DIGITS[(bits >> 123) as usize & 31]));
        bits <<= 5;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::time::Timestamp;

    #[test]
    fn fresh_identifiers_sort_by_time_and_differ_by_chance() {
        let old = fresh("run", Timestamp::from_milliseconds(1_700_000_000_000), [255; 8]);
        let new = fresh("run", Timestamp::from_milliseconds(1_700_000_000_001), [0; 8]);
        assert!(old < new, "{old} {new}");
        assert_eq!(old.len(), 20);
        assert_ne!(new, fresh("run", Timestamp::from_milliseconds(1_700_000_000_001), [1; 8]));
    }
}
