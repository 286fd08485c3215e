//! How good models are: what sites say of those of published rounds, and means of that.

use std::ops::RangeInclusive;

use fedbasin_proof::Record;
use rebasin::Digest;
use serde_json::{Map, Value};
use sqlx::{Row as _, any::AnyRow};

use super::{Store, Tx, document, parsed, signed, to_json, unsigned, withdrawals::stands};
use crate::{
    error::{Code, Error, Result},
    model::{Evaluated, Evaluation, MeanEvaluation, NewEvaluation, NewEvaluations, RoundRecord},
    round::{Millis, State},
};

/// The action of its records.
const REPORTED: &str = "evaluation.reported";

/// How often a site may say how good a model of a round is, each time something else.
const MOST_REPORTS: i64 = 20;
/// So many are compared with their records at once.
const COMPARED_AT_ONCE: u16 = 1000;

/// The mean of a figure of the evaluations `e` of a group, by their examples; null where none tells it.
macro_rules! mean {
    ($figure:literal) => {
        concat!(
            "SUM(e.",
            $figure,
            " * e.num_examples) / CAST(NULLIF(SUM(CASE WHEN e.",
            $figure,
            " IS NULL THEN 0 ELSE e.num_examples END), 0) AS DOUBLE PRECISION)"
        )
    };
}

/// What all sites say of each model of each round, from the evaluations `e`.
macro_rules! means_query {
    ($rest:literal) => {
        concat!(
            "SELECT e.run_id, e.round, e.model, COUNT(*) AS sites, CAST(SUM(e.num_examples) AS BIGINT) AS num_examples, ",
            mean!("loss"),
            " AS mean_loss, ",
            mean!("accuracy"),
            " AS mean_accuracy FROM evaluations e ",
            $rest
        )
    };
}

impl Store {
    /// Records what a site says of models of a published round; tells whether that is news. The newest word counts, the log has all.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::NotPublished`]; [`Code::InvalidArgument`] for a digest that is not the model's.
    pub async fn report_evaluations(&self, site_id: &str, new: &NewEvaluations) -> Result<bool> {
        self.run_of_site(site_id, &new.run_id).await?;
        let round = self.round(&new.run_id, new.round).await?.ok_or_else(|| {
            Error::not_found(format!("run {}: there is no round {}", new.run_id, new.round))
        })?;
        // What is published stays so.
        let State::Published { global } = round.round.state else { return Err(not_published(&round)) };
        let mut evaluations = new.evaluations.clone();
        // In one order, so that no two calls wait for one another.
        evaluations.sort_by_key(|evaluation| evaluation.model);
        let mut tx = self.begin().await?;
        for evaluation in &evaluations {
            check_digest(evaluation, &global, round.naive.as_ref())?;
            self.report_one(&mut tx, site_id, new, evaluation).await?;
        }
        let is_news = !tx.records.is_empty();
        self.settle(tx).await?;
        Ok(is_news)
    }

