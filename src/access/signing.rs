//! The site's signature (Ed25519, RFC 8032) under what machines must be able to trust.

use std::path::Path;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::stdx::file::write_whole_private;
use crate::stdx::hex;

/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("make a signing key")]
    Make,
    #[error("read or write the signing key {path}")]
    File { path: String, source: std::io::Error },
    #[error("understand the signing key {path}")]
    Key { path: String },
}

/// The private half; it stays in the site's `keys/` folder.
pub struct SigningKey(Ed25519KeyPair);

/// The public half, 32 bytes; text form is hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PublicKey(pub [u8; 32]);

impl SigningKey {
    /// Makes a key and writes it to `path` (PKCS#8, mode 0600).
    pub fn create(path: &Path) -> Result<SigningKey, Error> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).map_err(|_| Error::Make)?;
        write_whole_private(path, pkcs8.as_ref()).map_err(|source| file_error(path, source))?;
        SigningKey::open(path)
    }

    pub fn open(path: &Path) -> Result<SigningKey, Error> {
        let bytes = std::fs::read(path).map_err(|source| file_error(path, source))?;
        let pair = Ed25519KeyPair::from_pkcs8(&bytes);
        pair.map(SigningKey).map_err(|_| Error::Key { path: path.display().to_string() })
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes"))
    }

    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(message).as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

impl PublicKey {
    pub fn parse(text: &str) -> Option<PublicKey> {
        hex::parse_array(text).map(PublicKey)
    }

    /// Whether `signature` was made over `message` by the private half of this key.
    pub fn accepts(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::emit(&self.0))
    }
}

fn file_error(path: &Path, source: std::io::Error) -> Error {
    Error::File { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_signed_message_is_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("signing.pk8");
        let key = SigningKey::create(&path).unwrap();
        let public = PublicKey::parse(&SigningKey::open(&path).unwrap().public().to_string()).unwrap();
        let signature = key.sign(b"manifest");
        assert!(public.accepts(b"manifest", &signature));
        assert!(!public.accepts(b"manifesto", &signature));
        assert!(!public.accepts(b"manifest", &signature[..63]));
    }
}
