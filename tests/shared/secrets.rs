//! The private keys of a site, and looking for them where they must not be.

use std::path::Path;

use remint::stdx::hex;

/// Of each key, the bytes that nothing else holds: the second line of a PEM file, the seed in a PKCS #8 file of Ed25519
/// (RFC 8410 7), or all.
pub(crate) fn private_keys(site: &Path) -> [(&'static str, Vec<u8>); 3] {
    ["authority.key", "signing.pk8", "vault.key"].map(|name| {
        let bytes = std::fs::read(site.join("keys").join(name)).unwrap();
        let secret = match name {
            "authority.key" => bytes.split(|byte| *byte == b'\n').nth(1).unwrap().to_vec(),
            "signing.pk8" => bytes[16..48].to_vec(),
            _ => bytes,
        };
        (name, secret)
    })
}

/// The bytes themselves, or their hexadecimal form.
pub(crate) fn holds(haystack: &[u8], secret: &[u8]) -> bool {
    let has = |needle: &[u8]| haystack.windows(needle.len()).any(|window| window == needle);
    has(secret) || has(hex::emit(secret).as_bytes())
}
