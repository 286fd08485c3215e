//! The keys of updates: one each, in its row, encrypted with what the server's key file gives. What they do to bytes is the room
//! `cipher`'s matter.

use std::sync::Arc;

use fedbasin_cipher::{FileCipher, FileKey, KEY_BYTES, WrappingKey};
use rebasin::Digest;
use sqlx::Row as _;

use super::Store;
use crate::{
    error::{Code, Error, Result},
    model::Update,
};

impl Store {
    /// The same store, which encrypts the updates that begin from now on, and reads those that are encrypted. All processes of one
    /// database need the same key; without one, updates lie as they came.
    #[must_use]
    pub fn encrypting(mut self, key: &[u8; KEY_BYTES]) -> Self {
        self.wrapping_key = Some(Arc::new(WrappingKey::new(key)));
        self
    }

    /// A new key, for an update of that digest.
    pub(super) fn make_key(&self, digest: &Digest) -> Result<Option<FileKey>> {
        let made = self.wrapping_key.as_ref().map(|key| key.make(digest.as_bytes()));
        made.transpose().map_err(Error::internal)
    }

    /// The key that a row holds for the bytes of that digest; nothing where they lie plain.
    pub(super) fn open_key(&self, digest: &Digest, wrapped: Option<String>) -> Result<Option<FileKey>> {
        let Some(wrapped) = wrapped else { return Ok(None) };
        let Some(key) = &self.wrapping_key else {
            return Err(locked(digest, "no keys are at hand"));
        };
        let opened = key.open(digest.as_bytes(), wrapped);
        opened.map(Some).map_err(|_| locked(digest, "these signing keys do not open their key"))
    }

    /// What an update under way is encrypted with where it lies; nothing where that is plain.
    ///
    /// # Errors
    /// [`Code::Unavailable`] where it is no longer under way, so that there is no key; [`Code::DataLoss`] where the key cannot be read.
    pub async fn key_of_update(&self, update: &Update) -> Result<Option<FileKey>> {
        let query = "SELECT wrapped_key FROM updates WHERE id = $1 AND state = 'receiving'";
        let row = sqlx::query(query).bind(&update.id).fetch_optional(&self.pool).await?;
        let row = row.ok_or_else(|| {
            Error::new(Code::Unavailable, "this update was taken or turned down meanwhile; begin again")
        })?;
        self.open_key(&update.digest, row.try_get("wrapped_key")?)
    }
}

/// Encrypts, or decrypts, a file's bytes from `offset` on, where they are encrypted.
pub(super) fn turn(cipher: Option<&FileCipher>, offset: u64, bytes: &mut [u8]) {
    if let Some(cipher) = cipher {
        cipher.apply(offset, bytes);
    }
}

/// What a backup does not mend.
fn locked(digest: &Digest, why: &str) -> Error {
    let message = format!(
        "the stored bytes of checkpoint {digest} are encrypted, and {why}; whoever runs the server names those of this database by \
         signing_key_file"
    );
    Error::new(Code::DataLoss, message)
}
