//! Tokens: made, found by their hash, listed, revoked. The tokens themselves are never here.

use fedbasin_proof::Record;
use sqlx::{Row as _, any::AnyRow};

use super::{Store, Tx, sites::NOTED_AGAIN_MS};
use crate::{
    error::{Code, Error, Result},
    model::{Holder, Role, Token},
    round::Millis,
};

/// So many tokens of one site open anything at once: the one in use, and the one that is to take its place.
pub(super) const ALIVE: usize = 2;

/// A token that opens something now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alive {
    /// Its public id.
    pub id: String,
    /// Whose it is.
    pub holder: Holder,
}

fn holder(row: &AnyRow) -> Result<Holder> {
    let site: Option<String> = row.try_get("site_id")?;
    let role: Option<String> = row.try_get("role")?;
    match (site, role) {
        (Some(site), None) => Ok(Holder::Site(site)),
        (None, Some(role)) => Ok(Holder::Person(Role::from_name(&role)?)),
        _ => Err(Error::internal("a row of tokens has not one holder")),
    }
}

pub(super) fn token(row: &AnyRow) -> Result<Token> {
    Ok(Token {
        id: row.try_get("id")?,
        holder: holder(row)?,
        label: row.try_get("label")?,
        created_at_ms: row.try_get("created_at_ms")?,
        expires_at_ms: row.try_get("expires_at_ms")?,
        revoked_at_ms: row.try_get("revoked_at_ms")?,
        last_used_at_ms: row.try_get("last_used_at_ms")?,
    })
}

/// What the audit log says of a token: never what it is.
fn of_token(action: &str, id: &str, holder: &Holder) -> Record {
    let record = Record::of(action).object(id);
    match holder {
        Holder::Site(site) => record.site(site),
        Holder::Person(role) => record.detail("role", role.name()),
    }
}

/// What a list of tokens shows of each.
pub(super) const COLUMNS: &str =
    "id, site_id, role, label, created_at_ms, expires_at_ms, revoked_at_ms, last_used_at_ms";

impl Store {
    /// Makes a token, known from now on by its hash, for `life` milliseconds.
    ///
    /// # Errors
    /// [`Code::NotFound`] for a site that is not enrolled, [`Code::Conflict`] where two of a site's open something already.
    pub async fn create_token(
        &self,
        hash: &str,
        holder: &Holder,
        label: &str,
        life: Millis,
    ) -> Result<Token> {
        let mut tx = self.begin().await?;
        if let Holder::Site(site) = holder {
            // Its row is held: two that are made at once count each other.
            self.lock_site(&mut tx, site).await?;
            let alive = self.tokens_alive(&mut tx, site).await?.len();
            if alive >= ALIVE {
                return Err(Error::new(
                    Code::Conflict,
                    format!(
                        "site {site} has {alive} tokens that open something; revoke the one that is no longer in use"
                    ),
                ));
            }
        }
        let made = self.insert_token(&mut tx, hash, holder, label, life).await?;
        self.commit_quietly(tx).await?;
        Ok(made)
    }

