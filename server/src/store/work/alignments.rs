//! Leases on updates to align.

use std::time::Duration;

use fedbasin_proof::Record;
use rebasin::{AlignReport, Alignment, Digest};
use sqlx::{Row as _, any::AnyRow};

use super::{
    super::{
        Store, Tx, one_row, to_json, unsigned,
        updates::{UPDATE_COLUMNS, of_update, update_from},
    },
    Lease, RETRY_PAUSE, millis, never_ended,
};
use crate::{
    error::{Error, Result},
    model::{RoundRecord, Run, Update},
    round::{Event, MAX_ATTEMPTS},
};

/// Align one update.
#[derive(Debug)]
pub struct AlignWork {
    /// Its run.
    pub run: Run,
    /// The update.
    pub update: Update,
    /// What to align it to.
    pub reference: Digest,
}

impl Store {
    /// Leases an accepted update whose reference is known and that is not aligned yet, if there is one. An update that
    /// is its round's reference comes first, alone: one that cannot even be aligned to itself must not cost the others.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lease_alignment(&self, length: Duration) -> Result<Option<Lease<AlignWork>>> {
        self.reject_spent().await?;
        let mut tx = self.begin().await?;
        let token = uuid::Uuid::now_v7().to_string();
        let row = sqlx::query(self.sql(
            "WITH due AS (
               SELECT u.id FROM updates u
               JOIN rounds o ON o.run_id = u.run_id AND o.number = u.round
               JOIN runs r ON r.id = u.run_id
               WHERE u.state = 'accepted' AND u.lease_expires_at_ms <= {now} AND o.reference_digest IS NOT NULL
                 AND o.state IN ('collecting', 'merging') AND r.strategy <> 'mean' AND u.attempts < $3
                 AND (u.digest = o.reference_digest OR NOT EXISTS (
                   SELECT 1 FROM updates f WHERE f.run_id = u.run_id AND f.round = u.round AND f.state = 'accepted'
                     AND f.digest = o.reference_digest))
               ORDER BY u.accepted_at_ms, u.id LIMIT 1 {skip_locked_u})
             UPDATE updates SET lease_token = $1, lease_expires_at_ms = {now} + $2, fence = fence + 1,
                    attempts = attempts + 1
             WHERE id IN (SELECT id FROM due) RETURNING id, fence, run_id, round",
        ))
        .bind(&token)
        .bind(millis(length))
        .bind(i64::from(MAX_ATTEMPTS))
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else {
            tx.rollback().await?;
            return Ok(None);
        };
        failpoint!("align.leased");
        self.commit_quietly(tx).await?;
        failpoint!("align.begun");
        let work = self.align_work(&row).await;
        self.leased(token, &row, work).await
    }

    async fn align_work(&self, row: &AnyRow) -> Result<AlignWork> {
        let (id, run_id): (String, String) = (row.try_get("id")?, row.try_get("run_id")?);
        let round = self.round(&run_id, unsigned(row, "round")?).await?;
        let run = self.run(&run_id).await?.ok_or_else(|| Error::internal("an update without a run"))?;
        let reference = round
            .and_then(|record| record.reference)
            .ok_or_else(|| Error::internal("an update to align without a reference"))?;
        Ok(AlignWork { run, update: self.update_row(&id).await?, reference })
    }

    /// Writes an update's alignment and releases its lease. False if the lease was lost: nothing is written then.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn finish_alignment(
        &self,
        lease: &Lease<AlignWork>,
        alignment: &Alignment,
        report: &AlignReport,
    ) -> Result<bool> {
        failpoint!("align.computed");
        let mut tx = self.begin().await?;
        let result = sqlx::query(
            "UPDATE updates SET state = 'aligned', alignment = $3, report = $4, lease_token = NULL,
                    lease_expires_at_ms = 0
             WHERE id = $1 AND fence = $2 AND state = 'accepted'",
        )
        .bind(&lease.work.update.id)
        .bind(lease.fence)
        .bind(to_json(alignment)?)
        .bind(to_json(report)?)
        .execute(&mut *tx)
        .await?;
        if result.rows_affected() == 0 {
            tx.rollback().await?;
            return Ok(false);
        }
        tx.record(
            of_update("update.aligned", &lease.work.update)
                .digests(Some(lease.work.reference.to_string()), Some(lease.work.update.digest.to_string()))
                .detail("moved", report.moved),
        );
        failpoint!("align.written");
        self.commit(tx).await?;
        failpoint!("align.committed");
        Ok(true)
    }

    /// Records that aligning failed: the update is tried again, or withdrawn from its round once the attempts are
    /// spent, which may cost the round its quorum. False if the lease was lost: nothing is written then.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn fail_alignment(&self, lease: &Lease<AlignWork>, reason: &str) -> Result<bool> {
        let update = &lease.work.update;
        let mut tx = self.begin().await?;
        self.lock_run(&mut tx, &update.run_id).await?;
        let before = self.lock_round(&mut tx, &update.run_id, update.round).await?;
        let row =
            sqlx::query("SELECT attempts FROM updates WHERE id = $1 AND fence = $2 AND state = 'accepted'")
                .bind(&update.id)
                .bind(lease.fence)
                .fetch_optional(&mut *tx)
                .await?;
        let Some(row) = row else {
            tx.rollback().await?;
            return Ok(false);
        };
        let attempts: u32 = unsigned(&row, "attempts")?;
        if attempts < MAX_ATTEMPTS {
            self.release_update(&mut tx, &update.id, lease.fence).await?;
            tx.record(of_update("update.attempt-failed", update).because(reason));
            self.commit(tx).await?;
            return Ok(true);
        }
        let reason = format!("could not be aligned, tried {attempts} times; the last time: {reason}");
        self.withdraw(&mut tx, &before, &update.id, &reason).await?;
        self.commit(tx).await?;
        Ok(true)
    }

    /// Rejects an accepted update and takes it from its round, both locked.
    async fn withdraw(&self, tx: &mut Tx, before: &RoundRecord, id: &str, reason: &str) -> Result<()> {
        let row = sqlx::query(
            "UPDATE updates SET state = 'rejected', reason = $2, lease_token = NULL, lease_expires_at_ms = 0
             WHERE id = $1 AND state = 'accepted' RETURNING site_id, digest",
        )
        .bind(id)
        .bind(reason)
        .fetch_optional(&mut **tx)
        .await?;
        let row =
            row.ok_or_else(|| Error::internal("rejecting an update that cannot be aligned: it is gone"))?;
        let (site, digest): (String, String) = (row.try_get("site_id")?, row.try_get("digest")?);
        let record = Record::of("update.rejected").round(&before.run_id, before.round.number).site(&site);
        tx.record(record.object(id).digests(None, Some(digest)).because(reason));
        let now = self.now_in(tx).await?;
        let after = before.round.clone().apply(Event::UpdateWithdrawn, now)?;
        if after.state != before.round.state {
            self.save_round(tx, before, &after, None).await?;
        } else {
            self.replace_reference(tx, before).await?;
        }
        Ok(())
    }

    /// Chooses a founding round's reference anew where no update holds it any more; all others are then aligned again.
    pub(in crate::store) async fn replace_reference(&self, tx: &mut Tx, round: &RoundRecord) -> Result<()> {
        let Some(reference) = round.reference else { return Ok(()) };
        // Of no checkpoint that was there before, and of no update that is held.
        let replaceable = sqlx::query(
            "SELECT 1 FROM runs r WHERE r.id = $1 AND r.seed_digest IS NULL AND r.global_digest IS NULL
               AND NOT EXISTS (SELECT 1 FROM updates u WHERE u.run_id = $1 AND u.round = $2 AND u.digest = $3
                 AND u.state IN ('accepted', 'aligned'))",
        )
        .bind(&round.run_id)
        .bind(i64::from(round.round.number))
        .bind(reference.to_string())
        .fetch_optional(&mut **tx)
        .await?;
        if replaceable.is_none() {
            return Ok(());
        }
        let Some(next) = self.largest_update(tx, &round.run_id, round.round.number).await? else {
            return Ok(());
        };
        let result = sqlx::query(
            "UPDATE rounds SET reference_digest = $3 WHERE run_id = $1 AND number = $2 AND state IN ('collecting', 'merging')",
        )
        .bind(&round.run_id)
        .bind(i64::from(round.round.number))
        .bind(next.to_string())
        .execute(&mut **tx)
        .await?;
        one_row(&result, "choosing another reference")?;
        tx.record(
            Record::of("round.reference-replaced")
                .round(&round.run_id, round.round.number)
                .digests(Some(reference.to_string()), Some(next.to_string())),
        );
        // The fence grows: who still aligns to the old reference must not commit that.
        sqlx::query(
            "UPDATE updates SET state = 'accepted', alignment = NULL, report = NULL, lease_token = NULL,
                    lease_expires_at_ms = 0, fence = fence + 1, attempts = 0
             WHERE run_id = $1 AND round = $2 AND state IN ('accepted', 'aligned')",
        )
        .bind(&round.run_id)
        .bind(i64::from(round.round.number))
        .execute(&mut **tx)
        .await?;
        tracing::warn!(
            run.id = round.run_id,
            round.number = round.round.number,
            reference.digest = %next,
            "the reference was withdrawn; another update takes its place"
        );
        Ok(())
    }

    /// Rejects the updates whose aligning was begun as often as is allowed and never ended: it ended the process.
    async fn reject_spent(&self) -> Result<()> {
        let spent = sqlx::query(self.sql(
            "SELECT u.id, u.run_id, u.round FROM updates u
             JOIN rounds o ON o.run_id = u.run_id AND o.number = u.round
             WHERE u.state = 'accepted' AND u.lease_expires_at_ms <= {now} AND u.attempts >= $1
               AND o.state IN ('collecting', 'merging')",
        ))
        .bind(i64::from(MAX_ATTEMPTS))
        .fetch_all(&self.pool)
        .await?;
        for row in spent {
            let (id, run_id): (String, String) = (row.try_get("id")?, row.try_get("run_id")?);
            let mut tx = self.begin().await?;
            self.lock_run(&mut tx, &run_id).await?;
            let before = self.lock_round(&mut tx, &run_id, unsigned(&row, "round")?).await?;
            // Another process may have been here first.
            let still = sqlx::query(self.sql(
                "SELECT 1 FROM updates WHERE id = $1 AND state = 'accepted' AND lease_expires_at_ms <= {now}",
            ))
            .bind(&id)
            .fetch_optional(&mut *tx)
            .await?;
            if still.is_some() && !before.round.state.is_terminal() {
                let reason = format!("could not be aligned: {}", never_ended(MAX_ATTEMPTS));
                tracing::error!(run.id = run_id, update.id = id, reason, "an update is given up");
                self.withdraw(&mut tx, &before, &id, &reason).await?;
                self.commit(tx).await?;
            } else {
                tx.rollback().await?;
            }
        }
        Ok(())
    }

    async fn release_update(&self, tx: &mut Tx, id: &str, fence: i64) -> Result<()> {
        let result = sqlx::query(self.sql(
            "UPDATE updates SET lease_token = NULL, lease_expires_at_ms = {now} + $3 WHERE id = $1 AND fence = $2",
        ))
        .bind(id)
        .bind(fence)
        .bind(millis(RETRY_PAUSE))
        .execute(&mut **tx)
        .await?;
        one_row(&result, "releasing an update")
    }

    async fn update_row(&self, id: &str) -> Result<Update> {
        let query = format!("{UPDATE_COLUMNS} WHERE u.id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(query)).bind(id).fetch_one(&self.pool).await?;
        update_from(&row)
    }
}
