//! Text that must not be seen by accident.

use std::fmt;

/// A password, token or key. It has no `Display` and no `Serialize`, and its `Debug` shows nothing; who needs the text
/// says so with [`Secret::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Random bytes from the system.
pub fn random<const N: usize>() -> [u8; N] {
    let random = ring::rand::generate::<[u8; N]>(&ring::rand::SystemRandom::new());
    random.expect("the kernel's random numbers do not fail once it has booted").expose()
}

/// A fresh secret of 192 random bits as `prefix_` and hexadecimal digits.
pub fn generate(prefix: &str) -> Secret {
    Secret(format!("{prefix}_{}", crate::stdx::hex::emit(&random::<24>())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown_when_printed() {
        let secret = generate("remint");
        assert!(!format!("{secret:?}").contains(&secret.reveal()[7..]));
        assert_ne!(secret, generate("remint"));
    }
}
