//! The connection to a server: address, TLS, token.

use std::{
    fmt, fs,
    net::IpAddr,
    ops::{Deref, DerefMut},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use fedbasin_proto::{MAX_MESSAGE_BYTES, v1::fed_basin_client::FedBasinClient};
use hyper_util::client::legacy::connect::HttpConnector;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri},
};

use crate::{
    certificate::Certificate as OwnCertificate,
    error::{Error, Result},
    files::read_error,
    proxy::{Proxy, tunnel},
};

/// The generated stub, with the site's token.
pub type Stub = FedBasinClient<InterceptedService<Channel, TokenInterceptor>>;

/// A connected stub that sends the site's token with every call, and the address it calls, so that a failure can name it.
/// Cheap to clone; all clones share one connection.
#[derive(Debug, Clone)]
pub struct Client {
    stub: Stub,
    url: Arc<str>,
}

impl Client {
    /// The address as it was given.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Deref for Client {
    type Target = Stub;

    fn deref(&self) -> &Stub {
        &self.stub
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Stub {
        &mut self.stub
    }
}

/// HTTP/2 windows. The default of 64 KiB would cap a link with 50 ms of round trip at 1.3 MB/s; with these it is 80 MB/s a
/// stream. Only what the peer has sent and we have not read yet occupies memory.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Larger frames than the default 16 KiB: fewer of them for each chunk of a download.
const MAX_FRAME_BYTES: u32 = 64 << 10;

/// How long connecting may take in all: to find the host, to reach it, through a proxy or not, and TLS.
pub(crate) const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Where a server is, and how to be sure of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `https://host:port`, or `http://host:port` on this machine.
    pub url: String,
    /// PEM file of the authority that signed the server's certificate; without it the well-known ones.
    pub ca: Option<PathBuf>,
    /// Clear text to another machine is wanted.
    pub insecure: bool,
    /// The site's own certificate and its key, PEM files, where it shows one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Address {
    /// Checks the address: a scheme, a host, and no clear text to another machine unless that was asked for, because the
    /// token and the models would be readable on the way. Returns the parsed address.
    ///
    /// # Errors
    /// Wrong usage, with what to write instead.
    pub fn check(&self) -> Result<Uri> {
        let uri: Uri = self.url.parse().map_err(|error| {
            Error::usage(format_args!("not an address: {error}"), &self.url, "write https://HOST:PORT")
        })?;
        let host = uri.host().unwrap_or_default();
        match uri.scheme_str() {
            Some("https") if !host.is_empty() => {}
            Some("http") if !host.is_empty() => {
                if self.identity.is_some() {
                    return Err(Error::usage(
                        "a certificate is given but the address has no TLS",
                        &self.url,
                        "write https://",
                    ));
                }
                if self.ca.is_some() {
                    return Err(Error::usage(
                        "--ca is given but the address has no TLS",
                        &self.url,
                        "write https:// or leave --ca out",
                    ));
                }
                if !self.insecure && !is_loopback(host) {
                    return Err(Error::usage(
                        "clear text to another machine would show the token and the model to everyone on the way",
                        &self.url,
                        "use https://, or say --insecure if the network itself is protected",
                    ));
                }
            }
            _ => return Err(Error::usage("no scheme or no host", &self.url, "write https://HOST:PORT")),
        }
        Ok(uri)
    }

    /// The site's own certificate, where it shows one.
    ///
    /// # Errors
    /// Its file cannot be read, or holds none.
    pub fn certificate(&self) -> Result<Option<OwnCertificate>> {
        self.identity.as_ref().map(|(certificate, _)| OwnCertificate::read(certificate)).transpose()
    }

    /// The authority's PEM text, if one was named.
    ///
    /// # Errors
    /// Not readable, or no certificate in it.
    pub fn authority(&self) -> Result<Option<Vec<u8>>> {
        let Some(path) = &self.ca else { return Ok(None) };
        let pem = fs::read(path).map_err(|error| read_error(path, &error))?;
        let marker = b"-----BEGIN CERTIFICATE-----";
        if !pem.windows(marker.len()).any(|window| window == marker) {
            return Err(Error::failed("holds no certificate", path.display(), "give a PEM file"));
        }
        Ok(Some(pem))
    }
}

pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A secret that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes a token as it was printed at enrolment.
    #[must_use]
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    /// The value of an `authorization` header.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

/// Adds `authorization: Bearer <token>` to every call, where there is a token.
#[derive(Clone)]
pub struct TokenInterceptor(Option<MetadataValue<Ascii>>);

impl fmt::Debug for TokenInterceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenInterceptor(redacted)")
    }
}

impl Interceptor for TokenInterceptor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.0 {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}

/// Prepares a connection. It is made at the first call and made again whenever it broke, so this succeeds also while the
/// server is away. Must be called inside a tokio runtime.
///
/// # Errors
/// An address that makes no sense, an unreadable authority, a token that no header can hold, a certificate that has ended.
pub fn connect(address: &Address, token: Option<&Token>) -> Result<Client> {
    let proxy = Proxy::of(&address.check()?)?;
    connect_within(CONNECT_TIME, address, token, proxy)
}

fn connect_within(
    time: Duration,
    address: &Address,
    token: Option<&Token>,
    proxy: Option<Proxy>,
) -> Result<Client> {
    let uri = address.check()?;
    if let Some(certificate) = address.certificate()? {
        certificate.check()?;
    }
    let secure = uri.scheme_str() == Some("https");
    let mut endpoint = Endpoint::from(uri)
        .user_agent(concat!("fedbasin/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| Error::failed(error, &address.url, "this is a defect, report it"))?
        .connect_timeout(time)
        // Also while only a watch is open: a peer that vanished is noticed within 20 s.
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES);
    if secure {
        let tls = match address.authority()? {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_webpki_roots(),
        };
        let tls = match &address.identity {
            Some((cert, key)) => {
                let read = |path: &PathBuf| fs::read(path).map_err(|error| read_error(path, &error));
                tls.identity(Identity::from_pem(read(cert)?, read(key)?))
            }
            None => tls,
        };
        endpoint = endpoint.tls_config(tls).map_err(|error| {
            Error::failed(
                format_args!("TLS cannot be set up: {error}"),
                &address.url,
                "check the --ca file and the host name",
            )
        })?;
    }
    let header = match token {
        Some(token) => {
            let mut header: MetadataValue<Ascii> = token.bearer().parse().map_err(|_| {
                Error::failed("the token cannot be sent", "its characters", "use it as it was printed")
            })?;
            header.set_sensitive(true);
            Some(header)
        }
        None => None,
    };
    // With the endpoint's own connector its time would be for TCP alone, and a peer that takes connections and says nothing to TLS
    // would be waited for without end.
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(Duration::from_secs(30)));
    let channel = match proxy {
        None => endpoint.connect_with_connector_lazy(connector),
        Some(proxy) => endpoint.connect_with_connector_lazy(tunnel(proxy, connector)),
    };
    let stub = FedBasinClient::with_interceptor(channel, TokenInterceptor(header))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Ok(Client { stub, url: address.url.as_str().into() })
}

#[cfg(test)]
mod tests;
