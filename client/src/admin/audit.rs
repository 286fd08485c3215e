//! The audit log and the keys it is signed with, over HTTP.

use std::{io::Read as _, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Admin, asking, copy, segment};
use crate::{
    error::{Error, Result},
    files::write_atomically,
};

/// Records of the audit log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Records {
    /// How many the log has in all.
    pub size: u64,
    /// The signed head, a note.
    pub head: Option<String>,
    /// The records.
    pub records: Vec<Value>,
    /// When each of them was written, ISO 8601 UTC.
    #[serde(default)]
    pub at: Vec<String>,
    /// Where the next page begins.
    pub next: Option<u64>,
}

/// What a server signs with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Keys {
    /// PEM.
    pub keys: String,
    /// By which people compare them.
    pub fingerprint: String,
    /// The audit log's name.
    pub log_origin: String,
}

impl Admin {
    /// Records from a place on, the oldest first; those of one run, one site, one action, where such is named. Of a site's or an action's there
    /// may be fewer than `limit`, and more in the next page.
    ///
    /// # Errors
    /// As the server says.
    pub fn audit(
        &self,
        from: u64,
        limit: u32,
        run: Option<&str>,
        site: Option<&str>,
        action: Option<&str>,
    ) -> Result<Records> {
        let asked = [("run", run), ("site", site), ("action", action)];
        self.get(&asking(&format!("/v1/audit?from={from}&limit={limit}"), &asked))
    }

    /// The server's public keys.
    ///
    /// # Errors
    /// As the server says.
    pub fn keys(&self) -> Result<Keys> {
        self.get("/v1/keys")
    }

    /// Writes the whole log to `path`, as JSON lines. Gives its size in bytes.
    ///
    /// # Errors
    /// The transfer broke, or the file cannot be written; then `path` is as it was.
    pub fn audit_export(&self, path: &Path) -> Result<u64> {
        let url = self.begin("/v1/audit/export")?;
        let request = self.agent.get(&url).header("authorization", self.token.bearer());
        let response = self.accept(&url, request.call())?;
        let mut reader = response.into_body().into_with_config().limit(u64::MAX).reader();
        write_atomically(path, |out| copy(&mut reader, out, &url, path, |_| {}).map(|(_, size)| size))
    }

    /// The signature of a round's model: a bundle in the OpenSSF model signing format.
    ///
    /// # Errors
    /// As the server says.
    pub fn model_signature(&self, run: &str, number: u32) -> Result<String> {
        let url = self.begin(&format!("/v1/runs/{}/rounds/{number}/model/signature", segment(run)))?;
        let request = self.agent.get(&url).header("authorization", self.token.bearer());
        let response = self.accept(&url, request.call())?;
        let mut text = String::new();
        let mut reader = response.into_body().into_with_config().limit(16 << 20).reader();
        reader.read_to_string(&mut text).map_err(|error| {
            Error::failed(format_args!("the transfer broke: {error}"), &url, "start the same command again")
        })?;
        Ok(text)
    }
}
