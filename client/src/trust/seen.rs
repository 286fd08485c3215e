//! What was seen of a server, kept as two files of a folder: its keys, and the last signed head of its log.

use std::path::{Path, PathBuf};

use fedbasin_proof::{PublicKeys, SignedHead};

use super::read_keys;
use crate::{
    error::{Error, Result},
    files::{read_text, write_bytes},
};

const KEYS_FILE: &str = "server-keys.pem";
const HEAD_FILE: &str = "log-head.txt";

/// A folder that holds what was seen of one server, or will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    folder: PathBuf,
}

impl Seen {
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The keys that the server had when it was seen first.
    ///
    /// # Errors
    /// The file cannot be read, or holds no keys.
    pub(crate) fn keys(&self) -> Result<Option<PublicKeys>> {
        let path = self.folder.join(KEYS_FILE);
        if path.is_file() { read_keys(&path).map(Some) } else { Ok(None) }
    }

    /// # Errors
    /// They cannot be written.
    pub(crate) fn keep_keys(&self, keys: &PublicKeys) -> Result<()> {
        write_bytes(&self.folder.join(KEYS_FILE), keys.to_pem().as_bytes())
    }

    /// The last head that was seen.
    ///
    /// # Errors
    /// The file cannot be read, or holds no head that these keys signed.
    pub(crate) fn head(&self, keys: &PublicKeys) -> Result<Option<SignedHead>> {
        let path = self.folder.join(HEAD_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let note = read_text(&path, 4096)?;
        SignedHead::open(&note, keys).map(Some).map_err(|error| {
            let remedy = "it is what was seen of the log before: move it away only if you know why";
            Error::failed(error, path.display(), remedy)
        })
    }

    /// # Errors
    /// It cannot be written.
    pub(crate) fn keep_head(&self, head: &SignedHead) -> Result<()> {
        write_bytes(&self.folder.join(HEAD_FILE), head.note().as_bytes())
    }
}
