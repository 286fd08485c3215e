//! Sites and their tokens.

use sqlx::Row as _;

use super::Store;
use crate::{
    error::{Code, Error, Result},
    model::{Site, check_id},
};

impl Store {
    /// Enrols a site.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`] for the id, [`Code::Conflict`] if it is taken.
    pub async fn create_site(&self, id: &str, token_hash: &str) -> Result<Site> {
        check_id("id", id)?;
        let mut tx = self.begin().await?;
        let now = self.now_in(&mut tx).await?;
        sqlx::query("INSERT INTO sites (id, token_hash, created_at_ms) VALUES ($1, $2, $3)")
            .bind(id)
            .bind(token_hash)
            .bind(now)
            .execute(&mut *tx)
            .await
            .map_err(|error| match error.as_database_error() {
                Some(database) if database.is_unique_violation() => {
                    Error::new(Code::Conflict, format!("site {id}: is enrolled already; choose another id"))
                }
                _ => error.into(),
            })?;
        self.commit(tx).await?;
        Ok(Site { id: id.to_owned(), created_at_ms: now, last_seen_at_ms: None })
    }

    /// The site whose token has this hash; notes that it was seen, at most twice a minute.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn site_by_token_hash(&self, token_hash: &str) -> Result<Option<String>> {
        let row = sqlx::query(self.sql(
            "SELECT id, CAST(CASE WHEN COALESCE(last_seen_at_ms, 0) < {now} - 30000 THEN 1 ELSE 0 END AS BIGINT) AS stale
             FROM sites WHERE token_hash = $1",
        ))
        .bind(token_hash)
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let id: String = row.try_get("id")?;
        let stale =
            row.try_get::<i64, _>("stale").or_else(|_| row.try_get::<i32, _>("stale").map(i64::from))?;
        if stale != 0 {
            let mut tx = self.begin().await?;
            sqlx::query(self.sql("UPDATE sites SET last_seen_at_ms = {now} WHERE id = $1"))
                .bind(&id)
                .execute(&mut *tx)
                .await?;
            self.commit_quietly(tx).await?;
        }
        Ok(Some(id))
    }

    /// All sites, by id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn sites(&self) -> Result<Vec<Site>> {
        let rows = sqlx::query("SELECT id, created_at_ms, last_seen_at_ms FROM sites ORDER BY id")
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(Site {
                    id: row.try_get("id")?,
                    created_at_ms: row.try_get("created_at_ms")?,
                    last_seen_at_ms: row.try_get("last_seen_at_ms")?,
                })
            })
            .collect()
    }
}
