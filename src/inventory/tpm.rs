//! The TPM's endorsement key: what tells one TPM from another. TPM 2.0 Library Part 3 (commands), Part 2 (structures); the
//! key's template is that of the TCG EK Credential Profile 2.5, B.3.3 (L-1, RSA 2048).
//!
//! The key is read where its maker has left it (handle 0x81010001), otherwise the TPM derives it anew from its seed. That
//! it is said is no proof that the TPM is there: docs/security.md.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::stdx::bytes::Fields;
use crate::stdx::hex;

/// A TPM answers with at most this (TPM_PT_MAX_RESPONSE_SIZE of the PC Client profile).
const ANSWER_BYTES_MAX: usize = 4096;
/// Bytes of an RSA modulus at most: 4096 bits.
const MODULUS_BYTES_MAX: usize = 512;

const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
const CREATE_PRIMARY: u32 = 0x131;
const FLUSH_CONTEXT: u32 = 0x165;
const READ_PUBLIC: u32 = 0x173;
const ENDORSEMENT: u32 = 0x4000_000B;
const PASSWORD_SESSION: u32 = 0x4000_0009;
/// Where makers leave the RSA endorsement key (TCG TPM v2.0 Provisioning Guidance 7.8).
const MAKERS_KEY: u32 = 0x8101_0001;
const ALG_RSA: u16 = 0x0001;
const ALG_NULL: u16 = 0x0010;
/// "PolicySecret of the endorsement hierarchy", B.6.2.
const POLICY: &str = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa";

/// SHA-256 of the endorsement public key's SubjectPublicKeyInfo, lower-case hexadecimal. Asked once: a TPM may take seconds.
pub fn endorsement_key(device: &Path) -> Option<String> {
    static KEY: OnceLock<Option<String>> = OnceLock::new();
    KEY.get_or_init(|| {
        let mut tpm = File::options().read(true).write(true).open(device).ok()?;
        key_of(&mut |command| {
            tpm.write_all(command)?;
            let mut answer = vec![0; ANSWER_BYTES_MAX];
            let count = tpm.read(&mut answer)?;
            answer.truncate(count);
            Ok(answer)
        })
    })
    .clone()
}

/// Sends a command to a TPM and gives its answer.
pub type Exchange<'a> = dyn FnMut(&[u8]) -> io::Result<Vec<u8>> + 'a;

/// The same from whatever speaks as a TPM.
pub fn key_of(exchange: &mut Exchange) -> Option<String> {
    let modulus = makers_key(exchange).or_else(|| primary_key(exchange))?;
    Some(hex::emit(&Sha256::digest(public_key_info(&modulus))))
}

fn makers_key(exchange: &mut Exchange) -> Option<Modulus> {
    let answer = exchange(&command(NO_SESSIONS, READ_PUBLIC, &MAKERS_KEY.to_be_bytes())).ok()?;
    modulus(parameters(&answer, 10)?)
}

fn primary_key(exchange: &mut Exchange) -> Option<Modulus> {
    let answer = exchange(&command(SESSIONS, CREATE_PRIMARY, &create_primary())).ok()?;
    // Handle and size of the parameters come first.
    let found = modulus(parameters(&answer, 18)?);
    let handle = answer.get(10..14)?;
    let _ = exchange(&command(NO_SESSIONS, FLUSH_CONTEXT, handle));
    found
}

/// Part 1, 18.2: tag, size of the whole, command code, and what belongs to it.
fn command(tag: u16, code: u32, rest: &[u8]) -> Vec<u8> {
    let size = 10 + rest.len() as u32;
    [&tag.to_be_bytes()[..], &size.to_be_bytes(), &code.to_be_bytes(), rest].concat()
}

/// Part 3, 24.1: hierarchy, an empty password, no sensitive data, the template, nothing from outside, no PCR.
fn create_primary() -> Vec<u8> {
    let policy = hex::parse(POLICY).unwrap_or_default();
    let mut template = Vec::new();
    // type RSA, name algorithm SHA-256
    template.extend([0x00, 0x01, 0x00, 0x0B]);
    // fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt
    template.extend(0x0003_00B2u32.to_be_bytes());
    template.extend((policy.len() as u16).to_be_bytes());
    template.extend(policy);
    // AES-128-CFB, no scheme, 2048 bits, the usual exponent
    template.extend([0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10, 0x08, 0x00, 0, 0, 0, 0]);
    template.extend(256u16.to_be_bytes());
    template.extend([0; 256]);
    let mut rest = Vec::new();
    rest.extend(ENDORSEMENT.to_be_bytes());
    rest.extend(9u32.to_be_bytes());
    rest.extend(PASSWORD_SESSION.to_be_bytes());
    rest.extend([0, 0, 0, 0, 0]);
    rest.extend([0, 4, 0, 0, 0, 0]);
    rest.extend((template.len() as u16).to_be_bytes());
    rest.extend(template);
    rest.extend([0, 0, 0, 0, 0, 0]);
    rest
}

