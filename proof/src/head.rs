//! A tree head: how long the log is and what its root is, as a signed note (C2SP signed-note, with the body of C2SP tlog-checkpoint).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

use crate::{
    error::ProofError,
    keys::{PublicKeys, SigningKeys},
    merkle::Hash,
};

const WHAT: &str = "a tree head";
/// The kind of a signature in a note's key id: Ed25519.
const ED25519: u8 = 1;
/// No head is longer.
const MOST_BYTES: usize = 1024;

/// How long a log is, and the root over all its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeHead {
    /// The log's name, which no other log has: no space, no `+`, no line's end.
    pub origin: String,
    /// How many records.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

/// A tree head and its signature, as a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHead {
    /// What is signed.
    pub head: TreeHead,
    note: String,
}

impl TreeHead {
    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// Signs it.
    #[must_use]
    pub fn sign(self, keys: &SigningKeys) -> SignedHead {
        let text = self.text();
        let mut signature = key_id(&self.origin, &keys.public().ed25519).to_vec();
        signature.extend_from_slice(&keys.sign_ed25519(text.as_bytes()));
        let note = format!("{text}\n\u{2014} {} {}\n", self.origin, STANDARD.encode(signature));
        SignedHead { head: self, note }
    }
}

/// The first four bytes of `SHA-256(name || "\n" || kind || key)`.
fn key_id(name: &str, key: &[u8]) -> [u8; 4] {
    let hash = Sha256::new().chain_update(name).chain_update([b'\n', ED25519]).chain_update(key).finalize();
    [hash[0], hash[1], hash[2], hash[3]]
}

impl SignedHead {
    /// The note's text.
    #[must_use]
    pub fn note(&self) -> &str {
        &self.note
    }

    /// The note as one word, for a header.
    #[must_use]
    pub fn to_word(&self) -> String {
        STANDARD.encode(&self.note)
    }

    /// Reads [`SignedHead::to_word`] and checks the signature.
    ///
    /// # Errors
    /// As [`SignedHead::open`].
    pub fn from_word(word: &str, keys: &PublicKeys) -> Result<Self, ProofError> {
        let note = STANDARD.decode(word).map_err(|error| ProofError::malformed(WHAT, error))?;
        let note = String::from_utf8(note).map_err(|error| ProofError::malformed(WHAT, error))?;
        Self::open(&note, keys)
    }

    /// Reads a note and checks its signature.
    ///
    /// # Errors
    /// [`ProofError::Malformed`], or [`ProofError::WrongSignature`] where another key signed it or its text was changed.
    pub fn open(note: &str, keys: &PublicKeys) -> Result<Self, ProofError> {
        let malformed = |why: &str| ProofError::malformed(WHAT, why);
        if note.len() > MOST_BYTES {
            return Err(malformed("is too long"));
        }
        let (text, signatures) =
            note.split_once("\n\n").ok_or_else(|| malformed("has no empty line before its signature"))?;
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root), None) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(malformed("is not three lines"));
        };
        let head = TreeHead {
            origin: origin.to_owned(),
            size: size.parse().map_err(|_| malformed("its size is no number"))?,
            root: STANDARD
                .decode(root)
                .ok()
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or_else(|| malformed("its root is no SHA-256 in base64"))?,
        };
        // One way to write it: what is kept, compared and sent is the same text everywhere.
        let (signed, expected) = (format!("{text}\n"), head.text());
        if signed != expected {
            return Err(malformed("is not written as heads are"));
        }
        let id = key_id(origin, &keys.ed25519);
        let ours = signatures.lines().find_map(|line| {
            let word = line.strip_prefix("\u{2014} ")?.strip_prefix(origin)?.strip_prefix(' ')?;
            STANDARD.decode(word).ok()?.strip_prefix(&id).map(<[u8]>::to_vec)
        });
        match ours {
            Some(signature) if keys.verify_ed25519(signed.as_bytes(), &signature) => {
                Ok(Self { head, note: note.to_owned() })
            }
            _ => Err(ProofError::WrongSignature { what: WHAT, key: keys.fingerprint() }),
        }
    }
}
