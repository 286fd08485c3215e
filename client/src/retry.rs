//! When to call again, and how long to wait before.
//!
//! The contract (`proto`) says of every call whether a retry is safe; here is decided whether it is *useful*. What the
//! server decided is final. What the transport or a server that restarts did is not.

use std::time::{Duration, Instant};

use fedbasin_proto::RETRY_METADATA_KEY;
use tonic::{Code, Response, Status};

use crate::error::{CLEAR_TEXT, Error, OWN_CERTIFICATE_ENDED, status_code_string, tunnel_error};

/// What to do about a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The server or the way to it is unwell: the same call may succeed later.
    Retry,
    /// The server holds another offset than we thought: ask for it and go on from there.
    Resume,
    /// A defect of the server: once more, in case it was a passing one.
    Once,
    /// The same call would fail again.
    Final,
}

/// Whether what failed over HTTP may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// The same would fail again.
    Never,
    /// The server or the way to it is unwell.
    Soon,
    /// It is, and said how long to wait.
    After(Duration),
}

/// Judges a failed call.
///
/// A status with the server's own code string is judged by its code alone. One without comes from the transport, or
/// from a proxy between: then also UNKNOWN, INTERNAL and CANCELLED mean a broken connection. A certificate that does not
/// verify is final, whatever its code, and so is the server's other port: waiting does not mend it. So is a proxy that refuses the way there. So is what the server says not to
/// try again.
#[must_use]
pub fn verdict(status: &Status) -> Verdict {
    if pushback(status) == Pushback::Never {
        return Verdict::Final;
    }
    let server_code = status_code_string(status);
    match (status.code(), server_code.as_deref()) {
        (Code::Aborted, Some("offset-mismatch")) => Verdict::Resume,
        (Code::Unavailable | Code::DeadlineExceeded, Some(_))
        | (Code::ResourceExhausted, Some("too-many")) => Verdict::Retry,
        (Code::Internal, Some(_)) => Verdict::Once,
        (_, Some(_)) => Verdict::Final,
        (_, None) if tunnel_error(status).is_some_and(|error| !error.passes()) => Verdict::Final,
        (_, None) if is_certificate_trouble(status) || is_http_port(status) => Verdict::Final,
        (
            Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Internal | Code::Cancelled,
            None,
        ) => Verdict::Retry,
        // hyper reports a connection that the peer ended early in several codes; then a cause is attached.
        (_, None) if std::error::Error::source(status).is_some() => Verdict::Retry,
        (_, None) => Verdict::Final,
    }
}

/// What the server says of another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pushback {
    /// Nothing.
    Unsaid,
    /// It is wanted after so long.
    After(Duration),
    /// None is wanted.
    Never,
}

/// Reads `grpc-retry-pushback-ms` as gRPC's own retries do (gRFC A6, "Pushback"): what is no number of milliseconds, below 0, or said
/// twice means that no attempt is to follow.
fn pushback(status: &Status) -> Pushback {
    let mut values = status.metadata().get_all(RETRY_METADATA_KEY).iter();
    let (Some(value), more) = (values.next(), values.next()) else { return Pushback::Unsaid };
    let milliseconds = value.to_str().ok().and_then(|text| text.parse().ok());
    match milliseconds {
        Some(milliseconds) if more.is_none() => Pushback::After(Duration::from_millis(milliseconds)),
        _ => Pushback::Never,
    }
}

/// Whether a failed handshake is the reason: rustls says "certificate" in each such error, and rustls is not a
/// dependency of ours to compare types with.
fn is_certificate_trouble(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let text = error.to_string();
        if ["certificate", OWN_CERTIFICATE_ENDED, CLEAR_TEXT].iter().any(|sign| text.contains(sign)) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether the server's HTTP port answered: 404 and a problem document, whose first byte `{` (123) tonic takes for the flag
/// of a message. Pages of a proxy that stands before a server while it restarts begin otherwise, or have another status.
fn is_http_port(status: &Status) -> bool {
    let text = status.message();
    text.contains("invalid compression flag: 123 ") && text.contains("404")
}

/// How patiently to retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The first pause; each further one is twice as long.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// How long failures may last, without anything achieved between, before we give up.
    pub total: Duration,
}

impl Patience {
    /// Pauses from 0.2 s to 10 s, for as long as `total`.
    #[must_use]
    pub const fn lasting(total: Duration) -> Self {
        Self { first_pause: Duration::from_millis(200), longest_pause: Duration::from_secs(10), total }
    }
}

