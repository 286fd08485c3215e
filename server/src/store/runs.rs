//! Runs and their cohorts.

use std::collections::HashMap;

use fedbasin_proof::Record;
use sqlx::{Row as _, any::AnyRow};

use super::{
    Store, Tx, audit::listed, checkpoints::again, document, one_row, parsed_optional, to_json, unsigned,
};
use crate::{
    error::{Code, Error, Result},
    model::{NewRun, Run, RunState, Strategy, check_align_memory, check_id, check_layout},
    round::{Event, Millis, Policy},
};

const RUN_COLUMNS: &str =
    "SELECT r.id, r.state, r.reason, r.strategy, r.spec, r.graph_digest, r.layout, r.policy,
    r.seed_digest, r.global_digest, r.rounds_published, r.created_at_ms, r.paused_at_ms,
    (SELECT MAX(o.number) FROM rounds o WHERE o.run_id = r.id) AS current_round,
    (SELECT MAX(o.number) FROM rounds o WHERE o.run_id = r.id AND o.global_digest = r.global_digest) AS global_round,
    (SELECT o.naive_digest FROM rounds o WHERE o.run_id = r.id AND o.global_digest = r.global_digest
       AND o.naive_retired_at_ms IS NULL ORDER BY o.number DESC LIMIT 1) AS naive_digest
    FROM runs r";

/// What a run's locked row says.
pub(super) struct LockedRun {
    /// Its state's name.
    pub(super) state: String,
    /// No further round opens.
    pub(super) paused: bool,
    /// How many rounds were published.
    pub(super) rounds_published: u32,
    /// The newest global model, or else the seed.
    pub(super) newest: Option<rebasin::Digest>,
}

