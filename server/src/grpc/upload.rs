//! Uploads under way: chunks in, durable offsets out, then the receipt.

mod file;
#[cfg(feature = "fuzzing")]
pub(super) mod fuzzed;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fedbasin_proto::{MAX_CHUNK_BYTES, v1};
use tokio::sync::{OwnedMutexGuard, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use self::file::{Syncing, append, make_durable, open, seal, synced};
use crate::{
    config::Limits,
    error::{Code, Error, Result},
    model::{Receipt, Update, UpdateState, check_layout},
    store::{Staging, Store},
    telemetry::Step,
};

/// The uploads that this process holds open. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(super) struct Uploads {
    open: Arc<Mutex<HashMap<String, Slot>>>,
    places: Arc<Semaphore>,
    /// By site; sites are enrolled by hand, so they are not many.
    shares: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
    share: usize,
    idle: Duration,
}

/// One upload: who writes it holds the lock; a newer stream cancels the older one first, so that a dead connection
/// never keeps a site from going on.
struct Slot {
    /// Shared with whoever writes or waits to write: a slot in use is never removed, so a file has one writer.
    staging: Arc<tokio::sync::Mutex<Option<Staging>>>,
    writer: Mutex<CancellationToken>,
    /// Nobody wrote at the last sweep.
    unused: AtomicBool,
}

impl Slot {
    fn new() -> Self {
        Self {
            staging: Arc::default(),
            writer: Mutex::new(CancellationToken::new()),
            unused: AtomicBool::new(false),
        }
    }

    /// Asked under the lock of [`Uploads::open`], where alone further users are made.
    fn in_use(&self) -> bool {
        Arc::strong_count(&self.staging) > 1
    }
}

/// Closes an upload's file when its stream ends, however it does.
struct Leave<'a> {
    uploads: &'a Uploads,
    update_id: &'a str,
    keep: bool,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if !self.keep {
            self.uploads.forget(self.update_id);
        }
    }
}

type Progress = mpsc::Sender<std::result::Result<v1::UpdateProgress, Status>>;
type Held = OwnedMutexGuard<Option<Staging>>;

