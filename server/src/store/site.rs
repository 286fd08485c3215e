//! One site: what it is to whoever looks after it, and how it is shut out or given another token.

use std::collections::BTreeMap;

use fedbasin_proof::Record;
use sqlx::{Row as _, any::AnyRow};

use super::{
    Store, Tx,
    certificates::{self, of_certificate},
    parsed, tokens, unsigned,
};
use crate::{
    error::{Code, Error, Result},
    model::{Arriving, Holder, Site, SiteDetails, Token},
    round::Millis,
};

/// So many of the newest certificates and tokens of a site are told at the most.
const MOST: i64 = 100;

impl Store {
    /// One site, with what it does and what it holds.
    ///
    /// # Errors
    /// [`Code::NotFound`] for one that is not enrolled.
    pub async fn site(&self, id: &str) -> Result<SiteDetails> {
        let row = sqlx::query("SELECT id, created_at_ms, last_seen_at_ms FROM sites WHERE id = $1");
        let row = row.bind(id).fetch_optional(&self.pool).await?.ok_or_else(|| unknown(id))?;
        let site = Site {
            id: row.try_get("id")?,
            created_at_ms: row.try_get("created_at_ms")?,
            last_seen_at_ms: row.try_get("last_seen_at_ms")?,
        };
        let runs = sqlx::query(
            "SELECT r.state AS name, COUNT(*) AS count FROM runs r JOIN run_sites s ON s.run_id = r.id
             WHERE s.site_id = $1 GROUP BY r.state",
        );
        let updates = sqlx::query(
            "SELECT state AS name, COUNT(*) AS count FROM updates WHERE site_id = $1 GROUP BY state",
        );
        let arriving = sqlx::query(self.sql(
            "SELECT id, run_id, round, digest, size, begun_at_ms, {now} AS now_ms FROM updates
             WHERE site_id = $1 AND state = 'receiving' ORDER BY begun_at_ms DESC, id",
        ));
        let arriving = arriving.bind(id).fetch_all(&self.pool).await?;
        let certificates = sqlx::AssertSqlSafe(format!(
            "SELECT {} FROM certificates WHERE site_id = $1 ORDER BY first_seen_at_ms DESC, fingerprint LIMIT {MOST}",
            certificates::COLUMNS
        ));
        let tokens = sqlx::AssertSqlSafe(format!(
            "SELECT {} FROM tokens WHERE site_id = $1 ORDER BY created_at_ms DESC, id DESC LIMIT {MOST}",
            tokens::COLUMNS
        ));
        let certificates = sqlx::query(certificates).bind(id).fetch_all(&self.pool).await?;
        let tokens = sqlx::query(tokens).bind(id).fetch_all(&self.pool).await?;
        Ok(SiteDetails {
            site,
            runs: counts(&runs.bind(id).fetch_all(&self.pool).await?)?,
            updates: counts(&updates.bind(id).fetch_all(&self.pool).await?)?,
            arriving: arriving.iter().map(arriving_from).collect::<Result<_>>()?,
            certificates: certificates.iter().map(certificates::certificate).collect::<Result<_>>()?,
            tokens: tokens.iter().map(tokens::token).collect::<Result<_>>()?,
            failed_calls: self.failed_calls_of(id).await?,
        })
    }

