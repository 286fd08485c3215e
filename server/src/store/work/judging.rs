//! How updates stood beside one another, and those that are rejected for it.

use fedbasin_proof::Record;
use sqlx::Row as _;

use super::{
    super::{Store, Tx, one_row, to_json},
    Lease, MergeWork,
};
use crate::{
    error::{Error, Result},
    round::{Event, Judged, Round, State},
};

impl Store {
    /// Takes implausible updates out of a round that is being merged, instead of publishing it, and releases its lease: it is merged again
    /// without them, at once and uncounted, or fails where its quorum is gone. False if the lease was lost: nothing is written then.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn reject_implausible(
        &self,
        lease: &Lease<MergeWork>,
        rejected: &[(String, Judged)],
    ) -> Result<bool> {
        let (run_id, round) = (&lease.work.run.id, lease.work.round);
        let mut tx = self.begin().await?;
        self.lock_run(&mut tx, run_id).await?;
        let before = self.lock_round(&mut tx, run_id, round).await?;
        // The fence is the lease's own: what is written here ends it.
        let released = sqlx::query(
            "UPDATE rounds SET lease_token = NULL, lease_expires_at_ms = 0, attempts = attempts - 1
             WHERE run_id = $1 AND number = $2 AND fence = $3 AND lease_token = $4 AND state = 'merging'",
        )
        .bind(run_id)
        .bind(i64::from(round))
        .bind(lease.fence)
        .bind(&lease.token)
        .execute(&mut *tx)
        .await?;
        if released.rows_affected() == 0 {
            tx.rollback().await?;
            return Ok(false);
        }
        let now = self.now_in(&mut tx).await?;
        let mut after = Round { attempts: before.round.attempts.saturating_sub(1), ..before.round.clone() };
        for (update_id, judged) in rejected {
            let reason =
                format!("implausible beside the other updates of its round: {}", judged.warnings.join("; "));
            let row = sqlx::query(
                "UPDATE updates SET state = 'rejected', reason = $2 WHERE id = $1 AND state IN ('accepted', 'aligned')
                 RETURNING site_id, digest",
            )
            .bind(update_id)
            .bind(&reason)
            .fetch_optional(&mut *tx)
            .await?;
            let row = row.ok_or_else(|| Error::internal("rejecting an implausible update: it is gone"))?;
            let (site, digest): (String, String) = (row.try_get("site_id")?, row.try_get("digest")?);
            let record = Record::of("update.rejected").round(run_id, round).site(&site);
            tx.record(record.object(update_id).digests(None, Some(digest)).because(&reason));
            // Once its quorum is gone the round has failed, and the others of these are rejected all the same.
            if after.state == State::Merging {
                after = after.apply(Event::UpdateWithdrawn, now)?;
            }
        }
        self.save_judged(&mut tx, rejected).await?;
        if after.state == before.round.state {
            self.replace_reference(&mut tx, &before).await?;
        } else {
            self.save_round(&mut tx, &before, &after, None).await?;
        }
        self.commit(tx).await?;
        Ok(true)
    }

    pub(super) async fn save_judged(&self, tx: &mut Tx, judged: &[(String, Judged)]) -> Result<()> {
        for (update_id, judged) in judged {
            let result = sqlx::query("UPDATE updates SET plausibility = $2 WHERE id = $1")
                .bind(update_id)
                .bind(to_json(judged)?)
                .execute(&mut **tx)
                .await?;
            one_row(&result, "recording how an update stood")?;
        }
        Ok(())
    }
}
