//! Calls of a connection: counted while they are under way, with bodies that may not stand still.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;
use tokio::time::{Instant, Sleep};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span};

use super::Link;
use crate::{
    admission::Permit,
    auth::access,
    config::Limits,
    error::{Code, Error},
    requests::{self, REQUEST_ID},
    telemetry::{Edge, Measured, Telemetry},
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes of an answer that are handed over at once at the most: what is handed over lies in memory until the peer takes it.
const PIECE: u64 = 32 << 10;

/// A call under way. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Call(Arc<Mutex<Standing>>);

struct Standing {
    permit: Option<Permit>,
    measured: Measured,
}

impl Call {
    fn new(measured: Measured) -> Self {
        Self(Arc::new(Mutex::new(Standing { permit: None, measured })))
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what admitted the call until its answer was handed over, or nobody wants it.
    pub(crate) fn hold(&self, permit: Permit) {
        self.standing().permit = Some(permit);
    }

    /// Says what is called, as a router names it.
    pub(crate) fn name(&self, route: &str) {
        self.standing().measured.name(route);
    }

    /// Notes the status of gRPC, which stands before an answer or behind it.
    fn note_status(&self, headers: &HeaderMap) {
        let status = headers.get("grpc-status").and_then(|status| status.to_str().ok());
        let place = status.and_then(|status| status.parse::<usize>().ok());
        if let Some(code) = place.and_then(|place| GRPC_CODES.get(place)) {
            self.standing().measured.answer(code);
        }
    }
}

/// By their numbers.
const GRPC_CODES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid-argument",
    "deadline-exceeded",
    "not-found",
    "already-exists",
    "permission-denied",
    "resource-exhausted",
    "failed-precondition",
    "aborted",
    "out-of-range",
    "unimplemented",
    "internal",
    "unavailable",
    "data-loss",
    "unauthenticated",
];

/// The rpc of a path; nothing for what is none of ours, whatever a caller names.
fn rpc(path: &str) -> Option<&'static str> {
    let known = access::RPCS.iter().find(|known| **known == path)?;
    known.rsplit('/').next()
}

/// Lets an edge's calls pass through here, no faster than a connection may call.
pub(crate) struct CallsLayer<B> {
    patience: Duration,
    least_bytes: u64,
    piece: usize,
    edge: Edge,
    telemetry: Telemetry,
    fail: fn(Error) -> BoxError,
    request: fn(Patient<B>) -> B,
    response: fn(Counted<B>) -> B,
}

// By hand: a body need not be one that can be copied.
impl<B> Clone for CallsLayer<B> {
    fn clone(&self) -> Self {
        Self { telemetry: self.telemetry.clone(), ..*self }
    }
}

impl<B> CallsLayer<B> {
    /// For an edge whose bodies are made by `request` and `response`, and whose errors by `fail`.
    pub(crate) fn new(
        limits: &Limits,
        (edge, telemetry): (Edge, &Telemetry),
        fail: fn(Error) -> BoxError,
        request: fn(Patient<B>) -> B,
        response: fn(Counted<B>) -> B,
    ) -> Self {
        let least_bytes = limits.least_bytes();
        // Who takes the least that it must takes at least one piece in time.
        let piece = least_bytes.clamp(1 << 10, PIECE) as usize;
        let (patience, telemetry) = (limits.idle_timeout(), telemetry.clone());
        Self { patience, least_bytes, piece, edge, telemetry, fail, request, response }
    }
}

impl<S, B> Layer<S> for CallsLayer<B> {
    type Service = Calls<S, B>;

    fn layer(&self, inner: S) -> Calls<S, B> {
        Calls { inner, layer: self.clone() }
    }
}

/// The service that does so.
pub(crate) struct Calls<S, B> {
    inner: S,
    layer: CallsLayer<B>,
}

impl<S: Clone, B> Clone for Calls<S, B> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone() }
    }
}

