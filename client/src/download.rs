//! A checkpoint, fetched once: resumed after an interruption, verified before it gets its name.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzed;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    thread::JoinHandle,
};

use fedbasin_proto::v1::{DownloadChunk, DownloadRequest};
use rebasin::{Digest, Hasher};
use tokio::sync::mpsc;
use tonic::{Code, Status};

use crate::{
    connect::Client,
    error::{Error, Result, status_text},
    files::{folder_of, hash_file, part_path, sync_folder, write_error},
    progress::{Bar, Screen},
    retry::{Backoff, Patience},
};

/// Downloads the checkpoint `digest` to `path`. Bytes gather in a `.part` file beside it, from which a later call goes on;
/// it is renamed once its SHA-256 is right. Nothing is fetched if `path` already is that checkpoint. Returns its size.
///
/// `label` begins the lines on the screen; `most` is the largest size taken, in bytes.
///
/// # Errors
/// The server does not give it out, sends other bytes than it should, stays away for longer than `patience`, or the disk
/// does not take it.
pub async fn download(
    client: &Client,
    digest: Digest,
    path: &Path,
    most: u64,
    patience: Patience,
    screen: &Screen,
    label: &str,
) -> Result<u64> {
    if let Ok((hasher, size)) = hash_file(path)
        && hasher.finish() == digest
    {
        return Ok(size);
    }
    let mut client = client.clone();
    let mut part = Part::open(path, digest)?;
    let mut resumed = part.offset > 0;
    loop {
        let fetched = fetch_all(&mut client, &mut part, most, patience, screen, label).await;
        if let Err(error) = fetched {
            part.leave();
            return Err(error);
        }
        let size = part.offset;
        match part.complete()? {
            None => return Ok(size),
            // What an earlier attempt left may have been damaged, for instance by a power cut: once more from nothing.
            Some(_) if resumed => {
                part = Part::open(path, digest)?;
                resumed = false;
            }
            Some(error) => return Err(error),
        }
    }
}

/// Streams again and again until the whole is here.
async fn fetch_all(
    client: &mut Client,
    part: &mut Part,
    most: u64,
    patience: Patience,
    screen: &Screen,
    label: &str,
) -> Result<()> {
    let digest = part.digest;
    let mut backoff = Backoff::new(patience);
    let place = format!("downloading checkpoint {digest} at {}", client.url());
    let started_at = part.offset;
    let bar = screen.bytes(&format!("{label}: receiving"), 0);
    loop {
        let before = part.offset;
        let status = match fetch(client, part, most, &bar).await {
            Ok(()) => break,
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Status(status)) => status,
        };
        if part.offset > before {
            backoff.reset();
        }
        if status.code() == Code::OutOfRange && part.offset > 0 {
            // Our beginning is longer than the checkpoint: it cannot be a beginning of it.
            part.restart()?;
            continue;
        }
        if !backoff.allows(&status) {
            return Err(Error::from_status(&status, place));
        }
        if backoff.failures() == 0 {
            screen.say(format_args!(
                "{label}: receiving is interrupted, trying again: {}",
                status_text(&status)
            ));
        }
        if !backoff.wait().await {
            return Err(Error::gave_up(
                &status,
                place,
                "start the same command again; it goes on from what is here",
            ));
        }
    }
    screen.say(format_args!("{label}: received {}", bar.summary(part.offset.saturating_sub(started_at))));
    Ok(())
}

