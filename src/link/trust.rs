//! TLS as a machine wants it: exactly one authority, and a certificate of its own.

use std::sync::Arc;

use ureq::tls::{
    Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, TlsConfigBuilder, TlsProvider, parse_pem,
};

use super::Error;

/// The key and certificate that a machine shows, both PEM.
#[derive(Clone)]
pub struct Credentials {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// TLS settings that trust each authority in `pem` and show no certificate: for servers that are not ours. What is no
/// certificate in there is passed over, as bundles of systems hold other things too.
pub fn of_authorities(pem: &str) -> TlsConfig {
    let certificates = parse_pem(pem.as_bytes()).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    builder(&certificates.collect::<Vec<_>>()).build()
}

/// TLS settings that trust `authority_der` alone.
pub(super) fn configuration(authority_der: &[u8], credentials: Option<&Credentials>) -> Result<TlsConfig, Error> {
    let mut builder = builder(&[Certificate::from_der(authority_der).to_owned()]);
    if let Some(credentials) = credentials {
        builder = builder.client_cert(Some(client_certificate(credentials)?));
    }
    Ok(builder.build())
}

fn builder(roots: &[Certificate<'static>]) -> TlsConfigBuilder {
    TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::new_with_certs(roots))
}

fn client_certificate(credentials: &Credentials) -> Result<ClientCert, Error> {
    let setup = |error: ureq::Error| Error::Setup(format!("the machine's certificate: {error}"));
    let certificate = Certificate::from_pem(credentials.certificate_pem.as_bytes()).map_err(setup)?;
    let key = PrivateKey::from_pem(credentials.key_pem.as_bytes()).map_err(setup)?;
    Ok(ClientCert::new_with_certs(&[certificate], key))
}
