//! Models that rounds published.

use rebasin::Digest;

use crate::round::Millis;

/// A model: bytes that a round published, or several.
#[derive(Debug, Clone)]
pub struct Model {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// Since when they are no longer kept.
    pub removed_at_ms: Option<Millis>,
    /// What persons call it, sorted.
    pub tags: Vec<String>,
    /// Who published it, the newest first; at least one.
    pub published: Vec<Published>,
}

/// A round that published a model.
#[derive(Debug, Clone)]
pub struct Published {
    /// The run.
    pub run_id: String,
    /// The round's number.
    pub round: u32,
    /// When it was closed with that; absent for what was published before that was noted.
    pub at_ms: Option<Millis>,
    /// Whether there is a signature of it.
    pub is_signed: bool,
    /// Whether the run's policy lets go of it.
    pub is_retired: bool,
    /// Whether it is the one of its run that is in use.
    pub is_promoted: bool,
}

/// Checks a tag that a person chooses: 1 to 64 of `a-z 0-9 . _ -`, beginning with a letter or digit.
#[must_use]
pub fn is_tag(tag: &str) -> bool {
    (1..=64).contains(&tag.len())
        && tag.as_bytes()[0].is_ascii_alphanumeric()
        && tag
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}
