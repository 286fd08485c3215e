//! One connection, which ends by itself where its peer stands still.

use std::{
    io::{self, IoSlice},
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tonic::transport::server::Connected;

use super::{
    Speaks,
    frames::{Frames, Passed},
    places::Place,
};
use crate::config::Limits;

/// A connection is looked at so often at the least.
const LOOK: Duration = Duration::from_secs(5);

type Io = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// A connection within its limits. One that broke one fails at its next byte, and with that its streams.
pub(crate) struct Guarded {
    io: Io,
    link: Link,
    rules: Rules,
    received: Frames,
    /// From the first byte that is sent: only then it is known what is spoken.
    sent: Option<Frames>,
    /// Frames without content that may still come.
    frames_left: f64,
    frames_at: Instant,
    /// Nothing is read until then.
    resting: Option<Pin<Box<Sleep>>>,
    ends_at: Instant,
    next_look: Instant,
    look: Pin<Box<Sleep>>,
    over: bool,
    _place: Place,
}

#[derive(Debug, Clone, Copy)]
struct Rules {
    first_call: Duration,
    idle: Duration,
    patience: Duration,
    least_bytes: u64,
    frames_per_second: f64,
}

/// What the calls of a connection know of it, and tell it. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Link(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    address: IpAddr,
    certificate: Option<Vec<u8>>,
    /// Bytes of content that calls handed over for the peer.
    handed: AtomicU64,
    /// Bytes of content that went to it.
    sent: AtomicU64,
    standing: Mutex<Standing>,
    /// Calls that may begin within a second.
    calls_per_second: f64,
}

#[derive(Debug)]
struct Standing {
    calls: usize,
    /// Whether there ever was one.
    called: bool,
    /// Since when there is none.
    quiet_since: Instant,
    /// Calls that may begin at once, as of when.
    left: (f64, Instant),
    /// When the peer last took enough, and what had been sent by then.
    took: (Instant, u64),
}

/// Of what a connection may do within a second, so much may come at once: who comes again and again on new connections gets no whole
/// second's worth on each.
fn at_once(per_second: f64) -> f64 {
    (per_second / 10.0).max(1.0)
}

