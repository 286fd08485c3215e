//! Rounds: reading them, and the one place that writes what the state machine decided.

use std::time::Duration;

use fedbasin_proof::Record;
use rebasin::Digest;
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use super::{Store, Tx, one_row, parsed_optional, unsigned, updates::let_go};
use crate::{
    error::{Code, Error, Result},
    model::{RoundRecord, Run, RunState},
    round::{self, Event, Millis, Next, Round, State, Window},
};

/// A round's row and how many updates it holds.
macro_rules! round_query {
    ($rest:literal) => {
        concat!(
            "SELECT o.run_id, o.number, o.state, o.reason, o.reference_digest, o.global_digest, o.quorum, o.full_at,
                    o.opened_at_ms, o.quorum_closes_at_ms, o.deadline_at_ms, o.closed_at_ms, o.attempts,
                    o.model_retired_at_ms, o.remerge_of, o.naive_digest,
                    (SELECT COUNT(*) FROM updates u WHERE u.run_id = o.run_id AND u.round = o.number
                       AND u.state IN ('accepted', 'aligned')) AS accepted
             FROM rounds o ",
            $rest
        )
    };
}

/// What [`Store::reconcile_run`] did.
#[derive(Debug, Clone, Copy)]
pub struct Reconciled {
    /// Rows were written: look again at once.
    pub changed: bool,
    /// After so long the round's deadline is due.
    pub due_in: Option<Duration>,
}

