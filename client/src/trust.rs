//! What a client believes of a server without having to: signatures of receipts and models by keys that it knows, and an audit log that
//! only grows.
//!
//! The keys are those that were given (a kit, `--server-keys`), or the first ones that the server named, kept from then on. The last head
//! of the log that was seen is kept beside them: a log that was rolled back or rewritten since is refused.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzed;
mod seen;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fedbasin_proof::{
    ProofError, PublicKeys, Receipt as Statement, Record, SignedHead, TreeHead, merkle, model::ModelStatement,
};
use fedbasin_proto::{
    HEAD_METADATA_KEY,
    v1::{GetModelSignatureRequest, GetServerKeysRequest, ProveLogRequest, ProveLogResponse, Receipt},
};
use rebasin::Digest;
use tonic::{Request, metadata::MetadataMap};

use crate::{
    connect::Client,
    error::{Error, Result},
    files::{read_text, write_bytes},
    progress::Screen,
    retry::{Patience, patiently},
};

pub(crate) use seen::Seen;

const SHORT_CALL: Duration = Duration::from_secs(60);
/// How long a server process may be behind another, with what is left of patience for it.
pub(crate) const BEHIND: Duration = Duration::from_secs(30);
/// What to do where a server does not prove what it says.
const ASK: &str = "do not go on; ask whoever runs the server, and compare with what other sites saw";

/// How a server is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustOptions {
    /// The server's public keys, a PEM file; without it those that it names at first.
    pub keys: Option<PathBuf>,
    /// Take receipts, models and a log that nothing proves.
    pub unsigned: bool,
}

/// What is known of a server.
#[derive(Debug)]
pub struct Trust {
    /// None: nothing is checked, by the operator's wish.
    keys: Option<PublicKeys>,
    head: Option<SignedHead>,
    /// Where both are kept.
    seen: Option<Seen>,
    patience: Patience,
    screen: Screen,
}

impl Trust {
    /// Takes the keys that are given, else those that are kept in `folder`, else those that the server names now, which are kept from
    /// then on. Without a folder nothing is kept.
    ///
    /// # Errors
    /// A file that cannot be read or is none of keys; the server is away for longer than `patience`.
    pub async fn establish(
        client: &Client,
        options: &TrustOptions,
        folder: Option<&Path>,
        patience: Patience,
        screen: &Screen,
    ) -> Result<Self> {
        let mut trust = Self {
            keys: None,
            head: None,
            seen: folder.map(Seen::in_folder),
            patience,
            screen: screen.clone(),
        };
        if options.unsigned {
            screen.say("--allow-unsigned: what the server signs is not looked at");
            return Ok(trust);
        }
        let kept = || trust.seen.as_ref().map_or(Ok(None), Seen::keys);
        let known =
            options.keys.as_deref().map(read_keys).transpose()?.map_or_else(kept, |keys| Ok(Some(keys)))?;
        let keys = match known {
            Some(keys) => keys,
            None => trust.first_keys(client).await?,
        };
        trust.head = trust.seen.as_ref().map_or(Ok(None), |seen| seen.head(&keys))?;
        trust.keys = Some(keys);
        Ok(trust)
    }

    /// The keys that the server names, kept from now on.
    async fn first_keys(&self, client: &Client) -> Result<PublicKeys> {
        let place = format!("asking {} for its keys", client.url());
        let answer = patiently(self.patience, &place, async || {
            client.clone().get_server_keys(short(GetServerKeysRequest {})).await
        })
        .await?;
        let keys = PublicKeys::from_pem(&answer.into_inner().keys)
            .map_err(|error| Error::failed(error, client.url(), ASK))?;
        match &self.seen {
            Some(seen) => {
                seen.keep_keys(&keys)?;
                self.screen.say(format_args!(
                    "the server signs with the keys {}; no others are taken from now on",
                    keys.fingerprint()
                ));
            }
            None => self.screen.say(format_args!(
                "the server signs with the keys {}; --server-keys FILE takes no others",
                keys.fingerprint()
            )),
        }
        Ok(keys)
    }

    /// Checks that a receipt is signed, and says where the log has its record.
    ///
    /// # Errors
    /// It is not, or by other keys; or it names no record.
    pub fn receipt(&self, receipt: &Receipt) -> Result<()> {
        let Some(keys) = &self.keys else { return Ok(()) };
        if receipt.log_record.is_none() {
            return Err(Error::failed(
                "the receipt names no record of the audit log",
                format_args!("update {}", receipt.update_id),
                ASK,
            ));
        }
        let statement = Statement {
            update_id: receipt.update_id.clone(),
            run_id: receipt.run_id.clone(),
            round: receipt.round,
            site_id: receipt.site_id.clone(),
            digest: receipt.digest.clone(),
            size: receipt.size,
            num_examples: receipt.num_examples,
            accepted_at_ms: receipt.accepted_at_ms,
            log_seq: receipt.log_record,
        };
        statement
            .verify(&receipt.signature, keys)
            .map_err(|error| Error::failed(error, format_args!("update {}", receipt.update_id), ASK))
    }

