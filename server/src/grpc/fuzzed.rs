//! The gRPC edge's readers, for fuzzing.

use fedbasin_proof::merkle;
use fedbasin_proto::{MAX_METRICS, MAX_NUM_EXAMPLES, PATH_POINTS, v1};
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
    match which % 9 {
        0 => announcement(bytes),
        1 => v1::DownloadRequest::decode(bytes).is_ok_and(|request| convert::digest(&request.digest).is_ok()),
        2 => v1::WatchRunRequest::decode(bytes)
            .is_ok_and(|request| crate::model::check_id("run_id", &request.run_id).is_ok()),
        3 => v1::GetUpdateRequest::decode(bytes).is_ok_and(|request| is_id(&request.update_id)),
        4 => proof(bytes),
        5 => v1::GetModelSignatureRequest::decode(bytes)
            .is_ok_and(|request| convert::digest(&request.digest).is_ok()),
        6 => v1::FinishUpdateRequest::decode(bytes).is_ok_and(|request| is_id(&request.update_id)),
        7 => v1::WithdrawUpdateRequest::decode(bytes).is_ok_and(|request| is_id(&request.update_id)),
        _ => evaluations(bytes),
    }
}

fn is_id(text: &str) -> bool {
    uuid::Uuid::parse_str(text).is_ok()
}

/// What is asked of the audit log: which roots it takes, of a log that is as long as asked.
fn proof(bytes: &[u8]) -> bool {
    let Ok(request) = v1::ProveLogRequest::decode(bytes) else { return false };
    let Some(growth) = merkle::consistency_ranges(request.first, request.second) else { return false };
    let inclusion = match request.record {
        None => Vec::new(),
        Some(place) => match merkle::inclusion_ranges(place, request.second) {
            None => return false,
            // The other halves of the trees that the record is in are, with it, all records.
            Some(ranges) => {
                let others: u64 = ranges.iter().map(|range| range.end - range.start).sum();
                assert_eq!(others + 1, request.second);
                ranges
            }
        },
    };
    assert!(growth.len() <= 65 && inclusion.len() <= 64);
    true
}

/// What a site says of models: whether it is taken.
fn evaluations(bytes: &[u8]) -> bool {
    let Ok(request) = v1::ReportEvaluationRequest::decode(bytes) else { return false };
    let Ok(new) = convert::new_evaluations(request) else { return false };
    if new.check().is_err() {
        return false;
    }
    assert!((1..=3).contains(&new.evaluations.len()));
    for evaluation in &new.evaluations {
        assert!((1..=MAX_NUM_EXAMPLES).contains(&evaluation.num_examples));
        assert!(evaluation.loss.is_some() || evaluation.accuracy.is_some());
        assert!(evaluation.loss.is_none_or(f64::is_finite));
        assert!(evaluation.accuracy.is_none_or(|accuracy| (0.0..=1.0).contains(&accuracy)));
        let path = &evaluation.path;
        assert!(path.is_empty() || PATH_POINTS.contains(&path.len()));
        assert!(path.iter().all(|point| (0.0..=1.0).contains(&point.t) && point.loss.is_finite()));
        assert!(path.windows(2).all(|pair| pair[0].t < pair[1].t));
    }
    true
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
