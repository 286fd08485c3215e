//! Models: what rounds published, how persons marked it, and whether it is kept.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use fedbasin_proof::Record;
use rebasin::Digest;
use sqlx::{Row as _, any::AnyRow};

use super::{Part, Store, Tx, parsed, unsigned};
use crate::{
    error::{Code, Error, Result},
    model::{Model, Published},
    round::Millis,
};

/// More tags than this has no model.
const MOST_TAGS: usize = 32;

/// What rounds published. A digest may stand there twice: two rounds may come to the same bytes.
macro_rules! published_query {
    ($($rest:tt)*) => {
        concat!(
            "SELECT o.run_id, o.number, o.global_digest, o.closed_at_ms, c.size, c.removed_at_ms,
                    CASE WHEN o.model_signature IS NULL THEN 0 ELSE 1 END AS signed,
                    CASE WHEN o.model_retired_at_ms IS NULL THEN 0 ELSE 1 END AS retired,
                    CASE WHEN r.promoted_digest = o.global_digest THEN 1 ELSE 0 END AS promoted
             FROM rounds o JOIN runs r ON r.id = o.run_id JOIN checkpoints c ON c.digest = o.global_digest
             WHERE o.state = 'published' ",
            $($rest)*,
            " ORDER BY o.closed_at_ms DESC, o.run_id, o.number DESC"
        )
    };
}

/// The digests of a part of the list: of a run's models, of those with a tag, after the one of that time and digest.
macro_rules! part_query {
    ($of:literal) => {
        concat!(
            $of,
            " IN (SELECT n.global_digest FROM rounds n WHERE n.state = 'published'
               AND ($1 = '' OR EXISTS (SELECT 1 FROM rounds p WHERE p.global_digest = n.global_digest
                                       AND p.state = 'published' AND p.run_id = $1))
               AND ($2 = '' OR EXISTS (SELECT 1 FROM model_tags t WHERE t.digest = n.global_digest AND t.tag = $2))
             GROUP BY n.global_digest
             HAVING $3 = 0 OR MAX(n.closed_at_ms) < $4 OR (MAX(n.closed_at_ms) = $4 AND n.global_digest > $5)
             ORDER BY MAX(n.closed_at_ms) DESC, n.global_digest LIMIT $6)"
        )
    };
}

