//! What the server signs: receipts, published models, and the head of the audit log, which travels in answers.

mod manifest;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fedbasin_proof::{ProofError, PublicKeys, SignedHead, SigningKeys, TreeHead, model::ModelStatement};
use fedbasin_proto::HEAD_METADATA_KEY;
use http::{HeaderMap, HeaderValue};
use rebasin::Digest;
use serde_json::{Value, json};
use tokio::sync::watch;

pub use self::manifest::Made;
use crate::{
    config::Config,
    error::{Error, Result},
    files::{Readers, read_given, write_new},
    model::Receipt,
    store::Store,
};

/// The file in the data folder where no other is named.
const FILE: &str = "signing-key.pem";
/// Who signs, for people to read.
const SOFTWARE: &str = concat!("fedbasin-server ", env!("CARGO_PKG_VERSION"));
/// How long the head that travels may be behind, where nothing wakes a look.
const LOOK: Duration = Duration::from_secs(5);

/// Signs. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Signer {
    keys: Arc<SigningKeys>,
    /// The newest head, and as the word of a header.
    head: watch::Sender<Option<(SignedHead, HeaderValue)>>,
}

impl Signer {
    /// Takes the keys of the settings, or those in the data folder, which are made (mode 0600) if there are none; and makes sure that
    /// they are those that this database's log was signed with. The log's head is signed then: no answer goes out without one, for a
    /// client takes no such answer.
    ///
    /// # Errors
    /// Says which file cannot be read or written, or which keys are others, and what to do; or the database does not answer.
    pub async fn open(config: &Config, store: &Store) -> Result<Self> {
        if is_to_be_made(config) {
            make(&path(config))?;
        }
        let signer = Self::open_as_they_are(config, store).await?;
        signer.look(store).await?;
        Ok(signer)
    }

    /// The same, where no keys are made.
    ///
    /// # Errors
    /// As [`Signer::open`], or there are no keys.
    pub async fn open_as_they_are(config: &Config, store: &Store) -> Result<Self> {
        let keys = read(&path(config))?;
        store.hold_log_keys(&keys.public()).await?;
        tracing::debug!(signing.keys = keys.public().fingerprint(), "signing keys");
        Ok(Self { keys: Arc::new(keys), head: watch::Sender::new(None) })
    }

    /// The public keys.
    #[must_use]
    pub fn public(&self) -> PublicKeys {
        self.keys.public()
    }

    /// What a [`Store`] encrypts the keys of updates with.
    #[must_use]
    pub fn storage_key(&self) -> [u8; 32] {
        of_storage(&self.keys)
    }

    /// Signs a head.
    #[must_use]
    pub fn sign_head(&self, head: TreeHead) -> SignedHead {
        head.sign(&self.keys)
    }

    /// The newest head that was signed here; at most some seconds old.
    #[must_use]
    pub fn head(&self) -> Option<SignedHead> {
        self.head.borrow().as_ref().map(|(head, _)| head.clone())
    }

    /// Lets the newest head travel with an answer.
    pub(crate) fn send_head(&self, headers: &mut HeaderMap) {
        if let Some((_, word)) = &*self.head.borrow() {
            headers.insert(HEAD_METADATA_KEY, word.clone());
        }
    }

    /// Signs the log's head whenever it grew.
    pub(crate) async fn keep_current(&self, store: &Store) {
        let mut changes = store.changes();
        loop {
            changes.mark_unchanged();
            if let Err(error) = self.look(store).await {
                tracing::warn!(error.message = error.message(), "the audit log's head cannot be read");
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Signs the log's head if it grew.
    async fn look(&self, store: &Store) -> Result<()> {
        let head = store.log_head().await?;
        self.head.send_if_modified(|known| {
            // What was signed is never taken back.
            if known.as_ref().is_some_and(|(known, _)| known.head.size >= head.size) {
                return false;
            }
            let head = self.sign_head(head);
            // Base64 is always a header's value.
            *known = HeaderValue::from_str(&head.to_word()).ok().map(|word| (head, word));
            true
        });
        Ok(())
    }

    /// A receipt's signature; `place` is that of its record in the log.
    #[must_use]
    pub fn receipt(&self, receipt: &Receipt, place: Option<u64>) -> Vec<u8> {
        fedbasin_proof::Receipt {
            update_id: receipt.update_id.clone(),
            run_id: receipt.run_id.clone(),
            round: receipt.round,
            site_id: receipt.site_id.clone(),
            digest: receipt.digest.to_string(),
            size: receipt.size,
            num_examples: receipt.num_examples,
            accepted_at_ms: receipt.accepted_at_ms,
            log_seq: place,
        }
        .sign(&self.keys)
        .to_vec()
    }

    /// The signature of a round's model: what it was made from, and where the log says that it was published.
    ///
    /// # Errors
    /// Those of the library that signs.
    pub fn model(&self, made: &Made<'_>, digest: &Digest, place: u64) -> Result<String> {
        let work = made.work;
        self.sign_model(&format!("{}-round-{}", work.run.id, work.round), digest, made.provenance(place))
    }

    /// The signature of a stored checkpoint that no round of this server published: that this server gives it out for a run, to go on from,
    /// or, a naive mean, only to be tried.
    ///
    /// # Errors
    /// Those of the library that signs.
    pub fn given_out(&self, digest: &Digest, is_naive: bool) -> Result<String> {
        let kind = if is_naive { "naive-mean" } else { "reference" };
        self.sign_model(kind, digest, json!({ "kind": kind, "software": SOFTWARE }))
    }

    fn sign_model(&self, name: &str, digest: &Digest, provenance: Value) -> Result<String> {
        let statement = ModelStatement { name: name.to_owned(), digest: digest.to_string(), provenance };
        statement.sign(&self.keys).map_err(Error::internal)
    }
}

/// The file of the settings, or that in the data folder.
fn path(config: &Config) -> PathBuf {
    config.signing_key_file.clone().unwrap_or_else(|| config.data_dir.join(FILE))
}

/// Whether the settings name no keys, and there are none yet.
fn is_to_be_made(config: &Config) -> bool {
    config.signing_key_file.is_none() && !path(config).exists()
}

fn of_storage(keys: &SigningKeys) -> [u8; 32] {
    keys.secret("keys of stored updates")
}

/// As [`Signer::storage_key`], for who only reads: nothing where the settings name no keys and there are none in the data folder.
///
/// # Errors
/// Says which file cannot be read.
pub fn storage_key(config: &Config) -> Result<Option<[u8; 32]>> {
    if is_to_be_made(config) {
        return Ok(None);
    }
    Ok(Some(of_storage(&read(&path(config))?)))
}

fn read(path: &Path) -> Result<SigningKeys> {
    let text = read_given("signing_key_file", path)?;
    SigningKeys::from_pem(&text)
        .map_err(|error| Error::invalid(format!("signing_key_file: {}: {error}", path.display())))
}

/// Makes keys that are whole and on the disk once the file has its name: the database notes them, and takes no others.
pub(crate) fn make(path: &Path) -> Result<()> {
    let text = SigningKeys::generate().map_err(|error: ProofError| Error::internal(error))?;
    write_new(path, &text, Readers::Owner)?;
    tracing::info!(signing.key_file = %path.display(), "made signing keys");
    Ok(())
}
