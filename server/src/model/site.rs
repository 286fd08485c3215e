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