    async fn report_one(
        &self,
        tx: &mut Tx,
        site_id: &str,
        of: &NewEvaluations,
        new: &NewEvaluation,
    ) -> Result<()> {
        let path = if new.path.is_empty() { None } else { Some(to_json(&new.path)?) };
        let row = sqlx::query(self.sql(
            "INSERT INTO evaluations (id, run_id, round, site_id, model, digest, num_examples, loss, accuracy, path,
                                      reported_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, CASE WHEN $8 = 1 THEN $9 END, CASE WHEN $10 = 1 THEN $11 END, $12,
                     {now})
             ON CONFLICT (run_id, round, site_id, model)
             DO UPDATE SET digest = excluded.digest, num_examples = excluded.num_examples, loss = excluded.loss,
                           accuracy = excluded.accuracy, path = excluded.path,
                           reported_at_ms = excluded.reported_at_ms, reports = evaluations.reports + 1
             WHERE evaluations.digest <> excluded.digest OR evaluations.num_examples <> excluded.num_examples
                OR evaluations.loss IS DISTINCT FROM excluded.loss
                OR evaluations.accuracy IS DISTINCT FROM excluded.accuracy
                OR evaluations.path IS DISTINCT FROM excluded.path
             RETURNING id, reports",
        ))
        .bind(uuid::Uuid::now_v7().to_string())
        .bind(&of.run_id)
        .bind(i64::from(of.round))
        .bind(site_id)
        .bind(new.model.name())
        .bind(new.digest.to_string())
        .bind(signed(new.num_examples)?)
        // sqlx's `Any` (0.9) sends a null of 64 bits as one of 32, and Postgres then takes no number in its place: none is sent.
        .bind(i64::from(new.loss.is_some()))
        .bind(new.loss.unwrap_or_default())
        .bind(i64::from(new.accuracy.is_some()))
        .bind(new.accuracy.unwrap_or_default())
        .bind(&path)
        .fetch_optional(&mut **tx)
        .await?;
        // Said before.
        let Some(row) = row else { return Ok(()) };
        // Each word is a record in the log, which keeps all.
        if row.try_get::<i64, _>("reports")? > MOST_REPORTS {
            return Err(Error::new(
                Code::Conflict,
                format!(
                    "round {}: the word on the {} model was changed as often as it may be ({MOST_REPORTS} times in all); the last one stays",
                    of.round,
                    new.model.name()
                ),
            ));
        }
        let mut record = Record::of(REPORTED)
            .round(&of.run_id, of.round)
            .site(site_id)
            .object(&row.try_get::<String, _>("id")?)
            .digests(None, Some(new.digest.to_string()));
        record.details = details(new, path.as_deref());
        tx.record(record);
        Ok(())
    }

    /// What each site says of the models of some rounds, each with the round's number, by round, model and site; its paths, which are long, only
    /// where they are asked for.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn evaluations(
        &self,
        run_id: &str,
        rounds: RangeInclusive<u32>,
        with_paths: bool,
    ) -> Result<Vec<(u32, Evaluation)>> {
        let path = if with_paths { "path" } else { "CAST(NULL AS TEXT) AS path" };
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT round, site_id, model, digest, num_examples, loss, accuracy, {path}, reported_at_ms FROM evaluations
             WHERE run_id = $1 AND round BETWEEN $2 AND $3 ORDER BY round, model, site_id"
        )))
        .bind(run_id)
        .bind(i64::from(*rounds.start()))
        .bind(i64::from(*rounds.end()))
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                let evaluation = Evaluation {
                    site_id: row.try_get("site_id")?,
                    of: said_from(row)?,
                    reported_at_ms: row.try_get("reported_at_ms")?,
                };
                Ok((unsigned(row, "round")?, evaluation))
            })
            .collect()
    }

    /// What all sites together say of the models of some rounds, by round and model.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn evaluation_means(
        &self,
        run_id: &str,
        rounds: RangeInclusive<u32>,
    ) -> Result<Vec<MeanEvaluation>> {
        let rows = sqlx::query(means_query!(
            "WHERE e.run_id = $1 AND e.round BETWEEN $2 AND $3 GROUP BY e.run_id, e.round, e.model
             ORDER BY e.round, e.model"
        ))
        .bind(run_id)
        .bind(i64::from(*rounds.start()))
        .bind(i64::from(*rounds.end()))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(mean_from).collect()
    }

    /// The round with the best global model so far: that of the least mean loss, among equals that of the most mean accuracy, then the
    /// earliest. Rounds that nobody evaluated and those that were merged again do not count.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn best_round(&self, run_id: &str) -> Result<Option<u32>> {
        let row = sqlx::query(concat!(
            means_query!("JOIN rounds o ON o.run_id = e.run_id AND o.number = e.round WHERE e.run_id = $1 AND e.model = 'global' AND "),
            stands!(),
            " GROUP BY e.run_id, e.round, e.model
             ORDER BY mean_loss NULLS LAST, mean_accuracy DESC NULLS LAST, e.round LIMIT 1"
        ))
        .bind(run_id)
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| unsigned(&row, "round")).transpose()
    }

    /// Whether each evaluation since then is what the newest record of it says; gives the id of one that is not.
    ///
    /// # Errors
    /// Those of the database.
    pub(super) async fn unrecorded_evaluation(&self, since: Millis) -> Result<Option<String>> {
        let mut after = String::new();
        loop {
            let rows = sqlx::query(
                "SELECT e.id, e.run_id, e.round, e.site_id, e.model, e.digest, e.num_examples, e.loss, e.accuracy, e.path,
                   (SELECT a.line FROM audit_records a WHERE a.object = e.id AND a.action = $3
                    ORDER BY a.seq DESC LIMIT 1) AS line
                 FROM evaluations e WHERE e.reported_at_ms >= $1 AND e.id > $2 ORDER BY e.id LIMIT $4",
            )
            .bind(since)
            .bind(&after)
            .bind(REPORTED)
            .bind(i64::from(COMPARED_AT_ONCE))
            .fetch_all(&self.pool)
            .await?;
            for row in &rows {
                after = row.try_get("id")?;
                if !is_recorded(row)? {
                    return Ok(Some(after));
                }
            }
            if rows.len() < usize::from(COMPARED_AT_ONCE) {
                return Ok(None);
            }
        }
    }

    /// What all sites together say of the newest global model that one of them tried, of each open run, by the run's id.
    ///
    /// # Errors
    /// Those of the database.
    pub(super) async fn newest_means(&self) -> Result<Vec<(String, MeanEvaluation)>> {
        let rows = sqlx::query(means_query!(
            "JOIN runs r ON r.id = e.run_id
             WHERE r.state = 'open' AND e.model = 'global' AND e.round = (
               SELECT MAX(n.round) FROM evaluations n WHERE n.run_id = e.run_id AND n.model = 'global')
             GROUP BY e.run_id, e.round, e.model ORDER BY e.run_id"
        ))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok((row.try_get("run_id")?, mean_from(row)?))).collect()
    }
}