enum Trouble {
    Status(Status),
    Final(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// Chunks received while those before them are written and hashed.
const CHUNKS_AHEAD: usize = 2;

/// One stream, from the bytes held to the end. Writes and hashes a mebibyte at a time on the calling thread; what follows is received
/// meanwhile.
async fn fetch(client: &mut Client, part: &mut Part, most: u64, bar: &Bar) -> Result<(), Trouble> {
    let request = DownloadRequest { digest: part.digest.to_string(), offset: part.offset };
    let mut stream = client.download(request).await.map_err(Trouble::Status)?.into_inner();
    let (send, mut chunks) = mpsc::channel(CHUNKS_AHEAD);
    // It ends with the stream, or when nobody takes its chunks any more.
    tokio::spawn(async move {
        loop {
            let chunk = tokio::select! {
                chunk = stream.message() => chunk.transpose(),
                () = send.closed() => return,
            };
            let Some(chunk) = chunk else { return };
            let failed = chunk.is_err();
            if send.send(chunk).await.is_err() || failed {
                return;
            }
        }
    });
    let mut total = None;
    while let Some(chunk) = chunks.recv().await {
        let chunk = chunk.map_err(Trouble::Status)?;
        if chunk.total_size > most {
            return Err(Trouble::Final(Error::failed(
                format_args!("has {} bytes, more than the {most} expected", chunk.total_size),
                format_args!("checkpoint {}", part.digest),
                "ask whoever runs the server",
            )));
        }
        total = Some(chunk.total_size);
        bar.set_total(chunk.total_size);
        part.push(&chunk)?;
        failpoint!("fetch.received");
        bar.set(part.offset);
    }
    match total {
        Some(total) if part.offset == total => Ok(()),
        // Everything was here already: the server has nothing to send from its end on.
        None if part.offset > 0 => Ok(()),
        _ => Err(Trouble::Status(Status::unavailable("the server ended the stream early"))),
    }
}

/// So many bytes are made durable while further ones arrive.
const SYNC_BYTES: u64 = 16 << 20;

/// A file that is on its way.
struct Part {
    path: PathBuf,
    target: PathBuf,
    digest: Digest,
    file: File,
    hasher: Hasher,
    offset: u64,
    /// What is on its way to the disk, and up to where.
    syncing: Option<JoinHandle<io::Result<()>>>,
    syncing_to: u64,
}

impl Part {
    /// Opens the partial file of an earlier attempt, or a new one.
    fn open(target: &Path, digest: Digest) -> Result<Self> {
        let path = part_path(target, &digest);
        let trouble = |error: io::Error| write_error(&path, &error);
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .read(true)
            .truncate(false)
            .open(&path)
            .map_err(trouble)?;
        let (hasher, offset) = hash_file(&path).map_err(trouble)?;
        file.seek(SeekFrom::Start(offset)).map_err(trouble)?;
        let target = target.to_owned();
        Ok(Self { target, digest, file, hasher, offset, path, syncing: None, syncing_to: offset })
    }

    /// Leaves what is here for a later call, if there is anything, and it may be on the disk.
    fn leave(mut self) {
        if self.offset == 0 || self.synced().is_err() {
            // An empty file that stays does no harm.
            let _ = fs::remove_file(&self.path);
        }
    }

    fn restart(&mut self) -> Result<()> {
        let trouble = |error: io::Error| write_error(&self.path, &error);
        self.file.set_len(0).map_err(trouble)?;
        self.file.seek(SeekFrom::Start(0)).map_err(trouble)?;
        self.hasher = Hasher::new();
        (self.offset, self.syncing_to) = (0, 0);
        Ok(())
    }

    /// Lets the disk write what is here, if that is much and it does not write already.
    fn sync_ahead(&mut self) -> io::Result<()> {
        if self.offset - self.syncing_to < SYNC_BYTES
            || self.syncing.as_ref().is_some_and(|thread| !thread.is_finished())
        {
            return Ok(());
        }
        self.synced()?;
        let file = self.file.try_clone()?;
        self.syncing = Some(std::thread::spawn(move || file.sync_data()));
        self.syncing_to = self.offset;
        Ok(())
    }

    /// Waits for what is on its way to the disk. Its error is told once, and not by a later sync.
    fn synced(&mut self) -> io::Result<()> {
        match self.syncing.take() {
            Some(thread) => {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread that syncs panicked")))
            }
            None => Ok(()),
        }
    }

    /// Adds a chunk, which must begin where the file ends and stay within the whole.
    fn push(&mut self, chunk: &DownloadChunk) -> Result<()> {
        let end = chunk.offset.saturating_add(chunk.data.len() as u64);
        if chunk.offset != self.offset || end > chunk.total_size {
            return Err(Error::failed(
                format_args!(
                    "a chunk of {} bytes came at offset {} instead of {}, of {} in all",
                    chunk.data.len(),
                    chunk.offset,
                    self.offset,
                    chunk.total_size
                ),
                format_args!("checkpoint {}", self.digest),
                "this is a defect of the server, report it",
            ));
        }
        self.file.write_all(&chunk.data).map_err(|error| write_error(&self.path, &error))?;
        self.hasher.update(&chunk.data);
        self.offset = end;
        self.sync_ahead().map_err(|error| {
            // As in `complete`.
            let _ = fs::remove_file(&self.path);
            write_error(&self.path, &error)
        })
    }

    /// Verifies the digest and gives the file its name. Bytes that are not the checkpoint are thrown away, and it is said why.
    fn complete(mut self) -> Result<Option<Error>> {
        let written = self.synced();
        let found = self.hasher.finish();
        if found != self.digest {
            // If it cannot be removed, the next attempt finds it wrong again.
            let _ = fs::remove_file(&self.path);
            return Ok(Some(Error::failed(
                format_args!("the bytes received have digest {found}"),
                format_args!("checkpoint {}", self.digest),
                "they were thrown away; start the same command again",
            )));
        }
        let trouble = |error: io::Error| write_error(&self.target, &error);
        if let Err(error) = written.and_then(|()| self.file.sync_all()) {
            // A later sync would not tell again, and reading shows what the system holds, not the disk: all of it anew.
            let _ = fs::remove_file(&self.path);
            return Err(trouble(error));
        }
        failpoint!("fetch.verified");
        fs::rename(&self.path, &self.target).map_err(trouble)?;
        sync_folder(folder_of(&self.target)).map_err(trouble)?;
        failpoint!("fetch.renamed");
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