/// What follows `at` in an answer that says success.
fn parameters(answer: &[u8], at: usize) -> Option<&[u8]> {
    let success = Fields(answer.get(..10)?).be32(6) == 0;
    success.then(|| answer.get(at..)).flatten()
}

/// An RSA modulus, most significant byte first, and the exponent.
struct Modulus(Vec<u8>, u32);

/// The modulus and exponent of a TPM2B_PUBLIC with an RSA key (Part 2, 12.2.4).
fn modulus(public: &[u8]) -> Option<Modulus> {
    let mut rest = Reader(public);
    let size = rest.u16()?;
    let mut rest = Reader(rest.take(size.into())?);
    if rest.u16()? != ALG_RSA {
        return None;
    }
    let _ = (rest.u16()?, rest.u32()?);
    let policy = rest.u16()?;
    rest.take(policy.into())?;
    if rest.u16()? != ALG_NULL {
        let _ = (rest.u16()?, rest.u16()?);
    }
    if rest.u16()? != ALG_NULL {
        rest.u16()?;
    }
    let _bits = rest.u16()?;
    let exponent = match rest.u32()? {
        0 => 65_537,
        other => other,
    };
    let bytes = usize::from(rest.u16()?);
    let modulus = rest.take(bytes)?;
    (bytes > 0 && bytes <= MODULUS_BYTES_MAX).then(|| Modulus(modulus.to_vec(), exponent))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| Fields(bytes).be16(0))
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|bytes| Fields(bytes).be32(0))
    }
}

/// RFC 5280 4.1.2.7 and RFC 8017 A.1.1, in DER: what a certificate for the key would hold.
fn public_key_info(Modulus(modulus, exponent): &Modulus) -> Vec<u8> {
    const RSA_ENCRYPTION: [u8; 15] = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    let key = der(0x30, &[der_integer(modulus), der_integer(&exponent.to_be_bytes())].concat());
    let bits = der(0x03, &[&[0][..], &key].concat());
    der(0x30, &[&RSA_ENCRYPTION[..], &bits].concat())
}

fn der_integer(big_endian: &[u8]) -> Vec<u8> {
    let significant: Vec<u8> = big_endian.iter().copied().skip_while(|byte| *byte == 0).collect();
    let sign = if significant.first().is_none_or(|first| first & 0x80 != 0) { vec![0] } else { Vec::new() };
    der(0x02, &[sign, significant].concat())
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = content.len();
    let mut bytes = vec![tag];
    match len {
        0..0x80 => bytes.push(len as u8),
        0x80..0x100 => bytes.extend([0x81, len as u8]),
        _ => bytes.extend([0x82, (len >> 8) as u8, len as u8]),
    }
    bytes.extend(content);
    bytes
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_a_tpm_answers_is_survived(answer in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parameters(&answer, 18).and_then(modulus);
            let _ = key_of(&mut |_| Ok(answer.clone()));
        }
    }

    /// A software TPM whose maker has issued a certificate for its key: the certificate is the oracle.
    #[test]
    fn the_key_is_the_one_that_the_makers_certificate_names() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().to_str().unwrap();
        let setup = Command::new("swtpm_setup")
            .args(["--tpm2", "--tpmstate", state, "--create-ek-cert", "--write-ek-cert-files", state, "--overwrite"])
            .env("XDG_CONFIG_HOME", folder.path().join("config"))
            .stdin(Stdio::null())
            .output();
        let Ok(setup) = setup else {
            println!("skipped: there is no swtpm_setup here (package swtpm-tools)");
            return;
        };
        assert!(setup.status.success(), "{}", String::from_utf8_lossy(&setup.stdout));
        let (first, second) = (ask(folder.path()), ask(folder.path()));
        assert_eq!(first, second, "the key is the same each time");
        let certificate = std::fs::read(folder.path().join("ek-rsa2048.crt")).unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&certificate).unwrap();
        assert_eq!(first.unwrap(), hex::emit(&Sha256::digest(certificate.public_key().raw)));
    }

    fn ask(state: &Path) -> Option<String> {
        let socket = state.join("socket");
        let mut swtpm = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--tpmstate", &format!("dir={}", state.display())])
            .args(["--server", &format!("type=unixio,path={}", socket.display())])
            .args(["--ctrl", &format!("type=unixio,path={}", state.join("ctrl").display())])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut stream = (0..200).find_map(|_| {
            std::thread::sleep(Duration::from_millis(25));
            UnixStream::connect(&socket).ok()
        });
        let key = stream.as_mut().and_then(|stream| {
            key_of(&mut |command| {
                stream.write_all(command)?;
                let mut answer = vec![0; ANSWER_BYTES_MAX];
                let count = stream.read(&mut answer)?;
                answer.truncate(count);
                Ok(answer)
            })
        });
        let _ = swtpm.kill();
        let _ = swtpm.wait();
        key
    }
}
