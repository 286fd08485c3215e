//! What lies in a site's folder, and what it hears of its run, for fuzzing.

use std::path::Path;

use fedbasin_proto::{MAX_METRICS, MAX_NUM_EXAMPLES, is_metric_name, v1::RunStatus};

use super::{
    evaluate::{Said, parse_path},
    parse_reference,
    trainer::Metrics,
    workdir::{KeptReceipt, Owner, Ticket, parse_text},
};
use crate::{files::check_token, fuzzed::one_line, graph::certified};

/// A file that a site reads: the first byte says which. How far a round came, whose the folder is, what a trainer measured, a token, a
/// spec's certificate.
///
/// # Panics
/// Where what was read is not read again as it was written, or would be refused by a server.
#[must_use]
pub fn workdir(bytes: &[u8]) -> bool {
    let Some((which, bytes)) = bytes.split_first() else { return false };
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let path = Path::new("a file");
    match which % 6 {
        0 => {
            let Ok(ticket) = parse_text::<Ticket>(path, text) else { return false };
            let written = serde_json::to_string_pretty(&ticket).expect("JSON");
            assert_eq!(parse_text::<Ticket>(path, &written).as_ref(), Ok(&ticket));
            let settled = ticket.receipt.is_some() || ticket.declined.is_some() || ticket.rejected.is_some();
            assert!(ticket.unsettled().is_none() || !settled);
            true
        }
        1 => parse_text::<Owner>(path, text).is_ok(),
        2 => metrics(text, None),
        3 => metrics(text, Some(7)),
        4 => check_token(text.trim(), "a file").is_ok_and(|token| {
            assert!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
            true
        }),
        _ => {
            certified(text).is_some()
                || parse_text::<KeptReceipt>(path, text).is_ok()
                || parse_text::<Said>(path, text).is_ok()
        }
    }
}

fn metrics(text: &str, fallback: Option<u64>) -> bool {
    if let Err(error) = parse_path(text, "a file") {
        one_line(&error);
    }
    match Metrics::parse(text, fallback, "a file") {
        Ok((found, _)) => {
            assert!((1..=MAX_NUM_EXAMPLES).contains(&found.num_examples));
            assert!(found.metrics.len() <= MAX_METRICS);
            assert!(found.metrics.iter().all(|(name, value)| is_metric_name(name) && value.is_finite()));
            true
        }
        Err(error) => {
            one_line(&error);
            false
        }
    }
}

/// A run's status: whether it names what to train from.
pub(crate) fn status(status: &RunStatus) -> bool {
    let Some(round) = &status.round else { return false };
    parse_reference(round).is_ok_and(|reference| reference.is_some())
}
