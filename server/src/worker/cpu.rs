//! The one bridge from tokio to rayon.

use std::ops::ControlFlow;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// Whether anybody waits for a computation still.
pub(super) struct Halt(CancellationToken);

impl Halt {
    /// What an observer of a search answers: go on, or end because nobody waits.
    pub(super) fn flow(&self) -> ControlFlow<()> {
        if self.0.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Runs `work` on rayon's threads, so that no thread that serves connections computes. If the future is dropped (a lost lease, the
/// process's end), `work` learns of it by its [`Halt`].
///
/// # Errors
/// [`Code::Internal`](crate::error::Code) if `work` panicked.
pub(super) async fn run<T: Send + 'static>(work: impl FnOnce(&Halt) -> T + Send + 'static) -> Result<T> {
    let (send, receive) = oneshot::channel();
    let token = CancellationToken::new();
    let halt = Halt(token.clone());
    let _at_end = token.drop_guard();
    let span = tracing::Span::current();
    rayon::spawn(move || {
        let _entered = span.enter();
        // A panic must end this piece of work, not the process: rayon aborts on one that escapes.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&halt)));
        // Nobody waits any more: the result is not wanted.
        let _ = send.send(outcome);
    });
    match receive.await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_)) => Err(Error::internal("a computation panicked")),
        Err(_) => Err(Error::internal("a computation vanished")),
    }
}

#[cfg(test)]
mod tests;
