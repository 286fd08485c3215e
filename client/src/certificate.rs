//! How long a site's own certificate lasts: a server takes none that has ended, and whoever made it is not asked in an hour.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fedbasin_proto::CERTIFICATE_WARNING_DAYS;
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use x509_parser::pem::Pem;

use crate::{
    error::{Error, Result},
    files::read_error,
    progress::Screen,
};

/// What to do about a certificate that ends.
pub(crate) const REMEDY: &str = "ask whoever runs the server for a new kit (where the key stays here, by a new request: `fedbasin site request`), \
                      and start again with it";

const DAY_MS: i64 = 86_400_000;

/// A site's own certificate, as far as its end goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    path: PathBuf,
    ends_at_ms: i64,
}

/// What is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    /// When it ends, ISO 8601 in UTC.
    pub expires_at: String,
    /// Whole days until then; below 0 once it has passed.
    pub days_left: i64,
}

impl Certificate {
    /// Reads the first certificate of a PEM file.
    ///
    /// # Errors
    /// The file cannot be read, or holds none.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(|error| read_error(path, &error))?;
        let none = |what: &dyn std::fmt::Display| {
            Error::failed(what, path.display(), "ask whoever runs the server for another kit")
        };
        let first = Pem::iter_from_buffer(&bytes).flatten().find(|pem| pem.label == "CERTIFICATE");
        let first = first.ok_or_else(|| none(&"holds no certificate"))?;
        let parsed = first.parse_x509();
        let parsed = parsed
            .map_err(|error| none(&format_args!("holds a certificate that cannot be read: {error}")))?;
        let ends_at_ms = parsed.validity().not_after.timestamp().saturating_mul(1000);
        Ok(Self { path: path.to_owned(), ends_at_ms })
    }

    /// How long it lasts from now on.
    #[must_use]
    pub fn left(&self) -> Left {
        self.left_at(now_ms())
    }

    fn left_at(&self, now: i64) -> Left {
        let end = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.ends_at_ms) * 1_000_000).ok();
        Left {
            expires_at: end.and_then(|end| end.format(&Rfc3339).ok()).unwrap_or_default(),
            days_left: self.ends_at_ms.saturating_sub(now).div_euclid(DAY_MS),
        }
    }

    /// Makes sure that it has not ended.
    ///
    /// # Errors
    /// It has; what to do.
    pub fn check(&self) -> Result<()> {
        self.check_at(now_ms())
    }

    fn check_at(&self, now: i64) -> Result<()> {
        if self.ends_at_ms > now {
            return Ok(());
        }
        let what = format!("this site's certificate ended at {}", self.left_at(now).expires_at);
        Err(Error::failed(what, self.path.display(), REMEDY))
    }

    /// What is said of it from now on, once a day, where few days are left.
    fn warning_at(&self, now: i64) -> Option<String> {
        let left = self.left_at(now);
        left.is_short().then(|| format!("this site's {left}"))
    }

    /// Says once a day that few days are left, for as long as it is awaited.
    pub(crate) async fn warn(&self, screen: &Screen) -> std::convert::Infallible {
        self.warn_every(Duration::from_secs(24 * 3600), now_ms, |text| screen.say(text)).await
    }

    async fn warn_every(
        &self,
        every: Duration,
        now: impl Fn() -> i64,
        say: impl Fn(String),
    ) -> std::convert::Infallible {
        loop {
            if let Some(text) = self.warning_at(now()) {
                say(text);
            }
            tokio::time::sleep(every).await;
        }
    }
}

impl Left {
    /// Whether it is time to ask for another.
    fn is_short(&self) -> bool {
        self.days_left < CERTIFICATE_WARNING_DAYS
    }
}

impl std::fmt::Display for Left {
    /// A line that says what to do, too, where few days are left.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "certificate ends at {}, days left: {}", self.expires_at, self.days_left)?;
        if self.is_short() { write!(f, "; {REMEDY}") } else { Ok(()) }
    }
}

/// Milliseconds since the Unix epoch, by this machine's clock.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing is to be sent with a certificate that has ended, so no server can be asked for the time"
)]
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