impl Store {
    /// One round.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn round(&self, run_id: &str, number: u32) -> Result<Option<RoundRecord>> {
        let row = sqlx::query(round_query!("WHERE o.run_id = $1 AND o.number = $2"))
            .bind(run_id)
            .bind(i64::from(number))
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(record_from).transpose()
    }

    /// A run's rounds, oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rounds(&self, run_id: &str) -> Result<Vec<RoundRecord>> {
        let rows = sqlx::query(round_query!("WHERE o.run_id = $1 ORDER BY o.number"))
            .bind(run_id)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(record_from).collect()
    }

    /// Does for one open run what is due: closes its round's collecting, opens the next round, or ends the run.
    /// Tells whether anything changed and when time alone will change something. Spurious calls change nothing.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn reconcile_run(&self, run: &Run) -> Result<Reconciled> {
        if let Some(nothing) = self.nothing_is_due(run).await? {
            return Ok(nothing);
        }
        let mut tx = self.begin().await?;
        let locked = self.lock_run(&mut tx, &run.id).await?;
        if locked.state != "open" {
            tx.rollback().await?;
            return Ok(Reconciled { changed: false, due_in: None });
        }
        failpoint!("round.locked");
        let now = self.now_in(&mut tx).await?;
        let mut changed = false;
        let mut newest = self.lock_newest_round(&mut tx, &run.id).await?;
        if let Some(record) = &mut newest {
            let after = record.round.clone().apply(Event::Tick, now)?;
            if after != record.round {
                let founding = match after.state {
                    State::Merging if record.reference.is_none() => {
                        self.largest_update(&mut tx, &run.id, after.number).await?
                    }
                    _ => None,
                };
                self.save_round(&mut tx, record, &after, founding).await?;
                failpoint!("round.closed");
                record.round = after;
                changed = true;
            }
        }
        let failed = self.failed_in_a_row(&mut tx, &run.id).await?;
        // It may have been extended since the run was read.
        let policy = self.policy_in(&mut tx, &run.id).await?;
        let last = newest.as_ref().map(|record| &record.round);
        match round::next(&policy, last, locked.rounds_published, failed) {
            Next::Wait => {}
            Next::Open(_) if locked.paused => {}
            Next::Open(number) => {
                self.open_round(&mut tx, run, number, locked.newest, now).await?;
                failpoint!("round.opened");
                changed = true;
            }
            Next::Complete => {
                self.set_run_state(&mut tx, &run.id, &RunState::Complete).await?;
                failpoint!("round.run-ended");
                changed = true;
            }
            Next::Fail { reason } => {
                self.set_run_state(&mut tx, &run.id, &RunState::Failed { reason }).await?;
                changed = true;
            }
        }
        if changed {
            self.commit(tx).await?;
            failpoint!("round.committed");
        } else {
            tx.rollback().await?;
        }
        let due_in = due_in(newest.as_ref().map(|record| &record.round), now);
        Ok(Reconciled { changed, due_in })
    }

    /// The answer where nothing is due, by the rows as they are read without locks: most looks find that, and make no one wait. What
    /// changes meanwhile wakes the next look.
    async fn nothing_is_due(&self, run: &Run) -> Result<Option<Reconciled>> {
        if run.state != RunState::Open {
            return Ok(Some(Reconciled { changed: false, due_in: None }));
        }
        let newest = match run.current_round {
            Some(number) => self.round(&run.id, number).await?,
            None => None,
        };
        let mut rows = self.pool.acquire().await?;
        let now = self.now_in(&mut rows).await?;
        if let Some(record) = &newest
            && record.round.clone().apply(Event::Tick, now)? != record.round
        {
            return Ok(None);
        }
        let failed = self.failed_in_a_row(&mut rows, &run.id).await?;
        let round = newest.map(|record| record.round);
        match round::next(&run.policy, round.as_ref(), run.rounds_published, failed) {
            Next::Wait => {}
            Next::Open(_) if run.paused_at_ms.is_some() => {}
            _ => return Ok(None),
        }
        Ok(Some(Reconciled { changed: false, due_in: due_in(round.as_ref(), now) }))
    }

    async fn open_round(
        &self,
        tx: &mut Tx,
        run: &Run,
        number: u32,
        reference: Option<Digest>,
        now: i64,
    ) -> Result<()> {
        let cohort = u32::try_from(run.cohort.len()).unwrap_or(u32::MAX);
        let round = Round::open(number, run.policy.window(cohort, now));
        sqlx::query(
            "INSERT INTO rounds (run_id, number, state, reference_digest, quorum, full_at, opened_at_ms, deadline_at_ms,
                                 quorum_closes_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(&run.id)
        .bind(i64::from(round.number))
        .bind(round.state.name())
        .bind(reference.map(|digest| digest.to_string()))
        .bind(i64::from(round.window.quorum))
        .bind(i64::from(round.window.full_at))
        .bind(round.window.opened_at_ms)
        .bind(round.window.deadline_at_ms)
        .bind(round.window.quorum_closes_at_ms)
        .execute(&mut **tx)
        .await?;
        tx.record(
            Record::of("round.opened")
                .round(&run.id, round.number)
                .digests(reference.map(|digest| digest.to_string()), None)
                .detail("quorum", round.window.quorum)
                .detail("cohort", cohort)
                .detail("deadline_at_ms", round.window.deadline_at_ms),
        );
        Ok(())
    }

    /// The founding round's reference: the update with most examples, ties by site id (DESIGN, section 3).
    pub(super) async fn largest_update(
        &self,
        tx: &mut Tx,
        run_id: &str,
        number: u32,
    ) -> Result<Option<Digest>> {
        let row = sqlx::query(
            "SELECT digest FROM updates WHERE run_id = $1 AND round = $2 AND state IN ('accepted', 'aligned')
             ORDER BY num_examples DESC, site_id LIMIT 1",
        )
        .bind(run_id)
        .bind(i64::from(number))
        .fetch_optional(&mut **tx)
        .await?;
        row.as_ref().map(|row| super::parsed(row, "digest")).transpose()
    }

    async fn failed_in_a_row(&self, rows: &mut AnyConnection, run_id: &str) -> Result<u32> {
        let row = sqlx::query(
            "SELECT COUNT(*) AS failed FROM rounds WHERE run_id = $1 AND state = 'failed' AND number >
               (SELECT COALESCE(MAX(number), 0) FROM rounds WHERE run_id = $1 AND state = 'published')",
        )
        .bind(run_id)
        .fetch_one(&mut *rows)
        .await?;
        unsigned(&row, "failed")
    }

    /// Locks the run's newest round until the transaction ends.
    pub(super) async fn lock_newest_round(&self, tx: &mut Tx, run_id: &str) -> Result<Option<RoundRecord>> {
        let row = sqlx::query(self.sql(round_query!(
            "WHERE o.run_id = $1 AND o.number = (SELECT MAX(number) FROM rounds WHERE run_id = $1) {for_update}"
        )))
        .bind(run_id)
        .fetch_optional(&mut **tx)
        .await?;
        row.as_ref().map(record_from).transpose()
    }

    /// Locks one round until the transaction ends.
    pub(super) async fn lock_round(&self, tx: &mut Tx, run_id: &str, number: u32) -> Result<RoundRecord> {
        let row = sqlx::query(self.sql(round_query!("WHERE o.run_id = $1 AND o.number = $2 {for_update}")))
            .bind(run_id)
            .bind(i64::from(number))
            .fetch_optional(&mut **tx)
            .await?;
        match row {
            Some(row) => record_from(&row),
            None => Err(Error::not_found(format!("run {run_id}: there is no round {number}"))),
        }
    }

    /// Writes what the state machine made of `before`, and what follows from leaving its state: uploads under way
    /// are declined, a published model becomes the run's.
    pub(super) async fn save_round(
        &self,
        tx: &mut Tx,
        before: &RoundRecord,
        after: &Round,
        reference: Option<Digest>,
    ) -> Result<()> {
        let (global, reason) = match &after.state {
            State::Published { global } => (Some(global.to_string()), None),
            State::Failed { reason } => (None, Some(reason.as_str())),
            _ => (None, None),
        };
        let result = sqlx::query(self.sql(
            "UPDATE rounds SET state = $4, reason = $5, global_digest = $6, attempts = $7,
                    reference_digest = COALESCE($8, reference_digest),
                    closed_at_ms = CASE WHEN $9 = 1 THEN {now} ELSE closed_at_ms END
             WHERE run_id = $1 AND number = $2 AND state = $3",
        ))
        .bind(&before.run_id)
        .bind(i64::from(after.number))
        .bind(before.round.state.name())
        .bind(after.state.name())
        .bind(reason)
        .bind(global.clone())
        .bind(i64::from(after.attempts))
        .bind(reference.map(|digest| digest.to_string()))
        .bind(i64::from(after.state.is_terminal()))
        .execute(&mut **tx)
        .await?;
        one_row(&result, "saving a round")?;
        tx.record(saved(before, after, reference));
        self.announce_end(tx, &before.run_id, after).await?;
        if before.round.state == State::Collecting && after.state != State::Collecting {
            self.decline_receiving(tx, &before.run_id, after).await?;
        }
        if matches!(after.state, State::Failed { .. }) {
            // Nothing was published in it yet: whoever sends first next time may bring another.
            sqlx::query(
                "UPDATE runs SET layout = NULL WHERE id = $1 AND seed_digest IS NULL AND global_digest IS NULL",
            )
            .bind(&before.run_id)
            .execute(&mut **tx)
            .await?;
        }
        if let Some(global) = global {
            let result = sqlx::query(
                "UPDATE runs SET global_digest = $2, rounds_published = rounds_published + 1
                 WHERE id = $1 AND state = 'open'",
            )
            .bind(&before.run_id)
            .bind(global)
            .execute(&mut **tx)
            .await?;
            one_row(&result, "publishing a run's model")?;
        }
        Ok(())
    }

    /// The signature of a round's model, a bundle; none before it was published, or where that was before models were signed.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn model_signature(&self, run_id: &str, number: u32) -> Result<Option<String>> {
        let row = sqlx::query("SELECT model_signature FROM rounds WHERE run_id = $1 AND number = $2")
            .bind(run_id)
            .bind(i64::from(number))
            .fetch_optional(&self.pool)
            .await?;
        row.map_or(Ok(None), |row| Ok(row.try_get("model_signature")?))
    }

    /// The run and round that published a checkpoint, among the runs of a site: the newest one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn published_for(&self, site_id: &str, digest: &Digest) -> Result<Option<(String, u32)>> {
        let row = sqlx::query(
            "SELECT o.run_id, o.number FROM rounds o JOIN run_sites s ON s.run_id = o.run_id
             WHERE s.site_id = $1 AND o.global_digest = $2 ORDER BY o.closed_at_ms DESC, o.run_id LIMIT 1",
        )
        .bind(site_id)
        .bind(digest.to_string())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| Ok((row.try_get("run_id")?, unsigned(&row, "number")?))).transpose()
    }

    async fn decline_receiving(&self, tx: &mut Tx, run_id: &str, after: &Round) -> Result<()> {
        let reason = match after.state {
            State::Cancelled => "the run was cancelled while the update was arriving",
            _ => "the round closed while the update was arriving",
        };
        let rows = sqlx::query(
            "UPDATE updates SET state = 'declined', reason = $3, wrapped_key = NULL
             WHERE run_id = $1 AND round = $2 AND state = 'receiving'
             RETURNING id, run_id, round, site_id, digest",
        )
        .bind(run_id)
        .bind(i64::from(after.number))
        .bind(reason)
        .fetch_all(&mut **tx)
        .await?;
        for row in &rows {
            tx.record(let_go("update.declined", row, reason)?);
        }
        Ok(())
    }
}

