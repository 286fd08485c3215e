//! Class: gRPC and HTTP/2. Messages, frames and bytes as no client of ours would send them; and the raw client that sends them.

use fedbasin_proto::{MAX_MESSAGE_BYTES, v1};
use fedbasin_tests::{Database, Options, on_both_databases};
use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Code, codegen::http};

use crate::corpus::{Answer, Case, Ground, Tried, case, of_kind};

on_both_databases!(what_is_no_call_is_refused_and_the_edge_goes_on);

pub(crate) async fn what_is_no_call_is_refused_and_the_edge_goes_on(database: Database) -> Vec<Tried> {
    let ground = Ground::new(database, Options::default()).await;
    ground
        .try_all(cases(), async |ground, how| {
            let stream = TcpStream::connect(address(&ground.server.grpc)).await.expect("a connection");
            match how {
                How::Call(made) => ask(stream, made(ground)).await,
                How::Bytes(made) => say(stream, &made()).await,
            }
        })
        .await
}

pub(crate) fn names() -> Vec<&'static str> {
    crate::corpus::names(cases())
}

/// `host:port` of a URL.
pub(crate) fn address(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, address)| address)
}

/// One HTTP/2 call, whatever it says.
pub(crate) struct Call {
    method: &'static str,
    path: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    end: End,
}

/// How a call's body ends.
#[derive(PartialEq, Eq)]
enum End {
    Stream,
    Reset,
}

impl Call {
    pub(crate) fn new(rpc: &str, body: Vec<u8>) -> Self {
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
        let path = format!("/fedbasin.v1.FedBasin/{rpc}");
        Self { method: "POST", path, headers: headers.to_vec(), body, end: End::Stream }
    }

    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }
}

/// Makes one call over a connection of its own.
pub(crate) async fn ask(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, call: Call) -> Answer {
    asked(stream, call).await.unwrap_or_else(Answer::cut)
}

