//! What sites take back: its bytes are erased, the record that it took part stays; and rounds that are merged again without it.

use fedbasin_proof::Record;
use rebasin::Digest;
use sqlx::{Row as _, any::AnyRow};

use super::{
    Store, Tx, one_row, parsed,
    updates::{UPDATE_COLUMNS, of_update, update_from},
};
use crate::{
    error::{Code, Error, Result},
    model::{RoundRecord, Run, Update, UpdateState},
    round::{Event, Millis, State},
};

const WITHDRAWN: &str = "withdrawn by its site";

/// Whether the round `o` stands: a published round that was merged again stands for nothing any more.
macro_rules! stands {
    () => {
        "o.state = 'published' AND NOT EXISTS (
           SELECT 1 FROM rounds a WHERE a.run_id = o.run_id AND a.remerge_of = o.number AND a.state = 'published')"
    };
}
pub(super) use stands;

impl Store {
    /// Takes an update back. In a round that is open it no longer counts, and the site may send another; in one that is over the record
    /// says that it was withdrawn; and the same for the rows that carry it over to rounds that are merged again. Its bytes are erased,
    /// unless somebody else sent the same. Again changes nothing.
    ///
    /// # Errors
    /// [`Code::NotFound`] for an update that is not of this site.
    pub async fn withdraw_update(&self, site_id: &str, update_id: &str) -> Result<Update> {
        let found = self.update_of_site(site_id, update_id).await?;
        let mut tx = self.begin().await?;
        self.lock_run(&mut tx, &found.run_id).await?;
        for update in self.carried(&mut tx, &found).await? {
            let before = self.lock_round(&mut tx, &update.run_id, update.round).await?;
            self.take_out(&mut tx, &before, &update).await?;
            sqlx::query(self.sql(
                "UPDATE updates SET withdrawn_at_ms = {now}, retired_at_ms = COALESCE(retired_at_ms, {now}) WHERE id = $1",
            ))
            .bind(&update.id)
            .execute(&mut *tx)
            .await?;
            tx.record(of_update("update.withdrawn", &update).digests(Some(update.digest.to_string()), None));
            if matches!(update.state, UpdateState::Accepted { .. } | UpdateState::Aligned { .. }) {
                self.withdraw_naive(&mut tx, &update).await?;
            }
        }
        self.settle(tx).await?;
        self.discard_upload(update_id).await;
        self.erase_retired(&found.run_id).await?;
        self.update_of_site(site_id, update_id).await
    }

    /// Lets go of the naive mean that an update is in: nothing is made from it, and who has the others finds the update in it.
    async fn withdraw_naive(&self, tx: &mut Tx, update: &Update) -> Result<()> {
        let row = sqlx::query(self.sql(
            "UPDATE rounds SET naive_retired_at_ms = {now}
             WHERE run_id = $1 AND number = $2 AND naive_digest IS NOT NULL AND naive_retired_at_ms IS NULL
             RETURNING naive_digest",
        ))
        .bind(&update.run_id)
        .bind(i64::from(update.round))
        .fetch_optional(&mut **tx)
        .await?;
        if let Some(row) = row {
            let record = Record::of("naive-mean.retired").round(&update.run_id, update.round);
            tx.record(record.digests(row.try_get("naive_digest")?, None).because(WITHDRAWN));
        }
        Ok(())
    }