    /// Fetches the signature of a checkpoint and checks it: before its bytes are, so that none that is not signed gets a name. It is of
    /// `run`, where one is given, or of a reference that no round published. None where nothing is checked.
    ///
    /// # Errors
    /// It has none, or one by other keys, or one of other bytes or another run; the server is away for too long.
    pub async fn model(&self, client: &Client, digest: Digest, run: Option<&str>) -> Result<Option<String>> {
        let Some(keys) = &self.keys else { return Ok(None) };
        let place = format!("checkpoint {digest} at {}", client.url());
        let request = || GetModelSignatureRequest { digest: digest.to_string() };
        let answer = patiently(self.patience, &place, async || {
            client.clone().get_model_signature(short(request())).await
        })
        .await?;
        let bundle = answer.into_inner().bundle;
        let statement =
            ModelStatement::open(&bundle, keys).map_err(|error| Error::failed(error, &place, ASK))?;
        if statement.digest != digest.to_string() {
            return Err(Error::failed(
                format_args!("its signature is of another checkpoint, {}", statement.digest),
                &place,
                ASK,
            ));
        }
        let signed_for = statement.provenance["run"].as_str();
        if statement.provenance["kind"] == "global" && run.is_some_and(|run| signed_for != Some(run)) {
            return Err(Error::failed(
                format_args!("it is signed as a model of run {}", signed_for.unwrap_or("none")),
                &place,
                ASK,
            ));
        }
        Ok(Some(bundle))
    }

    /// Makes sure that the log only grew since it was last seen, and that it holds the record of a receipt, if one is given. The newest
    /// head is kept. A server process that is behind another one is asked again for a while.
    ///
    /// # Errors
    /// It was rolled back or rewritten, it does not hold the record, or the server is away for too long.
    pub async fn log(&mut self, client: &Client, receipt: Option<&Receipt>) -> Result<()> {
        let Some(keys) = self.keys.clone() else { return Ok(()) };
        let place = format!("the audit log of {}", client.url());
        let refused = |error: &dyn std::fmt::Display| Error::failed(error, &place, ASK);
        let record = receipt.and_then(|receipt| receipt.log_record);
        let seen = self.head.as_ref().map_or(0, |kept| kept.head.size);
        let wanted = record.map_or(0, |record| record.saturating_add(1)).max(seen);
        let begun = Instant::now();
        let newer = loop {
            let answer = patiently(self.patience, &place, async || {
                client.clone().get_server_keys(short(GetServerKeysRequest {})).await
            })
            .await?;
            let head = head_of(answer.metadata(), &keys).map_err(|error| refused(&error))?;
            if head.head.size >= wanted {
                break head;
            }
            if begun.elapsed() > BEHIND.min(self.patience.total) {
                return Err(refused(&format_args!(
                    "has {} records, of which {wanted} were seen or promised: it was rolled back",
                    head.head.size
                )));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        };
        let older = self.head.clone().unwrap_or_else(|| newer.clone());
        if older.head.origin != newer.head.origin {
            return Err(refused(&format_args!(
                "is {}, it was {} before: another log",
                newer.head.origin, older.head.origin
            )));
        }
        if older != newer || record.is_some() {
            let request = ProveLogRequest { first: older.head.size, second: newer.head.size, record };
            let proof =
                patiently(self.patience, &place, async || client.clone().prove_log(short(request)).await)
                    .await
                    .map_err(|error| match error.code() {
                        Some("invalid-argument") => refused(&format_args!(
                            "has fewer records than it had: it was rolled back ({error})"
                        )),
                        _ => error,
                    })?
                    .into_inner();
            check(&older, &newer, &proof, record, receipt).map_err(|error| refused(&error))?;
        }
        if let Some(seen) = &self.seen
            && self.head.as_ref() != Some(&newer)
        {
            seen.keep_head(&newer)?;
        }
        self.head = Some(newer);
        Ok(())
    }
}

fn short<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(SHORT_CALL);
    request
}

/// Reads a file of public keys.
///
/// # Errors
/// It cannot be read, or is none.
pub fn read_keys(path: &Path) -> Result<PublicKeys> {
    let text = read_text(path, 1 << 16)?;
    PublicKeys::from_pem(&text).map_err(|error| {
        Error::failed(error, path.display(), "ask whoever runs the server for its public keys")
    })
}

fn head_of(metadata: &MetadataMap, keys: &PublicKeys) -> Result<SignedHead, ProofError> {
    let word = metadata.get(HEAD_METADATA_KEY).and_then(|word| word.to_str().ok()).unwrap_or_default();
    if word.is_empty() {
        return Err(ProofError::Log("its head did not come with the answer".into()));
    }
    SignedHead::from_word(word, keys)
}

