//! The HTTP edge's readers, for fuzzing.

use http::{HeaderMap, HeaderValue, header};

use super::{rounds, runs, sites, tokens};

/// A JSON body: the first byte says of which call. What can be checked without the store is checked.
///
/// # Panics
/// Where a run is taken whose policy cannot work.
#[must_use]
pub fn body(bytes: &[u8]) -> bool {
    let Some((which, bytes)) = bytes.split_first() else { return false };
    match which % 4 {
        0 => {
            let Ok(new) = serde_json::from_slice::<runs::NewRun>(bytes) else { return false };
            let Ok(new) = new.check(1024) else { return false };
            let Ok(cohort) = u32::try_from(new.cohort.len()) else { return false };
            if new.policy.check(cohort).is_err() {
                return false;
            }
            let window = new.policy.window(cohort, 0);
            assert!(window.deadline_at_ms > 0 && (1..=cohort).contains(&window.quorum), "{window:?}");
            true
        }
        1 => serde_json::from_slice::<sites::NewSite>(bytes).is_ok_and(|new| new.check().is_ok()),
        2 => serde_json::from_slice::<tokens::NewToken>(bytes).is_ok_and(|new| new.check().is_ok()),
        _ => serde_json::from_slice::<tokens::NewSiteToken>(bytes).is_ok_and(|new| new.check().is_ok()),
    }
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
    let Some(rounds::Ranges::One(bytes)) = rounds::asked_range(&headers, size) else { return false };
    assert!(bytes.start < bytes.end && bytes.end <= size, "{bytes:?} of {size}");
    true
}