    /// The rows of what a site sent, as it came and as it was carried over, that are not withdrawn; by round.
    async fn carried(&self, tx: &mut Tx, update: &Update) -> Result<Vec<Update>> {
        let query = format!(
            "{UPDATE_COLUMNS} WHERE u.run_id = $1 AND u.site_id = $2 AND u.withdrawn_at_ms IS NULL
               AND COALESCE(u.carried_from, u.id) = (SELECT COALESCE(carried_from, id) FROM updates WHERE id = $3)
             ORDER BY u.round"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(&update.run_id)
            .bind(&update.site_id)
            .bind(&update.id)
            .fetch_all(&mut **tx)
            .await?;
        rows.iter().map(update_from).collect()
    }

    /// Takes an update out of its round, where that is open; both locked.
    async fn take_out(&self, tx: &mut Tx, before: &RoundRecord, update: &Update) -> Result<()> {
        match update.state {
            UpdateState::Receiving => return self.dismiss(tx, &update.id, "declined", WITHDRAWN).await,
            UpdateState::Accepted { .. } | UpdateState::Aligned { .. } => {}
            UpdateState::Rejected { .. } | UpdateState::Declined { .. } => return Ok(()),
        }
        if before.round.state.is_terminal() {
            return Ok(());
        }
        // The fences grow: who aligns it, or merges with it, must not commit that.
        let result = sqlx::query(
            "UPDATE updates SET state = 'declined', reason = $2, alignment = NULL, report = NULL, lease_token = NULL,
                    lease_expires_at_ms = 0, fence = fence + 1
             WHERE id = $1 AND state IN ('accepted', 'aligned')",
        )
        .bind(&update.id)
        .bind(WITHDRAWN)
        .execute(&mut **tx)
        .await?;
        one_row(&result, "withdrawing an update")?;
        sqlx::query(
            "UPDATE rounds SET attempts = attempts - CASE WHEN lease_token IS NULL THEN 0 ELSE 1 END,
                    lease_token = NULL, lease_expires_at_ms = 0, fence = fence + 1
             WHERE run_id = $1 AND number = $2 AND state = 'merging'",
        )
        .bind(&before.run_id)
        .bind(i64::from(before.round.number))
        .execute(&mut **tx)
        .await?;
        let now = self.now_in(tx).await?;
        let after = before.round.clone().apply(Event::UpdateWithdrawn, now)?;
        if after.state == before.round.state {
            self.replace_reference(tx, before).await
        } else {
            self.save_round(tx, before, &after, None).await
        }
    }

    /// Merges a run's newest published round again, as a new round of its own, from the updates that were not withdrawn; a round that is
    /// open meanwhile is cancelled, and a run that was complete is open until the new one is published. Gives its number.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::Conflict`], saying why it cannot be.
    pub async fn remerge(&self, run: &Run, number: u32) -> Result<u32> {
        let mut tx = self.begin().await?;
        let locked = self.lock_run(&mut tx, &run.id).await?;
        let refused = |why: String| {
            Error::new(
                Code::Conflict,
                format!("run {}: round {number} cannot be merged again: {why}", run.id),
            )
        };
        if locked.state != "open" && locked.state != "complete" {
            return Err(refused(format!("the run is {}", locked.state)));
        }
        let again = self.lock_round(&mut tx, &run.id, number).await?;
        if !matches!(again.round.state, State::Published { .. }) {
            return Err(refused(format!("it is {}", again.round.state.name())));
        }
        let before = self.published_before(&mut tx, &run.id, number).await?;
        let before = before.map_err(&refused)?;
        let left = self.updates_left(&mut tx, &run.id, number).await?;
        let left = left.map_err(&refused)?;
        if left.len() < run.policy.quorum as usize {
            return Err(refused(format!(
                "{} of its updates are left, the quorum is {}",
                left.len(),
                run.policy.quorum
            )));
        }
        let reference = self.reference_left(&mut tx, &again, &left).await?;
        let newest = self.lock_newest_round(&mut tx, &run.id).await?;
        let newest = newest.ok_or_else(|| Error::internal("a published round and no newest one"))?;
        let now = self.now_in(&mut tx).await?;
        if !newest.round.state.is_terminal() {
            let after = newest.round.clone().apply(Event::Cancel, now)?;
            self.save_round(&mut tx, &newest, &after, None).await?;
        }
        let next = newest.round.number + 1;
        self.reopen(&mut tx, run, number, before, &locked.state).await?;
        self.open_again(&mut tx, run, (number, next), reference, left.len(), now).await?;
        for update in &left {
            self.carry_over(&mut tx, update, next).await?;
        }
        self.commit(tx).await?;
        Ok(next)
    }

    /// What the run had published before a round; why not, where something was published since.
    async fn published_before(
        &self,
        tx: &mut Tx,
        run_id: &str,
        number: u32,
    ) -> Result<Result<Option<Digest>, String>> {
        let rows = sqlx::query(concat!(
            "SELECT o.number, o.global_digest FROM rounds o WHERE o.run_id = $1 AND o.number <> $2 AND ",
            stands!(),
            " ORDER BY o.number DESC LIMIT 1"
        ))
        .bind(run_id)
        .bind(i64::from(number))
        .fetch_optional(&mut **tx)
        .await?;
        let Some(row) = rows else { return Ok(Ok(None)) };
        let other: u32 = super::unsigned(&row, "number")?;
        if other > number {
            return Ok(Err(format!("round {other} was published since, from its model")));
        }
        Ok(Ok(Some(parsed(&row, "global_digest")?)))
    }

    /// The updates of a round that were not withdrawn; why not, where none was, or some are kept no longer.
    async fn updates_left(
        &self,
        tx: &mut Tx,
        run_id: &str,
        number: u32,
    ) -> Result<Result<Vec<Update>, String>> {
        let query = format!(
            "{UPDATE_COLUMNS} WHERE u.run_id = $1 AND u.round = $2 AND u.state IN ('accepted', 'aligned') ORDER BY u.site_id"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(run_id)
            .bind(i64::from(number))
            .fetch_all(&mut **tx)
            .await?;
        let all: Vec<Update> = rows.iter().map(update_from).collect::<Result<_>>()?;
        let left: Vec<Update> =
            all.iter().filter(|update| update.withdrawn_at_ms.is_none()).cloned().collect();
        if left.len() == all.len() {
            return Ok(Err("nothing of it was withdrawn".to_owned()));
        }
        for update in &left {
            if !self.hold_checkpoint(tx, &update.digest).await? {
                return Ok(Err(format!("the update of site {} is kept no longer", update.site_id)));
            }
        }
        Ok(Ok(left))
    }

    /// What the new round is aligned to: what the old one was, unless that was an update which is gone; then it founds anew.
    async fn reference_left(
        &self,
        tx: &mut Tx,
        again: &RoundRecord,
        left: &[Update],
    ) -> Result<Option<Digest>> {
        let Some(reference) = again.reference else { return Ok(None) };
        if left.iter().any(|update| update.digest == reference) {
            return Ok(Some(reference));
        }
        let row = sqlx::query(
            "SELECT 1 FROM runs r WHERE r.id = $1 AND (r.seed_digest = $2 OR EXISTS (
               SELECT 1 FROM rounds o WHERE o.run_id = r.id AND o.global_digest = $2))",
        )
        .bind(&again.run_id)
        .bind(reference.to_string())
        .fetch_optional(&mut **tx)
        .await?;
        if row.is_none() {
            return Ok(None);
        }
        if self.hold_checkpoint(tx, &reference).await? {
            return Ok(Some(reference));
        }
        Err(Error::new(
            Code::Conflict,
            format!(
                "run {}: round {} cannot be merged again: its reference is kept no longer",
                again.run_id, again.round.number
            ),
        ))
    }

