//! Looks at the whole audit log, one at a time: who asks while one is under way is told what that one finds.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fedbasin_proof::{SignedHead, TreeHead};
use tokio::sync::watch;

use crate::{
    error::{Code, Error, Result},
    store::Store,
};

/// Nobody waits longer than this for one.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a look found, once it ended.
type Found = Option<Result<TreeHead>>;

/// The look that is under way, if there is one. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub(super) struct Checks(Arc<Mutex<Option<watch::Receiver<Found>>>>);

impl Checks {
    /// Compares the log, with a head that was seen before, and the rows with it, as [`Store::verify_log`] does. It goes on to its end, also
    /// where nobody waits for it any more.
    ///
    /// # Errors
    /// As there; [`Code::Unavailable`] where it takes longer than somebody waits.
    pub(super) async fn whole(&self, store: &Store, seen: Option<SignedHead>) -> Result<TreeHead> {
        let mut found = self.join(|| {
            let store = store.clone();
            async move { store.verify_log(seen.as_ref(), |_| {}).await }
        });
        let waited = tokio::time::timeout(PATIENCE, found.wait_for(Option::is_some)).await;
        let ended = waited.map_err(|_| {
            Error::new(Code::Unavailable, "the log is still being read; ask again to be told what is found")
        })?;
        let found = ended.map_err(|_| Error::internal("a look at the audit log ended without a word"))?;
        found.clone().ok_or_else(|| Error::internal("a look at the audit log found nothing"))?
    }

    /// The look that is under way, or a new one.
    fn join<F>(&self, look: impl FnOnce() -> F) -> watch::Receiver<Found>
    where
        F: Future<Output = Result<TreeHead>> + Send + 'static,
    {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that ended has let go of its end of the channel.
        if let Some(found) = running.as_ref().filter(|found| found.has_changed().is_ok()) {
            return found.clone();
        }
        let (tell, found) = watch::channel(None);
        *running = Some(found.clone());
        let looking = look();
        tokio::spawn(async move { tell.send_replace(Some(looking.await)) });
        found
    }
}

#[cfg(test)]
mod tests;
