//! Secrets at rest: sealed with a key that lies outside the database, so that a copy of the database opens none.
//!
//! Sealing is AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits, made by `ring`. The place that a secret
//! belongs to is authenticated with it: what was sealed for one place does not open at another, so that nobody who can
//! only write to the database can move a secret to where he may have it released.

use std::io;
use std::path::{Path, PathBuf};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::secret::{Secret, random};
use crate::stdx::file::write_whole_private;
use crate::stdx::hex;
use crate::stdx::hint::Hint;

/// Bytes of the key file.
const KEY_BYTES: usize = 32;
/// In front of sealed text; the number is the version of its format.
const FORMAT: &str = "sealed1:";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read or write the vault's key {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("understand the vault's key {0}")]
    Key(PathBuf),
    #[error("open the secret of {place}: it was sealed with another key, for another place, or is damaged")]
    Sealed { place: String },
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Error::Sealed { .. } => Some("does keys/vault.key belong to this database? set the secret anew".into()),
            Error::Key(_) => Some("restore keys/vault.key from a backup of this site".into()),
            Error::File { .. } => None,
        }
    }
}

/// The key in memory. It is read once, from a file that the site's user alone may read.
pub struct Vault(LessSafeKey);

impl Vault {
    /// Opens the key at `path`, or makes it when there is none: a site of an earlier release has none yet.
    pub fn open(path: &Path) -> Result<Vault, Error> {
        let file_error = |source| Error::File { path: path.to_owned(), source };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let fresh = random::<KEY_BYTES>();
                write_whole_private(path, &fresh).map_err(file_error)?;
                fresh.to_vec()
            }
            Err(source) => return Err(file_error(source)),
        };
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| Error::Key(path.to_owned()))?;
        Ok(Vault(LessSafeKey::new(key)))
    }

    /// Text for the database. `place` says what the secret belongs to, for instance `sequence/standard/join-password`.
    pub fn seal(&self, place: &str, secret: &Secret) -> String {
        let nonce = random::<NONCE_LEN>();
        let mut bytes = secret.reveal().as_bytes().to_vec();
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut bytes)
            .expect("AES-GCM seals any text shorter than 64 GiB");
        format!("{FORMAT}{}{}", hex::emit(&nonce), hex::emit(&bytes))
    }

    /// The secret, for use on the appliance itself (to check it or to mask it). One that leaves the appliance goes
    /// through [`super::db::release_secret`].
    pub fn unseal(&self, place: &str, sealed: &str) -> Result<Secret, Error> {
        self.try_unseal(place, sealed).ok_or_else(|| Error::Sealed { place: place.to_owned() })
    }

    fn try_unseal(&self, place: &str, sealed: &str) -> Option<Secret> {
        let bytes = hex::parse(sealed.strip_prefix(FORMAT)?)?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let plain = self.0.open_in_place(nonce, Aad::from(place), &mut sealed).ok()?;
        Some(Secret::new(std::str::from_utf8(plain).ok()?))
    }
}

/// Whether a stored text is a sealed secret.
pub fn is_sealed(text: &str) -> bool {
    text.starts_with(FORMAT)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn vault() -> (tempfile::TempDir, Vault) {
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::open(&folder.path().join("vault.key")).unwrap();
        (folder, vault)
    }

    #[test]
    fn a_secret_opens_at_its_place_with_its_key_and_nowhere_else() {
        let (folder, vault) = vault();
        let secret = Secret::new("hunter2");
        let sealed = vault.seal("sequence/a/password", &secret);
        assert!(is_sealed(&sealed) && !sealed.contains("hunter2") && !sealed.contains(&hex::emit(b"hunter2")));
        assert_ne!(sealed, vault.seal("sequence/a/password", &secret), "the nonce is fresh");
        let again = Vault::open(&folder.path().join("vault.key")).unwrap();
        assert!(again.unseal("sequence/a/password", &sealed).unwrap() == secret);
        assert!(matches!(again.unseal("sequence/b/password", &sealed), Err(Error::Sealed { .. })));
        let (_other_folder, other) = self::vault();
        assert!(matches!(other.unseal("sequence/a/password", &sealed), Err(Error::Sealed { .. })));
    }

    #[test]
    fn damaged_text_never_opens() {
        let (_folder, vault) = vault();
        let sealed = vault.seal("p", &Secret::new("x"));
        for at in FORMAT.len()..sealed.len() {
            let mut bytes = sealed.clone().into_bytes();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            assert!(vault.unseal("p", &String::from_utf8(bytes).unwrap()).is_err(), "byte {at}");
            assert!(vault.unseal("p", &sealed[..at]).is_err(), "cut at {at}");
        }
        assert!(vault.unseal("p", "plain").is_err());
    }

    #[test]
    fn the_key_is_readable_by_its_owner_alone_and_a_wrong_one_is_said() {
        let (folder, _vault) = vault();
        let path = folder.path().join("vault.key");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, b"short").unwrap();
        assert!(matches!(Vault::open(&path), Err(Error::Key(_))));
    }
}
