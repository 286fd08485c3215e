//! Leases on rounds to merge.

use std::{sync::Arc, time::Duration};

use fedbasin_proof::Record;
use futures::TryStreamExt as _;
use rebasin::{AlignReport, Alignment, Digest, ScaleReport};
use sqlx::{Row as _, any::AnyRow};

use super::{
    super::{Store, Tx, audit::listed, document, one_row, parsed, staging::Sealed, to_json, unsigned},
    Lease, RETRY_PAUSE, millis, never_ended,
};
use crate::{
    error::{Error, Result},
    model::Run,
    round::{Event, Judged, MAX_ATTEMPTS},
};

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
    /// The update's id.
    pub update_id: String,
    /// Who sent it.
    pub site_id: String,
    /// Its checkpoint.
    pub digest: Digest,
    /// How many examples it was trained on.
    pub num_examples: u64,
    /// Its permutations, which are held once however many look at them; absent where nothing moves.
    pub alignment: Option<Arc<Alignment>>,
    /// What that did to it; absent where the strategy does not align.
    pub aligned: Option<Aligned>,
}

/// What of an alignment's report the model's signature tells.
#[derive(Debug, Clone, Copy, PartialEq, serde::Deserialize)]
pub struct Aligned {
    /// Fraction of units that moved, 0 to 1.
    pub moved: f64,
    /// Euclidean distance to the reference over the averaged tensors, before.
    pub l2_before: f64,
    /// The same after.
    pub l2_after: f64,
    /// Whether it was proved that nothing needed to move.
    pub identity_certified: bool,
    /// How its units were scaled, where the spec tells scales.
    #[serde(default)]
    pub scale: Option<ScaleReport>,
}

impl From<&AlignReport> for Aligned {
    fn from(report: &AlignReport) -> Self {
        let AlignReport { moved, l2_before, l2_after, identity_certified, scale, .. } = *report;
        Self { moved, l2_before, l2_after, identity_certified, scale }
    }
}

/// The round to merge next; `$1` is how often that may be tried.
macro_rules! due_round {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            "SELECT o.run_id, o.number FROM rounds o JOIN runs r ON r.id = o.run_id
             WHERE o.state = 'merging' AND o.lease_expires_at_ms <= {now} AND o.reference_digest IS NOT NULL
               AND o.attempts < $1 AND (r.strategy = 'mean' OR NOT EXISTS (
                 SELECT 1 FROM updates u WHERE u.run_id = o.run_id AND u.round = o.number AND u.state = 'accepted'))
             ORDER BY o.deadline_at_ms, o.run_id LIMIT 1 ",
            $after
        )
    };
}