async fn asked(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    call: Call,
) -> Result<Answer, h2::Error> {
    let (send, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(connection);
    let mut send = send.ready().await?;
    let mut request =
        http::Request::builder().method(call.method).uri(format!("http://localhost{}", call.path));
    for (name, value) in &call.headers {
        request = request.header(name, value.as_slice());
    }
    let (response, mut body) = send.send_request(request.body(()).expect("a request"), false)?;
    // The server may have answered before it read all.
    let _ = body.send_data(call.body.into(), call.end == End::Stream);
    if call.end == End::Reset {
        body.send_reset(h2::Reason::CANCEL);
    }
    let response = response.await?;
    let (head, mut body) = response.into_parts();
    if head.headers.contains_key("grpc-status") {
        return Ok(told(&head.headers));
    }
    while let Some(part) = body.data().await {
        let _ = body.flow_control().release_capacity(part?.len());
    }
    match body.trailers().await? {
        Some(trailers) => Ok(told(&trailers)),
        None => {
            let http = head.status.as_u16();
            Ok(Answer { code: format!("http-{http}"), grpc: None, http: None, message: String::new() })
        }
    }
}

/// What a gRPC status says. One without a stable code is named by itself.
fn told(headers: &http::HeaderMap) -> Answer {
    let text =
        |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let grpc = Code::from_bytes(text("grpc-status").unwrap_or_default().as_bytes());
    if grpc == Code::Ok {
        return Answer::taken(());
    }
    let code = text("fedbasin-code").unwrap_or_else(|| format!("grpc-{grpc:?}"));
    let message = text("grpc-message").unwrap_or_default().replace("%20", " ");
    Answer { code, grpc: Some(grpc), http: None, message }
}

/// Writes bytes on a connection and reads what comes, until it ends or one frame says that something was wrong.
pub(crate) async fn say(
    mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    bytes: &[u8],
) -> Answer {
    // It may be closed before it has read all.
    let _ = stream.write_all(bytes).await;
    let mut read = Vec::new();
    loop {
        if let Some(kind) = complaint(&read) {
            return Answer::cut(kind);
        }
        let mut part = [0; 4096];
        match stream.read(&mut part).await {
            Ok(0) => return Answer::cut("the connection ended"),
            Ok(length) => read.extend_from_slice(&part[..length]),
            Err(error) => return Answer::cut(error),
        }
    }
}

/// GOAWAY or RST_STREAM among the frames, and its error code.
fn complaint(mut frames: &[u8]) -> Option<String> {
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = frames {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let payload = rest.get(..length)?;
        match kind {
            3 => return Some(format!("RST_STREAM {payload:?}")),
            7 => return Some(format!("GOAWAY {:?}", payload.get(4..8))),
            _ => frames = &rest[length..],
        }
    }
    None
}

/// A message behind its prefix.
fn framed(message: &[u8]) -> Vec<u8> {
    prefixed(0, u32::try_from(message.len()).expect("a small message"), message)
}

fn prefixed(flag: u8, length: u32, message: &[u8]) -> Vec<u8> {
    [&[flag], &length.to_be_bytes()[..], message].concat()
}

/// A good request for an update that no site has.
pub(crate) fn unknown_update() -> Vec<u8> {
    let update_id = "00000000-0000-0000-0000-000000000000".to_owned();
    framed(&v1::GetUpdateRequest { update_id }.encode_to_vec())
}

/// The same field again and again, up to a message's limit.
fn flood(field: &[u8]) -> Vec<u8> {
    framed(&field.repeat((MAX_MESSAGE_BYTES - 64) / field.len()))
}

/// A whole announcement by site `x`, with something behind it.
fn announced(ground: &Ground, more: &[u8]) -> Vec<u8> {
    let request = v1::BeginUpdateRequest {
        run_id: ground.run.clone(),
        round: 1,
        digest: fedbasin_tests::digest(b"flood"),
        size: 100,
        num_examples: 1,
        ..v1::BeginUpdateRequest::default()
    };
    framed(&[request.encode_to_vec(), more.to_vec()].concat())
}

/// A hundred thousand metrics, each of another name.
fn metrics() -> Vec<u8> {
    let entry = |i: u32| {
        let name = format!("{i:05x}");
        [&[0x32, 7, 0x0a, 5], name.as_bytes()].concat()
    };
    (0..100_000).flat_map(entry).collect()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A frame of HTTP/2 behind a good beginning.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
    [PREFACE, &length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

enum How {
    /// An HTTP/2 call.
    Call(fn(&Ground) -> Call),
    /// Bytes on a connection.
    Bytes(fn() -> Vec<u8>),
}

fn cases() -> Vec<Case<How>> {
    let mut cases = of_kind("messages", messages());
    cases.extend(of_kind("protobuf", protobuf()));
    cases.extend(of_kind("heads", heads()));
    cases.extend(of_kind("frames", frames()));
    cases
}

/// A call by site `x`.
fn by_x(ground: &Ground, rpc: &str, body: Vec<u8>) -> Call {
    Call::new(rpc, body).bearer(&ground.x.token)
}

/// What carries messages: prefixes, compression, ends.
fn messages() -> Vec<Case<How>> {
    let unary = |name, made: fn(&Ground) -> Call, code, says| case(name, How::Call(made), code, says);
    vec![
        unary(
            "a message one byte above the limit",
            |g| by_x(g, "GetUpdate", framed(&vec![0; MAX_MESSAGE_BYTES + 1])),
            "too-large",
            "",
        ),
        unary(
            "a message of 4 GiB, announced",
            |g| by_x(g, "GetUpdate", prefixed(0, u32::MAX, &[])),
            "too-large",
            "",
        ),
        unary(
            "a message of the limit, announced and not sent",
            |g| by_x(g, "GetUpdate", prefixed(0, MAX_MESSAGE_BYTES as u32, &[])),
            "invalid-argument",
            "",
        ),
        unary("three bytes of a prefix", |g| by_x(g, "GetUpdate", vec![0; 3]), "invalid-argument", ""),
        unary("no message", |g| by_x(g, "GetUpdate", vec![]), "invalid-argument", ""),
        unary(
            "two messages where there is one",
            |g| by_x(g, "GetUpdate", [unknown_update(), unknown_update()].concat()),
            "not-found",
            "",
        ),
        unary(
            "a compressed message, and no encoding named",
            |g| by_x(g, "GetUpdate", prefixed(1, 4, &[0; 4])),
            "invalid-argument",
            "",
        ),
        unary(
            "a flag that is none",
            |g| by_x(g, "GetUpdate", prefixed(255, 4, &[0; 4])),
            "invalid-argument",
            "",
        ),
        unary(
            "gzip, which is not taken",
            |g| by_x(g, "GetUpdate", prefixed(1, 4, &[0x1f, 0x8b, 8, 0])).header("grpc-encoding", "gzip"),
            "grpc-Unimplemented",
            "gzip",
        ),
        unary(
            "an encoding that nobody knows",
            |g| by_x(g, "GetUpdate", unknown_update()).header("grpc-encoding", "x\"y"),
            "grpc-Unimplemented",
            "",
        ),
        unary(
            "a stream: a compressed message",
            |g| by_x(g, "SendUpdate", prefixed(1, 4, &[0; 4])),
            "invalid-argument",
            "",
        ),
        unary(
            "a stream: gzip",
            |g| by_x(g, "SendUpdate", prefixed(1, 4, &[0; 4])).header("grpc-encoding", "gzip"),
            "grpc-Unimplemented",
            "",
        ),
        unary(
            "a stream: a message one byte above the limit",
            |g| by_x(g, "SendUpdate", framed(&vec![0; MAX_MESSAGE_BYTES + 1])),
            "too-large",
            "",
        ),
        unary(
            "a stream: a message of 4 GiB, announced",
            |g| by_x(g, "SendUpdate", prefixed(0, u32::MAX, &[])),
            "too-large",
            "",
        ),
        unary(
            "a stream: half a message, then its end",
            |g| by_x(g, "SendUpdate", prefixed(0, 100, &[0; 10])),
            "invalid-argument",
            "",
        ),
        unary(
            "a stream: half a message, then a reset",
            |g| Call { end: End::Reset, ..by_x(g, "SendUpdate", prefixed(0, 100, &[0; 10])) },
            "cut",
            "",
        ),
        unary("a stream: its end at once", |g| by_x(g, "SendUpdate", vec![]), "taken", ""),
        unary(
            "a stream: bytes that are no chunk",
            |g| by_x(g, "SendUpdate", framed(&[0xff; 32])),
            "invalid-argument",
            "",
        ),
        unary("a watch: no message", |g| by_x(g, "WatchRun", vec![]), "invalid-argument", ""),
        unary(
            "a download: bytes that are no request",
            |g| by_x(g, "Download", framed(&[0xff; 32])),
            "invalid-argument",
            "",
        ),
    ]
}

/// What a message holds.
fn protobuf() -> Vec<Case<How>> {
    let get = |name, made: fn(&Ground) -> Call, code, says| case(name, How::Call(made), code, says);
    vec![
        get("a field of another kind", |g| by_x(g, "GetUpdate", framed(&[0x08, 1])), "invalid-argument", ""),
        get(
            "a field of a kind that there is not",
            |g| by_x(g, "GetUpdate", framed(&[0x0f, 1])),
            "invalid-argument",
            "",
        ),
        get("a field numbered 0", |g| by_x(g, "GetUpdate", framed(&[0x02, 0])), "invalid-argument", ""),
        get(
            "a number that does not end",
            |g| by_x(g, "GetUpdate", framed(&[0x0a, 0xff])),
            "invalid-argument",
            "",
        ),
        get(
            "a number of eleven bytes",
            |g| {
                by_x(
                    g,
                    "GetUpdate",
                    framed(&[0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
                )
            },
            "invalid-argument",
            "",
        ),
        get(
            "a text longer than its message",
            |g| by_x(g, "GetUpdate", framed(&[0x0a, 100, b'x'])),
            "invalid-argument",
            "",
        ),
        get(
            "a text of the largest length",
            |g| {
                by_x(g, "GetUpdate", framed(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]))
            },
            "invalid-argument",
            "",
        ),
        get(
            "a text that is no UTF-8",
            |g| by_x(g, "GetUpdate", framed(&[0x0a, 2, 0xff, 0xfe])),
            "invalid-argument",
            "",
        ),
        get("a mebibyte of unknown fields", |g| by_x(g, "GetUpdate", flood(&[0x50, 1])), "not-found", ""),
        get("one field again and again", |g| by_x(g, "GetUpdate", flood(&[0x0a, 1, b'x'])), "not-found", ""),
        get("groups in one another", |g| by_x(g, "GetUpdate", flood(&[0x53])), "invalid-argument", ""),
        get(
            "the end of a group that did not begin",
            |g| by_x(g, "GetUpdate", framed(&[0x54])),
            "invalid-argument",
            "",
        ),
        get(
            "a hundred thousand metrics",
            |g| by_x(g, "BeginUpdate", announced(g, &metrics())),
            "invalid-argument",
            "metrics",
        ),
        get(
            "a metric that is a text",
            |g| by_x(g, "BeginUpdate", announced(g, &[0x32, 5, 0x0a, 1, b'a', 0x12, 0])),
            "invalid-argument",
            "",
        ),
        get(
            "a round beyond 32 bits",
            |g| by_x(g, "BeginUpdate", announced(g, &[0x10, 0x81, 0x80, 0x80, 0x80, 0x10, 0x28, 0])),
            "invalid-argument",
            "num_examples",
        ),
        get(
            "a digest of bytes",
            |g| by_x(g, "Download", framed(&[&[0x0a, 32][..], &[0xab; 32]].concat())),
            "invalid-argument",
            "",
        ),
    ]
}

/// What stands in front of the messages.
fn heads() -> Vec<Case<How>> {
    let get = |name, made: fn(&Ground) -> Call, code| case(name, How::Call(made), code, "");
    /// The call for an unknown update, with one more header.
    fn with(ground: &Ground, name: &str, value: impl AsRef<[u8]>) -> Call {
        by_x(ground, "GetUpdate", unknown_update()).header(name, value)
    }
    fn to(ground: &Ground, path: &str) -> Call {
        Call { path: path.into(), ..by_x(ground, "GetUpdate", unknown_update()) }
    }
    vec![
        get("a deadline below 0", |g| with(g, "grpc-timeout", "-1S"), "not-found"),
        get("a deadline of eleven thousand years", |g| with(g, "grpc-timeout", "99999999H"), "not-found"),
        get("a deadline that overflows", |g| with(g, "grpc-timeout", "99999999999999999999H"), "not-found"),
        get("a deadline of no unit", |g| with(g, "grpc-timeout", "1"), "not-found"),
        get("a deadline that is no text", |g| with(g, "grpc-timeout", [0xff, b'S']), "not-found"),
        get("binary metadata that is none", |g| with(g, "trace-bin", "!!! no base64 !!!"), "not-found"),
        get("metadata that is no text", |g| with(g, "trace", [0xff, 0xfe]), "not-found"),
        get("a status in a request", |g| with(g, "grpc-status", "0"), "not-found"),
        get("a stable code in a request", |g| with(g, "fedbasin-code", "taken"), "not-found"),
        get("a header of 20 KiB", |g| with(g, "x", "x".repeat(20 << 10)), "http-431"),
        get(
            "a thousand headers",
            |g| (0..1000).fold(with(g, "x", "x"), |call, i| call.header(&format!("x-{i}"), "x")),
            "http-431",
        ),
        get("a length that the body has not", |g| with(g, "content-length", "7"), "cut"),
        get("an rpc that there is not", |g| by_x(g, "DeleteRun", unknown_update()), "forbidden"),
        get("an rpc in another case", |g| by_x(g, "getupdate", unknown_update()), "forbidden"),
        get("an rpc with a stroke behind it", |g| by_x(g, "GetUpdate/", unknown_update()), "forbidden"),
        get("an rpc spelt with percents", |g| by_x(g, "%47etUpdate", unknown_update()), "forbidden"),
        get(
            "an rpc with a question behind it",
            |g| by_x(g, "GetUpdate?admin=1", unknown_update()),
            "not-found",
        ),
        get("a service that there is not", |g| to(g, "/fedbasin.v1.Admin/GetUpdate"), "grpc-Unimplemented"),
        get(
            "a path that climbs",
            |g| to(g, "/grpc.health.v1.Health/../../fedbasin.v1.FedBasin/GetUpdate"),
            "grpc-Unimplemented",
        ),
        get("no path", |g| to(g, "/"), "grpc-Unimplemented"),
    ]
}

/// What is below calls.
fn frames() -> Vec<Case<How>> {
    let cut = |name, made: fn() -> Vec<u8>| case(name, How::Bytes(made), "cut", "");
    const HEADERS: u8 = 1;
    vec![
        cut("HTTP/1.1", || b"GET /v1/runs HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec()),
        cut("an upgrade from HTTP/1.1", || {
            b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAAA\r\n\r\n".to_vec()
        }),
        cut("a greeting of TLS", || [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 505]].concat()),
        cut("bytes of no protocol", || vec![0xa5; 4096]),
        cut("a frame above the limit", || frame(0, 0, 1, &vec![0; (64 << 10) + 1])),
        cut("data on no stream", || frame(0, 0, 0, b"x")),
        cut("data on a stream that did not begin", || frame(0, 0, 1, b"x")),
        cut("headers on a stream of the server's", || frame(HEADERS, 5, 2, &[0x82])),
        cut("headers that cannot be unpacked", || frame(HEADERS, 5, 1, &[0xff; 16])),
        cut("a continuation of nothing", || frame(9, 4, 1, &[0x82])),
        cut("a promise to the server", || frame(5, 4, 1, &[0, 0, 0, 2, 0x82])),
        cut("settings of five bytes", || frame(4, 0, 0, &[0; 5])),
        cut("a window of 0 more bytes", || frame(8, 0, 0, &[0; 4])),
        cut("a window that overflows", || frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        cut("a ping of seven bytes", || frame(6, 0, 0, &[0; 7])),
        cut("a reset of a stream that did not begin", || frame(3, 0, 1, &[0, 0, 0, 8])),
    ]
}
