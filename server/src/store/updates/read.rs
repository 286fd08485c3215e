//! Updates as they are read: of a run, of a site, of a round.

use sqlx::Row as _;

use super::{
    super::{Part, Store},
    UPDATE_COLUMNS, update_from,
};
use crate::{
    error::{Error, Result},
    model::{Run, Update, check_id},
    round::Millis,
};

/// Which updates of a run; none said: all.
#[derive(Debug, Clone, Copy, Default)]
pub struct WantedUpdates<'a> {
    /// Of the round of this number.
    pub round: Option<i64>,
    /// Of this site.
    pub site: Option<&'a str>,
    /// In the state of this name.
    pub state: Option<&'a str>,
}

impl Store {
    /// A part of what sites sent for a run, the newest first.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`](crate::error::Code) where the part begins after what is no update of the run.
    pub async fn updates_of_run(
        &self,
        run_id: &str,
        wanted: &WantedUpdates<'_>,
        part: &Part<'_>,
    ) -> Result<Vec<Update>> {
        let (mut at, after) = (0, part.after.unwrap_or_default());
        if part.after.is_some() {
            // Not every text may be asked for: Postgres knows no NUL.
            uuid::Uuid::parse_str(after).map_err(|_| Part::unknown())?;
            let row = sqlx::query("SELECT begun_at_ms FROM updates WHERE id = $1 AND run_id = $2");
            let row = row.bind(after).bind(run_id).fetch_optional(&self.pool).await?;
            at = row.ok_or_else(Part::unknown)?.try_get("begun_at_ms")?;
        }
        let query = format!(
            "{UPDATE_COLUMNS} WHERE u.run_id = $1 AND ($2 = 0 OR u.round = $3) AND ($4 = '' OR u.site_id = $4)
             AND ($5 = '' OR u.state = $5)
             AND ($6 = 0 OR u.begun_at_ms < $7 OR (u.begun_at_ms = $7 AND u.id < $8))
             ORDER BY u.begun_at_ms DESC, u.id DESC LIMIT $9"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(run_id)
            .bind(i64::from(wanted.round.is_some()))
            .bind(wanted.round.unwrap_or_default())
            .bind(wanted.site.unwrap_or_default())
            .bind(wanted.state.unwrap_or_default())
            .bind(i64::from(part.after.is_some()))
            .bind::<Millis>(at)
            .bind(after)
            .bind(part.count()?)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(update_from).collect()
    }

    /// A run, if the site is in its cohort. Others look to it as if they did not exist.
    ///
    /// # Errors
    /// [`Code::NotFound`](crate::error::Code).
    pub async fn run_of_site(&self, site_id: &str, run_id: &str) -> Result<Run> {
        if check_id("run_id", run_id).is_err() {
            return Err(Error::not_found(format!(
                "run_id: no run has such an id; site {site_id} finds its own by listing its runs"
            )));
        }
        let found = self.run(run_id).await?.filter(|run| run.cohort.iter().any(|site| site == site_id));
        found.ok_or_else(|| {
            Error::not_found(format!(
                "site {site_id} is in no run {run_id:?}; ask the operator who created the run"
            ))
        })
    }

    /// One update of the site.
    ///
    /// # Errors
    /// [`Code::NotFound`](crate::error::Code).
    pub async fn update_of_site(&self, site_id: &str, update_id: &str) -> Result<Update> {
        // No other text is an update's id, and not every text may be asked for: Postgres knows no NUL.
        if uuid::Uuid::parse_str(update_id).is_err() {
            return Err(Error::not_found("this site has no such update"));
        }
        let query = format!("{UPDATE_COLUMNS} WHERE u.id = $1 AND u.site_id = $2");
        let row = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(update_id)
            .bind(site_id)
            .fetch_optional(&self.pool)
            .await?;
        match row {
            Some(row) => update_from(&row),
            None => Err(Error::not_found("this site has no such update")),
        }
    }

    /// Each site's update of a round, by site: the one that is held, else the newest.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn updates_that_count(&self, run_id: &str, round: u32) -> Result<Vec<Update>> {
        let query = format!(
            "{UPDATE_COLUMNS} WHERE u.id IN (
               SELECT id FROM (
                 SELECT id, ROW_NUMBER() OVER (PARTITION BY site_id ORDER BY
                   CASE WHEN state IN ('accepted', 'aligned') THEN 0 ELSE 1 END, begun_at_ms DESC, id DESC) AS place
                 FROM updates WHERE run_id = $1 AND round = $2) AS ranked
               WHERE place = 1)
             ORDER BY u.site_id"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(run_id)
            .bind(i64::from(round))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(update_from).collect()
    }

    /// A site's updates of all rounds, the newest first, at most so many.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn newest_updates_of(&self, site_id: &str, limit: u32) -> Result<Vec<Update>> {
        let query = format!(
            "{UPDATE_COLUMNS} JOIN run_sites s ON s.run_id = u.run_id AND s.site_id = u.site_id
             WHERE s.site_id = $1 ORDER BY u.begun_at_ms DESC, u.id DESC LIMIT $2"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(query)).bind(site_id).bind(i64::from(limit));
        let rows = query.fetch_all(&self.pool).await?;
        rows.iter().map(update_from).collect()
    }

    /// The site's update of a round that counts, as in [`Store::updates_that_count`]: one row is read.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn update_that_counts(
        &self,
        run_id: &str,
        round: u32,
        site_id: &str,
    ) -> Result<Option<Update>> {
        let query = format!(
            "{UPDATE_COLUMNS} WHERE u.run_id = $1 AND u.round = $2 AND u.site_id = $3
             ORDER BY CASE WHEN u.state IN ('accepted', 'aligned') THEN 0 ELSE 1 END, u.begun_at_ms DESC, u.id DESC
             LIMIT 1"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(run_id)
            .bind(i64::from(round))
            .bind(site_id)
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(update_from).transpose()
    }
}
