//! The code that a machine's screen and the console both show while it waits for approval.

use sha2::{Digest, Sha256};

/// Eight digits of Crockford's base 32 in two groups, of the SHA-256 of the machine's public key: 40 bits. Both ends
/// compute it from the key itself, so that whoever sits between them cannot show the same code with a key of his own
/// without some 2^40 attempts while a person waits.
pub fn code(public_key: &[u8]) -> String {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let digest = Sha256::new().chain_update(b"remint pairing 1").chain_update(public_key).finalize();
    let mut bits = digest[..5].iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
    let mut digits = [b'-'; 9];
    for at in [8, 7, 6, 5, 3, 2, 1, 0] {
        digits[at] = DIGITS[(bits & 31) as usize];
        bits >>= 5;
    }
    String::from_utf8_lossy(&digits).into_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_code_is_short_stable_and_depends_on_the_key() {
        let code = super::code(b"key");
        assert_eq!(code.len(), 9);
        assert_eq!(code, super::code(b"key"));
        assert_ne!(code, super::code(b"kez"));
    }
}
