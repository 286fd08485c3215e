//! What a token or a certificate opened ends when it opens nothing any more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    error::{Code, Error},
    round::Millis,
    store::Store,
};

/// How often the rows are read. With one query's time it stays below the five seconds that are promised.
const LOOK: Duration = Duration::from_secs(2);

/// Rows become visible after the time that stands in them, and calls are noted here after they were looked up: by the longest that a
/// database may make either wait, and more. Ending something again is harmless.
const OVERLAP_MS: Millis = 120_000;

/// The tokens that calls under way came with. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub(crate) struct Sessions(Arc<Mutex<HashMap<String, CancellationToken>>>);

impl Sessions {
    fn open(&self) -> MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is cancelled when the token of this id ends.
    pub(crate) fn of(&self, token_id: &str) -> CancellationToken {
        self.open().entry(token_id.to_owned()).or_default().clone()
    }

    /// Reads again and again which tokens ended, and ends what they opened. While the database does not answer, nothing is known of
    /// them; the next look covers that time, too.
    pub(crate) async fn keep_current(&self, store: &Store) {
        let mut since = None;
        loop {
            let from = match since {
                Some(since) => Ok(since),
                None => store.now().await,
            };
            let found = match from {
                Ok(from) => store.ended_since(from - OVERLAP_MS).await,
                Err(error) => Err(error),
            };
            match found {
                Ok((ended, now)) => {
                    since = Some(now);
                    let mut open = self.open();
                    ended.iter().filter_map(|id| open.remove(id)).for_each(|session| session.cancel());
                }
                Err(error) => {
                    tracing::warn!(error.message = error.message(), "revoked tokens cannot be looked up");
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// What a stream ends with then.
pub(crate) fn ended() -> Error {
    Error::new(
        Code::Unauthenticated,
        "what this call was opened with was revoked or has expired; ask whoever runs the server for another one",
    )
}