impl Link {
    pub(super) fn new(address: IpAddr, certificate: Option<Vec<u8>>, limits: &Limits) -> Self {
        let (now, calls_per_second) = (Instant::now(), limits.max_calls_per_second_per_connection.into());
        let left = (at_once(calls_per_second), now);
        Self(Arc::new(Shared {
            address,
            certificate,
            handed: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            calls_per_second,
            standing: Mutex::new(Standing {
                calls: 0,
                called: false,
                quiet_since: now,
                left,
                took: (now, 0),
            }),
        }))
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.0.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The peer's address.
    pub(crate) fn address(&self) -> IpAddr {
        self.0.address
    }

    /// The certificate that the connection was opened with.
    pub(crate) fn certificate(&self) -> Option<&[u8]> {
        self.0.certificate.as_deref()
    }

    /// A call began; how long it is to wait, if there are too many.
    pub(super) fn begin(&self) -> Option<Duration> {
        // More was sent than handed over: HTTP/1's heads, or what was forgiven.
        self.0.handed.fetch_max(self.0.sent.load(Ordering::Relaxed), Ordering::Relaxed);
        let mut standing = self.standing();
        standing.calls += 1;
        standing.called = true;
        let ((left, at), now, rate) = (standing.left, Instant::now(), self.0.calls_per_second);
        let saved = now.saturating_duration_since(at).as_secs_f64() * rate;
        let left = (left + saved).min(at_once(rate)) - 1.0;
        standing.left = (left, now);
        (left < 0.0).then(|| Duration::from_secs_f64(-left / rate))
    }

    /// One ended.
    pub(super) fn end(&self) {
        let mut standing = self.standing();
        standing.calls = standing.calls.saturating_sub(1);
        standing.quiet_since = Instant::now();
    }

    /// A call handed over bytes for the peer.
    pub(super) fn hand(&self, bytes: u64) {
        self.0.handed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The peer wants no more of an answer: what was handed over of it may never be sent.
    pub(super) fn forgive(&self, bytes: u64) {
        let sent = self.0.sent.load(Ordering::Relaxed);
        let less = |handed: u64| Some(handed.saturating_sub(bytes).max(sent.min(handed)));
        // It never refuses.
        let _ = self.0.handed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn sent(&self, passed: Passed) {
        self.0.sent.fetch_add(passed.data, Ordering::Relaxed);
    }

    /// Why the connection is to end, if it is.
    fn breach(&self, rules: &Rules, now: Instant) -> Option<&'static str> {
        let mut standing = self.standing();
        let (quiet, most) = match standing.called {
            false => ("limits.first_call_timeout_seconds: no call came", rules.first_call),
            true => ("limits.idle_connection_seconds: no call is under way", rules.idle),
        };
        if standing.calls == 0 && now.saturating_duration_since(standing.quiet_since) >= most {
            return Some(quiet);
        }
        let (handed, sent) = (self.0.handed.load(Ordering::Relaxed), self.0.sent.load(Ordering::Relaxed));
        let (since, then) = standing.took;
        if handed <= sent || sent.saturating_sub(then) >= rules.least_bytes {
            standing.took = (now, sent);
        } else if now.saturating_duration_since(since) >= rules.patience {
            return Some("limits.idle_timeout_seconds: the peer does not take what it asked for");
        }
        None
    }
}

impl Guarded {
    pub(super) fn new(io: Io, link: Link, port: u16, speaks: Speaks, limits: &Limits, place: Place) -> Self {
        let rules = Rules {
            first_call: limits.first_call_timeout(),
            idle: Duration::from_secs(limits.idle_connection_seconds),
            patience: limits.idle_timeout(),
            least_bytes: limits.least_bytes(),
            frames_per_second: limits.max_control_frames_per_second.into(),
        };
        let now = Instant::now();
        let life = limits.connection_age() + Duration::from_secs(limits.connection_age_grace_seconds);
        // Up to a tenth more, by the peer's port: not all that came at one moment are cut at one.
        let ends_at = now + life + life / 1000 * u32::from(port % 100);
        let next_look = rules.next_look(now, ends_at);
        Self {
            io,
            link,
            rules,
            received: Frames::Begin(0),
            sent: (speaks == Speaks::Http2).then_some(Frames::FRAMES),
            frames_left: at_once(rules.frames_per_second),
            frames_at: now,
            resting: None,
            ends_at,
            next_look,
            look: Box::pin(tokio::time::sleep_until(next_look)),
            over: false,
            _place: place,
        }
    }

    /// What calls know it by.
    pub(crate) fn link(&self) -> Link {
        self.link.clone()
    }

    /// Fails where a limit is broken.
    fn keep(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if !self.over && now >= self.next_look {
            self.next_look = self.rules.next_look(now, self.ends_at);
            let breach = match now >= self.ends_at {
                true => Some("limits.max_connection_age_seconds: its time and its grace are over"),
                false => self.link.breach(&self.rules, now),
            };
            if let Some(breach) = breach {
                tracing::debug!(peer.address = %self.link.address(), "a connection is ended: {breach}");
                self.over = true;
            }
        }
        if self.over { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    /// Waits for the bytes that are awaited, or for the next look.
    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        loop {
            if self.look.deadline() != self.next_look {
                let next = self.next_look;
                self.look.as_mut().reset(next);
            }
            ready!(self.look.as_mut().poll(cx));
            self.keep()?;
        }
    }

    /// Notes frames; too many let the connection rest.
    fn count(&mut self, frames: u32) {
        if frames == 0 {
            return;
        }
        let (now, rate) = (Instant::now(), self.rules.frames_per_second);
        let saved = now.saturating_duration_since(self.frames_at).as_secs_f64() * rate;
        self.frames_left = (self.frames_left + saved).min(at_once(rate)) - f64::from(frames);
        self.frames_at = now;
        if self.frames_left < 0.0 {
            let rest = Duration::from_secs_f64(-self.frames_left / rate);
            self.resting = Some(Box::pin(tokio::time::sleep(rest)));
        }
    }

    /// Notes what was sent.
    fn wrote<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]>, count: usize) {
        let plain = self.received == Frames::Plain;
        let sent = self.sent.get_or_insert(if plain { Frames::Plain } else { Frames::FRAMES });
        let mut left = count;
        for part in parts {
            let part = &part[..part.len().min(left)];
            left -= part.len();
            self.link.sent(sent.pass(part));
        }
    }
}

impl Rules {
    /// When a connection is looked at next.
    fn next_look(&self, now: Instant, ends_at: Instant) -> Instant {
        let shortest = self.first_call.min(self.idle).min(self.patience);
        let next = now + (shortest / 4).min(LOOK);
        if now < ends_at { next.min(ends_at) } else { next }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.keep()?;
        if let Some(resting) = &mut this.resting {
            if resting.as_mut().poll(cx).is_pending() {
                return this.wait(cx);
            }
            this.resting = None;
        }
        let before = buffer.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buffer) {
            Poll::Ready(outcome) => {
                let passed = this.received.pass(&buffer.filled()[before..]);
                this.count(passed.others);
                Poll::Ready(outcome)
            }
            Poll::Pending => this.wait(cx),
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.keep()?;
        match Pin::new(&mut this.io).poll_write(cx, bytes) {
            Poll::Ready(Ok(count)) => {
                this.wrote(std::iter::once(bytes), count);
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => this.wait(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.keep()?;
        match Pin::new(&mut this.io).poll_write_vectored(cx, parts) {
            Poll::Ready(Ok(count)) => {
                this.wrote(parts.iter().map(|part| &**part), count);
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => this.wait(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.keep()?;
        match Pin::new(&mut this.io).poll_flush(cx) {
            Poll::Pending => this.wait(cx),
            done => done,
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.keep()?;
        match Pin::new(&mut this.io).poll_shutdown(cx) {
            Poll::Pending => this.wait(cx),
            done => done,
        }
    }
}

impl Connected for Guarded {
    type ConnectInfo = Link;

    fn connect_info(&self) -> Link {
        self.link()
    }
}