impl Store {
    /// A part of the models that were published, those first that were last: those of a run, with a tag, or of all.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`] where the part begins after what is no model.
    pub async fn models(&self, run: Option<&str>, tag: Option<&str>, part: &Part<'_>) -> Result<Vec<Model>> {
        let (mut at, mut after) = (0, String::new());
        if let Some(name) = part.after {
            let digest: Digest = name.parse().map_err(|_| Part::unknown())?;
            let found = self.model(&digest).await?.ok_or_else(Part::unknown)?;
            (at, after) = (published_last(&found), digest.to_string());
        }
        let (run, tag, limit) = (run.unwrap_or_default(), tag.unwrap_or_default(), part.count()?);
        let of_part = async |query: &'static str| {
            let query = sqlx::query(query).bind(run).bind(tag).bind(i64::from(part.after.is_some()));
            query.bind(at).bind(&after).bind(limit).fetch_all(&self.pool).await
        };
        let rows = of_part(published_query!(part_query!("AND o.global_digest"))).await?;
        let tags = of_part(part_query!("SELECT digest, tag FROM model_tags WHERE digest")).await?;
        let mut models = models(&rows, &tags)?;
        models.sort_by_cached_key(|model| (Reverse(published_last(model)), model.digest.to_string()));
        Ok(models)
    }

    /// One of them.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn model(&self, digest: &Digest) -> Result<Option<Model>> {
        let text = digest.to_string();
        let rows = sqlx::query(published_query!("AND o.global_digest = $1")).bind(&text);
        let rows = rows.fetch_all(&self.pool).await?;
        let tags = sqlx::query("SELECT digest, tag FROM model_tags WHERE digest = $1").bind(&text);
        let tags = tags.fetch_all(&self.pool).await?;
        Ok(models(&rows, &tags)?.pop())
    }

    /// Marks a model as the one of its run that is in use, in the place of any other; again changes nothing. `run` says of which one, where
    /// several published it.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::Conflict`] where it is no longer kept, or it is not said of which run.
    pub async fn promote_model(&self, digest: &Digest, run: Option<&str>) -> Result<()> {
        let mut tx = self.begin().await?;
        let runs = self.hold_model(&mut tx, digest).await?;
        let run = match (run, runs.len()) {
            (Some(run), _) if runs.contains(run) => run,
            (Some(run), _) => {
                return Err(Error::not_found(format!("run: {run:?} did not publish the model {digest}")));
            }
            (None, 1) => runs.first().map(String::as_str).unwrap_or_default(),
            (None, _) => {
                let runs = runs.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                let what = format!("model {digest}: was published by several runs; say of which: {runs}");
                return Err(Error::new(Code::Conflict, what));
            }
        };
        let text = digest.to_string();
        let before = sqlx::query("SELECT promoted_digest FROM runs WHERE id = $1").bind(run);
        let before: Option<String> = before.fetch_one(&mut *tx).await?.try_get("promoted_digest")?;
        if before.as_ref() != Some(&text) {
            sqlx::query("UPDATE runs SET promoted_digest = $2 WHERE id = $1")
                .bind(run)
                .bind(&text)
                .execute(&mut *tx)
                .await?;
            let record = Record::of("model.promoted").run(run).object(&text);
            tx.record(record.digests(before, Some(text)));
        }
        self.settle(tx).await
    }

    /// Gives a model a tag; again changes nothing.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::Conflict`] where it is no longer kept, or has as many tags as it may.
    pub async fn tag_model(&self, digest: &Digest, tag: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        self.hold_model(&mut tx, digest).await?;
        let tags = tags_of(&mut tx, digest).await?;
        if tags.contains(tag) {
            return Ok(tx.rollback().await?);
        }
        if tags.len() >= MOST_TAGS {
            let what = format!("model {digest}: has {MOST_TAGS} tags, as many as it may; take one away");
            return Err(Error::new(Code::Conflict, what));
        }
        sqlx::query(self.sql("INSERT INTO model_tags (digest, tag, created_at_ms) VALUES ($1, $2, {now})"))
            .bind(digest.to_string())
            .bind(tag)
            .execute(&mut *tx)
            .await?;
        tx.record(Record::of("model.tagged").object(&digest.to_string()).detail("tag", tag));
        self.commit(tx).await
    }

    /// Takes a tag away; one that the model does not have changes nothing.
    ///
    /// # Errors
    /// [`Code::NotFound`] for a model that no round published.
    pub async fn untag_model(&self, digest: &Digest, tag: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        self.lock_runs_of(&mut tx, digest).await?;
        let gone = sqlx::query("DELETE FROM model_tags WHERE digest = $1 AND tag = $2")
            .bind(digest.to_string())
            .bind(tag)
            .execute(&mut *tx)
            .await?;
        if gone.rows_affected() > 0 {
            tx.record(Record::of("model.untagged").object(&digest.to_string()).detail("tag", tag));
        }
        self.settle(tx).await
    }

    /// Keeps a model from being let go until the transaction ends; gives the runs whose model it is, all of which are locked.
    async fn hold_model(&self, tx: &mut Tx, digest: &Digest) -> Result<BTreeSet<String>> {
        let runs = self.lock_runs_of(tx, digest).await?;
        let kept = sqlx::query(
            "SELECT 1 FROM rounds WHERE global_digest = $1 AND state = 'published' AND model_retired_at_ms IS NULL",
        );
        let kept = kept.bind(digest.to_string()).fetch_optional(&mut **tx).await?;
        if kept.is_none() || !self.hold_checkpoint(tx, digest).await? {
            let what = format!("model {digest}: is no longer kept, by its run's policy (keep_models)");
            return Err(Error::new(Code::Conflict, what));
        }
        Ok(runs)
    }

    /// Locks the runs that published a model, by id; the store lets models go only while it holds their runs.
    async fn lock_runs_of(&self, tx: &mut Tx, digest: &Digest) -> Result<BTreeSet<String>> {
        let rows = sqlx::query("SELECT run_id FROM rounds WHERE global_digest = $1 AND state = 'published'");
        let rows = rows.bind(digest.to_string()).fetch_all(&mut **tx).await?;
        let runs: BTreeSet<String> =
            rows.iter().map(|row| row.try_get("run_id")).collect::<sqlx::Result<_>>()?;
        if runs.is_empty() {
            return Err(Error::not_found(format!("there is no model {digest}: no round published it")));
        }
        for run in &runs {
            self.lock_run(tx, run).await?;
        }
        Ok(runs)
    }
}

async fn tags_of(tx: &mut Tx, digest: &Digest) -> Result<BTreeSet<String>> {
    let rows = sqlx::query("SELECT tag FROM model_tags WHERE digest = $1").bind(digest.to_string());
    let rows = rows.fetch_all(&mut **tx).await?;
    Ok(rows.iter().map(|row| row.try_get("tag")).collect::<sqlx::Result<_>>()?)
}

/// When a model was published last.
fn published_last(model: &Model) -> Millis {
    model.published.iter().filter_map(|published| published.at_ms).max().unwrap_or_default()
}

/// The models of rows, in the order in which each comes first, with their tags.
fn models(rows: &[AnyRow], tags: &[AnyRow]) -> Result<Vec<Model>> {
    let mut all: Vec<Model> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows {
        let digest: String = row.try_get("global_digest")?;
        let place = match places.get(&digest) {
            Some(place) => *place,
            None => {
                let removed_at_ms = row.try_get("removed_at_ms")?;
                let (size, digest_read) = (unsigned(row, "size")?, parsed(row, "global_digest")?);
                all.push(Model {
                    digest: digest_read,
                    size,
                    removed_at_ms,
                    tags: Vec::new(),
                    published: Vec::new(),
                });
                places.insert(digest, all.len() - 1);
                all.len() - 1
            }
        };
        all[place].published.push(published(row)?);
    }
    for row in tags {
        if let Some(place) = places.get(&row.try_get::<String, _>("digest")?) {
            all[*place].tags.push(row.try_get("tag")?);
        }
    }
    all.iter_mut().for_each(|model| model.tags.sort());
    Ok(all)
}

fn published(row: &AnyRow) -> Result<Published> {
    let is = |column: &'static str| -> Result<bool> { Ok(row.try_get::<i64, _>(column)? == 1) };
    Ok(Published {
        run_id: row.try_get("run_id")?,
        round: unsigned(row, "number")?,
        at_ms: row.try_get("closed_at_ms")?,
        is_signed: is("signed")?,
        is_retired: is("retired")?,
        is_promoted: is("promoted")?,
    })
}
