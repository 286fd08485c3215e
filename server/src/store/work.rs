//! Work is found in the rows: leases on rounds and updates, and the commits that end them.
//!
//! A lease is a token, an expiry by the database's clock, and a fence that grows with every lease. A result is
//! written in one transaction `WHERE fence = … AND state = …`: a worker that lost its lease meets no row.

use std::{collections::HashMap, time::Duration};

use rebasin::{AlignReport, Alignment, Digest};
use sqlx::{Row as _, any::AnyRow};

use super::{
    Store, StoredCheckpoint, document, one_row, parsed,
    staging::Sealed,
    to_json, unsigned,
    updates::{UPDATE_COLUMNS, update_from},
};
use crate::{
    error::{Code, Error, Result},
    model::{RoundRecord, Run, Update},
    round::{Event, MAX_ATTEMPTS},
};

/// A wait before the next try of what failed, so that a passing fault can pass.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// A timed exclusive right to one piece of work, and the proof of it that results are written with.
#[derive(Debug)]
pub struct Lease<T> {
    /// The work.
    pub work: T,
    token: String,
    fence: i64,
}

impl<T> Lease<T> {
    /// What [`Store::renew`] knows the lease by.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }
}

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

/// Merge one round.
#[derive(Debug)]
pub struct MergeWork {
    /// Its run.
    pub run: Run,
    /// Its number.
    pub round: u32,
    /// What its updates were aligned to, and whose integer tensors the merged model has.
    pub reference: Digest,
    /// Its updates, by site.
    pub inputs: Vec<MergeInput>,
}

/// One update of a round to merge.
#[derive(Debug)]
pub struct MergeInput {
    /// The update.
    pub update: Update,
    /// Its permutations; absent for a strategy that does not align.
    pub alignment: Option<Alignment>,
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
        let Some(row) = row else { return Ok(None) };
        self.commit_quietly(tx).await?;
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

