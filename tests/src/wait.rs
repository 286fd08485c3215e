//! Waiting for what a server does by itself.

use std::time::{Duration, Instant};

/// How long a test waits before it fails. Long, because two cores may be busy with other tests; only a failure takes so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `look` every 20 milliseconds until it answers, and returns the answer.
///
/// # Panics
/// After [`PATIENCE`] without an answer, naming `what`.
pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = look() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited {} s in vain for: {what}", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
