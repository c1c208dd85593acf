//! The site's certificate authority (X.509, RFC 5280): one self-signed certificate, ECDSA P-256.
//!
//! It issues the appliance's own certificate for the addresses it answers on, and one for each approved machine from the
//! request (PKCS #10) that the machine made; the subject is always ours, never what the request says.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use crate::stdx::file::{write_whole, write_whole_private};
use crate::stdx::hex;
use crate::stdx::time::Timestamp;

const AUTHORITY_LIFETIME: Duration = Duration::days(3650);
const SERVER_LIFETIME: Duration = Duration::days(397);
/// Clocks of machines that were never set right: certificates are valid from a day before they are made.
const SKEW: Duration = Duration::DAY;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read or write {path}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("make or read a certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("understand the certificate: {0}")]
    Parse(String),
}

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

/// A certificate that was just issued.
pub struct Issued {
    pub certificate_pem: String,
    /// Hexadecimal, as it is stored for revocation.
    pub serial: String,
    pub expires_at: Timestamp,
}

impl Authority {
    /// Makes the authority of a new site in the folder `keys`.
    pub fn create(keys: &Path, site_name: &str, now: Timestamp) -> Result<Authority, Error> {
        let key = KeyPair::generate()?;
        let mut params = base(&format!("{site_name} authority"), now, AUTHORITY_LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        let (key_path, certificate_path) = paths(keys);
        write_whole_private(&key_path, key.serialize_pem().as_bytes())
            .map_err(|source| Error::File { path: key_path, source })?;
        write_whole(&certificate_path, certificate.pem().as_bytes())
            .map_err(|source| Error::File { path: certificate_path, source })?;
        Authority::open(keys)
    }

    pub fn open(keys: &Path) -> Result<Authority, Error> {
        let (key_path, certificate_path) = paths(keys);
        let read = |path: PathBuf| std::fs::read_to_string(&path).map_err(|source| Error::File { path, source });
        let key = KeyPair::from_pem(&read(key_path)?)?;
        let certificate_pem = read(certificate_path)?;
        Ok(Authority { issuer: Issuer::from_ca_cert_pem(&certificate_pem, key)?, certificate_pem })
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A key and a certificate for the appliance itself, both PEM.
    pub fn issue_server(
        &self,
        addresses: &[IpAddr],
        names: &[String],
        now: Timestamp,
    ) -> Result<(String, String), Error> {
        let key = KeyPair::generate()?;
        let mut params = base("remint appliance", now, SERVER_LIFETIME);
        params.subject_alt_names = addresses.iter().map(|address| SanType::IpAddress(*address)).collect();
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((key.serialize_pem(), certificate.pem()))
    }

    /// The public key of a request, after its proof of possession was checked.
    pub fn request_key(request_pem: &str) -> Result<Vec<u8>, Error> {
        use rcgen::PublicKeyData;
        Ok(CertificateSigningRequestParams::from_pem(request_pem)?.public_key.der_bytes().to_vec())
    }

    /// A certificate for the key in `request_pem` (its proof of possession is checked) with `machine` as its subject.
    pub fn issue_machine(
        &self,
        request_pem: &str,
        machine: &str,
        seconds: u32,
        now: Timestamp,
    ) -> Result<Issued, Error> {
        let request = CertificateSigningRequestParams::from_pem(request_pem)?;
        let serial = super::secret::random::<16>();
        let mut params = base(machine, now, Duration::seconds(seconds.into()));
        params.serial_number = Some(SerialNumber::from_slice(&positive(serial)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let expires_at = params.not_after;
        let certificate = params.signed_by(&request.public_key, &self.issuer)?;
        Ok(Issued {
            certificate_pem: certificate.pem(),
            serial: hex::emit(&positive(serial)),
            expires_at: Timestamp::from_milliseconds(expires_at.unix_timestamp() * 1000),
        })
    }
}

/// Subject and serial of a client certificate that TLS has already verified.
pub fn read_machine(certificate_der: &[u8]) -> Result<(String, String), Error> {
    let parsed = x509_parser::parse_x509_certificate(certificate_der);
    let (_, certificate) = parsed.map_err(|error| Error::Parse(error.to_string()))?;
    let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let name = name.ok_or_else(|| Error::Parse("it has no subject".into()))?;
    Ok((name.to_owned(), hex::emit(&certificate.tbs_certificate.serial.to_bytes_be())))
}

/// RFC 5280 4.1.2.2: serial numbers are positive and their leading octet is not zero.
fn positive(mut serial: [u8; 16]) -> [u8; 16] {
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}

fn base(common_name: &str, now: Timestamp, lifetime: Duration) -> CertificateParams {
    let now = OffsetDateTime::UNIX_EPOCH + Duration::milliseconds(now.milliseconds());
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = now - SKEW;
    params.not_after = now + lifetime;
    params
}

fn paths(keys: &Path) -> (PathBuf, PathBuf) {
    (keys.join("authority.key"), keys.join("authority.pem"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_milliseconds(1_790_000_000_000);

    #[test]
    fn a_machine_gets_the_subject_that_the_site_decided() {
        let keys = tempfile::tempdir().unwrap();
        let authority = Authority::create(keys.path(), "lab", NOW).unwrap();
        let key = KeyPair::generate().unwrap();
        let request = base("administrator", NOW, Duration::DAY).serialize_request(&key).unwrap().pem().unwrap();
        let issued = authority.issue_machine(&request, "machine-1", 90 * 86_400, NOW).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(issued.certificate_pem.as_bytes()).unwrap();
        assert_eq!(read_machine(&pem.contents).unwrap(), ("machine-1".to_owned(), issued.serial));
        assert_eq!(issued.expires_at, NOW.plus_seconds(90 * 86_400));
    }

    #[test]
    fn a_request_that_was_tampered_with_is_refused() {
        let keys = tempfile::tempdir().unwrap();
        let authority = Authority::create(keys.path(), "lab", NOW).unwrap();
        let key = KeyPair::generate().unwrap();
        let request = base("m", NOW, Duration::DAY).serialize_request(&key).unwrap().pem().unwrap();
        let at = request.len() - 60;
        let mut forged = request.into_bytes();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        assert!(authority.issue_machine(&String::from_utf8(forged).unwrap(), "m", 1, NOW).is_err());
    }
}