/// The round closed for updates: the error that says so.
pub(super) fn closed(record: &RoundRecord) -> Error {
    Error::new(
        Code::RoundClosed,
        format!(
            "round {} of run {} is {}: it takes no more updates; wait for the next round",
            record.round.number,
            record.run_id,
            record.round.state.name()
        ),
    )
}

/// What the audit log says of a round whose row was written.
fn saved(before: &RoundRecord, after: &Round, reference: Option<Digest>) -> Record {
    let reference = reference.or(before.reference).map(|digest| digest.to_string());
    let action = match after.state == before.round.state {
        // Only how often it was tried.
        true => "round.attempt-failed".to_owned(),
        false => format!("round.{}", after.state.name()),
    };
    let record = Record::of(&action)
        .round(&before.run_id, after.number)
        .detail("updates", after.accepted)
        .detail("attempts", after.attempts);
    match &after.state {
        State::Published { global } => record.digests(reference, Some(global.to_string())),
        State::Failed { reason } => record.digests(reference, None).because(reason),
        _ => record.digests(reference, None),
    }
}

fn record_from(row: &AnyRow) -> Result<RoundRecord> {
    let run_id: String = row.try_get("run_id")?;
    let number: u32 = unsigned(row, "number")?;
    let state: String = row.try_get("state")?;
    let reason: Option<String> = row.try_get("reason")?;
    let global: Option<Digest> = parsed_optional(row, "global_digest")?;
    let state = match (state.as_str(), reason, global) {
        ("collecting", None, None) => State::Collecting,
        ("merging", None, None) => State::Merging,
        ("published", None, Some(global)) => State::Published { global },
        ("failed", Some(reason), None) => State::Failed { reason },
        ("cancelled", None, None) => State::Cancelled,
        other => {
            return Err(Error::internal(format_args!(
                "rounds row {run_id}/{number}: inconsistent {other:?}"
            )));
        }
    };
    Ok(RoundRecord {
        round: Round {
            number,
            state,
            window: Window {
                quorum: unsigned(row, "quorum")?,
                full_at: unsigned(row, "full_at")?,
                opened_at_ms: row.try_get("opened_at_ms")?,
                quorum_closes_at_ms: row.try_get("quorum_closes_at_ms")?,
                deadline_at_ms: row.try_get("deadline_at_ms")?,
            },
            accepted: unsigned(row, "accepted")?,
            attempts: unsigned(row, "attempts")?,
        },
        reference: parsed_optional(row, "reference_digest")?,
        closed_at_ms: row.try_get("closed_at_ms")?,
        model_retired_at_ms: row.try_get("model_retired_at_ms")?,
        remerge_of: super::withdrawals::remerge_of(row)?,
        naive: parsed_optional(row, "naive_digest")?,
        run_id,
    })
}

/// How long until time alone changes a round.
fn due_in(round: Option<&Round>, now: Millis) -> Option<Duration> {
    let at = round?.next_deadline()?;
    Some(Duration::from_millis(u64::try_from(at - now).unwrap_or(0)))
}
