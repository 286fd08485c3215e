//! Begin, send, finish: an update travels once, whatever happens on the way, and ends in one receipt.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use fedbasin_proto::{
    MAX_CHUNK_BYTES,
    v1::{BeginUpdateRequest, FinishUpdateRequest, Receipt, UpdateChunk},
};
use rebasin::Digest;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use crate::{
    connect::Client,
    error::{Error, Result, status_code_string, status_text},
    files::read_error,
    progress::{Bar, Screen},
    retry::{Backoff, Patience},
};

/// Chunks read ahead of the network: enough that disk and network work at the same time.
const CHUNKS_AHEAD: usize = 4;
const SHORT_CALL: Duration = Duration::from_secs(60);
/// The server hashes and syncs the whole file in this call.
const FINISH_CALL: Duration = Duration::from_secs(900);

/// An update as it is announced: everything but its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Announcement {
    /// The run.
    pub run_id: String,
    /// The round's number.
    pub round: u32,
    /// SHA-256 of the checkpoint file.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// How many examples the site trained on; at least 1.
    pub num_examples: u64,
    /// Figures for the record.
    pub metrics: BTreeMap<String, f64>,
}

/// How an upload ended, when it did not fail.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The server holds the update, and proves it.
    Accepted(Receipt),
    /// The update is good but not needed: its round closed or is full.
    Declined(String),
}