/// What the audit log says of what a site says; of a path, as it is stored, its SHA-256, for a log keeps all and a path is long.
fn details(new: &NewEvaluation, path: Option<&str>) -> Map<String, Value> {
    let mut details = Map::new();
    details.insert("model".into(), new.model.name().into());
    details.insert("num_examples".into(), new.num_examples.into());
    for (name, figure) in [("loss", new.loss), ("accuracy", new.accuracy)] {
        if let Some(figure) = figure {
            details.insert(name.into(), figure.into());
        }
    }
    if let Some(path) = path {
        details.insert("path".into(), Digest::of(path.as_bytes()).to_string().into());
    }
    details
}

/// Whether a row is what the record's line beside it says. Figures are compared as they are written: read again they may be others.
fn is_recorded(row: &AnyRow) -> Result<bool> {
    let line: Option<String> = row.try_get("line")?;
    let Some(line) = line else { return Ok(false) };
    let found = Record::from_line(&line).map_err(Error::internal)?;
    let said = said_from(row)?;
    let (run, site): (String, String) = (row.try_get("run_id")?, row.try_get("site_id")?);
    let round: u32 = unsigned(row, "round")?;
    let path: Option<String> = row.try_get("path")?;
    let details = to_json(&details(&said, path.as_deref()))?;
    Ok(found.run == Some(run)
        && found.round == Some(round)
        && found.site == Some(site)
        && found.after == Some(said.digest.to_string())
        && line.contains(&format!("\"details\":{details}")))
}

fn said_from(row: &AnyRow) -> Result<NewEvaluation> {
    Ok(NewEvaluation {
        model: Evaluated::from_name(&row.try_get::<String, _>("model")?)?,
        digest: parsed(row, "digest")?,
        num_examples: unsigned(row, "num_examples")?,
        loss: row.try_get("loss")?,
        accuracy: row.try_get("accuracy")?,
        path: document(row, "path")?.unwrap_or_default(),
    })
}

fn mean_from(row: &AnyRow) -> Result<MeanEvaluation> {
    Ok(MeanEvaluation {
        round: unsigned(row, "round")?,
        model: Evaluated::from_name(&row.try_get::<String, _>("model")?)?,
        sites: unsigned(row, "sites")?,
        num_examples: unsigned(row, "num_examples")?,
        loss: row.try_get("mean_loss")?,
        accuracy: row.try_get("mean_accuracy")?,
    })
}

fn not_published(record: &RoundRecord) -> Error {
    let (number, run, state) = (record.round.number, &record.run_id, record.round.state.name());
    Error::new(
        Code::NotPublished,
        format!("round {number} of run {run} is {state}: there is no model of it to evaluate"),
    )
}

/// Whether what was tried is what the round has.
fn check_digest(new: &NewEvaluation, global: &Digest, naive: Option<&Digest>) -> Result<()> {
    let (name, has) = match new.model {
        Evaluated::Own => return Ok(()),
        Evaluated::Global => ("global model", global),
        Evaluated::Naive => {
            let why = "model: the round has no naive mean, for its run does not ask for one (evaluate_naive)";
            ("naive mean", naive.ok_or_else(|| Error::invalid(why))?)
        }
    };
    if new.digest == *has {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "digest: {} is not the round's {name}, which is {has}; download that and evaluate it",
        new.digest
    )))
}
