//! What sites were told when their calls failed: the newest of each, for whoever helps them.

use sqlx::Row as _;

use super::{Store, signed, unsigned};
use crate::{
    error::Result,
    model::{Failed, FailedCall},
};

/// So many of a site are kept.
const MOST: i64 = 20;

impl Store {
    /// Adds what sites were told, each with how often; the oldest beyond what is kept go.
    ///
    /// # Errors
    /// Those of the database; then nothing is added.
    pub(crate) async fn note_failed_calls(&self, told: &[(Failed, u64)]) -> Result<()> {
        let mut tx = self.begin().await?;
        for (call, times) in told {
            sqlx::query(self.sql(
                "INSERT INTO failed_calls (site_id, rpc, code, message, first_at_ms, last_at_ms, times)
                 SELECT id, $2, $3, $4, {now}, {now}, $5 FROM sites WHERE id = $1
                 ON CONFLICT (site_id, rpc, code, message)
                 DO UPDATE SET last_at_ms = excluded.last_at_ms, times = failed_calls.times + excluded.times",
            ))
            .bind(&call.site)
            .bind(&call.rpc)
            .bind(&call.code)
            .bind(&call.message)
            .bind(signed(*times)?)
            .execute(&mut *tx)
            .await?;
        }
        let mut sites: Vec<&str> = told.iter().map(|(call, _)| call.site.as_str()).collect();
        sites.sort_unstable();
        sites.dedup();
        for site in sites {
            sqlx::query(
                "DELETE FROM failed_calls WHERE site_id = $1 AND last_at_ms <
                     (SELECT MIN(last_at_ms) FROM
                         (SELECT last_at_ms FROM failed_calls WHERE site_id = $1 ORDER BY last_at_ms DESC LIMIT $2) AS newest)",
            )
            .bind(site)
            .bind(MOST)
            .execute(&mut *tx)
            .await?;
        }
        self.commit_quietly(tx).await
    }

    /// What a site was told when its calls failed, the newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn failed_calls_of(&self, site: &str) -> Result<Vec<FailedCall>> {
        let rows = sqlx::query(
            "SELECT rpc, code, message, first_at_ms, last_at_ms, times FROM failed_calls WHERE site_id = $1
             ORDER BY last_at_ms DESC, rpc, code, message LIMIT $2",
        );
        let rows = rows.bind(site).bind(MOST).fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                Ok(FailedCall {
                    rpc: row.try_get("rpc")?,
                    code: row.try_get("code")?,
                    message: row.try_get("message")?,
                    first_at_ms: row.try_get("first_at_ms")?,
                    last_at_ms: row.try_get("last_at_ms")?,
                    times: unsigned(row, "times")?,
                })
            })
            .collect()
    }
}
