//! Updates: announced, received, accepted.

mod read;

use fedbasin_proof::Record;
use sqlx::{Row as _, any::AnyRow};

pub use self::read::WantedUpdates;
use super::{Kind, Sealed, Store, Tx, document, one_row, parsed, rounds, signed, to_json, unsigned};
use crate::{
    error::{Code, Error, Result},
    model::{Metrics, NewUpdate, Receipt, Update, UpdateState},
    round::{Event, Millis, State},
};

pub(super) const UPDATE_COLUMNS: &str =
    "SELECT u.id, u.run_id, u.round, u.site_id, u.digest, u.size, u.num_examples, u.metrics,
    u.state, u.reason, u.begun_at_ms, u.accepted_at_ms, u.withdrawn_at_ms, u.report, u.plausibility FROM updates u";

/// Most updates of one site and round that are under way: what a site sends, and what it sends instead.
const MAX_UNDER_WAY: i64 = 2;

impl Store {
    /// Records that a site will send an update; the same site, round and digest give the same update.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Conflict`] for a second different update, [`Code::RoundClosed`],
    /// [`Code::RoundFull`].
    pub async fn begin_update(&self, site_id: &str, new: &NewUpdate) -> Result<Update> {
        self.run_of_site(site_id, &new.run_id).await?;
        let mut tx = self.begin().await?;
        let record = self.lock_round(&mut tx, &new.run_id, new.round).await?;
        if let Some(held) = self.held_update(&mut tx, site_id, &new.run_id, new.round).await? {
            if held.digest != new.digest {
                return Err(conflict(&held));
            }
            same_announcement(&held, new)?;
            tx.rollback().await?;
            return Ok(held);
        }
        let now = self.now_in(&mut tx).await?;
        // Not a transition yet: only whether one would be possible now.
        record.round.clone().apply(Event::UpdateAccepted, now).map_err(|error| match record.round.state {
            State::Collecting => Error::from(error),
            _ => rounds::closed(&record),
        })?;
        let begun = self.begun_update(&mut tx, site_id, new).await?;
        if let Some(begun) = &begun
            && (self.is_shared() || self.staged_bytes(&begun.id) > 0)
        {
            same_announcement(begun, new)?;
        }
        sqlx::query(self.sql(
            "INSERT INTO updates (id, run_id, round, site_id, digest, size, num_examples, metrics, wrapped_key, state, begun_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'receiving', {now})
             ON CONFLICT (run_id, round, site_id, digest) WHERE state = 'receiving'
             DO UPDATE SET size = excluded.size, num_examples = excluded.num_examples, metrics = excluded.metrics",
        ))
        .bind(uuid::Uuid::now_v7().to_string())
        .bind(&new.run_id)
        .bind(i64::from(new.round))
        .bind(site_id)
        .bind(new.digest.to_string())
        .bind(signed(new.size)?)
        .bind(signed(new.num_examples)?)
        .bind(to_json(&new.metrics)?)
        .bind(self.make_key(&new.digest)?.map(|key| key.wrapped))
        .execute(&mut *tx)
        .await?;
        let update = self.begun_update(&mut tx, site_id, new).await?;
        let update = update.ok_or_else(|| Error::internal("an update just begun is gone"))?;
        if begun.is_none() {
            tx.record(of_update("update.announced", &update));
        }
        let replaced = self.decline_older(&mut tx, &update).await?;
        failpoint!("upload.announced");
        // Nothing that others act on: the announced update changes no round.
        self.commit_quietly(tx).await?;
        failpoint!("upload.begun");
        for id in replaced {
            self.discard_upload(&id).await;
        }
        Ok(update)
    }

