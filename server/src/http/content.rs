//! A model's bytes, whole or in ranges, for who has none of them, a part, or all.

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use headers::{HeaderMapExt as _, IfNoneMatch, Range};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use rebasin::Digest;

use super::{Api, problem::Problem};
use crate::error::Result;

/// Answers a stored checkpoint of `size` bytes as a file of that name. Its digest is its `ETag`: who has these bytes is answered 304, who
/// asks for a range of other ones (`If-Range`) the whole.
///
/// # Errors
/// Those of the object store.
pub(super) async fn answer(
    api: &Api,
    (digest, size): (&Digest, u64),
    file: &str,
    asked: &HeaderMap,
) -> Result<Response> {
    let tag = format!("\"{digest}\"");
    if has_it(asked, &tag) {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        insert(response.headers_mut(), header::ETAG, &tag);
        return Ok(response);
    }
    let range = if is_of_it(asked, &tag) { asked_range(asked, size) } else { None };
    let (status, bytes) = match range {
        None | Some(Ranges::Many) => (StatusCode::OK, 0..size),
        Some(Ranges::One(bytes)) => (StatusCode::PARTIAL_CONTENT, bytes),
        Some(Ranges::None) => return Ok(Problem::range_not_satisfiable(size)),
    };
    let object = api.store.object(digest, bytes.clone()).await?;
    let mut response = (status, Body::from_stream(object.stream)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.end - bytes.start));
    insert(headers, header::ETAG, &tag);
    insert(headers, header::CONTENT_DISPOSITION, &format!("attachment; filename=\"{file}\""));
    if status == StatusCode::PARTIAL_CONTENT {
        let place = format!("bytes {}-{}/{size}", bytes.start, bytes.end - 1);
        insert(headers, header::CONTENT_RANGE, &place);
    }
    Ok(response)
}

/// Sets a header; texts of this file are all of visible ASCII.
fn insert(headers: &mut HeaderMap, name: header::HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

/// Whether who asks has these bytes already. What cannot be understood is ignored.
pub(super) fn has_it(asked: &HeaderMap, tag: &str) -> bool {
    let Ok(tag) = tag.parse::<headers::ETag>() else { return false };
    // True where the condition to answer holds: none of the tags is this one.
    asked.typed_get::<IfNoneMatch>().is_some_and(|none_match| !none_match.precondition_passes(&tag))
}

/// Whether a range that is asked for is of these bytes: nothing else is said, or just that. A date is not: bytes of a digest have none.
pub(super) fn is_of_it(asked: &HeaderMap, tag: &str) -> bool {
    asked.get(header::IF_RANGE).is_none_or(|of| of.as_bytes() == tag.as_bytes())
}

#[derive(Debug)]
pub(super) enum Ranges {
    One(std::ops::Range<u64>),
    /// Several: the whole is answered, as RFC 9110 allows.
    Many,
    None,
}

/// The range that a request asks for. One that cannot be understood is ignored, as RFC 9110 allows.
pub(super) fn asked_range(headers: &HeaderMap, size: u64) -> Option<Ranges> {
    let text = headers.get(header::RANGE)?.to_str().ok()?;
    // `headers` finds a suffix longer than the whole unsatisfiable; by RFC 9110, 14.1.2, it is the whole.
    if let Some(length) = text.strip_prefix("bytes=-").and_then(|length| length.parse::<u64>().ok()) {
        return Some(match length.min(size) {
            0 => Ranges::None,
            length => Ranges::One(size - length..size),
        });
    }
    Some(single_range(&headers.typed_get::<Range>()?, size))
}

fn single_range(range: &Range, size: u64) -> Ranges {
    let mut found = range.satisfiable_ranges(size).map(|(from, to)| bounds(from, to, size));
    match (found.next().flatten(), found.next()) {
        (Some(bytes), None) => Ranges::One(bytes),
        (_, Some(_)) => Ranges::Many,
        (None, None) => Ranges::None,
    }
}

fn bounds(from: std::ops::Bound<u64>, to: std::ops::Bound<u64>, size: u64) -> Option<std::ops::Range<u64>> {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let start = match from {
        Included(start) => start,
        Excluded(start) => start.checked_add(1)?,
        Unbounded => 0,
    };
    let end = match to {
        // Beyond any end: the rest.
        Included(end) => end.saturating_add(1),
        Excluded(end) => end,
        Unbounded => size,
    };
    let end = end.min(size);
    (start < end).then_some(start..end)
}
