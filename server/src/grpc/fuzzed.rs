//! The gRPC edge's readers, for fuzzing.

use fedbasin_proto::{MAX_METRICS, MAX_NUM_EXAMPLES, v1};
use prost::Message as _;

use super::convert;
pub use super::upload::fuzzed::chunks;

/// Largest checkpoint that is taken here.
const MOST: u64 = 1 << 32;

/// A message of the contract: the first byte says which.
///
/// # Panics
/// Where a malformed announcement is taken.
#[must_use]
pub fn request(bytes: &[u8]) -> bool {
    let Some((which, bytes)) = bytes.split_first() else { return false };
    match which % 4 {
        0 => announcement(bytes),
        1 => v1::DownloadRequest::decode(bytes).is_ok_and(|request| convert::digest(&request.digest).is_ok()),
        2 => v1::WatchRunRequest::decode(bytes)
            .is_ok_and(|request| crate::model::check_id("run_id", &request.run_id).is_ok()),
        // The same form as the end of an update.
        _ => v1::GetUpdateRequest::decode(bytes)
            .is_ok_and(|request| uuid::Uuid::parse_str(&request.update_id).is_ok()),
    }
}

fn announcement(bytes: &[u8]) -> bool {
    let Ok(request) = v1::BeginUpdateRequest::decode(bytes) else { return false };
    let Ok(new) = convert::new_update(request) else { return false };
    if new.check(MOST).is_err() {
        return false;
    }
    assert!((1..=MAX_NUM_EXAMPLES).contains(&new.num_examples) && (9..=MOST).contains(&new.size));
    assert!(new.metrics.len() <= MAX_METRICS && new.metrics.values().all(|value| value.is_finite()));
    true
}