    /// A lease with its work; one whose work cannot be read now is given back, one whose rows are broken counts as tried.
    async fn leased<T>(&self, token: String, row: &AnyRow, work: Result<T>) -> Result<Option<Lease<T>>> {
        match work {
            Ok(work) => Ok(Some(Lease { work, token, fence: fence(row)? })),
            Err(error) => {
                if error.code() == Code::Unavailable {
                    self.give_back(&token, RETRY_PAUSE).await?;
                }
                Err(error)
            }
        }
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
            return Ok(false);
        }
        self.commit(tx).await?;
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
        let Some(row) = row else { return Ok(false) };
        let attempts: u32 = unsigned(&row, "attempts")?;
        if attempts < MAX_ATTEMPTS {
            self.release_update(&mut tx, &update.id, lease.fence).await?;
            self.commit(tx).await?;
            return Ok(true);
        }
        let reason = format!("could not be aligned, tried {attempts} times; the last time: {reason}");
        self.withdraw(&mut tx, &before, &update.id, &reason).await?;
        self.commit(tx).await?;
        Ok(true)
    }

    /// Rejects an accepted update and takes it from its round, both locked.
    async fn withdraw(&self, tx: &mut super::Tx, before: &RoundRecord, id: &str, reason: &str) -> Result<()> {
        let result = sqlx::query(
            "UPDATE updates SET state = 'rejected', reason = $2, lease_token = NULL, lease_expires_at_ms = 0
             WHERE id = $1 AND state = 'accepted'",
        )
        .bind(id)
        .bind(reason)
        .execute(&mut **tx)
        .await?;
        one_row(&result, "rejecting an update that cannot be aligned")?;
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
    async fn replace_reference(&self, tx: &mut super::Tx, round: &RoundRecord) -> Result<()> {
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
            "UPDATE rounds SET reference_digest = $3 WHERE run_id = $1 AND number = $2 AND state = 'merging'",
        )
        .bind(&round.run_id)
        .bind(i64::from(round.round.number))
        .bind(next.to_string())
        .execute(&mut **tx)
        .await?;
        one_row(&result, "choosing another reference")?;
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
            }
        }
        Ok(())
    }

    /// Fails the rounds whose merging was begun as often as is allowed and never ended: it ended the process.
    async fn fail_spent(&self) -> Result<()> {
        let spent = sqlx::query(self.sql(
            "SELECT run_id, number FROM rounds
             WHERE state = 'merging' AND lease_expires_at_ms <= {now} AND attempts >= $1",
        ))
        .bind(i64::from(MAX_ATTEMPTS))
        .fetch_all(&self.pool)
        .await?;
        for row in spent {
            let run_id: String = row.try_get("run_id")?;
            let number: u32 = unsigned(&row, "number")?;
            let mut tx = self.begin().await?;
            self.lock_run(&mut tx, &run_id).await?;
            let before = self.lock_round(&mut tx, &run_id, number).await?;
            // Another process may have been here first.
            let still = sqlx::query(self.sql(
                "SELECT 1 FROM rounds WHERE run_id = $1 AND number = $2 AND state = 'merging'
                 AND lease_expires_at_ms <= {now}",
            ))
            .bind(&run_id)
            .bind(i64::from(number))
            .fetch_optional(&mut *tx)
            .await?;
            if still.is_some() {
                let reason = never_ended(before.round.attempts);
                tracing::error!(run.id = run_id, round.number = number, reason, "a round is given up");
                let now = self.now_in(&mut tx).await?;
                let after = before.round.clone().apply(Event::AttemptFailed { reason }, now)?;
                self.save_round(&mut tx, &before, &after, None).await?;
                self.commit(tx).await?;
            }
        }
        Ok(())
    }

    /// Gives a lease back without counting the try: it did not fail by itself. `pause` is how long nobody takes it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn give_back(&self, token: &str, pause: Duration) -> Result<()> {
        for statement in [
            "UPDATE rounds SET lease_token = NULL, lease_expires_at_ms = {now} + $2, attempts = attempts - 1
             WHERE lease_token = $1 AND state = 'merging'",
            "UPDATE updates SET lease_token = NULL, lease_expires_at_ms = {now} + $2, attempts = attempts - 1
             WHERE lease_token = $1 AND state = 'accepted'",
        ] {
            sqlx::query(self.sql(statement)).bind(token).bind(millis(pause)).execute(&self.pool).await?;
        }
        Ok(())
    }

    async fn release_update(&self, tx: &mut super::Tx, id: &str, fence: i64) -> Result<()> {
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

    /// Leases a merging round all of whose updates are aligned (where the strategy aligns), if there is one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lease_merge(&self, length: Duration) -> Result<Option<Lease<MergeWork>>> {
        self.fail_spent().await?;
        let mut tx = self.begin().await?;
        let token = uuid::Uuid::now_v7().to_string();
        let row = sqlx::query(self.sql(
            "WITH due AS (
               SELECT o.run_id, o.number FROM rounds o JOIN runs r ON r.id = o.run_id
               WHERE o.state = 'merging' AND o.lease_expires_at_ms <= {now} AND o.reference_digest IS NOT NULL
                 AND o.attempts < $3 AND (r.strategy = 'mean' OR NOT EXISTS (
                   SELECT 1 FROM updates u WHERE u.run_id = o.run_id AND u.round = o.number AND u.state = 'accepted'))
               ORDER BY o.deadline_at_ms, o.run_id LIMIT 1 {skip_locked_o})
             UPDATE rounds SET lease_token = $1, lease_expires_at_ms = {now} + $2, fence = fence + 1,
                    attempts = attempts + 1
             WHERE (run_id, number) IN (SELECT run_id, number FROM due)
             RETURNING run_id, number, fence, reference_digest",
        ))
        .bind(&token)
        .bind(millis(length))
        .bind(i64::from(MAX_ATTEMPTS))
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        self.commit_quietly(tx).await?;
        let work = self.merge_work(&row).await;
        self.leased(token, &row, work).await
    }

    async fn merge_work(&self, row: &AnyRow) -> Result<MergeWork> {
        let run_id: String = row.try_get("run_id")?;
        let round: u32 = unsigned(row, "number")?;
        let run = self.run(&run_id).await?.ok_or_else(|| Error::internal("a round without a run"))?;
        let inputs = self.merge_inputs(&run_id, round).await?;
        Ok(MergeWork { run, round, reference: parsed(row, "reference_digest")?, inputs })
    }

    async fn merge_inputs(&self, run_id: &str, round: u32) -> Result<Vec<MergeInput>> {
        let rows = sqlx::query("SELECT id, alignment FROM updates WHERE run_id = $1 AND round = $2")
            .bind(run_id)
            .bind(i64::from(round))
            .fetch_all(&self.pool)
            .await?;
        let mut alignments = HashMap::new();
        for row in &rows {
            alignments.insert(row.try_get::<String, _>("id")?, document(row, "alignment")?);
        }
        let updates = self.updates_that_count(run_id, round).await?.into_iter();
        let held = updates.filter(|update| update.state.accepted_at_ms().is_some());
        Ok(held
            .map(|update| MergeInput { alignment: alignments.remove(&update.id).flatten(), update })
            .collect())
    }

    /// Keeps a lease for another `length`; tells whether it was still held.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn renew(&self, token: &str, length: Duration) -> Result<bool> {
        let mut renewed = 0;
        for statement in [
            "UPDATE rounds SET lease_expires_at_ms = {now} + $2 WHERE lease_token = $1",
            "UPDATE updates SET lease_expires_at_ms = {now} + $2 WHERE lease_token = $1",
        ] {
            let result =
                sqlx::query(self.sql(statement)).bind(token).bind(millis(length)).execute(&self.pool).await?;
            renewed += result.rows_affected();
        }
        Ok(renewed == 1)
    }

    /// Publishes a merged model: its bytes are stored, then one transaction records the model, refined alignments
    /// (if any), the round and the run. Nothing if the lease was lost: no row is written then.
    ///
    /// # Errors
    /// Those of the database and the object store.
    pub async fn finish_merge(
        &self,
        lease: &Lease<MergeWork>,
        model: &Sealed,
        refined: &[(String, Alignment, AlignReport)],
    ) -> Result<Option<Digest>> {
        self.put_object(model).await?;
        let stored =
            StoredCheckpoint { digest: model.digest, size: model.size, layout: model.layout.clone() };
        let mut tx = self.begin().await?;
        self.lock_run(&mut tx, &lease.work.run.id).await?;
        let before = self.lock_round(&mut tx, &lease.work.run.id, lease.work.round).await?;
        if !self.release_round(&mut tx, lease).await? {
            return Ok(None);
        }
        self.insert_checkpoint(&mut tx, &stored).await?;
        for (update_id, alignment, report) in refined {
            let result = sqlx::query(
                "UPDATE updates SET alignment = $2, report = $3 WHERE id = $1 AND state = 'aligned'",
            )
            .bind(update_id)
            .bind(to_json(alignment)?)
            .bind(to_json(report)?)
            .execute(&mut *tx)
            .await?;
            one_row(&result, "refining an alignment")?;
        }
        let now = self.now_in(&mut tx).await?;
        let after = before.round.clone().apply(Event::Merged { global: stored.digest }, now)?;
        self.save_round(&mut tx, &before, &after, None).await?;
        self.commit(tx).await?;
        Ok(Some(stored.digest))
    }

    /// Records that merging failed: it is tried again, or the round fails once the attempts are spent. False if the
    /// lease was lost: nothing is written then.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn fail_merge(&self, lease: &Lease<MergeWork>, reason: &str) -> Result<bool> {
        let mut tx = self.begin().await?;
        self.lock_run(&mut tx, &lease.work.run.id).await?;
        let before = self.lock_round(&mut tx, &lease.work.run.id, lease.work.round).await?;
        if !self.release_round(&mut tx, lease).await? {
            return Ok(false);
        }
        let now = self.now_in(&mut tx).await?;
        let after = before.round.clone().apply(Event::AttemptFailed { reason: reason.to_owned() }, now)?;
        self.save_round(&mut tx, &before, &after, None).await?;
        self.commit(tx).await?;
        Ok(true)
    }

    /// Ends a merge's lease if it still is the newest one and the round still merges; tells whether it was.
    async fn release_round(&self, tx: &mut super::Tx, lease: &Lease<MergeWork>) -> Result<bool> {
        let result = sqlx::query(self.sql(
            "UPDATE rounds SET lease_token = NULL, lease_expires_at_ms = {now} + $5
             WHERE run_id = $1 AND number = $2 AND fence = $3 AND lease_token = $4 AND state = 'merging'",
        ))
        .bind(&lease.work.run.id)
        .bind(i64::from(lease.work.round))
        .bind(lease.fence)
        .bind(&lease.token)
        .bind(millis(RETRY_PAUSE))
        .execute(&mut **tx)
        .await?;
        Ok(result.rows_affected() == 1)
    }

    async fn update_row(&self, id: &str) -> Result<Update> {
        let query = format!("{UPDATE_COLUMNS} WHERE u.id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(query)).bind(id).fetch_one(&self.pool).await?;
        update_from(&row)
    }
}

/// Why work that was begun too often is given up. What ended the process it cannot say.
fn never_ended(attempts: u32) -> String {
    format!(
        "it was begun {attempts} times and never ended; the server was killed or ran out of memory meanwhile, \
         see its log"
    )
}

fn millis(length: Duration) -> i64 {
    i64::try_from(length.as_millis()).unwrap_or(i64::MAX)
}

fn fence(row: &AnyRow) -> Result<i64> {
    Ok(row.try_get("fence")?)
}
