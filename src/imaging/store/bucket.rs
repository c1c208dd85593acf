//! Objects in a bucket of an S3-compatible server, through the crate `object_store`: it signs, repeats, lists and makes
//! conditional requests; the bytes go over the HTTP client that everything here uses.

use std::future::{Future, poll_fn};
use std::io::Read;
use std::pin::Pin;
use std::time::Duration;

use hyper::body::Body;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use object_store::path::Path;
use object_store::{
    ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig,
};
use tokio::runtime::Runtime;
use tokio_stream::StreamExt;
use ureq::http;

use crate::access::secret::Secret;
use crate::imaging::error::Error;
use crate::imaging::store::files::Existing;
use crate::imaging::store::objects::{Check, Objects, checked};
use crate::link::trust;

/// Requests are repeated this often, and not longer than this.
const RETRIES_MAX: usize = 5;
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a request waits for the connection, and for all of its answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);
/// Answers other than objects (lists, errors) are short; objects are bounded by who asks.
const ANSWER_BYTES_MAX: u64 = 2 << 30;

/// Which bucket, and how to get in.
#[derive(Clone, Debug)]
pub struct Settings {
    pub bucket: String,
    /// `https://s3.example.org`; Amazon's own of the region when absent.
    pub endpoint: Option<String>,
    pub region: String,
    /// Put before every name.
    pub prefix: String,
    pub access_key: String,
    pub secret_key: Secret,
    /// Authorities (PEM) that the server's certificate may be from.
    pub authorities_pem: String,
}

pub struct Bucket {
    store: AmazonS3,
    /// Drives the timers of `object_store`; all work is done on the thread that asks.
    runtime: Option<Runtime>,
    settings: Settings,
}