    /// Gives a site another token, for `life` milliseconds, and lets those that it has open nothing after `old` milliseconds; 0: from now on.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::Conflict`] where two open something already and go on to.
    pub async fn rotate_token(
        &self,
        site: &str,
        hash: &str,
        label: &str,
        life: Millis,
        old: Millis,
    ) -> Result<Token> {
        let mut tx = self.begin().await?;
        self.lock_site(&mut tx, site).await?;
        let alive = self.tokens_alive(&mut tx, site).await?;
        if old == 0 {
            self.revoke_tokens(&mut tx, site).await?;
        } else {
            if alive.len() >= tokens::ALIVE {
                let what = format!(
                    "site {site} has {} tokens that open something; revoke one, or let both end now (old_tokens_seconds 0)",
                    alive.len()
                );
                return Err(Error::new(Code::Conflict, what));
            }
            let until = self.now_in(&mut tx).await? + old;
            for (id, expires) in alive {
                if expires <= until {
                    continue;
                }
                let query = "UPDATE tokens SET expires_at_ms = $2 WHERE id = $1";
                sqlx::query(query).bind(&id).bind(until).execute(&mut *tx).await?;
                let record = Record::of("token.shortened").site(site).object(&id);
                tx.record(record.detail("expires_at_ms", until));
            }
        }
        let made = self.insert_token(&mut tx, hash, &Holder::Site(site.to_owned()), label, life).await?;
        self.commit_quietly(tx).await?;
        Ok(made)
    }

    /// Shuts a site out: its tokens, and its certificates as far as they were seen, open nothing from now on. It stays enrolled. Again changes
    /// nothing.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub async fn revoke_site(&self, site: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        self.lock_site(&mut tx, site).await?;
        self.revoke_tokens(&mut tx, site).await?;
        let text = sqlx::AssertSqlSafe(format!(
            "UPDATE certificates SET revoked_at_ms = $2 WHERE site_id = $1 AND revoked_at_ms IS NULL RETURNING {}",
            certificates::COLUMNS
        ));
        let now = self.now_in(&mut tx).await?;
        let rows = sqlx::query(text).bind(site).bind(now).fetch_all(&mut *tx).await?;
        for row in &rows {
            tx.record(of_certificate("certificate.revoked", &certificates::certificate(row)?));
        }
        self.settle(tx).await
    }

    /// Holds a site's row until the transaction ends: what counts its tokens waits.
    pub(super) async fn lock_site(&self, tx: &mut Tx, site: &str) -> Result<()> {
        let enrolled = sqlx::query(self.sql("SELECT id FROM sites WHERE id = $1 {for_update}"));
        enrolled.bind(site).fetch_optional(&mut **tx).await?.map(drop).ok_or_else(|| unknown(site))
    }

    /// A site's tokens that open something now, with when each ends.
    pub(super) async fn tokens_alive(&self, tx: &mut Tx, site: &str) -> Result<Vec<(String, Millis)>> {
        let rows = sqlx::query(self.sql(
            "SELECT id, expires_at_ms FROM tokens WHERE site_id = $1 AND revoked_at_ms IS NULL AND expires_at_ms > {now}
             ORDER BY created_at_ms, id",
        ));
        let rows = rows.bind(site).fetch_all(&mut **tx).await?;
        rows.iter().map(|row| Ok((row.try_get("id")?, row.try_get("expires_at_ms")?))).collect()
    }

    async fn revoke_tokens(&self, tx: &mut Tx, site: &str) -> Result<()> {
        for (id, _) in self.tokens_alive(tx, site).await? {
            sqlx::query(self.sql("UPDATE tokens SET revoked_at_ms = {now} WHERE id = $1"))
                .bind(&id)
                .execute(&mut **tx)
                .await?;
            tx.record(Record::of("token.revoked").site(site).object(&id));
        }
        Ok(())
    }
}

fn unknown(site: &str) -> Error {
    Error::not_found(format!("site {site} is not enrolled"))
}

fn counts(rows: &[AnyRow]) -> Result<BTreeMap<String, u64>> {
    rows.iter().map(|row| Ok((row.try_get("name")?, unsigned(row, "count")?))).collect()
}

fn arriving_from(row: &AnyRow) -> Result<Arriving> {
    let (begun, now): (Millis, Millis) = (row.try_get("begun_at_ms")?, row.try_get("now_ms")?);
    Ok(Arriving {
        id: row.try_get("id")?,
        run_id: row.try_get("run_id")?,
        round: unsigned(row, "round")?,
        digest: parsed(row, "digest")?,
        size: unsigned(row, "size")?,
        begun_at_ms: begun,
        for_ms: now - begun,
    })
}
