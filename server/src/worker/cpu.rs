//! The one bridge from tokio to rayon.

use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// Runs `work` on rayon's threads, so that no thread that serves connections computes.
///
/// # Errors
/// [`Code::Internal`](crate::error::Code) if `work` panicked.
pub(super) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (send, receive) = oneshot::channel();
    let span = tracing::Span::current();
    rayon::spawn(move || {
        let _entered = span.enter();
        // A panic must end this piece of work, not the process: rayon aborts on one that escapes.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        // Nobody waits any more: the result is not wanted.
        let _ = send.send(outcome);
    });
    match receive.await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_)) => Err(Error::internal("a computation panicked")),
        Err(_) => Err(Error::internal("a computation vanished")),
    }
}
