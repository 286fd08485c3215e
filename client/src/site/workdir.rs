//! What a site keeps on disk: a folder for each round, so that nothing is trained twice.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use fedbasin_proto::v1::Receipt;
use serde::{Deserialize, Serialize};

use super::evaluate::Said;
use crate::{
    error::{Error, Result},
    files::{create_private, read_error, read_text, sync_folder, write_error, write_json},
};

/// The folder of one site in one run. Held by one process at a time.
#[derive(Debug)]
pub(super) struct WorkDir {
    path: PathBuf,
    /// Locked as long as this lives.
    _lock: File,
}

/// Which run a folder belongs to.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Owner {
    run_id: String,
}

impl WorkDir {
    /// Opens or creates the folder, and locks it.
    ///
    /// # Errors
    /// Another process works in it, it belongs to another run, or it cannot be written.
    pub(super) fn open(path: &Path, run_id: &str) -> Result<Self> {
        let trouble = |error: io::Error| write_error(path, &error);
        create_private(path).map_err(trouble)?;
        let lock = File::create(path.join("lock")).map_err(trouble)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Error::failed(
                    "another process works in this folder",
                    path.display(),
                    "wait for it, or give another --work-dir",
                ));
            }
            Err(fs::TryLockError::Error(error)) => return Err(trouble(error)),
        }
        let owner_path = path.join("run.json");
        if owner_path.exists() {
            let owner: Owner = parse(&owner_path)?;
            if owner.run_id != run_id {
                return Err(Error::failed(
                    format_args!("belongs to run {}", owner.run_id),
                    path.display(),
                    format_args!("give run {run_id} a --work-dir of its own"),
                ));
            }
        } else {
            write_json(&owner_path, &Owner { run_id: run_id.to_owned() })?;
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The folder of one round, created if need be.
    pub(super) fn round(&self, number: u32) -> Result<RoundDir> {
        let path = self.path.join(format!("round-{number}"));
        fs::create_dir_all(&path).map_err(|error| write_error(&path, &error))?;
        Ok(RoundDir { path })
    }

    /// The rounds that have a folder, oldest first.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn rounds(&self) -> Result<Vec<u32>> {
        let trouble = |error: io::Error| read_error(&self.path, &error);
        let mut rounds = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(trouble)? {
            let name = entry.map_err(trouble)?.file_name();
            let number: Option<u32> =
                name.to_str().and_then(|name| name.strip_prefix("round-")?.parse().ok());
            rounds.extend(number);
        }
        rounds.sort_unstable();
        Ok(rounds)
    }

    /// Where the newest global model is kept that was needed here, in the end the last one.
    pub(super) fn global(&self) -> PathBuf {
        self.path.join("global.safetensors")
    }
}

/// The folder of one round.
#[derive(Debug)]
pub(super) struct RoundDir {
    path: PathBuf,
}

impl RoundDir {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn reference(&self) -> PathBuf {
        self.path.join("reference.safetensors")
    }

    pub(super) fn output(&self) -> PathBuf {
        self.path.join("output.safetensors")
    }

    /// The mean of the round's updates as they came, while it is tried.
    pub(super) fn naive(&self) -> PathBuf {
        self.path.join("naive.safetensors")
    }