/// Why one attempt ended early.
enum Trouble {
    /// A call failed.
    Status(&'static str, Status),
    /// The server ended the stream before it held everything.
    Short,
    /// Ours: the file cannot be read, or the server's answer makes no sense.
    Final(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// Uploads the checkpoint file at `path` until there is a receipt. After a broken connection it asks the server how much it
/// holds and goes on from there; a lost receipt is asked for again. `begun` learns the update's id as soon as it is known.
///
/// # Errors
/// The update was rejected or is in conflict with an earlier one, the file cannot be read, or the server stayed away for
/// longer than `patience`.
pub async fn upload(
    client: &Client,
    update: &Announcement,
    path: &Path,
    patience: Patience,
    screen: &Screen,
    mut begun: impl FnMut(&str) -> Result<()>,
) -> Result<Outcome> {
    let bar = screen.bytes(&format!("round {}: sending", update.round), update.size);
    let mut attempt = Attempt { client: client.clone(), update, path, bar, held: 0, sent: 0 };
    let mut backoff = Backoff::new(patience);
    loop {
        let held_before = attempt.held;
        let trouble = match attempt.run(&mut begun).await {
            Ok(receipt) => {
                if attempt.sent > 0 {
                    let summary = attempt.bar.summary(attempt.sent);
                    screen.say(format_args!("round {}: sent {summary}", update.round));
                }
                return Ok(Outcome::Accepted(receipt));
            }
            Err(trouble) => trouble,
        };
        if attempt.held > held_before {
            backoff.reset();
        }
        let status = match trouble {
            Trouble::Final(error) => return Err(error),
            Trouble::Short => Status::unavailable("the server ended the stream early"),
            Trouble::Status(call, status) => {
                if let Some(outcome) = decided(update, call, &status, &mut backoff) {
                    return outcome.map_err(|error| error.at(client.url()));
                }
                status
            }
        };
        if backoff.failures() == 0 {
            screen.say(format_args!(
                "round {}: sending is interrupted, trying again: {}",
                update.round,
                status_text(&status)
            ));
        }
        if !backoff.wait().await {
            return Err(Error::gave_up(
                &status,
                place(update, "sending"),
                "start the same command again; it goes on from what the server holds",
            )
            .at(client.url()));
        }
    }
}

fn place(update: &Announcement, call: &str) -> String {
    format!("{call} the update of round {} of run {}", update.round, update.run_id)
}

/// What a failed call means when another attempt would not change it; `None` when one may.
fn decided(
    update: &Announcement,
    call: &'static str,
    status: &Status,
    backoff: &mut Backoff,
) -> Option<Result<Outcome>> {
    let code = status_code_string(status);
    match (status.code(), code.as_deref()) {
        // Bytes are missing, against what the server said before: begin again and see.
        (Code::FailedPrecondition, Some("incomplete")) => None,
        (Code::FailedPrecondition, _) | (Code::Aborted, Some("round-full")) => {
            Some(Ok(Outcome::Declined(status_text(status))))
        }
        // The contract: ABORTED from SendUpdate is an offset, from the other two a full round.
        (Code::Aborted, None) if call != "sending" => Some(Ok(Outcome::Declined(status_text(status)))),
        // Another process of this site was faster: the next BeginUpdate gives the receipt.
        (Code::Aborted, None) => None,
        (Code::AlreadyExists, _) if call == "sending" => None,
        _ if backoff.allows(status) => None,
        _ => Some(Err(Error::from_status(status, place(update, call)))),
    }
}

struct Attempt<'a> {
    client: Client,
    update: &'a Announcement,
    path: &'a Path,
    bar: Bar,
    /// What the server was known to hold, in bytes.
    held: u64,
    /// What was made durable by us, over all attempts.
    sent: u64,
}

impl Attempt<'_> {
    /// From the beginning to the receipt, once.
    async fn run(&mut self, begun: &mut impl FnMut(&str) -> Result<()>) -> Result<Receipt, Trouble> {
        let mut request = Request::new(BeginUpdateRequest {
            run_id: self.update.run_id.clone(),
            round: self.update.round,
            digest: self.update.digest.to_string(),
            size: self.update.size,
            num_examples: self.update.num_examples,
            metrics: self.update.metrics.clone().into_iter().collect(),
        });
        request.set_timeout(SHORT_CALL);
        let answer =
            self.client.begin_update(request).await.map_err(|status| Trouble::Status("beginning", status))?;
        let answer = answer.into_inner();
        begun(&answer.update_id)?;
        if let Some(receipt) = answer.receipt {
            return Ok(check_receipt(receipt, self.update)?);
        }
        if answer.offset > self.update.size {
            return Err(Trouble::Final(Error::failed(
                format_args!("the server holds {} bytes of {}", answer.offset, self.update.size),
                place(self.update, "beginning"),
                "this is a defect of the server, report it",
            )));
        }
        self.held = self.held.max(answer.offset);
        self.bar.set(answer.offset);
        if answer.offset < self.update.size {
            self.send(&answer.update_id, answer.offset).await?;
        }
        failpoint!("send.all");
        let mut request = Request::new(FinishUpdateRequest { update_id: answer.update_id });
        request.set_timeout(FINISH_CALL);
        let answer = self
            .client
            .finish_update(request)
            .await
            .map_err(|status| Trouble::Status("finishing", status))?;
        let receipt = answer.into_inner().receipt.ok_or_else(|| {
            Error::failed(
                "no receipt came",
                place(self.update, "finishing"),
                "this is a defect of the server, report it",
            )
        })?;
        Ok(check_receipt(receipt, self.update)?)
    }

    /// Sends everything from `offset` on.
    async fn send(&mut self, update_id: &str, offset: u64) -> Result<(), Trouble> {
        let (chunks, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let reader = Chunks {
            path: self.path.to_owned(),
            update_id: update_id.to_owned(),
            offset,
            end: self.update.size,
        };
        let reading = tokio::task::spawn_blocking(move || reader.read_into(&chunks));
        let result = self.watch(ReceiverStream::new(receiver), offset).await;
        // The receiver is gone by now, so the reader ends. A reader that panicked or was cancelled has read nothing wrong.
        if let Ok(Err(error)) = reading.await {
            return Err(Trouble::Final(read_error(self.path, &error)));
        }
        result
    }

    /// Follows the server's durable offset until it holds everything.
    async fn watch(&mut self, chunks: ReceiverStream<UpdateChunk>, offset: u64) -> Result<(), Trouble> {
        let failed = |status| Trouble::Status("sending", status);
        let mut durable = offset;
        let mut answers = self.client.send_update(chunks).await.map_err(failed)?.into_inner();
        while let Some(answer) = answers.message().await.map_err(failed)? {
            let now = answer.durable_offset.min(self.update.size);
            self.sent += now.saturating_sub(durable);
            durable = durable.max(now);
            self.held = self.held.max(durable);
            self.bar.set(durable);
        }
        if durable == self.update.size { Ok(()) } else { Err(Trouble::Short) }
    }
}

/// Reads a file's chunks ahead of the network, on a thread that may block.
struct Chunks {
    path: PathBuf,
    update_id: String,
    offset: u64,
    end: u64,
}

impl Chunks {
    fn read_into(self, chunks: &mpsc::Sender<UpdateChunk>) -> io::Result<()> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut offset = self.offset;
        while offset < self.end {
            // The minimum is at most 2^20, so it fits.
            let length = (self.end - offset).min(MAX_CHUNK_BYTES as u64) as usize;
            let mut data = vec![0; length];
            file.read_exact(&mut data)?;
            let crc32c = crc32c::crc32c(&data);
            let chunk = UpdateChunk { update_id: self.update_id.clone(), offset, data: data.into(), crc32c };
            if chunks.blocking_send(chunk).is_err() {
                // The call ended; whoever made it knows why.
                return Ok(());
            }
            failpoint!("send.chunk");
            offset += length as u64;
        }
        Ok(())
    }
}

/// A receipt must be about what was sent.
fn check_receipt(receipt: Receipt, update: &Announcement) -> Result<Receipt> {
    let matches = receipt.run_id == update.run_id
        && receipt.round == update.round
        && receipt.size == update.size
        && receipt.num_examples == update.num_examples
        && receipt.digest == update.digest.to_string();
    if matches {
        return Ok(receipt);
    }
    Err(Error::failed(
        format_args!(
            "the receipt is about run {} round {} digest {}",
            receipt.run_id, receipt.round, receipt.digest
        ),
        place(update, "finishing"),
        "this is a defect of the server, report it",
    ))
}

#[cfg(test)]
mod tests;
