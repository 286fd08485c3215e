//! What runs keep no longer: global models and updates beyond what a run's policy asks for, and naive means that were to be tried. Their rows stay, with digests,
//! receipts and alignments; their bytes go, unless somebody else needs them.

use std::collections::BTreeMap;

use fedbasin_proof::Record;
use sqlx::Row as _;

use super::{Actor, Dialect, Store, Tx, document, parsed, unsigned};
use crate::{
    error::Result,
    model::{DAY_MS, Metrics},
    round::{Goal, KeepBest, Policy},
};

/// Whether a person marked the checkpoint, tagged or promoted it: then it is kept. What its site took back is not, whatever it is marked.
macro_rules! marked {
    ($digest:literal) => {
        concat!(
            "((EXISTS (SELECT 1 FROM model_tags t WHERE t.digest = ",
            $digest,
            ")
               OR EXISTS (SELECT 1 FROM runs p WHERE p.promoted_digest = ",
            $digest,
            "))
              AND NOT EXISTS (SELECT 1 FROM updates w WHERE w.digest = ",
            $digest,
            " AND w.withdrawn_at_ms IS NOT NULL))"
        )
    };
}

/// Whether nobody needs the checkpoint `c` any more. Who only announced the same bytes does not: all may announce what they like, and who finds
/// them gone when they were to be taken stores them anew.
macro_rules! not_needed {
    () => {
        concat!("NOT ", marked!("c.digest"), "
         AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.seed_digest = c.digest OR r.global_digest = c.digest)
         AND NOT EXISTS (SELECT 1 FROM rounds o WHERE o.global_digest = c.digest AND o.model_retired_at_ms IS NULL)
         AND NOT EXISTS (SELECT 1 FROM rounds o WHERE o.naive_digest = c.digest AND o.naive_retired_at_ms IS NULL)
         AND NOT EXISTS (SELECT 1 FROM rounds o WHERE o.reference_digest = c.digest
                           AND o.state IN ('collecting', 'merging'))
         AND NOT EXISTS (SELECT 1 FROM updates u WHERE u.digest = c.digest AND u.retired_at_ms IS NULL
                           AND u.state IN ('accepted', 'aligned'))")
    };
}

impl Store {
    /// Lets go of what the policies of all runs keep no longer, and of what a killed process did not come to remove.
    ///
    /// # Errors
    /// Those of the database and the object store.
    pub async fn retire(&self) -> Result<()> {
        let rows = sqlx::query(
            "SELECT id, policy FROM runs WHERE policy LIKE '%\"keep_%' OR policy LIKE '%\"evaluate_naive\":true%' ORDER BY id",
        )
        .fetch_all(&self.pool);
        for row in rows.await? {
            if let Some(policy) = document::<Policy>(&row, "policy")? {
                self.retire_run(&row.try_get::<String, _>("id")?, &policy).await?;
            }
        }
        // Whoever took an update back may have been ended before its bytes were erased.
        let rows = sqlx::query(
            "SELECT DISTINCT u.run_id FROM updates u JOIN checkpoints c ON c.digest = u.digest
             WHERE u.withdrawn_at_ms IS NOT NULL AND c.removed_at_ms IS NULL",
        )
        .fetch_all(&self.pool);
        for row in rows.await? {
            self.erase_retired(&row.try_get::<String, _>("run_id")?).await?;
        }
        self.remove_bytes().await
    }

    /// The same of one run. What another run needs stays.
    ///
    /// # Errors
    /// Those of the database and the object store.
    pub async fn retire_run(&self, run_id: &str, policy: &Policy) -> Result<()> {
        if !policy.lets_go() {
            return Ok(());
        }
        self.retire_rows(run_id, policy).await?;
        failpoint!("retire.marked");
        self.erase_retired(run_id).await
    }

    /// Erases what a run retired, where nobody needs it.
    ///
    /// # Errors
    /// Those of the database and the object store.
    pub(super) async fn erase_retired(&self, run_id: &str) -> Result<()> {
        if self.remove_rows(run_id).await? > 0 {
            self.remove_bytes().await?;
        }
        Ok(())
    }

    /// Marks the models and the updates that a run keeps no longer.
    async fn retire_rows(&self, run_id: &str, policy: &Policy) -> Result<()> {
        let mut tx = self.begin().await?;
        // No round is published meanwhile.
        let run = self.lock_run(&mut tx, run_id).await?;
        if let Some(newest) = policy.keep_models {
            let best = match &policy.keep_best {
                Some(best) => self.best_by_metric(&mut tx, run_id, best).await?,
                None => None,
            };
            let rows = sqlx::query(self.sql(concat!(
                "UPDATE rounds SET model_retired_at_ms = {now}
                 WHERE run_id = $1 AND state = 'published' AND model_retired_at_ms IS NULL AND number <> $3
                   AND NOT ",
                marked!("rounds.global_digest"),
                "
                   AND number NOT IN (SELECT number FROM rounds WHERE run_id = $1 AND state = 'published'
                                      ORDER BY number DESC LIMIT $2)
                 RETURNING number, global_digest"
            )))
            .bind(run_id)
            .bind(i64::from(newest))
            .bind(best.map_or(0, i64::from))
            .fetch_all(&mut *tx)
            .await?;
            for row in rows {
                let record = Record::of("model.retired").round(run_id, unsigned(&row, "number")?);
                tx.record(record.digests(row.try_get("global_digest")?, None));
            }
        }
        if policy.evaluate_naive {
            self.retire_naive(&mut tx, run_id, run.state != "open").await?;
        }
        if let Some(newest) = policy.keep_updates {
            let rows = sqlx::query(self.sql(
                "UPDATE updates SET retired_at_ms = {now}
                 WHERE run_id = $1 AND retired_at_ms IS NULL AND state <> 'receiving'
                   AND round IN (SELECT number FROM rounds
                                 WHERE run_id = $1 AND state IN ('published', 'failed', 'cancelled'))
                   AND round NOT IN (SELECT number FROM rounds
                                     WHERE run_id = $1 AND state IN ('published', 'failed', 'cancelled')
                                     ORDER BY number DESC LIMIT $2)
                 RETURNING id, round, site_id, digest",
            ))
            .bind(run_id)
            .bind(i64::from(newest))
            .fetch_all(&mut *tx)
            .await?;
            for row in rows {
                let (id, site): (String, String) = (row.try_get("id")?, row.try_get("site_id")?);
                let record = Record::of("update.retired").round(run_id, unsigned(&row, "round")?).site(&site);
                tx.record(record.object(&id).digests(row.try_get("digest")?, None));
            }
        }
        self.commit_quietly(tx).await
    }

    /// Marks the naive means of a run that are no longer there to be tried: all but that of the newest published round, and that too, a day
    /// after it was published, if the run is over.
    async fn retire_naive(&self, tx: &mut Tx, run_id: &str, is_over: bool) -> Result<()> {
        let rows = sqlx::query(self.sql(
            "UPDATE rounds SET naive_retired_at_ms = {now}
             WHERE run_id = $1 AND naive_digest IS NOT NULL AND naive_retired_at_ms IS NULL
               AND (($2 = 1 AND closed_at_ms < {now} - $3)
                 OR number <> (SELECT MAX(o.number) FROM rounds o WHERE o.run_id = $1 AND o.state = 'published'))
             RETURNING number, naive_digest",
        ))
        .bind(run_id)
        .bind(i64::from(is_over))
        .bind(DAY_MS)
        .fetch_all(&mut **tx)
        .await?;
        for row in rows {
            let record = Record::of("naive-mean.retired").round(run_id, unsigned(&row, "number")?);
            tx.record(record.digests(row.try_get("naive_digest")?, None));
        }
        Ok(())
    }

    /// Of the rounds whose models are kept: the one whose sites reported the best figure, by their number of examples; the earliest
    /// among equals.
    async fn best_by_metric(&self, tx: &mut Tx, run_id: &str, best: &KeepBest) -> Result<Option<u32>> {
        let rows = sqlx::query(
            "SELECT u.round, u.metrics, u.num_examples FROM updates u
             JOIN rounds o ON o.run_id = u.run_id AND o.number = u.round
             WHERE u.run_id = $1 AND u.state IN ('accepted', 'aligned') AND o.state = 'published'
               AND o.model_retired_at_ms IS NULL",
        )
        .bind(run_id)
        .fetch_all(&mut **tx)
        .await?;
        let mut sums: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        for row in &rows {
            let metrics: Metrics = document(row, "metrics")?.unwrap_or_default();
            let Some(value) = metrics.get(&best.metric).filter(|value| value.is_finite()) else { continue };
            #[expect(clippy::cast_precision_loss, reason = "at most 10^12 examples a site: exact in an f64")]
            let weight = unsigned::<u64>(row, "num_examples")? as f64;
            let sum = sums.entry(unsigned(row, "round")?).or_default();
            *sum = (sum.0 + weight * value, sum.1 + weight);
        }
        let means = sums.into_iter().map(|(round, (sum, weight))| (round, sum / weight));
        let better = |new: f64, old: f64| match best.goal {
            Goal::Lowest => new < old,
            Goal::Highest => new > old,
        };
        let found = means.fold(None, |found: Option<(u32, f64)>, (round, mean)| match found {
            Some((_, old)) if !better(mean, old) => found,
            _ => Some((round, mean)),
        });
        Ok(found.map(|(round, _)| round))
    }

    /// Records of what a run retired, and nobody needs, that it is removed: its key is destroyed with that. Gives how many checkpoints that are.
    async fn remove_rows(&self, run_id: &str) -> Result<u64> {
        let rows = sqlx::query(concat!(
            "SELECT c.digest FROM checkpoints c WHERE c.removed_at_ms IS NULL
               AND (c.digest IN (SELECT global_digest FROM rounds WHERE run_id = $1 AND model_retired_at_ms IS NOT NULL)
                 OR c.digest IN (SELECT naive_digest FROM rounds WHERE run_id = $1 AND naive_retired_at_ms IS NOT NULL)
                 OR c.digest IN (SELECT digest FROM updates WHERE run_id = $1 AND retired_at_ms IS NOT NULL))
               AND ",
            not_needed!(),
            " ORDER BY c.digest"
        ))
        .bind(run_id)
        .fetch_all(&self.pool)
        .await?;
        let mut removed = 0;
        for row in &rows {
            let digest: rebasin::Digest = parsed(row, "digest")?;
            let mut tx = self.begin().await?;
            // Whoever comes to need it holds this row: once it is ours, what they committed is seen.
            self.hold_checkpoint(&mut tx, &digest).await?;
            let done = sqlx::query(self.sql(concat!(
                "UPDATE checkpoints SET removed_at_ms = {now}, object = COALESCE(object, digest), wrapped_key = NULL
                 WHERE digest IN (
                   SELECT c.digest FROM checkpoints c WHERE c.digest = $1 AND c.removed_at_ms IS NULL AND ",
                not_needed!(),
                ")"
            )))
            .bind(digest.to_string())
            .execute(&mut *tx)
            .await?;
            self.commit_quietly(tx).await?;
            removed += done.rows_affected();
        }
        failpoint!("retire.recorded");
        Ok(removed)
    }

    /// Removes the bytes of what is recorded as removed. No other bytes ever have their names.
    async fn remove_bytes(&self) -> Result<()> {
        // Whoever looks removes what all runs retired: it is the server's doing.
        let server = self.acting_as(Actor::server());
        let rows = sqlx::query(
            "SELECT digest, object FROM checkpoints WHERE removed_at_ms IS NOT NULL AND object IS NOT NULL",
        )
        .fetch_all(&self.pool)
        .await?;
        for row in &rows {
            let (digest, object): (String, String) = (row.try_get("digest")?, row.try_get("object")?);
            self.remove_object(&object).await?;
            failpoint!("retire.removed");
            let query =
                "UPDATE checkpoints SET object = NULL WHERE object = $1 AND removed_at_ms IS NOT NULL";
            let mut tx = server.begin().await?;
            let erased = sqlx::query(query).bind(&object).execute(&mut *tx).await?;
            if erased.rows_affected() > 0 {
                // By its name whoever has the log finds out whether the bytes were put back.
                let record = Record::of("checkpoint.erased").object(&digest);
                tx.record(record.digests(Some(digest.clone()), None).detail("name", object.clone()));
            }
            server.commit_quietly(tx).await?;
            tracing::info!(checkpoint.digest = digest, "a checkpoint's bytes are kept no longer");
        }
        if !rows.is_empty() && self.dialect == Dialect::Sqlite {
            // Its key goes from the file, and from the log beside it; where somebody reads, the next time.
            sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&self.pool).await?;
        }
        Ok(())
    }
}
