//! The HTTP edge's readers, for fuzzing.

use axum::{Router, extract::FromRequestParts, response::IntoResponse as _, routing::get};
use fedbasin_proof::merkle;
use futures::FutureExt as _;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower::ServiceExt as _;

use super::{
    audit, content, page,
    problem::{Object, Path, Query, json_depth},
    runs, sites, tokens,
};

/// How deep a body may nest, and how many entries are given at once.
const MOST: usize = 64;

/// A JSON body: the first byte says of which call. What can be checked without the store is checked.
///
/// # Panics
/// Where a run is taken whose policy cannot work, or a body nests deeper than it was found to.
#[must_use]
pub fn body(bytes: &[u8]) -> bool {
    let Some((which, bytes)) = bytes.split_first() else { return false };
    let found = json_depth(bytes);
    if let Ok(value) = serde_json::from_slice::<Value>(bytes) {
        assert_eq!(depth(&value), found);
    }
    if found > MOST {
        return false;
    }
    match which % 4 {
        0 => {
            let Some(new) = read::<runs::NewRun>(bytes) else { return false };
            let Ok(new) = new.check(1024) else { return false };
            let Ok(cohort) = u32::try_from(new.cohort.len()) else { return false };
            if new.policy.check(cohort).is_err() {
                return false;
            }
            let window = new.policy.window(cohort, 0);
            assert!(window.deadline_at_ms > 0 && (1..=cohort).contains(&window.quorum), "{window:?}");
            true
        }
        1 => read::<sites::NewSite>(bytes).is_some_and(|new| new.check().is_ok()),
        2 => read::<tokens::NewToken>(bytes).is_some_and(|new| new.check().is_ok()),
        _ => read::<tokens::NewSiteToken>(bytes).is_some_and(|new| new.check().is_ok()),
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice::<Object<T>>(bytes).ok().map(|Object(value)| value)
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(values) => 1 + values.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// The address of a call, its query behind a `?`; the first byte says of which: a page of the audit log, its growth, a page of a list,
/// one round.
///
/// # Panics
/// Where more is asked for than is given at once, a proof has no end, or a name holds what no name may.
#[must_use]
pub fn query(bytes: &[u8]) -> bool {
    let Some((which, bytes)) = bytes.split_first() else { return false };
    let Ok(uri) = Uri::try_from(bytes) else { return false };
    match which % 4 {
        0 => {
            let Some(page) = asked::<audit::Page>(uri) else { return false };
            let Ok(limit) = page.check(MOST) else { return false };
            assert!((1..=64).contains(&limit));
            true
        }
        1 => {
            let Some(audit::Sizes { first, second }) = asked(uri) else { return false };
            let Some(ranges) = merkle::consistency_ranges(first, second) else {
                assert!(first > second);
                return false;
            };
            // One for each level of the tree, and one more; together they are at most all records.
            assert!(ranges.len() <= 65, "{} roots", ranges.len());
            assert!(ranges.iter().all(|range| range.start < range.end && range.end <= second), "{ranges:?}");
            ranges.iter().all(|range| merkle::subtrees(range).len() <= 128)
        }
        2 => {
            let Some(asked) = asked::<page::Asked>(uri) else { return false };
            let Ok(page) = page::Page::new(asked, MOST) else { return false };
            assert!((1..=MOST).contains(&page.limit));
            true
        }
        _ => named(uri),
    }
}

fn asked<T: DeserializeOwned + Send>(uri: Uri) -> Option<T> {
    let (mut parts, ()) = Request::builder().uri(uri).body(()).ok()?.into_parts();
    let read = Query::<T>::from_request_parts(&mut parts, &()).now_or_never().expect("nothing to wait for");
    match read {
        Ok(Query(value)) => Some(value),
        Err(problem) => {
            assert_eq!(problem.into_response().status(), StatusCode::UNPROCESSABLE_ENTITY);
            None
        }
    }
}

/// Whether it names a round of a run.
fn named(uri: Uri) -> bool {
    async fn seen(Path((run, number)): Path<(String, String)>) -> StatusCode {
        assert!(!run.contains('\0') && !number.contains('\0'), "{run:?} {number:?}");
        StatusCode::NO_CONTENT
    }
    let router = Router::new().route("/v1/runs/{run}/rounds/{number}", get(seen));
    let Ok(request) = Request::builder().uri(uri).body(axum::body::Body::empty()) else { return false };
    let answer = router.oneshot(request).now_or_never().expect("nothing to wait for");
    let status = answer.expect("no error").status();
    assert!(matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_FOUND), "{status}");
    status == StatusCode::NO_CONTENT
}

/// The token that the dashboard reads from what a browser sends.
pub(crate) fn cookie(headers: &HeaderMap) -> Option<String> {
    super::dashboard::session::token(headers)
}

/// A `range` header, of a model whose size the first two bytes say.
///
/// # Panics
/// Where a range is answered that lies outside of the model.
#[must_use]
pub fn range(bytes: &[u8]) -> bool {
    let Some((size, text)) = bytes.split_first_chunk::<2>() else { return false };
    let size = u64::from(u16::from_le_bytes(*size));
    let Ok(value) = HeaderValue::from_bytes(text) else { return false };
    let mut headers = HeaderMap::new();
    headers.insert(header::RANGE, value);
    let Some(content::Ranges::One(bytes)) = content::asked_range(&headers, size) else { return false };
    assert!(bytes.start < bytes.end && bytes.end <= size, "{bytes:?} of {size}");
    true
}