    /// Lets the run stand as it did before the round was published. However often: what is published is counted, and each round that was
    /// merged again once.
    async fn reopen(
        &self,
        tx: &mut Tx,
        run: &Run,
        number: u32,
        global: Option<Digest>,
        state: &str,
    ) -> Result<()> {
        let result = sqlx::query(concat!(
            "UPDATE runs SET state = 'open', global_digest = $2, rounds_published = (
                   SELECT COUNT(*) FROM rounds o WHERE o.run_id = $1 AND o.number <> $3 AND ",
            stands!(),
            ") WHERE id = $1"
        ))
        .bind(&run.id)
        .bind(global.map(|digest| digest.to_string()))
        .bind(i64::from(number))
        .execute(&mut **tx)
        .await?;
        one_row(&result, "reopening a run")?;
        if state != "open" {
            tx.record(Record::of("run.reopened").run(&run.id));
        }
        Ok(())
    }

    async fn open_again(
        &self,
        tx: &mut Tx,
        run: &Run,
        (of, number): (u32, u32),
        reference: Option<Digest>,
        updates: usize,
        now: Millis,
    ) -> Result<()> {
        let count = i64::try_from(updates).map_err(Error::internal)?;
        let window = run.policy.window(u32::try_from(updates).map_err(Error::internal)?, now);
        let reference = reference.map(|digest| digest.to_string());
        sqlx::query(
            // All that it waits for is here: should some of it be withdrawn first, its quorum is enough.
            "INSERT INTO rounds (run_id, number, state, reference_digest, quorum, full_at, opened_at_ms, deadline_at_ms,
                                 remerge_of, quorum_closes_at_ms)
             VALUES ($1, $2, 'collecting', $3, $4, $5, $6, $7, $8, $6)",
        )
        .bind(&run.id)
        .bind(i64::from(number))
        .bind(reference.clone())
        .bind(i64::from(run.policy.quorum))
        .bind(count)
        .bind(now)
        .bind(window.deadline_at_ms)
        .bind(i64::from(of))
        .execute(&mut **tx)
        .await?;
        tx.record(
            Record::of("round.opened")
                .round(&run.id, number)
                .digests(reference, None)
                .because("merged again without what was withdrawn")
                .detail("remerge_of", of),
        );
        Ok(())
    }

    /// An update of the old round, as one of the new.
    async fn carry_over(&self, tx: &mut Tx, update: &Update, round: u32) -> Result<()> {
        let id = uuid::Uuid::now_v7().to_string();
        let result = sqlx::query(self.sql(
            "INSERT INTO updates (id, run_id, round, site_id, digest, size, num_examples, metrics, state, begun_at_ms,
                                  accepted_at_ms, carried_from)
             SELECT $2, run_id, $3, site_id, digest, size, num_examples, metrics, 'accepted', begun_at_ms, {now},
                    COALESCE(carried_from, id)
             FROM updates WHERE id = $1",
        ))
        .bind(&update.id)
        .bind(&id)
        .bind(i64::from(round))
        .execute(&mut **tx)
        .await?;
        one_row(&result, "carrying an update over")?;
        let carried = Update { id, round, ..update.clone() };
        tx.record(
            of_update("update.accepted", &carried)
                .because("carried over from the round that is merged again")
                .detail("carried_from", update.id.clone()),
        );
        Ok(())
    }
}

/// Of which round a row is the new merging.
pub(super) fn remerge_of(row: &AnyRow) -> Result<Option<u32>> {
    let number: Option<i64> = row.try_get("remerge_of")?;
    number.map(u32::try_from).transpose().map_err(Error::internal)
}
