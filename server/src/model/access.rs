//! Who may call, by what they hold, and until when.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    round::Millis,
};

/// What a person may do; each may what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// See how runs and sites stand.
    Viewer,
    /// Create and end runs, send seeds and graphs, fetch models.
    Operator,
    /// Enrol sites, make and revoke tokens.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// The name, as stored and shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Reads a stored name.
    pub(crate) fn from_name(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|role| role.name() == name);
        found.ok_or_else(|| Error::internal(format_args!("tokens.role holds {name:?}")))
    }
}

/// Whose a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A site's, by id.
    Site(String),
    /// A person's.
    Person(Role),
}

/// A token, as it is listed: without what would open anything.
#[derive(Debug, Clone)]
pub struct Token {
    /// Its public id.
    pub id: String,
    /// Whose it is.
    pub holder: Holder,
    /// The administrator's words.
    pub label: String,
    /// When it was made.
    pub created_at_ms: Millis,
    /// From when on it opens nothing.
    pub expires_at_ms: Millis,
    /// Since when it was revoked, if it was.
    pub revoked_at_ms: Option<Millis>,
    /// Its last use, to about half a minute.
    pub last_used_at_ms: Option<Millis>,
}

/// A site's certificate, as it was seen.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// SHA-256 of its signed part, hex.
    pub fingerprint: String,
    /// Whom it names; absent: it was revoked before it was seen.
    pub site: Option<String>,
    /// When it expires, where that is known.
    pub expires_at_ms: Option<Millis>,
    /// When it was first seen, or revoked.
    pub first_seen_at_ms: Millis,
    /// Its last use, to about half a minute.
    pub last_used_at_ms: Option<Millis>,
    /// Since when it was revoked, if it was.
    pub revoked_at_ms: Option<Millis>,
}

/// A day, in milliseconds.
pub const DAY_MS: Millis = 86_400_000;

/// Whole days until a time; below 0 once it has passed.
#[must_use]
pub fn days_left(until: Millis, now: Millis) -> i64 {
    (until - now).div_euclid(DAY_MS)
}

/// How what somebody holds stands, in a word: `alive`, `expired` or `revoked`. What never expires, or is not known to, is alive.
#[must_use]
pub fn standing(revoked_at: Option<Millis>, expires_at: Option<Millis>, now: Millis) -> &'static str {
    match (revoked_at, expires_at) {
        (Some(_), _) => "revoked",
        (None, Some(expires)) if expires <= now => "expired",
        _ => "alive",
    }
}
