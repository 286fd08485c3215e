//! What a receipt signs.

use crate::{
    error::ProofError,
    keys::{PublicKeys, SigningKeys},
};

/// The server's statement that it holds an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The update's id.
    pub update_id: String,
    /// Its run.
    pub run_id: String,
    /// Its round.
    pub round: u32,
    /// Who sent it.
    pub site_id: String,
    /// SHA-256 of its bytes, in lower-case hex.
    pub digest: String,
    /// Their number.
    pub size: u64,
    /// How many examples it was trained on.
    pub num_examples: u64,
    /// When it was accepted: milliseconds since the Unix epoch.
    pub accepted_at_ms: i64,
    /// The place of its record in the audit log; absent for updates that were accepted before there was a log.
    pub log_seq: Option<u64>,
}

impl Receipt {
    /// The text that is signed: a line for each field.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "fedbasin receipt v1\nupdate {}\nrun {}\nround {}\nsite {}\ndigest {}\nsize {}\nexamples {}\naccepted_at_ms {}\n",
            self.update_id,
            self.run_id,
            self.round,
            self.site_id,
            self.digest,
            self.size,
            self.num_examples,
            self.accepted_at_ms
        );
        if let Some(seq) = self.log_seq {
            text.push_str(&format!("log_seq {seq}\n"));
        }
        text
    }

    /// Signs it: 64 bytes, always the same ones.
    #[must_use]
    pub fn sign(&self, keys: &SigningKeys) -> [u8; 64] {
        keys.sign_ed25519(self.text().as_bytes())
    }

    /// Checks a signature.
    ///
    /// # Errors
    /// [`ProofError::WrongSignature`].
    pub fn verify(&self, signature: &[u8], keys: &PublicKeys) -> Result<(), ProofError> {
        if keys.verify_ed25519(self.text().as_bytes(), signature) {
            return Ok(());
        }
        Err(ProofError::WrongSignature { what: "a receipt", key: keys.fingerprint() })
    }
}
