//! The reconciler and the worker: read the rows, do what is missing, commit, look again.
//!
//! Level-triggered: whoever committed something wakes this loop, but it decides by the rows alone, so a missed wake
//! costs one poll interval and nothing else. There is no recovery at start: the first look is like any other.

mod align;
mod cpu;
mod merge;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    config::Work,
    error::{Code, Result},
    store::Store,
};

/// Runs until `stop` is cancelled; a piece of work under way is finished first.
pub(crate) async fn run(store: Store, settings: Work, stop: CancellationToken) {
    let mut changes = store.changes();
    let mut last_sweep = None;
    loop {
        changes.mark_unchanged();
        match step(&store, &settings).await {
            Ok(true) => {
                if stop.is_cancelled() {
                    return;
                }
                continue;
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(
                    error.code = error.code().as_str(),
                    error.message = error.message(),
                    "work failed"
                );
                if error.code() == Code::Unavailable {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        let now = tokio::time::Instant::now();
        if last_sweep.is_none_or(|at| now.duration_since(at) > Duration::from_secs(60)) {
            last_sweep = Some(now);
            if let Err(error) = store.sweep_staging().await {
                tracing::warn!(error.message = error.message(), "uploads that ended could not be swept");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = changes.changed() => {}
            () = tokio::time::sleep(settings.poll()) => {}
        }
    }
}

/// Does one round of what is due; tells whether there was anything.
async fn step(store: &Store, settings: &Work) -> Result<bool> {
    let mut did = false;
    for run in store.open_runs().await? {
        did |= store.reconcile_run(&run).await?;
    }
    did |= align::step(store, settings).await?;
    did |= merge::step(store, settings).await?;
    Ok(did)
}

/// Keeps a lease alive while `work` goes on.
async fn while_renewing<T>(store: &Store, token: &str, length: Duration, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    let mut every = tokio::time::interval(length / 3);
    every.tick().await;
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = every.tick() => match store.renew(token, length).await {
                Ok(true) => {}
                // The result will meet no row; finishing is wasteful but harmless.
                Ok(false) => tracing::warn!("a lease was lost while its work went on"),
                Err(error) => tracing::warn!(error.message = error.message(), "a lease could not be renewed"),
            }
        }
    }
}
