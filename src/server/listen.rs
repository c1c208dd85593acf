//! Accept loops: HTTPS with optional client certificates, plain HTTP, and the control socket.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::appliance::Error;
use crate::api::{LocalCaller, PeerCertificate};
use crate::pxe::quirks;
use crate::stdx::owner::adopt;

/// Connections at once on each listener; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;
/// A client that has not finished its TLS handshake or its request head by then is cut off.
const HEAD_SECONDS: u64 = 15;

/// Told when the appliance stops.
pub(super) type Stop = watch::Receiver<bool>;

/// Binds a TCP port so that a restart finds it free at once.
pub(super) fn bind_tcp(address: SocketAddr, what: &'static str) -> Result<TcpListener, Error> {
    let bind = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        TcpListener::from_std(socket.into())
    };
    bind().map_err(|source| Error::Bind { what, address: address.to_string(), source })
}

/// Binds the control socket; only the site's user may open it.
pub(super) fn bind_control(path: &Path) -> Result<UnixListener, Error> {
    use std::os::unix::fs::PermissionsExt;
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(Error::Running(path.to_owned()));
    }
    let bind = || -> io::Result<UnixListener> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        adopt(path)?;
        Ok(listener)
    };
    bind().map_err(|source| Error::Bind { what: "the control socket", address: path.display().to_string(), source })
}

/// TLS that asks for a client certificate of the site's authority and goes on without one.
pub(super) fn tls(authority_pem: &str, key_pem: &str, certificate_pem: &str) -> Result<TlsAcceptor, Error> {
    let setup = |error: &dyn std::fmt::Display| Error::Tls(error.to_string());
    let authority = CertificateDer::from_pem_slice(authority_pem.as_bytes()).map_err(|error| setup(&error))?;
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).map_err(|error| setup(&error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = verifier.allow_unauthenticated().build().map_err(|error| setup(&error))?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| setup(&error))?;
    let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|error| setup(&error))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| setup(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate, authority], key)
        .map_err(|error| setup(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

pub(super) async fn serve_https(listener: TcpListener, acceptor: TlsAcceptor, router: Router, stop: Stop) {
    accept(&listener, stop, move |stream, address, stop| {
        let (acceptor, router) = (acceptor.clone(), router.clone());
        async move {
            let handshake = tokio::time::timeout(Duration::from_secs(HEAD_SECONDS), acceptor.accept(stream)).await;
            let Ok(Ok(stream)) = handshake else { return };
            let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let peer = PeerCertificate(certificate.map(|der| Arc::from(der.as_ref())));
            converse(stream, router, stop, move |request| {
                request.extensions_mut().insert(address);
                request.extensions_mut().insert(peer.clone());
            })
            .await;
        }
    })
    .await;
}

/// Serves until `stop` changes.
pub async fn serve_http(listener: TcpListener, router: Router, stop: Stop) {
    accept(&listener, stop, move |stream, address, stop| {
        let router = router.clone();
        converse(stream, router, stop, move |request| {
            request.extensions_mut().insert(address);
        })
    })
    .await;
}

/// The control socket lives as long as this does.
pub(super) async fn serve_control(listener: UnixListener, path: PathBuf, router: Router, mut stop: Stop) {
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => break,
        };
        if let Ok((stream, _)) = stream {
            let local = |request: &mut Request<Body>| {
                request.extensions_mut().insert(LocalCaller);
            };
            tokio::spawn(converse(stream, router.clone(), stop.clone(), local));
        }
    }
    let _ = std::fs::remove_file(path);
}

async fn accept<F>(
    listener: &TcpListener,
    mut stop: Stop,
    handle: impl Fn(tokio::net::TcpStream, SocketAddr, Stop) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                let _ = stream.set_nodelay(true);
                let conversation = handle(stream, address, stop.clone());
                tokio::spawn(async move {
                    conversation.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one connection until it ends or the appliance stops; then the request under way is finished.
async fn converse<S>(
    stream: S,
    router: Router,
    mut stop: Stop,
    mark: impl Fn(&mut Request<Body>) + Clone + Send + Sync + 'static,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = router.map_request(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        mark(&mut request);
        request
    });
    let mut builder = Builder::new(TokioExecutor::new());
    let mut http1 = builder.http1();
    http1.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(HEAD_SECONDS));
    http1.title_case_headers(quirks::GRUB_NEEDS_TITLE_CASE);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stop.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended early: {error}");
    }
}
