//! Watched runs. What a run is to all who watch it is read once for all of them, and seldom where they are many.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use fedbasin_proto::v1;
use rebasin::Digest;
use tokio::{sync::mpsc, time::Instant};
use tonic::Status;

use super::convert;
use crate::{
    error::{Code, Error, Result},
    model::{RoundRecord, Run, Update},
    round::State,
    store::Store,
};

/// How often a watched run is read again when nothing in this process wakes its watchers.
const POLL: Duration = Duration::from_secs(1);

/// Each watcher of a run lets this much more time pass between two looks of all of them: what happens meanwhile is told at once. So
/// the last of a thousand sites learns within half a second of what concerns it, and not a thousand times of each other's updates.
const PAUSE_A_WATCHER: Duration = Duration::from_micros(500);

/// How long one look may take.
const LONGEST_READ: Duration = Duration::from_secs(5);

/// So few are told of everything at once.
const FEW: u32 = 8;

/// The runs that somebody watches in this process. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(super) struct Watches {
    store: Store,
    max_checkpoint_bytes: u64,
    runs: Arc<Mutex<HashMap<String, Weak<Watched>>>>,
}

/// One of them: what was seen last.
#[derive(Default)]
struct Watched(tokio::sync::Mutex<Option<(Instant, u64, Arc<Seen>)>>);

/// A run, its current round, and the update of each site that counts in it.
struct Seen {
    run: Run,
    round: Option<SeenRound>,
}

struct SeenRound {
    record: RoundRecord,
    updates: HashMap<String, Update>,
    /// Of the reference and of the global model.
    sizes: (u64, u64),
}

impl Watches {
    pub(super) fn new(store: Store, max_checkpoint_bytes: u64) -> Self {
        Self { store, max_checkpoint_bytes, runs: Arc::default() }
    }

    /// Sends the run's status now and whenever it differs, until it is over or the receiver is gone.
    pub(super) async fn watch(
        &self,
        site: &str,
        run_id: &str,
        send: &mpsc::Sender<std::result::Result<v1::RunStatus, Status>>,
    ) {
        let watched = self.watched(run_id);
        let mut changes = self.store.changes();
        let mut last: Option<v1::RunStatus> = None;
        loop {
            let count = *changes.borrow_and_update();
            let status = async {
                let seen = self.look(&watched, run_id, count).await?;
                self.status(site, &seen).await
            };
            match status.await {
                Ok(status) if last.as_ref() == Some(&status) => {}
                Ok(status) => {
                    last = Some(status.clone());
                    let over = status.state() != v1::RunState::Open;
                    if send.send(Ok(status)).await.is_err() || over {
                        return;
                    }
                }
                Err(error) => {
                    // The client may be gone already.
                    let _ = send.send(Err(error.into())).await;
                    return;
                }
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    fn watched(&self, run_id: &str) -> Arc<Watched> {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watched) = runs.get(run_id).and_then(Weak::upgrade) {
            return watched;
        }
        runs.retain(|_, watched| watched.strong_count() > 0);
        let watched = Arc::default();
        runs.insert(run_id.to_owned(), Arc::downgrade(&watched));
        watched
    }

    /// What is there since the `count`-th change or later.
    async fn look(&self, watched: &Arc<Watched>, run_id: &str, count: u64) -> Result<Arc<Seen>> {
        let mut latest = watched.0.lock().await;
        if let Some((at, seen_count, seen)) = &*latest {
            if *seen_count >= count && at.elapsed() < POLL {
                return Ok(Arc::clone(seen));
            }
            let watchers = u32::try_from(Arc::strong_count(watched)).unwrap_or(u32::MAX);
            if watchers > FEW {
                tokio::time::sleep_until(*at + PAUSE_A_WATCHER.saturating_mul(watchers).min(POLL)).await;
            }
        }
        // What is read now has at least the changes up to now.
        let count = *self.store.changes().borrow();
        // Those who wait for this one must not wait for what does not answer.
        let read = tokio::time::timeout(LONGEST_READ, self.read(run_id)).await;
        let seen = Arc::new(read.map_err(|_| {
            Error::new(Code::Unavailable, "the database does not answer; watch again in a while")
        })??);
        *latest = Some((Instant::now(), count, Arc::clone(&seen)));
        Ok(seen)
    }

    async fn read(&self, run_id: &str) -> Result<Seen> {
        let store = &self.store;
        let run = store.run(run_id).await?.ok_or_else(|| {
            Error::not_found(format!("there is no run {run_id} any more; ask its operator"))
        })?;
        let record = match run.current_round {
            Some(number) => store.round(run_id, number).await?,
            None => None,
        };
        let Some(record) = record else { return Ok(Seen { run, round: None }) };
        let updates = store.updates_that_count(run_id, record.round.number).await?;
        let updates = updates.into_iter().map(|update| (update.site_id.clone(), update)).collect();
        let sizes = (size(store, record.reference).await?, size(store, published(&record)).await?);
        Ok(Seen { run, round: Some(SeenRound { record, updates, sizes }) })
    }

    /// What a site may know of it.
    async fn status(&self, site: &str, seen: &Seen) -> Result<v1::RunStatus> {
        let run = &seen.run;
        if !run.cohort.iter().any(|other| other == site) {
            // The error that says so.
            self.store.run_of_site(site, &run.id).await?;
        }
        let Some(round) = &seen.round else {
            return Ok(convert::run_status(run, None, self.max_checkpoint_bytes));
        };
        let reference = reference_for(&self.store, site, run, &round.record).await?;
        let sizes = (if reference.is_some() { round.sizes.0 } else { 0 }, round.sizes.1);
        let own = round.updates.get(site);
        let status = convert::round_status(&round.record, run.cohort.len(), reference, sizes, own);
        Ok(convert::run_status(run, Some(status), self.max_checkpoint_bytes))
    }
}

/// A run's status as one site may know it, read now.
pub(super) async fn status_of(
    store: &Store,
    site: &str,
    run: &Run,
    max_checkpoint_bytes: u64,
) -> Result<v1::RunStatus> {
    let record = match run.current_round {
        Some(number) => store.round(&run.id, number).await?,
        None => None,
    };
    let Some(record) = record else { return Ok(convert::run_status(run, None, max_checkpoint_bytes)) };
    let own = store.update_that_counts(&run.id, record.round.number, site).await?;
    let reference = reference_for(store, site, run, &record).await?;
    let sizes = (size(store, reference).await?, size(store, published(&record)).await?);
    let round = convert::round_status(&record, run.cohort.len(), reference, sizes, own.as_ref());
    Ok(convert::run_status(run, Some(round), max_checkpoint_bytes))
}

/// A round's reference, if the site may download it: a founding round's is another site's update.
async fn reference_for(store: &Store, site: &str, run: &Run, record: &RoundRecord) -> Result<Option<Digest>> {
    let Some(digest) = record.reference else { return Ok(None) };
    let of_all = run.seed == Some(digest) || run.global == Some(digest);
    Ok((of_all || store.site_may_read(site, &digest).await?).then_some(digest))
}

fn published(record: &RoundRecord) -> Option<Digest> {
    match record.round.state {
        State::Published { global } => Some(global),
        _ => None,
    }
}

async fn size(store: &Store, digest: Option<Digest>) -> Result<u64> {
    match digest {
        Some(digest) => Ok(store.checkpoint(&digest).await?.map_or(0, |stored| stored.size)),
        None => Ok(0),
    }
}
