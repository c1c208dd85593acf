//! Password hashes: Argon2id with the parameters that OWASP's password storage page recommends first (19 MiB, 2 passes).

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};

use super::secret::Secret;

/// The hash in PHC string form, with a fresh random salt.
pub fn hash(password: &Secret) -> String {
    let salt = super::secret::random::<16>();
    let hash = Argon2::default().hash_password_with_salt(password.reveal().as_bytes(), &salt);
    hash.expect("a 16 byte salt and the default parameters are valid").to_string()
}

/// Whether `password` is the one that `hash` was made of.
pub fn matches(password: &Secret, hash: &str) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(password.reveal().as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_password_matches() {
        let hash = hash(&Secret::new("correct horse"));
        assert!(hash.starts_with("$argon2id$"));
        assert!(matches(&Secret::new("correct horse"), &hash));
        assert!(!matches(&Secret::new("wrong horse"), &hash));
        assert!(!matches(&Secret::new("correct horse"), "not a hash"));
    }
}
