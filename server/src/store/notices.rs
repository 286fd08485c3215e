//! Wakes across processes, by Postgres's LISTEN and NOTIFY. Only hints: whoever misses one finds the rows at its next poll.

use std::time::Duration;

use sqlx::{AssertSqlSafe, postgres::PgListener};
use tokio::sync::watch;

use super::Tx;
use crate::error::Result;

const CHANNEL: &str = "fedbasin_changes";

/// After a lost connection.
const PAUSE: Duration = Duration::from_secs(1);

/// Tells all who listen, once the transaction commits.
pub(super) async fn notify(tx: &mut Tx) -> Result<()> {
    // A name of this module: no input is in it.
    sqlx::query(AssertSqlSafe(format!("NOTIFY {CHANNEL}"))).execute(&mut **tx).await?;
    Ok(())
}

/// Wakes `changes` whenever any process commits, for ever.
pub(super) async fn listen(url: String, changes: watch::Sender<u64>) {
    loop {
        if let Err(error) = listen_once(&url, &changes).await {
            tracing::debug!(error.message = %error, "no notices from the database; the rows are polled");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn listen_once(url: &str, changes: &watch::Sender<u64>) -> sqlx::Result<()> {
    let mut listener = PgListener::connect(url).await?;
    listener.listen(CHANNEL).await?;
    loop {
        // First of all because something may have been missed before.
        changes.send_modify(|count| *count = count.wrapping_add(1));
        // `None`: the connection was lost and is there again, which is the same.
        listener.try_recv().await?;
    }
}
