//! What can be wrong with a proof.

/// Why something does not prove what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// It does not have the form that it must have.
    #[error("{what}: {why}")]
    Malformed {
        /// Which thing.
        what: &'static str,
        /// What of it.
        why: String,
    },
    /// It is signed by another key, or what was signed was changed.
    #[error("{what}: the signature is not that of the key {key}")]
    WrongSignature {
        /// Which thing.
        what: &'static str,
        /// The key's fingerprint.
        key: String,
    },
    /// The log is not what it was, or not what its head says.
    #[error("the audit log: {0}")]
    Log(String),
    /// The library refused a key or to sign.
    #[error("signing: {0}")]
    Signing(String),
}

impl ProofError {
    pub(crate) fn malformed(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Malformed { what, why: why.to_string() }
    }
}