impl Store {
    /// Whether a round waits to be merged. [`Store::lease_merge`] skips one that another transaction only looks at: whoever
    /// found nothing there asks here before a rest.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn merge_is_due(&self) -> Result<bool> {
        let row = sqlx::query(self.sql(due_round!("", "")))
            .bind(i64::from(MAX_ATTEMPTS))
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.is_some())
    }

    /// Leases a merging round all of whose updates are aligned (where the strategy aligns), if there is one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lease_merge(&self, length: Duration) -> Result<Option<Lease<MergeWork>>> {
        self.fail_spent().await?;
        let mut tx = self.begin().await?;
        let token = uuid::Uuid::now_v7().to_string();
        let row = sqlx::query(self.sql(due_round!(
            "WITH due AS (",
            "{skip_locked_o})
             UPDATE rounds SET lease_token = $2, lease_expires_at_ms = {now} + $3, fence = fence + 1,
                    attempts = attempts + 1
             WHERE (run_id, number) IN (SELECT run_id, number FROM due)
             RETURNING run_id, number, fence, reference_digest"
        )))
        .bind(i64::from(MAX_ATTEMPTS))
        .bind(&token)
        .bind(millis(length))
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else {
            tx.rollback().await?;
            return Ok(None);
        };
        failpoint!("merge.leased");
        self.commit_quietly(tx).await?;
        failpoint!("merge.begun");
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
        let mut rows = sqlx::query(
            "SELECT id, site_id, digest, num_examples, alignment, report FROM updates
             WHERE run_id = $1 AND round = $2 AND state IN ('accepted', 'aligned') ORDER BY site_id",
        )
        .bind(run_id)
        .bind(i64::from(round))
        .fetch(&self.pool);
        let mut inputs = Vec::new();
        // One text at a time is held: they are much larger than what they say.
        while let Some(row) = rows.try_next().await? {
            let alignment: Option<Alignment> = document(&row, "alignment")?;
            inputs.push(MergeInput {
                update_id: row.try_get("id")?,
                site_id: row.try_get("site_id")?,
                digest: parsed(&row, "digest")?,
                num_examples: unsigned(&row, "num_examples")?,
                // Most sites started from the reference: those cost nothing, however many they are.
                alignment: alignment.filter(|alignment| !alignment.is_identity()).map(Arc::new),
                aligned: document(&row, "report")?,
            });
        }
        Ok(inputs)
    }

    /// Publishes a merged model, and keeps the `naive` mean beside it, if there is one: their bytes are stored, then one transaction records
    /// both, refined alignments (if any), how each update stood beside the others, the round, the run, and the model's signature, which `sign`
    /// makes once it is known which record of the audit log says that the round is published. Nothing if the lease was lost: no row is written then.
    ///
    /// # Errors
    /// Those of the database and the object store.
    pub async fn finish_merge(
        &self,
        lease: &Lease<MergeWork>,
        model: &Sealed,
        naive: Option<&Sealed>,
        refined: &[(String, Alignment, AlignReport)],
        judged: &[(String, Judged)],
        sign: impl FnOnce(u64) -> Result<String>,
    ) -> Result<Option<Digest>> {
        let stored = self.put_object(model).await?;
        let plain = match naive {
            // Where nothing was moved it is the model, to the byte.
            Some(naive) if naive.digest != model.digest => Some((naive, self.put_object(naive).await?)),
            _ => None,
        };
        failpoint!("publish.stored");
        let mut tx = self.begin().await?;
        self.lock_run(&mut tx, &lease.work.run.id).await?;
        let before = self.lock_round(&mut tx, &lease.work.run.id, lease.work.round).await?;
        if !self.release_round(&mut tx, lease).await? {
            tx.rollback().await?;
            for stored in
                plain.iter().map(|(_, stored)| stored).chain([&stored]).filter(|stored| !stored.found)
            {
                // Nobody's model: it may be an update that is withdrawn meanwhile, and lies plain.
                self.remove_object(&stored.place.object).await?;
            }
            return Ok(None);
        }
        failpoint!("publish.released");
        self.insert_checkpoint(&mut tx, model, &stored).await?;
        if let Some((naive, stored)) = &plain {
            self.insert_checkpoint(&mut tx, naive, stored).await?;
        }
        if let Some(naive) = naive {
            keep_naive(&mut tx, &lease.work, &naive.digest).await?;
        }
        failpoint!("publish.checkpoint-recorded");
        save_refined(&mut tx, &lease.work, refined).await?;
        self.save_judged(&mut tx, judged).await?;
        let now = self.now_in(&mut tx).await?;
        let after = before.round.clone().apply(Event::Merged { global: model.digest }, now)?;
        tx.record(merged(&lease.work));
        self.save_round(&mut tx, &before, &after, None).await?;
        failpoint!("publish.saved");
        let place = self.append_records(&mut tx).await?;
        let signature = sign(place.ok_or_else(|| Error::internal("a publication without a record"))?)?;
        sqlx::query("UPDATE rounds SET model_signature = $3 WHERE run_id = $1 AND number = $2")
            .bind(&lease.work.run.id)
            .bind(i64::from(lease.work.round))
            .bind(signature)
            .execute(&mut *tx)
            .await?;
        failpoint!("publish.signed");
        self.commit(tx).await?;
        failpoint!("publish.committed");
        Ok(Some(model.digest))
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
            tx.rollback().await?;
            return Ok(false);
        }
        let now = self.now_in(&mut tx).await?;
        let after = before.round.clone().apply(Event::AttemptFailed { reason: reason.to_owned() }, now)?;
        self.save_round(&mut tx, &before, &after, None).await?;
        self.commit(tx).await?;
        Ok(true)
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
            } else {
                tx.rollback().await?;
            }
        }
        Ok(())
    }

    /// Ends a merge's lease if it still is the newest one and the round still merges; tells whether it was.
    async fn release_round(&self, tx: &mut Tx, lease: &Lease<MergeWork>) -> Result<bool> {
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
}

/// Records the mean of a round's updates as they came. Where the same bytes were let go before, they came again.
async fn keep_naive(tx: &mut Tx, work: &MergeWork, naive: &Digest) -> Result<()> {
    let digest = naive.to_string();
    let result = sqlx::query("UPDATE rounds SET naive_digest = $3 WHERE run_id = $1 AND number = $2")
        .bind(&work.run.id)
        .bind(i64::from(work.round))
        .bind(&digest)
        .execute(&mut **tx)
        .await?;
    one_row(&result, "keeping a naive mean")?;
    let record = Record::of("checkpoint.stored").round(&work.run.id, work.round).object(&digest);
    tx.record(
        record.digests(None, Some(digest.clone())).because("the mean of the round's updates as they came"),
    );
    Ok(())
}

async fn save_refined(
    tx: &mut Tx,
    work: &MergeWork,
    refined: &[(String, Alignment, AlignReport)],
) -> Result<()> {
    for (update_id, alignment, report) in refined {
        let result =
            sqlx::query("UPDATE updates SET alignment = $2, report = $3 WHERE id = $1 AND state = 'aligned'")
                .bind(update_id)
                .bind(to_json(alignment)?)
                .bind(to_json(report)?)
                .execute(&mut **tx)
                .await?;
        one_row(&result, "refining an alignment")?;
        let site = work.inputs.iter().find(|input| input.update_id == *update_id);
        let record = Record::of("update.refined").round(&work.run.id, work.round);
        let record = record.object(update_id).detail("moved", report.moved);
        tx.record(match site {
            Some(input) => record.site(&input.site_id).digests(None, Some(input.digest.to_string())),
            None => record,
        });
    }
    Ok(())
}

/// What the audit log says of what a round's model was made from.
fn merged(work: &MergeWork) -> Record {
    let updates: Vec<serde_json::Value> = work
        .inputs
        .iter()
        .map(|input| {
            serde_json::json!({
                "site": input.site_id,
                "update": input.update_id,
                "digest": input.digest.to_string(),
                "num_examples": input.num_examples,
            })
        })
        .collect();
    Record::of("round.merged")
        .round(&work.run.id, work.round)
        .digests(Some(work.reference.to_string()), None)
        .detail("updates", listed(updates))
        .detail("software", concat!("fedbasin-server ", env!("CARGO_PKG_VERSION")))
}