impl Default for Patience {
    /// Ten minutes: longer than a server takes to restart or to be upgraded.
    fn default() -> Self {
        Self::lasting(Duration::from_secs(600))
    }
}

/// Exponential backoff with jitter: the n-th pause is drawn evenly from [d/2, d], d = min(first * 2^n, longest), so that
/// sites that lost the same server do not all come back in the same instant. Where the server says how long to wait, the pause is that,
/// to the millisecond, and the next one of ours is the shortest again (gRFC A6).
#[derive(Debug)]
pub struct Backoff {
    patience: Patience,
    failures: u32,
    /// Pauses of our own since the last success, or since the server said how long to wait.
    doublings: u32,
    /// What the server said of the pause that is due.
    asked: Option<Duration>,
    failing_since: Option<Instant>,
    tried_once: bool,
    random: SplitMix64,
}

/// A server that asks for more does not get it.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

impl Backoff {
    /// A fresh one; its jitter is seeded by the operating system.
    #[must_use]
    pub fn new(patience: Patience) -> Self {
        // Without entropy the pauses are merely less random.
        Self::seeded(patience, getrandom::u64().unwrap_or(0))
    }

    /// The same with a given seed.
    #[must_use]
    pub fn seeded(patience: Patience, seed: u64) -> Self {
        Self {
            patience,
            failures: 0,
            doublings: 0,
            asked: None,
            failing_since: None,
            tried_once: false,
            random: SplitMix64(seed),
        }
    }

    /// Something was achieved: begin anew with the shortest pause and the whole patience.
    pub fn reset(&mut self) {
        (self.failures, self.doublings) = (0, 0);
        (self.asked, self.failing_since) = (None, None);
        self.tried_once = false;
    }

    /// Whether a call that failed so is worth another attempt. If the server says how long to wait before, the next pause is that.
    pub fn allows(&mut self, status: &Status) -> bool {
        self.asked = match pushback(status) {
            Pushback::After(wait) => Some(wait),
            Pushback::Unsaid | Pushback::Never => None,
        };
        match verdict(status) {
            Verdict::Retry | Verdict::Resume => true,
            Verdict::Once => !std::mem::replace(&mut self.tried_once, true),
            Verdict::Final => false,
        }
    }

    /// The same of a call over HTTP.
    pub(crate) fn heeds(&mut self, again: Again) -> bool {
        self.asked = match again {
            Again::After(wait) => Some(wait),
            Again::Soon | Again::Never => None,
        };
        again != Again::Never
    }

    /// How often it failed since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Notes a failure at `now`. Returns the pause to make, or `None` when patience is spent, or would be within a longer pause than
    /// any of ours.
    pub fn pause(&mut self, now: Instant) -> Option<Duration> {
        let asked = self.asked.take();
        let Patience { first_pause, longest_pause, total } = self.patience;
        let lasted = now.duration_since(*self.failing_since.get_or_insert(now));
        if lasted >= total && self.failures > 0 {
            return None;
        }
        if asked.is_some_and(|asked| asked > longest_pause && lasted.saturating_add(asked) > total) {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        if let Some(asked) = asked {
            self.doublings = 0;
            // No server makes a client spin, or sleep for good.
            return Some(asked.clamp(first_pause / 2, LONGEST_ASKED.max(longest_pause)));
        }
        let full = first_pause
            .saturating_mul(1_u32.checked_shl(self.doublings).unwrap_or(u32::MAX))
            .min(longest_pause);
        self.doublings = self.doublings.saturating_add(1);
        Some(full.mul_f64(0.5 + 0.5 * self.random.unit()))
    }

    /// Notes a failure and sleeps. False when patience is spent.
    pub async fn wait(&mut self) -> bool {
        match self.pause(Instant::now()) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                true
            }
            None => false,
        }
    }
}

/// Makes a call again and again as long as that is worth it and patience lasts. `place` says which call, and where.
///
/// # Errors
/// The last failure.
pub(crate) async fn patiently<T>(
    patience: Patience,
    place: &str,
    mut call: impl AsyncFnMut() -> Result<Response<T>, Status>,
) -> Result<Response<T>, Error> {
    let mut backoff = Backoff::new(patience);
    loop {
        let status = match call().await {
            Ok(answer) => return Ok(answer),
            Err(status) => status,
        };
        if !backoff.allows(&status) {
            return Err(Error::from_status(&status, place));
        }
        if !backoff.wait().await {
            return Err(Error::gave_up(&status, place, "start the same command again"));
        }
    }
}

/// `SplitMix64` (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014): enough for jitter.
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    /// The next number of [0, 1).
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
