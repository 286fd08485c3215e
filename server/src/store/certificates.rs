//! Sites' certificates, as they were seen: who holds them, until when, and which were revoked. Who signed them is TLS's matter.

use fedbasin_proof::Record;
use sqlx::{Row as _, any::AnyRow};

use super::{Store, sites::NOTED_AGAIN_MS};
use crate::{error::Result, model::Certificate, round::Millis};

pub(super) const COLUMNS: &str =
    "fingerprint, site_id, expires_at_ms, first_seen_at_ms, last_used_at_ms, revoked_at_ms";

pub(super) fn certificate(row: &AnyRow) -> Result<Certificate> {
    Ok(Certificate {
        fingerprint: row.try_get("fingerprint")?,
        site: row.try_get("site_id")?,
        expires_at_ms: row.try_get("expires_at_ms")?,
        first_seen_at_ms: row.try_get("first_seen_at_ms")?,
        last_used_at_ms: row.try_get("last_used_at_ms")?,
        revoked_at_ms: row.try_get("revoked_at_ms")?,
    })
}

pub(super) fn of_certificate(action: &str, certificate: &Certificate) -> Record {
    let record = Record::of(action).object(&certificate.fingerprint);
    match &certificate.site {
        Some(site) => record.site(site),
        None => record,
    }
}

impl Store {
    /// Whether a certificate that names a site opens anything now: the site is enrolled, the certificate has not expired and was not
    /// revoked. Notes that it was used, at most twice a minute.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn certificate_opens(&self, fingerprint: &str, site: &str, expires_at: Millis) -> Result<bool> {
        let row = sqlx::query(self.sql(
            "SELECT {now} AS now_ms, c.fingerprint AS known, COALESCE(c.revoked_at_ms, 0) AS revoked_at_ms,
                    COALESCE(c.last_used_at_ms, 0) AS used_at_ms
             FROM sites s LEFT JOIN certificates c ON c.fingerprint = $1 WHERE s.id = $2",
        ))
        .bind(fingerprint)
        .bind(site)
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(false) };
        let (now, revoked): (Millis, Millis) = (row.try_get("now_ms")?, row.try_get("revoked_at_ms")?);
        if revoked != 0 || expires_at <= now {
            return Ok(false);
        }
        if now - row.try_get::<Millis, _>("used_at_ms")? > NOTED_AGAIN_MS {
            let mut tx = self.begin().await?;
            sqlx::query(
                "INSERT INTO certificates (fingerprint, site_id, expires_at_ms, first_seen_at_ms, last_used_at_ms)
                 VALUES ($1, $2, $3, $4, $4) ON CONFLICT (fingerprint) DO UPDATE SET last_used_at_ms = $4",
            )
            .bind(fingerprint)
            .bind(site)
            .bind(expires_at)
            .bind(now)
            .execute(&mut *tx)
            .await?;
            self.note_seen(&mut tx, site).await?;
            if row.try_get::<Option<String>, _>("known")?.is_none() {
                tx.record(Record::of("certificate.first-seen").site(site).object(fingerprint));
            }
            self.commit_quietly(tx).await?;
        }
        Ok(true)
    }

    /// All certificates that were seen or revoked, those first that expire first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn certificates(&self) -> Result<Vec<Certificate>> {
        let text = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM certificates ORDER BY expires_at_ms, fingerprint"
        ));
        let rows = sqlx::query(text).fetch_all(&self.pool).await?;
        rows.iter().map(certificate).collect()
    }

    /// Revokes a certificate, whether it was ever seen or not; again changes nothing.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn revoke_certificate(&self, fingerprint: &str) -> Result<Certificate> {
        let mut tx = self.begin().await?;
        let known = sqlx::query(self.sql(
            "SELECT 1 FROM certificates WHERE fingerprint = $1 AND revoked_at_ms IS NOT NULL {for_update}",
        ))
        .bind(fingerprint)
        .fetch_optional(&mut *tx)
        .await?;
        // The time is taken once the row is held.
        sqlx::query(self.sql(
            "INSERT INTO certificates (fingerprint, first_seen_at_ms, revoked_at_ms) VALUES ($1, {now}, {now})
             ON CONFLICT (fingerprint) DO UPDATE SET revoked_at_ms = COALESCE(certificates.revoked_at_ms, {now})",
        ))
        .bind(fingerprint)
        .execute(&mut *tx)
        .await?;
        let text = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM certificates WHERE fingerprint = $1"));
        let revoked = certificate(&sqlx::query(text).bind(fingerprint).fetch_one(&mut *tx).await?)?;
        if known.is_none() {
            tx.record(of_certificate("certificate.revoked", &revoked));
        }
        self.settle(tx).await?;
        Ok(revoked)
    }
}