    /// Removes that, and its signature.
    ///
    /// # Errors
    /// They cannot be removed.
    pub(super) fn remove_naive(&self) -> Result<()> {
        let path = self.naive();
        for path in [crate::trust::signature_path(&path), path] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(write_error(&path, &error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn metrics(&self) -> PathBuf {
        self.path.join("metrics.json")
    }

    /// Names for what one call of the trainer writes: beside what is kept, so that a trainer finds its own files again, and
    /// of no other call, so that one left over from a killed process does no harm. What earlier calls left is removed.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub(super) fn attempt(&self) -> Result<Attempt> {
        let trouble = |error: io::Error| write_error(&self.path, &error);
        for entry in fs::read_dir(&self.path).map_err(trouble)? {
            let entry = entry.map_err(trouble)?;
            if entry.file_name().to_string_lossy().starts_with(ATTEMPT) {
                // Some trainers make folders of what they are told to write.
                let is_folder = entry.file_type().map_err(trouble)?.is_dir();
                let removed =
                    if is_folder { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
                removed.map_err(trouble)?;
            }
        }
        let tag =
            getrandom::u64().map_err(|error| Error::failed(error, "random numbers", "see the system"))?;
        Ok(Attempt {
            output: self.path.join(format!("{ATTEMPT}{tag:016x}.safetensors")),
            metrics: self.path.join(format!("{ATTEMPT}{tag:016x}.json")),
        })
    }

    /// Gives what a successful call wrote its name, for good. Metrics may be absent.
    ///
    /// # Errors
    /// It cannot be synced or renamed.
    pub(super) fn keep(&self, attempt: &Attempt) -> Result<()> {
        let keep = |from: &Path, to: &Path| -> io::Result<()> {
            File::open(from)?.sync_all()?;
            fs::rename(from, to)
        };
        let metrics = self.metrics();
        let kept = match keep(&attempt.metrics, &metrics) {
            // None were written: those of an earlier call do not count either.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::remove_file(&metrics) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            other => other,
        };
        kept.and_then(|()| keep(&attempt.output, &self.output()))
            .and_then(|()| sync_folder(&self.path))
            .map_err(|error| write_error(&self.path, &error))
    }

    fn ticket_path(&self) -> PathBuf {
        self.path.join("ticket.json")
    }

    /// How far an earlier process came.
    ///
    /// # Errors
    /// A ticket that cannot be read.
    pub(super) fn ticket(&self) -> Result<Option<Ticket>> {
        let path = self.ticket_path();
        if path.exists() { parse(&path).map(Some) } else { Ok(None) }
    }

    /// # Errors
    /// It cannot be written.
    pub(super) fn save(&self, ticket: &Ticket) -> Result<()> {
        write_json(&self.ticket_path(), ticket)
    }

    fn evaluations_path(&self) -> PathBuf {
        self.path.join("evaluations.json")
    }

    /// What was found of the round's models.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(super) fn evaluations(&self) -> Result<Said> {
        let path = self.evaluations_path();
        if path.exists() { parse(&path) } else { Ok(Said::default()) }
    }

    /// # Errors
    /// It cannot be written.
    pub(super) fn save_evaluations(&self, said: &Said) -> Result<()> {
        write_json(&self.evaluations_path(), said)
    }

    /// Forgets the ticket: the round is trained anew.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(super) fn forget(&self) -> Result<()> {
        let path = self.ticket_path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(write_error(&path, &error)),
            _ => Ok(()),
        }
    }
}

/// What files of one call of the trainer begin with.
const ATTEMPT: &str = "attempt-";

/// Where one call of the trainer writes.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) output: PathBuf,
    pub(super) metrics: PathBuf,
}

/// How far a site came in a round. A field is written once what it says is true and on disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Ticket {
    pub(super) run_id: String,
    pub(super) round: u32,
    /// Digest of the reference that was trained from; empty without one.
    pub(super) reference: String,
    /// The trainer succeeded; its output is in the folder.
    pub(super) trained: bool,
    pub(super) digest: Option<String>,
    pub(super) num_examples: Option<u64>,
    pub(super) update_id: Option<String>,
    pub(super) receipt: Option<KeptReceipt>,
    /// Why the update was not needed.
    pub(super) declined: Option<String>,
    /// Why the update was refused: then the round is trained anew.
    pub(super) rejected: Option<String>,
}

impl Ticket {
    /// In what a receipt is not of what was sent; none where it is.
    pub(super) fn differs_from(&self, receipt: &Receipt) -> Option<&'static str> {
        let differs = [
            (self.update_id.as_deref() != Some(receipt.update_id.as_str()), "update"),
            (self.run_id != receipt.run_id, "run"),
            (self.round != receipt.round, "round"),
            (self.digest.as_deref() != Some(receipt.digest.as_str()), "checkpoint"),
            (self.num_examples != Some(receipt.num_examples), "number of examples"),
        ];
        differs.into_iter().find_map(|(differs, what)| differs.then_some(what))
    }

    /// The update that was announced, where nothing says yet what became of it.
    pub(super) fn unsettled(&self) -> Option<&str> {
        let settled = self.receipt.is_some() || self.declined.is_some() || self.rejected.is_some();
        if settled { None } else { self.update_id.as_deref() }
    }
}

/// A receipt as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct KeptReceipt {
    update_id: String,
    run_id: String,
    round: u32,
    site_id: String,
    digest: String,
    size: u64,
    num_examples: u64,
    accepted_at_ms: i64,
    /// The server's signature, hex.
    #[serde(default)]
    signature: String,
    /// The place of its record in the audit log.
    #[serde(default)]
    log_record: Option<u64>,
}

impl From<Receipt> for KeptReceipt {
    fn from(receipt: Receipt) -> Self {
        Self {
            update_id: receipt.update_id,
            run_id: receipt.run_id,
            round: receipt.round,
            site_id: receipt.site_id,
            digest: receipt.digest,
            size: receipt.size,
            num_examples: receipt.num_examples,
            accepted_at_ms: receipt.accepted_at_ms,
            signature: hex::encode(&receipt.signature),
            log_record: receipt.log_record,
        }
    }
}

fn parse<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    parse_text(path, &read_text(path, 1 << 20)?)
}

pub(super) fn parse_text<T: for<'de> Deserialize<'de>>(path: &Path, text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| Error::failed(format_args!("not readable: {error}"), path.display(), "move it away"))
}

#[cfg(test)]
mod tests;