    /// The same within a transaction, without a look at other tokens.
    pub(super) async fn insert_token(
        &self,
        tx: &mut Tx,
        hash: &str,
        holder: &Holder,
        label: &str,
        life: Millis,
    ) -> Result<Token> {
        let now = self.now_in(&mut *tx).await?;
        let id = uuid::Uuid::now_v7().to_string();
        let (site, role) = match holder {
            Holder::Site(site) => (Some(site.as_str()), None),
            Holder::Person(role) => (None, Some(role.name())),
        };
        sqlx::query(
            "INSERT INTO tokens (id, hash, site_id, role, label, created_at_ms, expires_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(&id)
        .bind(hash)
        .bind(site)
        .bind(role)
        .bind(label)
        .bind(now)
        .bind(now + life)
        .execute(&mut **tx)
        .await?;
        tx.record(of_token("token.made", &id, holder).detail("expires_at_ms", now + life));
        Ok(Token {
            id,
            holder: holder.clone(),
            label: label.to_owned(),
            created_at_ms: now,
            expires_at_ms: now + life,
            revoked_at_ms: None,
            last_used_at_ms: None,
        })
    }

    /// The token of this hash, if it opens anything now; notes that it was used, at most twice a minute.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn token_by_hash(&self, hash: &str) -> Result<Option<Alive>> {
        let row = sqlx::query(self.sql(
            "SELECT id, site_id, role, COALESCE(last_used_at_ms, 0) AS used_at_ms, {now} AS now_ms FROM tokens
             WHERE hash = $1 AND revoked_at_ms IS NULL AND expires_at_ms > {now}",
        ))
        .bind(hash)
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let alive = Alive { id: row.try_get("id")?, holder: holder(&row)? };
        let (used, now): (Millis, Millis) = (row.try_get("used_at_ms")?, row.try_get("now_ms")?);
        if now - used > NOTED_AGAIN_MS {
            // For people to look at: no reason to turn anybody away.
            if let Err(error) = self.note_use(&alive).await {
                tracing::warn!(
                    error.message = error.message(),
                    token.id = alive.id,
                    "a token's use could not be noted"
                );
            }
        }
        Ok(Some(alive))
    }

    async fn note_use(&self, alive: &Alive) -> Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query(self.sql("UPDATE tokens SET last_used_at_ms = {now} WHERE id = $1"))
            .bind(&alive.id)
            .execute(&mut *tx)
            .await?;
        if let Holder::Site(site) = &alive.holder {
            self.note_seen(&mut tx, site).await?;
        }
        self.commit_quietly(tx).await
    }

    /// All tokens, the newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tokens(&self) -> Result<Vec<Token>> {
        let text =
            sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM tokens ORDER BY created_at_ms DESC, id DESC"));
        let rows = sqlx::query(text).fetch_all(&self.pool).await?;
        rows.iter().map(token).collect()
    }

    /// Revokes a token; again changes nothing. Other processes see it at the next call; a site's streams that it opened end
    /// within seconds.
    ///
    /// # Errors
    /// [`Code::NotFound`] for an id that no token has.
    pub async fn revoke_token(&self, id: &str) -> Result<Token> {
        let mut tx = self.begin().await?;
        let newly = sqlx::query(
            self.sql("UPDATE tokens SET revoked_at_ms = {now} WHERE id = $1 AND revoked_at_ms IS NULL"),
        )
        .bind(id)
        .execute(&mut *tx)
        .await?;
        let text = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM tokens WHERE id = $1"));
        let row = sqlx::query(text).bind(id).fetch_optional(&mut *tx).await?;
        let row =
            row.ok_or_else(|| Error::not_found(format!("there is no token {id}; the list names all")))?;
        let revoked = token(&row)?;
        if newly.rows_affected() == 1 {
            tx.record(of_token("token.revoked", id, &revoked.holder));
        }
        self.settle(tx).await?;
        Ok(revoked)
    }

    /// The tokens (by id) and certificates (by fingerprint) that ceased to open anything since a time, and now.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn ended_since(&self, since: Millis) -> Result<(Vec<String>, Millis)> {
        let now = self.now().await?;
        let rows = sqlx::query(
            "SELECT id FROM tokens WHERE revoked_at_ms >= $1 OR (expires_at_ms >= $1 AND expires_at_ms <= $2)
             UNION ALL
             SELECT fingerprint FROM certificates
             WHERE revoked_at_ms >= $1 OR (expires_at_ms >= $1 AND expires_at_ms <= $2)",
        )
        .bind(since)
        .bind(now)
        .fetch_all(&self.pool)
        .await?;
        Ok((rows.iter().map(|row| row.try_get("id")).collect::<sqlx::Result<_>>()?, now))
    }
}