impl Store {
    /// Creates a run; its first round is opened by the reconciler.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`] naming the field, [`Code::NotFound`] for a site or a seed, [`Code::Conflict`] for
    /// the id, [`Code::InvalidCheckpoint`] where the spec does not fit the seed.
    pub async fn create_run(&self, new: NewRun) -> Result<Run> {
        check_id("id", &new.id)?;
        let mut cohort = new.cohort.clone();
        cohort.sort();
        cohort.dedup();
        if cohort.len() != new.cohort.len() {
            return Err(Error::invalid("cohort: a site is named twice"));
        }
        for site in &cohort {
            check_id("cohort", site)?;
        }
        new.policy.check(u32::try_from(cohort.len()).unwrap_or(u32::MAX)).map_err(Error::invalid)?;
        if new.strategy.aligns() && new.spec.is_none() && new.graph.is_none() {
            return Err(Error::invalid(format!(
                "spec: strategy {} needs one, or a graph_digest; make it with `fedbasin spec derive MODEL.onnx -o SPEC.json`",
                new.strategy.name()
            )));
        }
        let (spec, layout) = self.spec_and_layout(&new).await?;
        if let (Some(layout), Some(spec)) = (&layout, &spec) {
            self.check_memory(new.strategy, Some(spec), layout)?;
        }
        let mut tx = self.begin().await?;
        let inserted = sqlx::query(self.sql(
            "INSERT INTO runs (id, state, strategy, spec, layout, policy, seed_digest, graph_digest, global_digest,
                               rounds_published, created_at_ms)
             VALUES ($1, 'open', $2, $3, $4, $5, $6, $7, NULL, 0, {now}) ON CONFLICT (id) DO NOTHING",
        ))
        .bind(&new.id)
        .bind(new.strategy.name())
        .bind(spec.as_ref().map(rebasin::Spec::to_json))
        .bind(layout.as_ref().map(to_json).transpose()?)
        .bind(to_json(&new.policy)?)
        .bind(new.seed.map(|digest| digest.to_string()))
        .bind(new.graph.map(|digest| digest.to_string()))
        .execute(&mut *tx)
        .await?;
        if inserted.rows_affected() == 0 {
            return Err(Error::new(
                Code::Conflict,
                format!("run {}: exists already; choose another id", new.id),
            ));
        }
        if let Some(seed) = &new.seed
            && !self.hold_checkpoint(&mut tx, seed).await?
        {
            return Err(again(seed));
        }
        if let Some(seed) = &new.seed {
            refuse_update(&mut tx, seed).await?;
        }
        for site in &cohort {
            let known =
                sqlx::query("INSERT INTO run_sites (run_id, site_id) SELECT $1, id FROM sites WHERE id = $2")
                    .bind(&new.id)
                    .bind(site)
                    .execute(&mut *tx)
                    .await?;
            if known.rows_affected() == 0 {
                return Err(Error::not_found(format!("cohort: there is no site {site:?}; enrol it first")));
            }
        }
        tx.record(created(&new, spec.as_ref(), &cohort)?);
        self.commit(tx).await?;
        self.run(&new.id).await?.ok_or_else(|| Error::internal("a run just created is gone"))
    }

    /// The spec that was given or that a graph has, and the seed's layout. A graph knows nothing of the counters that a
    /// checkpoint holds beside its floats: with a seed, they are added and stay.
    async fn spec_and_layout(
        &self,
        new: &NewRun,
    ) -> Result<(Option<rebasin::Spec>, Option<rebasin::Layout>)> {
        let spec = match (&new.spec, &new.graph) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid("graph_digest: a spec is given too; give one of the two"));
            }
            (spec, None) => spec.clone(),
            (None, Some(digest)) => {
                let graph = self.graph(digest).await?.ok_or_else(|| {
                    Error::not_found(format!(
                        "graph_digest: there is no graph {digest}; send it to /v1/graphs first"
                    ))
                })?;
                Some(graph.spec)
            }
        };
        let Some(seed) = &new.seed else { return Ok((spec, None)) };
        let Some(stored) = self.checkpoint(seed).await? else {
            return Err(Error::not_found(format!(
                "seed_digest: there is no checkpoint {seed}; upload it first"
            )));
        };
        let spec = match (spec, &new.graph) {
            (Some(spec), Some(_)) => Some(spec.with_counters_of(&stored.layout)),
            (spec, _) => spec,
        };
        if let Some(spec) = &spec {
            spec.check(&stored.layout).map_err(|error| {
                Error::new(
                    Code::InvalidCheckpoint,
                    format!("spec: does not fit the seed checkpoint: {error}"),
                )
            })?;
        }
        Ok((spec, Some(stored.layout)))
    }

    /// Whether updates of that layout can be aligned here, where the strategy aligns.
    ///
    /// # Errors
    /// [`Code::InvalidCheckpoint`], saying how much memory that takes.
    pub fn check_memory(
        &self,
        strategy: Strategy,
        spec: Option<&rebasin::Spec>,
        layout: &rebasin::Layout,
    ) -> Result<()> {
        match spec {
            Some(spec) if strategy.aligns() => {
                check_align_memory(spec, layout, self.max_align_memory, self.max_assignment_width)
            }
            _ => Ok(()),
        }
    }

    /// One run.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn run(&self, id: &str) -> Result<Option<Run>> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{RUN_COLUMNS} WHERE r.id = $1")))
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        match row {
            Some(row) => self.run_from(&row).await.map(Some),
            None => Ok(None),
        }
    }

    /// All runs, newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn runs(&self) -> Result<Vec<Run>> {
        let rows =
            sqlx::query(sqlx::AssertSqlSafe(format!("{RUN_COLUMNS} ORDER BY r.created_at_ms DESC, r.id")))
                .fetch_all(&self.pool)
                .await?;
        self.runs_from(rows).await
    }

    /// The runs in whose cohort the site is, newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn runs_of_site(&self, site_id: &str) -> Result<Vec<Run>> {
        let query = format!(
            "{RUN_COLUMNS} JOIN run_sites s ON s.run_id = r.id WHERE s.site_id = $1
             ORDER BY r.created_at_ms DESC, r.id"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(query)).bind(site_id).fetch_all(&self.pool).await?;
        self.runs_from(rows).await
    }

    /// The ids of the open runs, oldest first. Not the runs: one that cannot be read must not hide the others.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn open_runs(&self) -> Result<Vec<String>> {
        let query = "SELECT id FROM runs WHERE state = 'open' ORDER BY created_at_ms, id";
        let rows = sqlx::query(query).fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok(row.try_get("id")?)).collect()
    }

    async fn runs_from(&self, rows: Vec<AnyRow>) -> Result<Vec<Run>> {
        let mut runs = Vec::with_capacity(rows.len());
        for row in &rows {
            runs.push(self.run_from(row).await?);
        }
        Ok(runs)
    }

    async fn run_from(&self, row: &AnyRow) -> Result<Run> {
        let id: String = row.try_get("id")?;
        let cohort = sqlx::query("SELECT site_id FROM run_sites WHERE run_id = $1 ORDER BY site_id")
            .bind(&id)
            .fetch_all(&self.pool)
            .await?
            .iter()
            .map(|row| row.try_get("site_id"))
            .collect::<Result<Vec<String>, _>>()?;
        let state: String = row.try_get("state")?;
        let reason: Option<String> = row.try_get("reason")?;
        let state = match (state.as_str(), reason) {
            ("open", None) => RunState::Open,
            ("complete", None) => RunState::Complete,
            ("cancelled", None) => RunState::Cancelled,
            ("failed", Some(reason)) => RunState::Failed { reason },
            other => {
                return Err(Error::internal(format_args!("runs row {id}: inconsistent state {other:?}")));
            }
        };
        let strategy: String = row.try_get("strategy")?;
        let number = |column: &'static str| -> Result<Option<u32>> {
            let number: Option<i64> = row.try_get(column)?;
            number.map(u32::try_from).transpose().map_err(Error::internal)
        };
        Ok(Run {
            state,
            strategy: Strategy::from_name(&strategy)?,
            spec: spec_from(row, &id)?,
            graph: parsed_optional(row, "graph_digest")?,
            layout: document(row, "layout")?,
            policy: document::<Policy>(row, "policy")?
                .ok_or_else(|| Error::internal("runs.policy is null"))?,
            seed: parsed_optional(row, "seed_digest")?,
            global: parsed_optional(row, "global_digest")?,
            global_round: number("global_round")?,
            naive: parsed_optional(row, "naive_digest")?,
            rounds_published: unsigned(row, "rounds_published")?,
            created_at_ms: row.try_get("created_at_ms")?,
            paused_at_ms: row.try_get("paused_at_ms")?,
            cohort,
            current_round: number("current_round")?,
            id,
        })
    }

    /// Cancels a run and its open round. Cancelling a cancelled run changes nothing.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::Conflict`] for a run that is over otherwise.
    pub async fn cancel_run(&self, id: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        let locked = self.lock_run(&mut tx, id).await?;
        match locked.state.as_str() {
            "open" => {}
            "cancelled" => return Ok(tx.rollback().await?),
            state => {
                return Err(Error::new(
                    Code::Conflict,
                    format!("run {id}: is {state}, it cannot be cancelled"),
                ));
            }
        }
        if let Some(record) = self.lock_newest_round(&mut tx, id).await?
            && !record.round.state.is_terminal()
        {
            let now = self.now_in(&mut tx).await?;
            let after = record.round.clone().apply(Event::Cancel, now)?;
            self.save_round(&mut tx, &record, &after, None).await?;
        }
        self.set_run_state(&mut tx, id, &RunState::Cancelled).await?;
        self.commit(tx).await
    }

    /// Lets no further round of an open run open, or lets them again. A round that is open goes on. Twice is as once.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::Conflict`] for a run that is over.
    pub async fn pause_run(&self, id: &str, pause: bool) -> Result<()> {
        let mut tx = self.begin().await?;
        let locked = self.lock_run(&mut tx, id).await?;
        if locked.state != "open" {
            let what = if pause { "paused" } else { "resumed" };
            let state = locked.state;
            return Err(Error::new(Code::Conflict, format!("run {id}: is {state}, it cannot be {what}")));
        }
        if locked.paused == pause {
            return Ok(tx.rollback().await?);
        }
        sqlx::query(
            self.sql(
                "UPDATE runs SET paused_at_ms = CASE WHEN $2 = 1 THEN {now} ELSE NULL END WHERE id = $1",
            ),
        )
        .bind(id)
        .bind(i64::from(pause))
        .execute(&mut *tx)
        .await?;
        tx.record(Record::of(if pause { "run.paused" } else { "run.resumed" }).run(id));
        self.commit(tx).await
    }

    /// When each site of the run's cohort was last seen, by id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn cohort_last_seen(&self, run_id: &str) -> Result<HashMap<String, Millis>> {
        let rows = sqlx::query(
            "SELECT s.id, s.last_seen_at_ms FROM sites s JOIN run_sites c ON c.site_id = s.id
             WHERE c.run_id = $1 AND s.last_seen_at_ms IS NOT NULL",
        )
        .bind(run_id)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok((row.try_get("id")?, row.try_get("last_seen_at_ms")?))).collect()
    }

    /// Locks the run's row until the transaction ends. Taken before any of its rounds, everywhere.
    pub(super) async fn lock_run(&self, tx: &mut Tx, id: &str) -> Result<LockedRun> {
        let row = sqlx::query(self.sql(
            "SELECT state, paused_at_ms, rounds_published, COALESCE(global_digest, seed_digest) AS newest_digest
             FROM runs WHERE id = $1 {for_update}",
        ))
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?
        .ok_or_else(|| Error::not_found(format!("there is no run {id:?}")))?;
        Ok(LockedRun {
            state: row.try_get("state")?,
            paused: row.try_get::<Option<i64>, _>("paused_at_ms")?.is_some(),
            rounds_published: unsigned(&row, "rounds_published")?,
            newest: parsed_optional(&row, "newest_digest")?,
        })
    }

    /// Ends an open run.
    pub(super) async fn set_run_state(&self, tx: &mut Tx, id: &str, state: &RunState) -> Result<()> {
        let reason = match state {
            RunState::Failed { reason } => Some(reason.as_str()),
            _ => None,
        };
        let result = sqlx::query("UPDATE runs SET state = $2, reason = $3 WHERE id = $1 AND state = 'open'")
            .bind(id)
            .bind(state.name())
            .bind(reason)
            .execute(&mut **tx)
            .await?;
        one_row(&result, "ending a run")?;
        let record = Record::of(&format!("run.{}", state.name())).run(id);
        tx.record(match reason {
            Some(reason) => record.because(reason),
            None => record,
        });
        Ok(())
    }

    /// The site whose update fixed the run's layout: the first of the round that was founding. None where a seed did.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn layout_fixed_by(&self, run_id: &str) -> Result<Option<String>> {
        let row = sqlx::query(
            "SELECT u.site_id FROM updates u JOIN runs r ON r.id = u.run_id
             WHERE r.id = $1 AND r.seed_digest IS NULL AND u.accepted_at_ms IS NOT NULL AND u.round = COALESCE(
               (SELECT MIN(number) FROM rounds WHERE run_id = $1 AND state = 'published'),
               (SELECT MAX(number) FROM rounds WHERE run_id = $1))
             ORDER BY u.accepted_at_ms, u.id LIMIT 1",
        )
        .bind(run_id)
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| Ok(row.try_get("site_id")?)).transpose()
    }

    /// Fixes the run's layout if nothing did yet. Says what is wrong where a checkpoint of `layout` may not take part.
    ///
    /// # Errors
    /// [`Code::InvalidCheckpoint`]; nothing is written then.
    pub(super) async fn fix_layout(&self, tx: &mut Tx, run_id: &str, layout: &rebasin::Layout) -> Result<()> {
        let row = sqlx::query("SELECT spec, layout, strategy FROM runs WHERE id = $1")
            .bind(run_id)
            .fetch_one(&mut **tx)
            .await?;
        let fixed = document::<rebasin::Layout>(&row, "layout")?;
        let spec = spec_from(&row, run_id)?;
        let fixed_by = match &fixed {
            Some(fixed) if fixed.digest() != layout.digest() => self.layout_fixed_by(run_id).await?,
            _ => None,
        };
        check_layout(spec.as_ref(), fixed.as_ref(), fixed_by.as_deref(), layout)?;
        let strategy = Strategy::from_name(&row.try_get::<String, _>("strategy")?)?;
        self.check_memory(strategy, spec.as_ref(), layout)?;
        if fixed.is_none() {
            let result = sqlx::query("UPDATE runs SET layout = $2 WHERE id = $1 AND layout IS NULL")
                .bind(run_id)
                .bind(to_json(layout)?)
                .execute(&mut **tx)
                .await?;
            one_row(&result, "fixing a run's layout")?;
            tx.record(
                Record::of("run.layout-fixed")
                    .run(run_id)
                    .detail("layout_digest", layout.digest().to_string()),
            );
        }
        Ok(())
    }
}