impl Bucket {
    /// Makes no request yet.
    pub fn open(settings: Settings) -> Result<Bucket, Error> {
        let refused = |reason: String| Error::Refused { from: settings.bucket.clone(), reason };
        let agent = agent(&settings.authorities_pem);
        let plain = settings.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let retry = RetryConfig { max_retries: RETRIES_MAX, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.bucket)
            .with_region(&settings.region)
            .with_access_key_id(&settings.access_key)
            .with_secret_access_key(settings.secret_key.reveal())
            .with_allow_http(plain)
            .with_retry(retry)
            .with_http_connector(Connector(Service { agent }));
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let store = builder.build().map_err(|error| refused(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build();
        let runtime = runtime.map_err(Error::read("a runtime for requests"))?;
        Ok(Bucket { store, runtime: Some(runtime), settings })
    }

    fn wait<T>(&self, work: impl Future<Output = object_store::Result<T>>) -> object_store::Result<T> {
        self.runtime.as_ref().expect("it is there until it is dropped").block_on(work)
    }

    fn path(&self, name: &str) -> Path {
        Path::from(format!("{}{name}", self.settings.prefix))
    }

    fn failed(&self, error: &object_store::Error) -> Error {
        let (from, reason) = (self.name(), crate::stdx::hint::chain(error));
        match error {
            object_store::Error::Generic { .. } => Error::Unreachable { from, reason },
            _ => Error::Refused { from, reason },
        }
    }

    /// A whole object, or its end, of at most `bytes_max` bytes.
    fn read(&self, name: &str, range: Option<GetRange>, bytes_max: u64) -> Result<Option<Vec<u8>>, Error> {
        let options = GetOptions { range, ..GetOptions::default() };
        let read = self.wait(async {
            let found = self.store.get_opts(&self.path(name), options).await?;
            let bytes = found.range.end - found.range.start;
            if bytes > bytes_max { Ok(Err(bytes)) } else { found.bytes().await.map(|bytes| Ok(bytes.to_vec())) }
        });
        match read {
            Ok(Ok(bytes)) => Ok(Some(bytes)),
            Ok(Err(bytes)) => {
                let reason = format!("{name} has {bytes} bytes, at most {bytes_max} are taken");
                Err(Error::Refused { from: self.name(), reason })
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }
}

impl Objects for Bucket {
    fn name(&self) -> String {
        let endpoint = self.settings.endpoint.as_deref().unwrap_or("s3:/");
        format!("{endpoint}/{}", self.settings.bucket)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let listed = self.wait(async {
            let mut stream = self.store.list(Some(&self.path(prefix)));
            let mut names = Vec::new();
            while let Some(found) = stream.next().await {
                names.push(found?.location.to_string());
            }
            Ok(names)
        });
        let names = listed.map_err(|error| self.failed(&error))?;
        let own = |name: String| name.strip_prefix(&self.settings.prefix).map(str::to_owned);
        let mut names: Vec<String> = names.into_iter().filter_map(own).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn get(&self, name: &str, bytes_max: u64, check: Check<'_>) -> Result<Option<Vec<u8>>, Error> {
        self.read(name, None, bytes_max)?.map(|bytes| checked(self, name, bytes, bytes_max, check)).transpose()
    }

    fn get_end(&self, name: &str, len: u64) -> Result<Option<Vec<u8>>, Error> {
        self.read(name, Some(GetRange::Suffix(len)), len)
    }

    fn put(&self, name: &str, bytes: Vec<u8>, existing: Existing) -> Result<bool, Error> {
        let mode = match existing {
            Existing::Replace => PutMode::Overwrite,
            Existing::Keep => PutMode::Create,
        };
        let payload = PutPayload::from(bytes);
        match self.wait(self.store.put_opts(&self.path(name), payload, PutOptions::from(mode))) {
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            other => other.map(|_| true).map_err(|error| self.failed(&error)),
        }
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        match self.wait(self.store.delete(&self.path(name))) {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            other => other.map_err(|error| self.failed(&error)),
        }
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // A runtime that is dropped on a thread of another one would wait there, which is not allowed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn agent(authorities_pem: &str) -> ureq::Agent {
    let settings = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_global(Some(ANSWER_TIMEOUT))
        .tls_config(trust::of_authorities(authorities_pem));
    ureq::Agent::new_with_config(settings.build())
}

#[derive(Clone, Debug)]
struct Service {
    agent: ureq::Agent,
}

#[derive(Debug)]
struct Connector(Service);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

/// Nothing waits here but the thread that asked: [`Bucket::wait`] polls on it.
impl HttpService for Service {
    fn call<'s, 'f>(
        &'s self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let (parts, mut body) = request.into_parts();
            let mut bytes = Vec::with_capacity(body.content_length());
            while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                bytes.extend_from_slice(&frame?.into_data().unwrap_or_default());
            }
            self.carry_out(http::Request::from_parts(parts, bytes))
        })
    }
}

impl Service {
    fn carry_out(&self, request: http::Request<Vec<u8>>) -> Result<HttpResponse, HttpError> {
        let has_body = matches!(*request.method(), http::Method::PUT | http::Method::POST);
        let answer = match has_body {
            true => self.agent.run(request),
            false => self.agent.run(request.map(drop)),
        };
        let (parts, body) = answer.map_err(of_request)?.into_parts();
        let mut bytes = Vec::new();
        let read = body.into_with_config().limit(ANSWER_BYTES_MAX).reader().read_to_end(&mut bytes);
        // An answer that is cut short is one of these errors, and is asked for again.
        read.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error))?;
        Ok(HttpResponse::from_parts(parts, bytes.into()))
    }
}

fn of_request(error: ureq::Error) -> HttpError {
    let kind = match &error {
        ureq::Error::Timeout(_) => HttpErrorKind::Timeout,
        ureq::Error::ConnectionFailed | ureq::Error::HostNotFound => HttpErrorKind::Connect,
        ureq::Error::Io(source) if source.kind() == std::io::ErrorKind::ConnectionRefused => HttpErrorKind::Connect,
        ureq::Error::Io(_) | ureq::Error::Protocol(_) => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, error)
}
