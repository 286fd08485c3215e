//! What time it is at the server, by its own answers: this machine's clock may be another.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use time::{OffsetDateTime, PrimitiveDateTime, macros::format_description};
use ureq::http::{HeaderMap, header::DATE};

/// What the last answer said, and when it came.
#[derive(Debug, Default)]
pub(super) struct Clock(Mutex<Option<(OffsetDateTime, Instant)>>);

impl Clock {
    /// Learns the time from an answer's `date`. Without one it goes on from what it knew.
    pub(super) fn see(&self, headers: &HeaderMap) {
        let said = headers.get(DATE).and_then(|date| date.to_str().ok()).and_then(date);
        if let Some(said) = said {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((said, Instant::now()));
        }
    }

    /// The time now, to about a second.
    pub(super) fn now(&self) -> Option<OffsetDateTime> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.and_then(|(said, at)| said.checked_add(at.elapsed().try_into().ok()?))
    }
}

/// A date as RFC 9110 writes it (section 5.6.7, `IMF-fixdate`): `Sun, 06 Nov 1994 08:49:37 GMT`.
fn date(text: &str) -> Option<OffsetDateTime> {
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    PrimitiveDateTime::parse(text, format).ok().map(PrimitiveDateTime::assume_utc)
}

#[cfg(test)]
mod tests;