    /// Leaves a site no more than [`MAX_UNDER_WAY`] updates of one round under way, `newest` among them, so that
    /// announcing is not a way to fill the disk; gives the ids of those that are declined.
    async fn decline_older(&self, tx: &mut Tx, newest: &Update) -> Result<Vec<String>> {
        const REPLACED: &str = "replaced by a newer announcement";
        let rows = sqlx::query(
            "UPDATE updates SET state = 'declined', reason = $6, wrapped_key = NULL
             WHERE id IN (
               SELECT id FROM updates
               WHERE run_id = $1 AND round = $2 AND site_id = $3 AND state = 'receiving' AND id <> $4
               ORDER BY begun_at_ms DESC, id DESC LIMIT 1000 OFFSET $5)
             RETURNING id, run_id, round, site_id, digest",
        )
        .bind(&newest.run_id)
        .bind(i64::from(newest.round))
        .bind(&newest.site_id)
        .bind(&newest.id)
        .bind(MAX_UNDER_WAY - 1)
        .bind(REPLACED)
        .fetch_all(&mut **tx)
        .await?;
        for row in &rows {
            tx.record(let_go("update.declined", row, REPLACED)?);
        }
        Ok(rows.iter().map(|row| row.try_get("id")).collect::<sqlx::Result<_>>()?)
    }

