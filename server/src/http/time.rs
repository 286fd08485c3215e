//! Times on the wire: ISO 8601, UTC.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::round::Millis;

/// `2026-01-31T12:00:00.123Z`.
pub(super) fn iso(at: Millis) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}
