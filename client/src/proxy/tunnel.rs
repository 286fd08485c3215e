//! A connection through a proxy.

use std::{io, pin::Pin};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::transport::Uri;
use tower::{Service, service_fn};

use super::Proxy;

/// A proxy's answer to CONNECT is a head without a body that matters; a longer one is none.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Why there is no connection through a proxy. What the proxy said beyond its status is not shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    /// It does not let this through.
    #[error("{proxy} refused the way to {to}: {}", reason(*status))]
    Refused {
        proxy: String,
        to: String,
        status: u16,
        /// Whether it was told a user and a password.
        knew: bool,
    },
    /// It is not there.
    #[error("{proxy} cannot be reached: {why}")]
    Unreachable { proxy: String, why: String },
    /// It answers as no HTTP proxy does.
    #[error("{proxy} gave no answer that a proxy gives: {why}")]
    Confused { proxy: String, why: String },
}

/// A status in the words of the standard.
fn reason(status: u16) -> String {
    let known = ureq::http::StatusCode::from_u16(status).ok().and_then(|code| code.canonical_reason());
    known.map_or_else(|| status.to_string(), |reason| format!("{status} {reason}"))
}

impl TunnelError {
    /// What to do about it.
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::Refused { status: 407, knew: false, .. } => {
                "it wants a user and a password: write them into that variable, http://USER:PASSWORD@HOST:PORT"
            }
            Self::Refused { status: 407, .. } => {
                "it does not take the user and password of that variable: correct them"
            }
            Self::Refused { .. } => {
                "ask whoever runs the proxy to let CONNECT to this host and port through, or name the host in NO_PROXY"
            }
            Self::Unreachable { .. } | Self::Confused { .. } => {
                "check that variable, or name the server's host in NO_PROXY to call it directly"
            }
        }
    }

    /// Whether it may go through later, without anybody doing anything: where the proxy, or what it asked, is unwell.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 500 | 502..=504),
            Self::Unreachable { .. } => true,
            Self::Confused { .. } => false,
        }
    }
}

type Connecting = Pin<Box<dyn Future<Output = Result<TokioIo<TcpStream>, TunnelError>> + Send>>;

/// A connector that reaches everything through the proxy, which `inner` reaches. Time is limited by who calls it.
pub(crate) fn tunnel(
    proxy: Proxy,
    inner: HttpConnector,
) -> impl Service<Uri, Response = TokioIo<TcpStream>, Error = TunnelError, Future = Connecting> + Send {
    service_fn(move |to: Uri| -> Connecting {
        let (proxy, inner) = (proxy.clone(), inner.clone());
        Box::pin(async move { Ok(TokioIo::new(open(&proxy, inner, &to).await?)) })
    })
}

async fn open(proxy: &Proxy, mut inner: HttpConnector, to: &Uri) -> Result<TcpStream, TunnelError> {
    let unreachable = |why: String| TunnelError::Unreachable { proxy: proxy.to_string(), why };
    let place: Uri = format!("http://{}:{}/", proxy.host, proxy.port)
        .parse()
        .map_err(|error: ureq::http::uri::InvalidUri| unreachable(error.to_string()))?;
    let stream = inner.call(place).await.map_err(|error| unreachable(innermost(&error)))?;
    let mut stream = stream.into_inner();
    let to = format!("{}:{}", to.host().unwrap_or_default(), to.port_u16().unwrap_or(443));
    let confused = |why: io::Error| TunnelError::Confused { proxy: proxy.to_string(), why: why.to_string() };
    stream.write_all(proxy.request(&to).as_bytes()).await.map_err(confused)?;
    match answer(&mut stream).await.map_err(confused)? {
        200..=299 => Ok(stream),
        status => Err(proxy.refusal(&to, status)),
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}

impl Proxy {
    fn request(&self, to: &str) -> String {
        let mut text = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n");
        if let Some((user, password)) = &self.credentials {
            let word = STANDARD.encode(format!("{user}:{password}"));
            text.push_str(&format!("Proxy-Authorization: Basic {word}\r\n"));
        }
        text.push_str(concat!("User-Agent: fedbasin/", env!("CARGO_PKG_VERSION"), "\r\n\r\n"));
        text
    }
}

/// The status of a proxy's answer, which is read to its end and not a byte further: what follows is the server's.
async fn answer(stream: &mut TcpStream) -> io::Result<u16> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_HEAD_BYTES {
            return Err(io::Error::other("its answer has no end"));
        }
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(io::Error::other("it ended the connection"));
            }
            Err(error) => return Err(error),
        }
        // Something else speaks here: its first bytes show it, and an end of this form may never come.
        let begin = &head[..head.len().min(5)];
        if !b"HTTP/".starts_with(begin) {
            return Err(io::Error::other("it does not speak HTTP"));
        }
    }
    status(&head).ok_or_else(|| io::Error::other("its answer is not HTTP/1.1's"))
}

/// `HTTP/1.x NNN …`
pub(super) fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|&byte| byte == b'\r').next()?;
    let rest = line.strip_prefix(b"HTTP/1.")?.get(1..)?.strip_prefix(b" ")?;
    let digits = rest.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    if rest.get(3).is_some_and(|&byte| byte != b' ') {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