impl<S, B> Service<Request<B>> for Calls<S, B>
where
    S: Service<Request<B>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<B>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let link = request.extensions().get::<Link>().cloned();
        let (wait, under_way) = link.map(UnderWay::new).unzip();
        let layer = &self.layer;
        let (edge, call) = (layer.edge, Call::new(layer.telemetry.call(layer.edge)));
        let known = requests::Request::of(request.headers());
        let (id, span) = (HeaderValue::from_str(&known.id()), known.span(edge.name()));
        if let (Edge::grpc, Some(rpc)) = (edge, rpc(request.uri().path())) {
            call.name(rpc);
        }
        request.extensions_mut().insert(known);
        request.extensions_mut().insert(call.clone());
        let sent = layer.telemetry.sent(edge);
        let (wrap, response, piece) = (layer.request, layer.response, layer.piece);
        let request = request.map(|inner| {
            wrap(Patient {
                inner,
                patience: layer.patience,
                least_bytes: layer.least_bytes,
                fail: layer.fail,
                received: layer.telemetry.received(edge),
                telemetry: layer.telemetry.clone(),
                came: 0,
                waited: Duration::ZERO,
                waiting: None,
            })
        });
        // The one that was asked whether it is ready is the one that is called.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let within = span.clone();
        let answering = async move {
            if let Some(wait) = wait.flatten() {
                tokio::time::sleep(wait).await;
            }
            let mut answered = inner.call(request).await?;
            // Hexadecimal digits are a header's value.
            if let Ok(id) = id {
                answered.headers_mut().insert(REQUEST_ID, id);
            }
            match edge {
                Edge::grpc => call.note_status(answered.headers()),
                Edge::http => call.standing().measured.answer(answered.status().as_str()),
            }
            Ok(answered.map(|inner| {
                response(Counted {
                    inner,
                    rest: Bytes::new(),
                    piece,
                    handed: 0,
                    ended: false,
                    under_way,
                    sent,
                    span,
                    call,
                })
            }))
        };
        Box::pin(answering.instrument(within))
    }
}

/// One call that its connection knows of.
struct UnderWay(Link);

impl UnderWay {
    /// Also gives how long it is to wait.
    fn new(link: Link) -> (Option<Duration>, Self) {
        (link.begin(), Self(link))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// What a peer sends: too few bytes in the time that is waited for them are an error.
pub(crate) struct Patient<B> {
    inner: B,
    patience: Duration,
    least_bytes: u64,
    fail: fn(Error) -> BoxError,
    received: Counter,
    telemetry: Telemetry,
    /// Bytes that came within the time below.
    came: u64,
    /// How long was waited; the time in which nobody asked does not count.
    waited: Duration,
    /// Since when is waited, and until when.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<B> Patient<B> {
    /// Whether enough came once the time is over; then a new one begins.
    fn judge(&mut self) -> Result<(), BoxError> {
        if self.waited < self.patience {
            return Ok(());
        }
        if self.came < self.least_bytes {
            self.telemetry.refused("min_bytes_per_second");
            return Err((self.fail)(Error::new(
                Code::TooSlow,
                format!(
                    "{} bytes came within {} s, fewer than the {} of limits.min_bytes_per_second; begin again, an upload goes on \
                     from the offset given",
                    self.came,
                    self.patience.as_secs(),
                    self.least_bytes
                ),
            )));
        }
        (self.came, self.waited) = (0, Duration::ZERO);
        Ok(())
    }
}

impl<B> Body for Patient<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            let Some(frame) = frame else { return Poll::Ready(None) };
            let frame = frame.map_err(Into::into)?;
            let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
            this.came += bytes;
            this.received.inc_by(bytes);
            if let Some((since, _)) = this.waiting.take() {
                this.waited += since.elapsed();
                this.judge()?;
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        loop {
            let left = this.patience.saturating_sub(this.waited);
            let (since, sleep) =
                this.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
            ready!(sleep.as_mut().poll(cx));
            this.waited += since.elapsed();
            this.waiting = None;
            this.judge()?;
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What a peer is answered, piece by piece; its connection knows how much that is.
pub(crate) struct Counted<B> {
    inner: B,
    /// What of the last frame was not handed over yet.
    rest: Bytes,
    piece: usize,
    /// Bytes so far.
    handed: u64,
    ended: bool,
    under_way: Option<UnderWay>,
    sent: Counter,
    span: Span,
    call: Call,
}

impl<B: Body> Counted<B> {
    fn is_over(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    /// The next piece of what is there.
    fn piece(&mut self) -> Frame<Bytes> {
        let piece = self.rest.split_to(self.rest.remaining().min(self.piece));
        self.sent.inc_by(piece.len() as u64);
        if let Some(under_way) = &self.under_way {
            under_way.0.hand(piece.len() as u64);
            self.handed += piece.len() as u64;
        }
        self.ended = self.is_over();
        Frame::data(piece)
    }
}

impl<B> Body for Counted<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let span = this.span.clone();
        let _within = span.enter();
        if this.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                other => {
                    this.ended = true;
                    return Poll::Ready(other);
                }
            };
            match frame.into_data() {
                Ok(data) => this.rest = data,
                Err(trailers) => {
                    if let Some(headers) = trailers.trailers_ref() {
                        this.call.note_status(headers);
                    }
                    this.ended = true;
                    return Poll::Ready(Some(Ok(trailers)));
                }
            }
        }
        Poll::Ready(Some(Ok(this.piece())))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, inner) = (self.rest.len() as u64, self.inner.size_hint());
        let mut hint = SizeHint::new();
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(inner.lower() + rest);
        hint
    }
}

impl<B> Drop for Counted<B> {
    fn drop(&mut self) {
        if let (false, Some(under_way)) = (self.ended, &self.under_way) {
            under_way.0.forgive(self.handed);
        }
    }
}