impl Uploads {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            open: Arc::default(),
            places: Arc::new(Semaphore::new(limits.max_concurrent_uploads)),
            shares: Arc::default(),
            share: limits.max_uploads_per_site,
            idle: limits.idle_timeout(),
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the upload from whoever writes it, who leaves; its lock is the right to write.
    fn take_over(&self, update_id: &str) -> (Arc<tokio::sync::Mutex<Option<Staging>>>, CancellationToken) {
        let cancelled = CancellationToken::new();
        let mut open = self.open();
        let slot = open.entry(update_id.to_owned()).or_insert_with(Slot::new);
        slot.unused.store(false, Ordering::Relaxed);
        let mut writer = slot.writer.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *writer, cancelled.clone()).cancel();
        (Arc::clone(&slot.staging), cancelled)
    }

    /// The site's share of the places: streams that send nothing take no other site's.
    fn share_of(&self, site: &str) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let share = shares.entry(site.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(self.share)));
        Arc::clone(share)
    }

    /// Removes an upload that ended, unless somebody else waits to write it.
    fn forget(&self, update_id: &str) {
        let mut open = self.open();
        if open.get(update_id).is_some_and(|slot| !slot.in_use()) {
            open.remove(update_id);
        }
    }

    /// Closes the files that nobody wrote to since the last sweep: a whole upload is often finished soon, an abandoned
    /// one must not keep its file open.
    fn sweep(&self) {
        self.open().retain(|_, slot| slot.in_use() || !slot.unused.swap(true, Ordering::Relaxed));
    }

    /// Sweeps again and again.
    pub(super) async fn keep_swept(&self) {
        loop {
            tokio::time::sleep(self.idle).await;
            self.sweep();
        }
    }

    /// Takes an update's chunks until the stream ends.
    pub(super) async fn receive(
        &self,
        store: &Store,
        site: &str,
        mut chunks: Streaming<v1::UpdateChunk>,
        progress: &Progress,
    ) -> Result<()> {
        let Some(first) = next_chunk(&mut chunks).await? else { return Ok(()) };
        let update = store.update_of_site(site, &first.update_id).await?;
        under_way(&update)?;
        let mut leave = Leave { uploads: self, update_id: &update.id, keep: false };
        // First, so that a dead stream's place is free for the one that goes on.
        let (staging, cancelled) = self.take_over(&update.id);
        let share = self.share_of(site);
        let places = async {
            let share = share.acquire().await.map_err(Error::internal)?;
            let place = self.places.acquire().await.map_err(Error::internal)?;
            Ok::<_, Error>((share, place, staging.lock_owned().await))
        };
        let (_share, _place, held) = tokio::select! {
            places = places => places?,
            () = cancelled.cancelled() => return Err(taken_over()),
        };
        let mut held = Some(held);
        let began = tokio::time::Instant::now();
        let trace = store.trace_of_update(&update.id).await;
        let mut span = store.traces().within(Step::receive.name(), trace);
        let outcome = tokio::select! {
            outcome = self.take_chunks(store, site, &update, first, chunks, &mut held, progress) => outcome,
            () = cancelled.cancelled() => return Err(taken_over()),
        };
        store.telemetry().step(Step::receive, began.elapsed());
        if let (Some(span), Err(error)) = (&mut span, &outcome) {
            span.fail(error.public_text());
        }
        drop(span);
        // A whole upload will be finished soon, and then need not be read again.
        leave.keep =
            outcome.is_ok() && held.as_ref().is_some_and(|held| held.as_ref().is_some_and(Staging::is_whole));
        drop(held);
        drop(leave);
        if let Err(error) = &outcome
            && error.code() == Code::InvalidCheckpoint
        {
            store.reject_update(&update.id, error.message()).await?;
            tracing::info!(update.id, site.id = site, error.message = error.message(), "update rejected");
        }
        outcome
    }

    #[expect(clippy::too_many_arguments, reason = "one loop, split from its set-up and its clean-up")]
    async fn take_chunks(
        &self,
        store: &Store,
        site: &str,
        update: &Update,
        first: v1::UpdateChunk,
        mut chunks: Streaming<v1::UpdateChunk>,
        held: &mut Option<Held>,
        progress: &Progress,
    ) -> Result<()> {
        let gate = Arc::new(Gate::of(store, site, update).await?);
        open(store, update, &gate, held).await?;
        let mut syncing = None;
        let mut next = Some(first);
        while let Some(chunk) = next {
            if chunk.update_id != update.id {
                return Err(Error::invalid(
                    "update_id: changed within one stream; one stream carries one update",
                ));
            }
            let durable_is_due = append(&gate, held, chunk).await?;
            failpoint!("upload.appended");
            if durable_is_due {
                let durable_offset = match store.is_shared() {
                    true => Some(make_durable(store, &update.id, held).await?),
                    // A disk that is slower than the line: no more than two stretches are ever unsynced.
                    false => {
                        let before = Syncing::settle(&mut syncing, held).await?;
                        syncing = Some(Syncing::begin(held)?);
                        before
                    }
                };
                if let Some(durable_offset) = durable_offset
                    && !self.tell(store, site, update, durable_offset, progress).await?
                {
                    return Ok(());
                }
            }
            next = loop {
                tokio::select! {
                    biased;
                    outcome = Syncing::end(&mut syncing) => {
                        let durable_offset = synced(held, outcome)?;
                        if !self.tell(store, site, update, durable_offset, progress).await? {
                            return Ok(());
                        }
                    }
                    chunk = next_chunk(&mut chunks) => break chunk?,
                }
            };
        }
        Syncing::settle(&mut syncing, held).await?;
        let durable_offset = make_durable(store, &update.id, held).await?;
        failpoint!("upload.durable");
        // The client may be gone already, or not read; it will ask.
        let told = progress.send(Ok(v1::UpdateProgress { durable_offset }));
        let _ = tokio::time::timeout(self.idle, told).await;
        failpoint!("upload.acknowledged");
        Ok(())
    }

    /// Acknowledges what is durable; tells whether somebody listens.
    async fn tell(
        &self,
        store: &Store,
        site: &str,
        update: &Update,
        durable_offset: u64,
        progress: &Progress,
    ) -> Result<bool> {
        failpoint!("upload.durable");
        // The round may have closed meanwhile: do not take bytes that nobody needs.
        under_way(&store.update_of_site(site, &update.id).await?)?;
        let told = progress.send(Ok(v1::UpdateProgress { durable_offset }));
        match tokio::time::timeout(self.idle, told).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ok(false),
            Err(_) => {
                let seconds = self.idle.as_secs();
                return Err(Error::new(
                    Code::TooSlow,
                    format!(
                        "no answer was read for {seconds} s; begin again and go on from the offset given"
                    ),
                ));
            }
        }
        failpoint!("upload.acknowledged");
        Ok(true)
    }

    /// Checks, stores and accepts an update all of whose bytes are here; again gives the same receipt.
    pub(super) async fn finish(&self, store: &Store, site: &str, update_id: &str) -> Result<Receipt> {
        let update = store.update_of_site(site, update_id).await?;
        if let Some(receipt) = update.receipt() {
            return Ok(receipt);
        }
        under_way(&update)?;
        let (staging, _) = self.take_over(update_id);
        let mut held = Some(staging.lock_owned().await);
        let accepted = self.accept(store, site, &update, &mut held).await;
        if let Err(error) = &accepted
            && error.code() == Code::InvalidCheckpoint
        {
            store.reject_update(update_id, error.message()).await?;
        }
        // Only now may somebody else write: what is stored is the file that was checked.
        drop(held);
        self.forget(update_id);
        accepted
    }

    async fn accept(
        &self,
        store: &Store,
        site: &str,
        update: &Update,
        held: &mut Option<Held>,
    ) -> Result<Receipt> {
        // Another finish of this update may have been first, while this one waited: read again.
        let update = store.update_of_site(site, &update.id).await?;
        if let Some(receipt) = update.receipt() {
            return Ok(receipt);
        }
        under_way(&update)?;
        let began = tokio::time::Instant::now();
        let trace = store.trace_of_update(&update.id).await;
        let mut span = store.traces().within(Step::validate.name(), trace);
        let sealed = seal(store, site, &update, held).await;
        store.telemetry().step(Step::validate, began.elapsed());
        if let (Some(span), Err(error)) = (&mut span, &sealed) {
            span.fail(error.public_text());
        }
        let sealed = sealed?;
        failpoint!("upload.sealed");
        let receipt = store.accept_update(&update, sealed).await?;
        drop(span);
        if let Some(trace) = trace {
            store.note_round_trace(&receipt.run_id, receipt.round, trace).await;
        }
        tracing::info!(
            run.id = receipt.run_id,
            round.number = receipt.round,
            site.id = site,
            update.id = receipt.update_id,
            update.digest = %receipt.digest,
            update.bytes = receipt.size,
            "update accepted"
        );
        Ok(receipt)
    }
}

