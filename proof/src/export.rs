//! A log as JSON lines: a first line that says which log it is, a line for each record, and a last line with the signed head.

use std::io::BufRead;

use serde::{Deserialize, Serialize};

use crate::{
    error::ProofError,
    head::{SignedHead, TreeHead},
    keys::PublicKeys,
    merkle::{Frontier, Hash, Node, leaf_hash},
    record::Record,
};

/// No line of an export is longer, in bytes.
pub const MOST_LINE_BYTES: usize = 1 << 20;
/// The version that is written and read.
const VERSION: u32 = 1;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct First {
    /// 1.
    pub fedbasin_audit_export: u32,
    /// The log's name.
    pub origin: String,
    /// The server's public keys, in PEM: what they are worth is the reader's to say.
    pub keys: String,
}

/// The last line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Last {
    /// The signed head, a note.
    pub head: String,
}

impl First {
    /// The line that begins an export.
    ///
    /// # Errors
    /// Those of writing JSON.
    pub fn line(origin: &str, keys: &PublicKeys) -> Result<String, ProofError> {
        let first = Self { fedbasin_audit_export: VERSION, origin: origin.to_owned(), keys: keys.to_pem() };
        serde_json::to_string(&first).map_err(|error| ProofError::malformed("an export", error))
    }
}

impl Last {
    /// The line that ends an export.
    ///
    /// # Errors
    /// Those of writing JSON.
    pub fn line(head: &SignedHead) -> Result<String, ProofError> {
        let last = Self { head: head.note().to_owned() };
        serde_json::to_string(&last).map_err(|error| ProofError::malformed("an export", error))
    }
}

/// What a verified export is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Its head: the log's name, its length, its root.
    pub head: SignedHead,
    /// Whose signature it has.
    pub keys: PublicKeys,
    /// Times of the first and last record, in milliseconds since the Unix epoch.
    pub span_ms: Option<(i64, i64)>,
}

/// Checks a log record by record as it is read.
#[derive(Debug, Default)]
pub struct Checker {
    frontier: Frontier,
    /// The length of a head that was seen before, and the root over so many records once they were read.
    kept_at: Option<u64>,
    root_there: Option<Hash>,
    span_ms: Option<(i64, i64)>,
}

impl Checker {
    /// A checker that will compare with a head that was seen before.
    #[must_use]
    pub fn against(kept: Option<&SignedHead>) -> Self {
        let mut checker = Self { kept_at: kept.map(|kept| kept.head.size), ..Self::default() };
        checker.note_root();
        checker
    }

    fn note_root(&mut self) {
        if self.kept_at == Some(self.frontier.size()) {
            self.root_there = Some(self.frontier.root());
        }
    }

    /// Takes the next record's line; gives it, and the inner nodes that it completes.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] or [`ProofError::Log`] with the record's place.
    pub fn record(&mut self, line: &str) -> Result<(Record, Vec<(Node, Hash)>), ProofError> {
        let place = self.frontier.size();
        let record =
            Record::from_line(line).map_err(|error| ProofError::Log(format!("record {place}: {error}")))?;
        if record.seq != place {
            return Err(ProofError::Log(format!(
                "in the place of record {place} stands one that says {}: records are missing or out of order",
                record.seq
            )));
        }
        self.span_ms = Some((self.span_ms.map_or(record.at_ms, |(first, _)| first), record.at_ms));
        let made = self.frontier.append(leaf_hash(line.as_bytes()));
        self.note_root();
        Ok((record, made))
    }

    /// The tree over what was taken.
    #[must_use]
    pub fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// Compares all that was taken with the signed head, and with the head that was seen before.
    ///
    /// # Errors
    /// [`ProofError::Log`], saying which of them it is not.
    pub fn finish(
        self,
        head: &TreeHead,
        kept: Option<&SignedHead>,
    ) -> Result<Option<(i64, i64)>, ProofError> {
        if (head.size, head.root) != (self.frontier.size(), self.frontier.root()) {
            return Err(ProofError::Log(format!(
                "its {} records are not those that the signed head of {} records is over: a record was changed, added or removed",
                self.frontier.size(),
                head.size
            )));
        }
        let Some(kept) = kept else { return Ok(self.span_ms) };
        if kept.head.origin != head.origin {
            return Err(ProofError::Log(format!(
                "it is the log {}, the head that was seen before is of {}",
                head.origin, kept.head.origin
            )));
        }
        match self.root_there {
            Some(root) if root == kept.head.root => Ok(self.span_ms),
            Some(_) => Err(ProofError::Log(format!(
                "its first {} records are not those that the head which was seen before is over: the past was changed",
                kept.head.size
            ))),
            None => Err(ProofError::Log(format!(
                "it has {} records, the head that was seen before is over {}: it was rolled back",
                head.size, kept.head.size
            ))),
        }
    }
}

/// Verifies an export from the first line to the last.
///
/// `keys` are those that the reader trusts; without them the export's own are used, which shows only that it is whole. `kept` is a head
/// that was seen before.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub fn verify(
    export: &mut impl BufRead,
    keys: Option<&PublicKeys>,
    kept: Option<&SignedHead>,
) -> Result<Verified, ProofError> {
    let first = next_line(export)?.ok_or_else(|| ProofError::Log("the export is empty".into()))?;
    let first: First = serde_json::from_str(&first)
        .map_err(|error| ProofError::malformed("the export's first line", error))?;
    if first.fedbasin_audit_export != VERSION {
        return Err(ProofError::malformed("the export's first line", "is of another version"));
    }
    let own = PublicKeys::from_pem(&first.keys)?;
    let keys = keys.cloned().unwrap_or(own);
    let mut checker = Checker::against(kept);
    let mut line = next_line(export)?;
    while let Some(text) = line {
        let next = next_line(export)?;
        if next.is_some() {
            checker.record(&text)?;
            line = next;
            continue;
        }
        let last: Last = serde_json::from_str(&text).map_err(|_| cut())?;
        let head = SignedHead::open(&last.head, &keys)?;
        if head.head.origin != first.origin {
            return Err(ProofError::Log("its first line names another log than its head".into()));
        }
        let span_ms = checker.finish(&head.head, kept)?;
        return Ok(Verified { head, keys, span_ms });
    }
    Err(cut())
}

fn cut() -> ProofError {
    ProofError::Log("the export does not end with a signed head: its end is missing".into())
}

/// One line without its end; nothing at the end. A last line that does not end is none: something is missing there.
fn next_line(export: &mut impl BufRead) -> Result<Option<String>, ProofError> {
    let mut line = Vec::new();
    let mut limited = std::io::Read::take(&mut *export, MOST_LINE_BYTES as u64 + 1);
    limited.read_until(b'\n', &mut line).map_err(|error| ProofError::malformed("the export", error))?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        let why = if line.len() >= MOST_LINE_BYTES {
            "holds a line that is too long"
        } else {
            "ends within a line"
        };
        return Err(ProofError::malformed("the export", why));
    }
    String::from_utf8(line).map(Some).map_err(|error| ProofError::malformed("the export", error))
}