    /// The site's update of that round and digest that is under way.
    async fn begun_update(&self, tx: &mut Tx, site_id: &str, new: &NewUpdate) -> Result<Option<Update>> {
        let query = format!(
            "{UPDATE_COLUMNS} WHERE u.run_id = $1 AND u.round = $2 AND u.site_id = $3 AND u.digest = $4
             AND u.state = 'receiving'"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(&new.run_id)
            .bind(i64::from(new.round))
            .bind(site_id)
            .bind(new.digest.to_string())
            .fetch_optional(&mut **tx)
            .await?;
        row.as_ref().map(update_from).transpose()
    }

    /// Accepts a sealed update: bytes durable, then the row, then the receipt. Accepting it again gives the same
    /// receipt. One that is not wanted any more is declined, one of another layout rejected; the row says so.
    ///
    /// # Errors
    /// [`Code::RoundClosed`], [`Code::RoundFull`], [`Code::Conflict`], [`Code::InvalidCheckpoint`].
    pub async fn accept_update(&self, update: &Update, sealed: Sealed) -> Result<Receipt> {
        // Asked first, so that the bytes of an update that is not taken are not stored.
        let mut tx = self.begin().await?;
        match self.wanted(&mut tx, update, &sealed).await? {
            Wanted::Yes(..) => tx.rollback().await?,
            Wanted::Held(receipt) => {
                tx.rollback().await?;
                return Ok(receipt);
            }
            Wanted::No(error) => {
                self.settle(tx).await?;
                return Err(error);
            }
        }
        failpoint!("upload.wanted");
        let stored = self.put_object(&sealed).await?;
        failpoint!("upload.stored");
        let mut tx = self.begin().await?;
        let (update, now) = match self.wanted(&mut tx, update, &sealed).await? {
            Wanted::Yes(update, now) => (*update, now),
            Wanted::Held(receipt) => {
                tx.rollback().await?;
                return Ok(receipt);
            }
            Wanted::No(error) => {
                self.settle(tx).await?;
                return Err(error);
            }
        };
        failpoint!("upload.wanted-still");
        if let Err(error) = self.fix_layout(&mut tx, &update.run_id, &sealed.layout).await {
            if error.code() != Code::InvalidCheckpoint {
                return Err(error);
            }
            self.dismiss(&mut tx, &update.id, "rejected", error.message()).await?;
            self.settle(tx).await?;
            return Err(error);
        }
        failpoint!("upload.layout-fixed");
        self.insert_checkpoint(&mut tx, &sealed, &stored).await?;
        failpoint!("upload.checkpoint-recorded");
        let result = sqlx::query(
            "UPDATE updates SET state = 'accepted', accepted_at_ms = $2, wrapped_key = NULL
             WHERE id = $1 AND state = 'receiving'",
        )
        .bind(&update.id)
        .bind(now)
        .execute(&mut *tx)
        .await?;
        one_row(&result, "accepting an update")?;
        tx.record(of_update("update.accepted", &update));
        failpoint!("upload.accepted");
        self.commit(tx).await?;
        failpoint!("upload.committed");
        self.discard_upload(&update.id).await;
        failpoint!("upload.discarded");
        let accepted = Update { state: UpdateState::Accepted { at_ms: now }, ..update };
        accepted.receipt().ok_or_else(|| Error::internal("an accepted update without a receipt"))
    }

    /// Whether the round takes the update, its run and round locked. One that it does not take is declined.
    async fn wanted(&self, tx: &mut Tx, update: &Update, sealed: &Sealed) -> Result<Wanted> {
        self.lock_run(tx, &update.run_id).await?;
        let record = self.lock_round(tx, &update.run_id, update.round).await?;
        // What was announced last counts, and is what the receipt says: `update` may be older.
        let query = format!("{UPDATE_COLUMNS} WHERE u.id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(query)).bind(&update.id).fetch_one(&mut **tx).await?;
        let update = update_from(&row)?;
        if update.size != sealed.size {
            return Err(Error::new(
                Code::Conflict,
                format!(
                    "{} bytes were announced meanwhile, {} are here; begin again",
                    update.size, sealed.size
                ),
            ));
        }
        if let Some(held) = self.held_update(tx, &update.site_id, &update.run_id, update.round).await? {
            if held.digest == sealed.digest {
                let receipt = held.receipt();
                let receipt = receipt.ok_or_else(|| Error::internal("a held update without a time"))?;
                return Ok(Wanted::Held(receipt));
            }
            let error = conflict(&held);
            self.dismiss(tx, &update.id, "declined", error.message()).await?;
            return Ok(Wanted::No(error));
        }
        match &update.state {
            UpdateState::Rejected { reason } => {
                return Ok(Wanted::No(Error::new(Code::InvalidCheckpoint, reason.as_str())));
            }
            UpdateState::Declined { reason } => {
                return Ok(Wanted::No(Error::new(Code::RoundClosed, reason.as_str())));
            }
            _ => {}
        }
        let now = self.now_in(tx).await?;
        if let Err(transition) = record.round.clone().apply(Event::UpdateAccepted, now) {
            let error = Error::from(transition);
            self.dismiss(tx, &update.id, "declined", error.message()).await?;
            return Ok(Wanted::No(error));
        }
        Ok(Wanted::Yes(Box::new(update), now))
    }

    /// Records that an update under way is bad, and why; its bytes are removed.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn reject_update(&self, update_id: &str, reason: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        self.dismiss(&mut tx, update_id, "rejected", reason).await?;
        self.settle(tx).await?;
        self.discard_upload(update_id).await;
        Ok(())
    }

    /// Removes the bytes of uploads that are no longer under way, and what a killed process left.
    ///
    /// # Errors
    /// Those of the database and the disk.
    pub async fn sweep_staging(&self) -> Result<()> {
        for name in self.staged_names()? {
            if Kind::names(&name) {
                self.sweep_scratch(&name)?;
                continue;
            }
            if uuid::Uuid::parse_str(&name).is_err() {
                continue;
            }
            if !self.is_under_way(&name).await? {
                failpoint!("sweep.upload-found");
                self.discard_staging(&name);
                failpoint!("sweep.upload-removed");
            }
        }
        self.sweep_parts().await
    }

    /// Whether an update of that id is being received.
    pub(super) async fn is_under_way(&self, update_id: &str) -> Result<bool> {
        let row = sqlx::query("SELECT state FROM updates WHERE id = $1")
            .bind(update_id)
            .fetch_optional(&self.pool)
            .await?;
        match row {
            Some(row) => Ok(row.try_get::<String, _>("state")? == "receiving"),
            None => Ok(false),
        }
    }

    pub(super) async fn dismiss(
        &self,
        tx: &mut Tx,
        update_id: &str,
        state: &'static str,
        reason: &str,
    ) -> Result<()> {
        let row = sqlx::query(
            "UPDATE updates SET state = $2, reason = $3, wrapped_key = NULL
             WHERE id = $1 AND state = 'receiving' RETURNING id, run_id, round, site_id, digest",
        )
        .bind(update_id)
        .bind(state)
        .bind(reason)
        .fetch_optional(&mut **tx)
        .await?;
        if let Some(row) = row {
            tx.record(let_go(&format!("update.{state}"), &row, reason)?);
        }
        Ok(())
    }

    /// The site's accepted update in that round.
    async fn held_update(
        &self,
        tx: &mut Tx,
        site_id: &str,
        run_id: &str,
        round: u32,
    ) -> Result<Option<Update>> {
        let query = format!(
            "{UPDATE_COLUMNS} WHERE u.run_id = $1 AND u.round = $2 AND u.site_id = $3
             AND u.state IN ('accepted', 'aligned')"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(run_id)
            .bind(i64::from(round))
            .bind(site_id)
            .fetch_optional(&mut **tx)
            .await?;
        row.as_ref().map(update_from).transpose()
    }
}

/// What a round makes of an update all of whose bytes are here.
enum Wanted {
    /// It takes it: the update as its row stands, and the time.
    Yes(Box<Update>, Millis),
    /// It holds it already.
    Held(Receipt),
    /// It does not, and the row says so.
    No(Error),
}

/// The same bytes must come with the same size and number of examples, once some of them are here: what a receipt says
/// never changes.
fn same_announcement(begun: &Update, new: &NewUpdate) -> Result<()> {
    if (begun.size, begun.num_examples) == (new.size, new.num_examples) {
        return Ok(());
    }
    Err(Error::new(
        Code::Conflict,
        format!(
            "this update was announced with {} bytes and {} examples, now with {} and {}; announce it as before",
            begun.size, begun.num_examples, new.size, new.num_examples
        ),
    ))
}

/// What the audit log says of an update.
pub(super) fn of_update(action: &str, update: &Update) -> Record {
    Record::of(action)
        .round(&update.run_id, update.round)
        .site(&update.site_id)
        .object(&update.id)
        .digests(None, Some(update.digest.to_string()))
        .detail("num_examples", update.num_examples)
}

/// What the audit log says of an update that was under way and is not taken: what was announced is nowhere from now on. The row has its
/// `id`, `run_id`, `round`, `site_id` and `digest`.
pub(super) fn let_go(action: &str, row: &AnyRow, reason: &str) -> Result<Record> {
    let text = |column: &str| row.try_get::<String, _>(column);
    let record = Record::of(action).round(&text("run_id")?, unsigned(row, "round")?).site(&text("site_id")?);
    Ok(record.object(&text("id")?).digests(Some(text("digest")?), None).because(reason))
}

fn conflict(held: &Update) -> Error {
    Error::new(
        Code::Conflict,
        format!(
            "round {} of run {} holds another update of site {} already, digest {}; one update a site and round",
            held.round, held.run_id, held.site_id, held.digest
        ),
    )
}

pub(super) fn update_from(row: &AnyRow) -> Result<Update> {
    let id: String = row.try_get("id")?;
    let state: String = row.try_get("state")?;
    let reason: Option<String> = row.try_get("reason")?;
    let at_ms: Option<i64> = row.try_get("accepted_at_ms")?;
    let report = document(row, "report")?;
    let state = match (state.as_str(), reason, at_ms, report) {
        ("receiving", None, None, None) => UpdateState::Receiving,
        ("accepted", None, Some(at_ms), None) => UpdateState::Accepted { at_ms },
        ("aligned", None, Some(at_ms), Some(report)) => {
            UpdateState::Aligned { at_ms, report: Box::new(report) }
        }
        // One that was rejected beside the others keeps its alignment's report.
        ("rejected", Some(reason), _, _) => UpdateState::Rejected { reason },
        ("declined", Some(reason), _, None) => UpdateState::Declined { reason },
        (state, ..) => {
            return Err(Error::internal(format_args!("updates row {id}: inconsistent state {state}")));
        }
    };
    Ok(Update {
        begun_at_ms: row.try_get("begun_at_ms")?,
        withdrawn_at_ms: row.try_get("withdrawn_at_ms")?,
        run_id: row.try_get("run_id")?,
        round: unsigned(row, "round")?,
        site_id: row.try_get("site_id")?,
        digest: parsed(row, "digest")?,
        size: unsigned(row, "size")?,
        num_examples: unsigned(row, "num_examples")?,
        metrics: document::<Metrics>(row, "metrics")?.unwrap_or_default(),
        state,
        judged: document(row, "plausibility")?.map(Box::new),
        id,
    })
}
