//! Runs that get more rounds, or more time.

use fedbasin_proof::Record;

use super::{Store, Tx, document, one_row, to_json};
use crate::{
    error::{Code, Error, Result},
    model::{Extension, Run},
    round::{MAX_DEADLINE_SECONDS, Policy, State},
};

impl Store {
    /// Extends an open run, paused or not: by rounds, by a later deadline of the round that collects, or both.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::Conflict`] for a run that is over, or where no round collects; [`Code::InvalidArgument`] naming what would
    /// be too much.
    pub async fn extend_run(&self, run: &Run, more: Extension) -> Result<()> {
        let mut tx = self.begin().await?;
        let locked = self.lock_run(&mut tx, &run.id).await?;
        if locked.state != "open" {
            let state = locked.state;
            let what = format!("run {}: is {state}, it cannot be extended; clone it", run.id);
            return Err(Error::new(Code::Conflict, what));
        }
        if more.rounds > 0 {
            self.extend_policy(&mut tx, run, more.rounds).await?;
        }
        if more.deadline_seconds > 0 {
            self.extend_round(&mut tx, &run.id, more.deadline_seconds).await?;
        }
        self.commit(tx).await
    }

    async fn extend_policy(&self, tx: &mut Tx, run: &Run, rounds: u32) -> Result<()> {
        let before = self.policy_in(tx, &run.id).await?;
        let after = Policy { rounds: before.rounds.saturating_add(rounds), ..before.clone() };
        let cohort = u32::try_from(run.cohort.len()).unwrap_or(u32::MAX);
        after.check(cohort).map_err(|_| {
            let (now, more) = (before.rounds, after.rounds);
            Error::invalid(format!("rounds: {rounds} more than {now} are {more}, more than a run may have"))
        })?;
        let result = sqlx::query("UPDATE runs SET policy = $2 WHERE id = $1")
            .bind(&run.id)
            .bind(to_json(&after)?)
            .execute(&mut **tx)
            .await?;
        one_row(&result, "extending a run")?;
        let record = Record::of("run.extended").run(&run.id).detail("rounds", after.rounds);
        tx.record(record.detail("rounds_before", before.rounds));
        Ok(())
    }

    async fn extend_round(&self, tx: &mut Tx, run_id: &str, seconds: u64) -> Result<()> {
        let newest = self.lock_newest_round(tx, run_id).await?;
        // Taken once the row is held.
        let now = self.now_in(tx).await?;
        let collecting = newest.filter(|newest| newest.round.state == State::Collecting);
        let Some(round) = collecting.map(|newest| newest.round) else {
            let what = format!("run {run_id}: no round collects whose deadline could be later");
            return Err(Error::new(Code::Conflict, what));
        };
        let before = round.window.deadline_at_ms;
        if before <= now {
            let what = format!("run {run_id}: the deadline of round {} has passed", round.number);
            return Err(Error::new(Code::Conflict, what));
        }
        let most = i64::try_from(MAX_DEADLINE_SECONDS * 1000).map_err(Error::internal)?;
        let after = i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX).saturating_add(before);
        if after - now > most {
            return Err(Error::invalid(format!(
                "deadline_seconds: {seconds} more would be beyond {MAX_DEADLINE_SECONDS} s (a year) from now"
            )));
        }
        let result =
            sqlx::query("UPDATE rounds SET deadline_at_ms = $3 WHERE run_id = $1 AND number = $2 AND state = 'collecting'")
                .bind(run_id)
                .bind(i64::from(round.number))
                .bind(after)
                .execute(&mut **tx)
                .await?;
        one_row(&result, "extending a round")?;
        let record = Record::of("round.extended").round(run_id, round.number);
        tx.record(record.detail("deadline_at_ms", after).detail("deadline_before_ms", before));
        Ok(())
    }

    /// The run's policy as it is now: whoever holds the run's row reads the last word.
    pub(super) async fn policy_in(&self, tx: &mut Tx, run_id: &str) -> Result<Policy> {
        let row =
            sqlx::query("SELECT policy FROM runs WHERE id = $1").bind(run_id).fetch_one(&mut **tx).await?;
        document(&row, "policy")?
            .ok_or_else(|| Error::internal(format_args!("runs.policy of {run_id} is null")))
    }
}