/// What the audit log says of a new run: all that decides what becomes of it.
fn created(new: &NewRun, spec: Option<&rebasin::Spec>, cohort: &[String]) -> Result<Record> {
    let spec = spec.map(|spec| rebasin::Digest::of(spec.to_json().as_bytes()).to_string());
    let record = Record::of("run.created")
        .run(&new.id)
        .digests(None, new.seed.map(|digest| digest.to_string()))
        .detail("strategy", new.strategy.name())
        .detail("spec_digest", spec)
        .detail("graph_digest", new.graph.map(|digest| digest.to_string()))
        .detail("cohort", listed(cohort.iter().map(|site| site.as_str().into()).collect()))
        .detail("policy", serde_json::to_value(&new.policy).map_err(Error::internal)?);
    Ok(match &new.cloned_from {
        Some(run) => record.detail("cloned_from", run.as_str()),
        None => record,
    })
}

fn spec_from(row: &AnyRow, run_id: &str) -> Result<Option<rebasin::Spec>> {
    let spec: Option<String> = row.try_get("spec")?;
    spec.map(|json| rebasin::Spec::from_json(&json))
        .transpose()
        .map_err(|error| Error::internal(format_args!("runs.spec of {run_id}: {error}")))
}

/// Refuses a seed that is nothing but a site's update: other sites would see it, and its site could not have it erased. What a round
/// published or a person stored may begin a run.
async fn refuse_update(tx: &mut Tx, seed: &rebasin::Digest) -> Result<()> {
    let row = sqlx::query(
        "SELECT u.id FROM updates u WHERE u.digest = $1 AND u.state IN ('accepted', 'aligned')
           AND NOT EXISTS (SELECT 1 FROM rounds o WHERE o.global_digest = $1)
           AND NOT EXISTS (SELECT 1 FROM audit_records a WHERE a.object = $1 AND a.action = 'checkpoint.stored') LIMIT 1",
    )
    .bind(seed.to_string())
    .fetch_optional(&mut **tx)
    .await?;
    match row {
        None => Ok(()),
        Some(_) => Err(Error::invalid(format!(
            "seed_digest: {seed} is a site's update, which is that site's alone; take a published model or upload a checkpoint"
        ))),
    }
}
