//! What time alone made worth a look: quorums at risk, sites that are silent, certificates that end soon. One rule each, for whoever
//! tells of it. Webhooks, of which each is told once, ask only for what they were not told.

use fedbasin_proto::CERTIFICATE_WARNING_DAYS;
use sqlx::Row as _;

use super::{Store, unsigned};
use crate::{error::Result, model::DAY_MS, round::Millis};

/// A round that has little time left and fewer updates than its quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuorumAtRisk {
    /// Its run.
    pub run_id: String,
    /// Its number.
    pub round: u32,
    /// Updates that it holds.
    pub held: u64,
    /// Fewest that it may merge.
    pub quorum: u64,
    /// When it stops to collect.
    pub deadline_at_ms: Millis,
}

/// A site that a round waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SilentSite {
    /// The run.
    pub run_id: String,
    /// The number of the round.
    pub round: u32,
    /// The site.
    pub site_id: String,
    /// When it last called; none: never.
    pub last_seen_at_ms: Option<Millis>,
    /// When the round stops to collect.
    pub deadline_at_ms: Millis,
}

/// A site's certificate that ends soon, or has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiringCertificate {
    /// SHA-256 of its signed part, hex.
    pub fingerprint: String,
    /// Whom it names.
    pub site_id: String,
    /// When it ends.
    pub expires_at_ms: Millis,
    /// Now, by the database's clock.
    pub now_ms: Millis,
}

impl Store {
    /// Rounds whose quorum is at risk (`notify.quorum_at_risk_fraction`); where a webhook is named, only those that it was not told of.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn quorums_at_risk(&self, untold: Option<&str>) -> Result<Vec<QuorumAtRisk>> {
        let rows = sqlx::query(self.sql(
            "SELECT o.run_id, o.number, o.quorum, o.deadline_at_ms,
               (SELECT COUNT(*) FROM updates u WHERE u.run_id = o.run_id AND u.round = o.number
                  AND u.state IN ('accepted', 'aligned')) AS held
             FROM rounds o
             WHERE o.state = 'collecting' AND (o.deadline_at_ms - {now}) * 1000 <= (o.deadline_at_ms - o.opened_at_ms) * $2
               AND (SELECT COUNT(*) FROM updates u WHERE u.run_id = o.run_id AND u.round = o.number
                  AND u.state IN ('accepted', 'aligned')) < o.quorum
               AND NOT EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.webhook = $1 AND d.event = 'round.quorum-at-risk'
                  AND d.subject = o.run_id || '/' || o.number)
             ORDER BY o.run_id, o.number",
        ))
        // No webhook has an empty name.
        .bind(untold.unwrap_or_default())
        // A checked fraction: within 0 and 1000.
        .bind((self.notify.quorum_at_risk_fraction * 1000.0) as i64)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(QuorumAtRisk {
                    run_id: row.try_get("run_id")?,
                    round: unsigned(row, "number")?,
                    held: unsigned(row, "held")?,
                    quorum: unsigned(row, "quorum")?,
                    deadline_at_ms: row.try_get("deadline_at_ms")?,
                })
            })
            .collect()
    }

    /// Of rounds that have collected for long (`notify.site_silent_seconds`): sites of which nothing came, and which have not called for as
    /// long; where a webhook is named, only those that it was not told of.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn silent_sites(&self, untold: Option<&str>) -> Result<Vec<SilentSite>> {
        let rows = sqlx::query(self.sql(
            "SELECT o.run_id, o.number, o.deadline_at_ms, s.site_id, i.last_seen_at_ms
             FROM rounds o JOIN run_sites s ON s.run_id = o.run_id JOIN sites i ON i.id = s.site_id
             WHERE o.state = 'collecting' AND o.opened_at_ms <= {now} - $2 AND COALESCE(i.last_seen_at_ms, 0) <= {now} - $2
               AND NOT EXISTS (SELECT 1 FROM updates u WHERE u.run_id = o.run_id AND u.round = o.number
                  AND u.site_id = s.site_id AND u.state IN ('accepted', 'aligned'))
               AND NOT EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.webhook = $1 AND d.event = 'site.silent'
                  AND d.subject = o.run_id || '/' || o.number || '/' || s.site_id)
             ORDER BY o.run_id, o.number, s.site_id",
        ))
        .bind(untold.unwrap_or_default())
        .bind(i64::try_from(self.notify.site_silent_seconds.saturating_mul(1000)).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(SilentSite {
                    run_id: row.try_get("run_id")?,
                    round: unsigned(row, "number")?,
                    site_id: row.try_get("site_id")?,
                    last_seen_at_ms: row.try_get("last_seen_at_ms")?,
                    deadline_at_ms: row.try_get("deadline_at_ms")?,
                })
            })
            .collect()
    }

    /// Of each site the certificate that lasts longest, where it ends soon: an older one ends while its successor is in use. Of one that
    /// has long expired enough was said. Where a webhook is named, only those that it was not told of.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn expiring_certificates(&self, untold: Option<&str>) -> Result<Vec<ExpiringCertificate>> {
        let rows = sqlx::query(self.sql(
            "SELECT c.fingerprint, c.site_id, c.expires_at_ms, {now} AS now_ms FROM certificates c
             WHERE c.revoked_at_ms IS NULL AND c.site_id IS NOT NULL
               AND c.expires_at_ms < {now} + $2 AND c.expires_at_ms > {now} - $2
               AND NOT EXISTS (SELECT 1 FROM certificates n WHERE n.site_id = c.site_id AND n.revoked_at_ms IS NULL
                  AND n.expires_at_ms > c.expires_at_ms)
               AND NOT EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.webhook = $1 AND d.event = 'certificate.expiring'
                  AND d.subject = c.fingerprint)
             ORDER BY c.expires_at_ms, c.fingerprint",
        ))
        .bind(untold.unwrap_or_default())
        .bind(CERTIFICATE_WARNING_DAYS * DAY_MS)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(ExpiringCertificate {
                    fingerprint: row.try_get("fingerprint")?,
                    site_id: row.try_get("site_id")?,
                    expires_at_ms: row.try_get("expires_at_ms")?,
                    now_ms: row.try_get("now_ms")?,
                })
            })
            .collect()
    }
}