/// The next chunk. How long it may take is the body's own rule.
async fn next_chunk(chunks: &mut Streaming<v1::UpdateChunk>) -> Result<Option<v1::UpdateChunk>> {
    let status = match chunks.message().await {
        Ok(chunk) => return Ok(chunk),
        Err(status) => status,
    };
    let slow = status.metadata().get(fedbasin_proto::CODE_METADATA_KEY);
    Err(match status.code() {
        _ if slow.is_some_and(|code| code == Code::TooSlow.as_str()) => {
            Error::new(Code::TooSlow, status.message())
        }
        tonic::Code::OutOfRange => {
            Error::new(Code::TooLarge, format!("a message is larger than a chunk of {MAX_CHUNK_BYTES} bytes"))
        }
        _ => Error::invalid(format!("the stream broke off: {}", status.message())),
    })
}

/// What an upload is held against: the run's layout and the size of the reference's values, or, before there are any, its spec.
struct Gate {
    layout: Option<rebasin::Layout>,
    bounds: Option<rebasin::Bounds>,
    /// The site whose update fixed the layout, if one did.
    fixed_by: Option<String>,
    spec: Option<rebasin::Spec>,
    /// The layout was checked: once a stream is enough.
    passed: OnceLock<()>,
}

impl Gate {
    async fn of(store: &Store, site: &str, update: &Update) -> Result<Self> {
        let run = store.run_of_site(site, &update.run_id).await?;
        let fixed_by = match &run.layout {
            Some(_) => store.layout_fixed_by(&run.id).await?,
            None => None,
        };
        let bounds = store.bounds(&run, update.round).await?;
        Ok(Self { spec: run.spec, layout: run.layout, bounds, fixed_by, passed: OnceLock::new() })
    }

    /// Says who fixed the layout where a header is refused.
    fn explain(&self, staging: &Staging, error: Error) -> Error {
        match &self.fixed_by {
            Some(site) if error.code() == Code::InvalidCheckpoint && staging.layout().is_none() => {
                Error::new(
                    error.code(),
                    format!(
                        "{}; the first update, of site {site}, fixed the run's layout (an operator's seed is the safe \
                     way to fix it)",
                        error.message()
                    ),
                )
            }
            _ => error,
        }
    }

    /// The layout as soon as the header is here, so that bytes that cannot be accepted are refused early.
    fn check(&self, staging: &Staging) -> Result<()> {
        if let (Some(layout), None) = (staging.layout(), self.passed.get()) {
            check_layout(self.spec.as_ref(), self.layout.as_ref(), self.fixed_by.as_deref(), layout)?;
            // Set by another call already: it is the same layout.
            let _ = self.passed.set(());
        }
        Ok(())
    }
}

/// An update that is still under way; otherwise the error that its state means.
fn under_way(update: &Update) -> Result<()> {
    match &update.state {
        UpdateState::Receiving => Ok(()),
        UpdateState::Accepted { .. } | UpdateState::Aligned { .. } => Err(Error::new(
            Code::Conflict,
            "this update is accepted already; ask for its receipt by finishing it",
        )),
        UpdateState::Rejected { reason } => {
            Err(Error::new(Code::InvalidCheckpoint, format!("this update was rejected: {reason}")))
        }
        UpdateState::Declined { reason } => {
            Err(Error::new(Code::RoundClosed, format!("this update was declined: {reason}")))
        }
    }
}

fn taken_over() -> Error {
    Error::new(Code::OffsetMismatch, "a newer stream of this site took over this upload")
}
