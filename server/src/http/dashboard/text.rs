//! Figures, times and states as people read them.

use maud::{Markup, html};
use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

use crate::{http::time::iso, round::Millis};

/// Milliseconds of a time as the API writes it.
pub(super) fn millis(text: &str) -> Option<Millis> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Millis::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()
}

/// A point in time, for machines in full.
pub(super) fn when(at: Millis) -> Markup {
    let form = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let shown = OffsetDateTime::from_unix_timestamp(at.div_euclid(1000)).ok();
    let shown = shown.and_then(|at| at.format(form).ok()).unwrap_or_default();
    html! { time datetime=(iso(at)) { (shown) " UTC" } }
}

/// A point in time as the API writes it; a dash where there is none.
pub(super) fn when_said(at: Option<&str>) -> Markup {
    match at.and_then(millis) {
        Some(at) => when(at),
        None => html! { "–" },
    }
}

/// How long something takes, in the largest unit that tells enough.
pub(super) fn span(length: Millis) -> String {
    let seconds = length.max(0) / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// How long ago something was, no finer than sites are noted.
pub(super) fn ago(at: Millis, now: Millis) -> String {
    if now - at < 60_000 { "less than a minute ago".into() } else { format!("{} ago", span(now - at)) }
}

/// How long until something is; of less than two minutes in steps of five seconds.
pub(super) fn left(until: Millis, now: Millis) -> String {
    match until - now {
        ..=0 => "no time left".into(),
        left if left < 120_000 => format!("{} s left", (left / 1000 + 4) / 5 * 5),
        left => format!("{} left", span(left)),
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown to three digits")]
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ if value < 9.995 => format!("{value:.2} {}", UNITS[unit]),
        _ if value < 99.95 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// A number to four digits.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        return "0".into();
    }
    if !(1e-4..1e7).contains(&size) {
        return format!("{value:.3e}");
    }
    let digits = if size >= 1000.0 {
        0
    } else if size >= 100.0 {
        1
    } else if size >= 10.0 {
        2
    } else {
        4
    };
    format!("{value:.digits$}")
}

/// Of a fraction; never `100 %` of what is not all.
pub(super) fn percent(fraction: f64) -> String {
    let percent = fraction * 100.0;
    if (99.95..100.0).contains(&percent) {
        return "99.9 %".into();
    }
    if percent.fract().abs() < 0.05 || percent == 100.0 {
        format!("{percent:.0} %")
    } else {
        format!("{percent:.1} %")
    }
}

/// A digest: its beginning, and the whole for who wants it.
pub(super) fn digest(digest: &str) -> Markup {
    let short = digest.get(..12).unwrap_or(digest);
    html! { code.digest title=(digest) { (short) "…" } }
}

/// A state, marked by a class of its own and never by its colour alone.
pub(super) fn state(name: &str) -> Markup {
    html! { span class={ "badge is-" (name) } { (name) } }
}

/// A word for one or for several.
pub(super) fn plural(count: usize, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

#[cfg(test)]
mod tests;
