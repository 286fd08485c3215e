//! Sites.

use fedbasin_proof::Record;
use sqlx::Row as _;

use super::{Store, Tx};
use crate::{
    error::{Code, Error, Result},
    model::{Holder, Site, Token, check_id},
    round::Millis,
};

/// When a site was last here, or a token or certificate last used, is noted again after so long.
pub(super) const NOTED_AGAIN_MS: Millis = 30_000;

/// What is said of the token that a site is enrolled with.
const FIRST_TOKEN: &str = "made when the site was enrolled";

impl Store {
    /// Enrols a site, with a first token, known by its hash, for `life` milliseconds.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`] for the id, [`Code::Conflict`] if it is taken.
    pub async fn create_site(&self, id: &str, token_hash: &str, life: Millis) -> Result<(Site, Token)> {
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
        let holder = Holder::Site(id.to_owned());
        let token = self.insert_token(&mut tx, token_hash, &holder, FIRST_TOKEN, life).await?;
        tx.record(Record::of("site.enrolled").site(id));
        self.commit(tx).await?;
        Ok((Site { id: id.to_owned(), created_at_ms: now, last_seen_at_ms: None }, token))
    }

    /// Notes that a site was here.
    pub(super) async fn note_seen(&self, tx: &mut Tx, site: &str) -> Result<()> {
        sqlx::query(self.sql("UPDATE sites SET last_seen_at_ms = {now} WHERE id = $1"))
            .bind(site)
            .execute(&mut **tx)
            .await?;
        Ok(())
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