/// Whether a proof shows that the log grew from one head to the other, and holds the record of a receipt.
fn check(
    older: &SignedHead,
    newer: &SignedHead,
    proof: &ProveLogResponse,
    record: Option<u64>,
    receipt: Option<&Receipt>,
) -> Result<(), ProofError> {
    let new = &newer.head;
    grew(&older.head, new, &hashes(&proof.growth)?)?;
    let (Some(place), Some(receipt)) = (record, receipt) else { return Ok(()) };
    let leaf = merkle::leaf_hash(proof.record.as_bytes());
    if !merkle::verify_inclusion(&leaf, place, new.size, &new.root, &hashes(&proof.inclusion)?) {
        return Err(ProofError::Log(format!("what it shows as record {place} is not in it")));
    }
    let found = Record::from_line(&proof.record)?;
    let of_receipt = found.action == "update.accepted"
        && found.object.as_ref() == Some(&receipt.update_id)
        && found.site.as_ref() == Some(&receipt.site_id)
        && found.run.as_ref() == Some(&receipt.run_id)
        && found.round == Some(receipt.round)
        && found.details.get("num_examples").and_then(serde_json::Value::as_u64)
            == Some(receipt.num_examples)
        && found.after.as_ref() == Some(&receipt.digest);
    if of_receipt {
        return Ok(());
    }
    Err(ProofError::Log(format!("its record {place} is not that of update {}", receipt.update_id)))
}

/// Whether a proof shows that a log only grew.
pub(crate) fn grew(old: &TreeHead, new: &TreeHead, growth: &[merkle::Hash]) -> Result<(), ProofError> {
    if merkle::verify_consistency((old.size, &old.root), (new.size, &new.root), growth) {
        return Ok(());
    }
    Err(ProofError::Log(format!(
        "its {} records do not begin with the {} that were seen before: the past was changed",
        new.size, old.size
    )))
}

fn hashes(list: &[impl AsRef<[u8]>]) -> Result<Vec<merkle::Hash>, ProofError> {
    let hash = |bytes: &[u8]| {
        bytes.try_into().map_err(|_| ProofError::Log("its proof holds something that is no hash".into()))
    };
    list.iter().map(|bytes| hash(bytes.as_ref())).collect()
}

/// Keeps a model's signature beside it: `FILE.sig`, in the OpenSSF model signing format.
///
/// # Errors
/// It cannot be written.
pub fn keep_signature(bundle: Option<&str>, file: &Path) -> Result<()> {
    let Some(bundle) = bundle else { return Ok(()) };
    write_bytes(&signature_path(file), bundle.as_bytes())
}

/// Where the signature of a model's file lies.
pub(crate) fn signature_path(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(".sig");
    path.into()
}

/// Verifies a downloaded model's signature, from files alone.
///
/// # Errors
/// A file cannot be read; the signature is by other keys, or of other bytes.
pub fn verify_model(model: &Path, signature: &Path, keys: &Path) -> Result<ModelStatement> {
    verify_model_by(model, signature, &read_keys(keys)?)
}

/// The same by keys that are at hand.
///
/// # Errors
/// As [`verify_model`].
pub fn verify_model_by(model: &Path, signature: &Path, keys: &PublicKeys) -> Result<ModelStatement> {
    let bundle = read_text(signature, 16 << 20)?;
    let statement = ModelStatement::open(&bundle, keys)
        .map_err(|error| Error::failed(error, signature.display(), ASK))?;
    let (hasher, _) =
        crate::files::hash_file(model).map_err(|error| crate::files::read_error(model, &error))?;
    let found = hasher.finish().to_string();
    if found != statement.digest {
        return Err(Error::failed(
            format_args!("has digest {found}, its signature is of {}", statement.digest),
            model.display(),
            ASK,
        ));
    }
    Ok(statement)
}

/// Verifies an exported audit log, from files alone: the last head that was seen may be given.
///
/// # Errors
/// A file cannot be read; the first thing that is wrong with the log.
pub fn verify_export(
    export: &Path,
    keys: Option<&Path>,
    kept: Option<&Path>,
) -> Result<fedbasin_proof::export::Verified> {
    let trusted = keys.map(read_keys).transpose()?;
    let file = fs::File::open(export).map_err(|error| crate::files::read_error(export, &error))?;
    let mut lines = std::io::BufReader::new(file);
    let seen = match (kept, &trusted) {
        (Some(path), Some(keys)) => Some(
            SignedHead::open(&read_text(path, 4096)?, keys)
                .map_err(|error| Error::failed(error, path.display(), ASK))?,
        ),
        _ => None,
    };
    fedbasin_proof::export::verify(&mut lines, trusted.as_ref(), seen.as_ref())
        .map_err(|error| Error::failed(error, export.display(), ASK))
}
