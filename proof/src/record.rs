//! One record of the audit log.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::ProofError;

/// What a record is called in errors.
const WHAT: &str = "a record of the audit log";

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Who {
    /// `site`, `person`, or `server` for what the server does by itself (closing rounds, aligning, merging, keeping).
    pub kind: String,
    /// The site's id, or the person's role. Absent for the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The id of the token, or the fingerprint of the certificate, that it was done with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

impl Who {
    /// The server itself.
    #[must_use]
    pub fn server() -> Self {
        Self { kind: "server".into(), name: None, credential: None }
    }
}

/// One record: who did what to which objects, when, why. Its leaf is the line that [`Record::to_line`] gave when it was written. It
/// holds ids and digests, nothing of a model; of a person the role, and the token's id or the
/// subject by which an identity provider knows them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its place in the log, from 0 without gaps.
    pub seq: u64,
    /// When, by the database's clock: milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// What: an object and what became of it, such as `round.published`.
    pub action: String,
    /// Who.
    pub who: Who,
    /// The call that it was done for: all that one call did has one id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The run, where it is of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The round's number, where it is of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<u32>,
    /// The site, where it is of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// The id of what it is about: an update, a token, a certificate, a checkpoint, a graph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Digest of the bytes that stood there before, or were to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Digest of the bytes that stand there now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What else is to be known.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
}

impl Record {
    /// A record of an action; its place, time and who are filled in where it is written.
    #[must_use]
    pub fn of(action: &str) -> Self {
        Self {
            seq: 0,
            at_ms: 0,
            action: action.to_owned(),
            who: Who::server(),
            request: None,
            run: None,
            round: None,
            site: None,
            object: None,
            before: None,
            after: None,
            reason: None,
            details: Map::new(),
        }
    }

    /// Of this run.
    #[must_use]
    pub fn run(mut self, run: &str) -> Self {
        self.run = Some(run.to_owned());
        self
    }

    /// Of this round.
    #[must_use]
    pub fn round(mut self, run: &str, number: u32) -> Self {
        self.round = Some(number);
        self.run(run)
    }

    /// Of this site.
    #[must_use]
    pub fn site(mut self, site: &str) -> Self {
        self.site = Some(site.to_owned());
        self
    }

    /// About this object.
    #[must_use]
    pub fn object(mut self, object: &str) -> Self {
        self.object = Some(object.to_owned());
        self
    }

    /// What bytes stood there before and what stand there now.
    #[must_use]
    pub fn digests(mut self, before: Option<String>, after: Option<String>) -> Self {
        (self.before, self.after) = (before, after);
        self
    }

    /// Why.
    #[must_use]
    pub fn because(mut self, reason: &str) -> Self {
        self.reason = Some(reason.to_owned());
        self
    }

    /// A further detail.
    #[must_use]
    pub fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// The record as one line of JSON, without its end: what is stored, exported and hashed.
    ///
    /// # Errors
    /// Those of writing JSON.
    pub fn to_line(&self) -> Result<String, ProofError> {
        serde_json::to_string(self).map_err(|error| ProofError::malformed(WHAT, error))
    }

    /// Reads a line.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] where it is no record, or holds a field that none has.
    pub fn from_line(line: &str) -> Result<Self, ProofError> {
        serde_json::from_str(line).map_err(|error| ProofError::malformed(WHAT, error))
    }
}
