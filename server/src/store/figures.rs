//! How everything stands, in figures. What rows say is the same at every replica.

use std::collections::BTreeMap;

use sqlx::Row as _;

use super::{Store, unsigned};
use crate::{error::Result, model::MeanEvaluation, round::Millis};

/// Counts by name.
pub type ByName = BTreeMap<String, u64>;

/// How everything stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// When, by the database's clock.
    pub now: Millis,
    /// Runs by state.
    pub runs: ByName,
    /// Rounds by state, of all runs.
    pub rounds: ByName,
    /// Updates by state, of all rounds.
    pub updates: ByName,
    /// Bytes of all updates that were accepted.
    pub accepted_bytes: u64,
    /// Runs that are open, of each site that is in one.
    pub runs_of_sites: ByName,
    /// The open round of each run that has one.
    pub open: Vec<OpenRound>,
    /// What sites say of the newest global model that one of them tried, of each open run, by the run's id.
    pub evaluated: Vec<(String, MeanEvaluation)>,
    /// Updates that wait to be aligned, or are being aligned.
    pub to_align: u64,
    /// When the one of them came that waits longest.
    pub to_align_since: Option<Millis>,
    /// When the round was closed for updates, or got the last of them, that waits longest to be merged.
    pub to_merge_since: Option<Millis>,
    /// Notices to webhooks by state.
    pub deliveries: ByName,
    /// Most tries that an alignment or a merge of an open round has taken.
    pub most_attempts: u64,
    /// Records of the audit log.
    pub log_records: u64,
    /// Connections to the database that this process has open.
    pub connections: u32,
    /// Those of them that nothing uses.
    pub idle_connections: u32,
}

/// An open round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRound {
    /// Its run.
    pub run_id: String,
    /// Its number.
    pub number: u32,
    /// Whether it takes updates still.
    pub collecting: bool,
    /// Updates that it holds.
    pub held: u64,
    /// Fewest that it may merge.
    pub quorum: u64,
    /// When collecting ends.
    pub deadline_at_ms: Millis,
}

impl Store {
    /// Counts.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn figures(&self) -> Result<Figures> {
        let row = sqlx::query(self.sql(
            "SELECT {now} AS now_ms,
               (SELECT size FROM audit_head WHERE id = 1) AS records,
               (SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM updates
                WHERE accepted_at_ms IS NOT NULL AND carried_from IS NULL) AS bytes",
        ))
        .fetch_one(&self.pool)
        .await?;
        let waiting = sqlx::query(
            "SELECT COUNT(*) AS waiting, MIN(u.accepted_at_ms) AS since FROM updates u
             JOIN rounds o ON o.run_id = u.run_id AND o.number = u.round
             JOIN runs r ON r.id = u.run_id
             WHERE u.state = 'accepted' AND o.state IN ('collecting', 'merging') AND r.strategy <> 'mean'
               AND o.reference_digest IS NOT NULL",
        )
        .fetch_one(&self.pool)
        .await?;
        let merging = sqlx::query(
            "SELECT MIN(since) AS since FROM (
               SELECT COALESCE(MAX(u.accepted_at_ms), o.opened_at_ms) AS since FROM rounds o
               LEFT JOIN updates u ON u.run_id = o.run_id AND u.round = o.number
               WHERE o.state = 'merging' GROUP BY o.run_id, o.number, o.opened_at_ms) AS merging",
        )
        .fetch_one(&self.pool)
        .await?;
        let spent = sqlx::query(
            "SELECT CAST(COALESCE(MAX(attempts), 0) AS BIGINT) AS most FROM (
               SELECT attempts FROM rounds WHERE state = 'merging'
               UNION ALL
               SELECT u.attempts FROM updates u JOIN rounds o ON o.run_id = u.run_id AND o.number = u.round
               WHERE u.state = 'accepted' AND o.state IN ('collecting', 'merging')) AS work",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Figures {
            now: row.try_get("now_ms")?,
            runs: self.counted("SELECT state AS name, COUNT(*) AS n FROM runs GROUP BY state").await?,
            rounds: self.counted("SELECT state AS name, COUNT(*) AS n FROM rounds GROUP BY state").await?,
            updates: self.counted("SELECT state AS name, COUNT(*) AS n FROM updates GROUP BY state").await?,
            accepted_bytes: unsigned(&row, "bytes")?,
            runs_of_sites: self.open_runs_of_sites().await?,
            open: self.open_rounds().await?,
            evaluated: self.newest_means().await?,
            to_align: unsigned(&waiting, "waiting")?,
            to_align_since: waiting.try_get("since")?,
            to_merge_since: merging.try_get("since")?,
            deliveries: self
                .counted("SELECT state AS name, COUNT(*) AS n FROM webhook_deliveries GROUP BY state")
                .await?,
            most_attempts: unsigned(&spent, "most")?,
            log_records: unsigned(&row, "records")?,
            connections: self.pool.size(),
            idle_connections: u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX),
        })
    }

    /// In how many open runs each site takes part.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn open_runs_of_sites(&self) -> Result<ByName> {
        self.counted(
            "SELECT s.site_id AS name, COUNT(*) AS n FROM run_sites s JOIN runs r ON r.id = s.run_id
             WHERE r.state = 'open' GROUP BY s.site_id",
        )
        .await
    }

    async fn counted(&self, query: &'static str) -> Result<ByName> {
        let rows = sqlx::query(query).fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok((row.try_get("name")?, unsigned(row, "n")?))).collect()
    }

    async fn open_rounds(&self) -> Result<Vec<OpenRound>> {
        let rows = sqlx::query(
            "SELECT o.run_id, o.number, o.state, o.quorum, o.deadline_at_ms,
               (SELECT COUNT(*) FROM updates u WHERE u.run_id = o.run_id AND u.round = o.number
                  AND u.state IN ('accepted', 'aligned')) AS held
             FROM rounds o WHERE o.state IN ('collecting', 'merging') ORDER BY o.run_id",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(OpenRound {
                    run_id: row.try_get("run_id")?,
                    number: unsigned(row, "number")?,
                    collecting: row.try_get::<String, _>("state")? == "collecting",
                    held: unsigned(row, "held")?,
                    quorum: unsigned(row, "quorum")?,
                    deadline_at_ms: row.try_get("deadline_at_ms")?,
                })
            })
            .collect()
    }
}
