//! The reconciler and the worker: read the rows, do what is missing, commit, look again.
//!
//! Level-triggered: whoever committed something wakes these loops, but they decide by the rows alone, so a missed wake
//! costs one poll interval and nothing else. There is no recovery at start: the first look is like any other. They are
//! two, so that a long merge keeps no round from closing at its deadline.

mod align;
mod cpu;
mod merge;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    config::Work,
    error::{Code, Error, Result},
    signing::Signer,
    store::{RETRY_PAUSE, Store},
    telemetry::Telemetry,
};

/// How often uploads that ended are swept, and what runs keep no longer.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// How often stored bytes are compared with the rows.
const SWEEP_OBJECTS_EVERY: Duration = Duration::from_secs(3600);
const NOT_REMOVED: &str = "what runs keep no longer could not be removed; the next sweep tries again";
/// How long a piece of work may go on once the process is told to end. Then it is given back, uncounted.
const GRACE: Duration = Duration::from_secs(5);
/// How long work may go on whose lease is gone: its commit, which ends the lease, may be on its way.
const A_MOMENT: Duration = Duration::from_secs(1);
/// How soon a round is asked for again that another process's transaction was looking at.
const LOOKED_AT: Duration = Duration::from_millis(20);
/// Longest pause while storage cannot answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Closes and opens rounds until `stop` is cancelled.
pub(crate) async fn reconcile(store: Store, settings: Work, stop: CancellationToken) {
    let mut changes = store.changes();
    let (mut last_sweep, mut last_objects, mut last_told) = (None, None, None);
    while !stop.is_cancelled() {
        changes.mark_unchanged();
        let pause = match reconcile_runs(&store).await {
            Ok(due_in) => due_in.map_or(settings.poll(), |due_in| due_in.min(settings.poll())),
            Err(error) => {
                log("the runs cannot be read", &error);
                after_an_error(&settings)
            }
        };
        let now = tokio::time::Instant::now();
        if last_sweep.is_none_or(|at| now.duration_since(at) > SWEEP_EVERY) {
            last_sweep = Some(now);
            if let Err(error) = store.sweep_staging().await {
                log("uploads that ended could not be swept", &error);
            }
            if let Err(error) = store.retire().await {
                log(NOT_REMOVED, &error);
            }
            if let Err(error) = store.sweep_deliveries().await {
                log("delivered notices could not be swept", &error);
            }
        }
        if last_told.is_none_or(|at| now.duration_since(at) >= settings.poll()) {
            last_told = Some(now);
            if let Err(error) = store.announce_due().await {
                log("webhooks cannot be told what time made so", &error);
            }
        }
        if last_objects.is_none_or(|at| now.duration_since(at) > SWEEP_OBJECTS_EVERY) {
            last_objects = Some(now);
            if let Err(error) = store.sweep_objects().await {
                log("stored bytes could not be swept", &error);
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = changes.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Does what is due in each open run; tells when the next deadline is. What is wrong with one run stops no other.
async fn reconcile_runs(store: &Store) -> Result<Option<Duration>> {
    store.check_schema().await?;
    let mut next: Option<Duration> = None;
    for id in store.open_runs().await? {
        let outcome = async {
            match store.run(&id).await? {
                Some(run) => {
                    let done = store.reconcile_run(&run).await?;
                    if done.changed
                        && let Err(error) = store.retire_run(&id, &run.policy).await
                    {
                        log(NOT_REMOVED, &error);
                    }
                    Ok::<_, Error>(Some(done))
                }
                None => Ok(None),
            }
        };
        match outcome.await {
            // What follows a change may be due at once.
            Ok(Some(done)) if done.changed => next = Some(Duration::ZERO),
            Ok(Some(done)) => next = next.into_iter().chain(done.due_in).min(),
            Ok(None) => {}
            Err(error) => tracing::warn!(
                run.id = id,
                error.code = error.code().as_str(),
                error.message = error.message(),
                "a run cannot go on"
            ),
        }
    }
    Ok(next)
}

/// Aligns and merges until `stop` is cancelled; see [`GRACE`] for what is under way then.
pub(crate) async fn work(store: Store, signer: Signer, settings: Work, stop: CancellationToken) {
    let mut changes = store.changes();
    let mut worker = Worker { store, signer, settings, stop, pause: RETRY_PAUSE };
    while !worker.stop.is_cancelled() {
        changes.mark_unchanged();
        let (mut did, mut failed) = (false, false);
        for outcome in pass(&mut worker).await {
            match outcome {
                Ok(some) => did |= some,
                Err(error) => {
                    log("work failed", &error);
                    failed = true;
                }
            }
        }
        if did {
            continue;
        }
        let pause = match failed {
            true => after_an_error(&worker.settings),
            false => worker.rest().await,
        };
        tokio::select! {
            () = worker.stop.cancelled() => return,
            _ = changes.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Aligns what is due, and then merges; whether there was anything.
async fn pass(worker: &mut Worker) -> [Result<bool>; 2] {
    // On a schema that a newer program changed under this one nothing is written.
    if let Err(error) = worker.store.check_schema().await {
        return [Err(error), Ok(false)];
    }
    let aligned = align::step(worker).await;
    // Nothing new is begun once the process is told to end.
    let merged = if worker.stop.is_cancelled() { Ok(false) } else { merge::step(worker).await };
    [aligned, merged]
}

/// How long to rest after an error: what is wrong may stay so.
fn after_an_error(settings: &Work) -> Duration {
    settings.poll().max(Duration::from_secs(1))
}

fn log(what: &str, error: &Error) {
    tracing::warn!(error.code = error.code().as_str(), error.message = error.message(), "{what}");
}

/// Who aligns and merges, one piece of work at a time.
struct Worker {
    store: Store,
    /// Signs what is published.
    signer: Signer,
    settings: Work,
    stop: CancellationToken,
    /// How long what storage kept from being done is left alone; grows while storage cannot answer.
    pause: Duration,
}

impl Worker {
    /// How long to rest where nothing was found to do.
    async fn rest(&self) -> Duration {
        match self.store.merge_is_due().await {
            Ok(true) => LOOKED_AT.min(self.settings.poll()),
            Ok(false) => self.settings.poll(),
            Err(error) => {
                log("the rounds cannot be read", &error);
                after_an_error(&self.settings)
            }
        }
    }

    fn telemetry(&self) -> &Telemetry {
        self.store.telemetry()
    }

    fn lease(&self) -> Duration {
        self.settings.lease()
    }

    /// Keeps a lease alive while `work` goes on. Nothing where the lease is lost or the process is to end before it ended.
    async fn while_renewing<T>(&self, token: &str, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        let stopped = async {
            self.stop.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        let lost = async {
            let mut every = tokio::time::interval(self.lease() / 3);
            every.tick().await;
            loop {
                every.tick().await;
                match self.store.renew(token, self.lease()).await {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => log("a lease could not be renewed", &error),
                }
            }
        };
        // Side by side: a renewal may wait for the row that the work's own last transaction holds.
        tokio::select! {
            biased;
            done = &mut work => return Some(done),
            () = stopped => return None,
            () = lost => {}
        }
        // Work that was committed just now has no lease any more either. Otherwise the result would meet no row: the work is dropped,
        // and what computes learns of it.
        if let Ok(done) = tokio::time::timeout(A_MOMENT, work).await {
            return Some(done);
        }
        tracing::warn!("a lease was lost while its work went on");
        None
    }

    /// Storage answered.
    fn storage_is_well(&mut self) {
        self.pause = RETRY_PAUSE;
    }

    /// Gives a piece of work back that storage kept from being done; each time in a row for longer.
    async fn storage_is_unwell(&mut self, token: &str) {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        self.give_back(token, pause).await;
    }

    /// Gives a lease back without counting the try. Where the database is away too, there is nothing better to do than
    /// to wait for it: a try that is not given back counts.
    async fn give_back(&self, token: &str, pause: Duration) {
        while let Err(error) = self.store.give_back(token, pause).await {
            log("a lease could not be given back", &error);
            if error.code() != Code::Unavailable || self.stop.is_cancelled() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}
