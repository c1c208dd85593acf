//! The password of a boot menu, as `grub-mkpasswd-pbkdf2` prints it: GRUB compares it by itself, for iPXE we do.

use std::num::NonZeroU32;
use std::str::FromStr;

use ring::pbkdf2;

use crate::stdx::hex;

/// GRUB's own is 10,000; far more would keep firmware busy for minutes.
const ROUNDS_MAX: u32 = 1_000_000;
/// What is offered as a password is longer than anybody types.
const TYPED_BYTES_MAX: usize = 256;

/// `grub.pbkdf2.sha512.ROUNDS.SALT.HASH`, both in hexadecimal.
#[derive(Clone, PartialEq, Eq)]
pub struct Password {
    written: String,
    rounds: NonZeroU32,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

/// A hash is less than a password, and still nothing for logs.
impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not what `grub-mkpasswd-pbkdf2` prints, grub.pbkdf2.sha512.ROUNDS.SALT.HASH")]
pub struct NotAHash;

impl FromStr for Password {
    type Err = NotAHash;

    fn from_str(written: &str) -> Result<Password, NotAHash> {
        let parts: Vec<&str> = written.strip_prefix("grub.pbkdf2.sha512.").ok_or(NotAHash)?.split('.').collect();
        let [rounds, salt, hash] = parts[..] else { return Err(NotAHash) };
        let rounds = rounds.parse().ok().filter(|rounds: &NonZeroU32| rounds.get() <= ROUNDS_MAX).ok_or(NotAHash)?;
        let bytes = |text: &str| hex::parse(&text.to_ascii_lowercase()).filter(|bytes| !bytes.is_empty());
        let (salt, hash) = (bytes(salt).ok_or(NotAHash)?, bytes(hash).ok_or(NotAHash)?);
        Ok(Password { written: written.to_owned(), rounds, salt, hash })
    }
}

impl Password {
    /// Compares in constant time; takes some milliseconds.
    pub fn is(&self, typed: &str) -> bool {
        let Password { rounds, salt, hash, .. } = self;
        typed.len() <= TYPED_BYTES_MAX
            && pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA512, *rounds, salt, typed.as_bytes(), hash).is_ok()
    }

    /// As GRUB reads it.
    pub fn as_grub_has_it(&self) -> &str {
        &self.written
    }
}

#[cfg(test)]
pub(in crate::pxe) mod tests {
    use super::*;

    /// Made by `grub-mkpasswd-pbkdf2 -c 1000` of `sesame`.
    pub(in crate::pxe) const SESAME: &str = "grub.pbkdf2.sha512.1000.6F3B873011F0EFD93E6EBD01373CAADBDA31E134AA0BF96FE063AD744DB1CF305A90E1F2FDC75F0B231A79D7A62CACF75981E7624428F06FF48BE55946153C65.0A848EFBAE92AC205D7B3017A2FBCFB8F2122C8BB5A6E2EA195C1C1D08062F271ABF48FED1CB9D507BD7EDCFBA4E2696AE948E57249E1B4AB15487BBC26B764F";

    #[test]
    fn what_grub_makes_of_a_password_is_recognised() {
        let password: Password = SESAME.parse().unwrap();
        assert!(password.is("sesame"));
        for wrong in ["", "Sesame", "sesame ", &"x".repeat(TYPED_BYTES_MAX + 1)] {
            assert!(!password.is(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        for wrong in [
            "sesame",
            "grub.pbkdf2.sha512.0.aa.bb",
            "grub.pbkdf2.sha512.9999999.aa.bb",
            "grub.pbkdf2.sha512.10.aa",
            "grub.pbkdf2.sha512.10..bb",
            "grub.pbkdf2.sha512.10.zz.bb",
            "grub.pbkdf2.sha512.10.aa.bb.cc",
        ] {
            assert_eq!(wrong.parse::<Password>(), Err(NotAHash), "{wrong}");
        }
    }
}
