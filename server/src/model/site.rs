//! One site, with what it does and what it holds.

use std::collections::BTreeMap;

use rebasin::Digest;

use super::{Certificate, Site, Token};
use crate::round::Millis;

/// A site as whoever looks after it sees it.
#[derive(Debug, Clone)]
pub struct SiteDetails {
    /// It.
    pub site: Site,
    /// In how many runs of each state it takes part.
    pub runs: BTreeMap<String, u64>,
    /// How many updates of each state it sent.
    pub updates: BTreeMap<String, u64>,
    /// The updates that it sends now, the newest first.
    pub arriving: Vec<Arriving>,
    /// Its certificates as far as they were seen, the newest first.
    pub certificates: Vec<Certificate>,
    /// Its tokens, the newest first.
    pub tokens: Vec<Token>,
    /// What it was told when its calls failed, the newest first.
    pub failed_calls: Vec<FailedCall>,
}

/// What a site is told when a call of its fails.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Failed {
    pub(crate) site: String,
    /// What it called, by its name alone.
    pub(crate) rpc: String,
    /// The stable code.
    pub(crate) code: String,
    /// In words.
    pub(crate) message: String,
}

/// What a site was told when calls of its failed.
#[derive(Debug, Clone)]
pub struct FailedCall {
    /// What it called, by its name alone.
    pub rpc: String,
    /// The stable code.
    pub code: String,
    /// In words.
    pub message: String,
    /// When it was told so first.
    pub first_at_ms: Millis,
    /// And last.
    pub last_at_ms: Millis,
    /// How often, as far as it was counted.
    pub times: u64,
}

/// An update whose bytes are arriving.
#[derive(Debug, Clone)]
pub struct Arriving {
    /// Its id.
    pub id: String,
    /// Its run.
    pub run_id: String,
    /// Its round's number.
    pub round: u32,
    /// As it was announced.
    pub digest: Digest,
    /// As it was announced, in bytes.
    pub size: u64,
    /// When it was announced.
    pub begun_at_ms: Millis,
    /// How long ago that is, in milliseconds.
    pub for_ms: Millis,
}
