//! What webhooks are told: queued in the transaction of what happened, or, where time alone makes it so, once somebody looks. A webhook
//! is told of one subject once, however many processes see it: the row's key says so.

use fedbasin_proof::Record;
use fedbasin_proto::CERTIFICATE_WARNING_DAYS;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{Row as _, any::AnyRow};

use super::{Store, Tx, unsigned};
use crate::{
    config::{Webhook, WebhookEvent},
    error::{Code, Error, Result},
    model::{DAY_MS, days_left, iso},
    round::{Millis, Round, State},
};

/// Notices are forgotten after so long: longer than a certificate is warned of.
const KEPT_MS: Millis = 90 * DAY_MS;

/// Where a notice stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeliveryState {
    /// It is sent, or sent again, when its time comes.
    Pending,
    /// The receiver took it.
    Delivered,
    /// It was tried as often as is allowed, and given up.
    Dead,
}

impl DeliveryState {
    /// The name, as stored and shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }

    fn from_name(name: &str) -> Result<Self> {
        let all = [Self::Pending, Self::Delivered, Self::Dead];
        let found = all.into_iter().find(|state| state.name() == name);
        found.ok_or_else(|| Error::internal(format_args!("webhook_deliveries.state holds {name:?}")))
    }
}

/// A notice, as it stands.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What goes along as `webhook-id`.
    pub id: String,
    /// The webhook's name.
    pub webhook: String,
    /// What happened.
    pub event: String,
    /// To what.
    pub subject: String,
    /// Where it stands.
    pub state: DeliveryState,
    /// How often it was tried since it was queued, or since an operator asked for another try.
    pub attempts: u32,
    /// When it was queued.
    pub created_at_ms: Millis,
    /// Not tried before.
    pub next_at_ms: Millis,
    /// When it was taken.
    pub delivered_at_ms: Option<Millis>,
    /// Why the last try failed.
    pub last_error: Option<String>,
}

/// Something that happened.
struct Notice<'a> {
    event: WebhookEvent,
    run: Option<&'a str>,
    subject: String,
    data: Value,
}

macro_rules! deliveries_query {
    ($rest:literal) => {
        concat!(
            "SELECT id, webhook, event, subject, state, attempts, created_at_ms, next_at_ms, delivered_at_ms, last_error
             FROM webhook_deliveries ",
            $rest
        )
    };
}

fn delivery(row: &AnyRow) -> Result<Delivery> {
    let state: String = row.try_get("state")?;
    Ok(Delivery {
        id: row.try_get("id")?,
        webhook: row.try_get("webhook")?,
        event: row.try_get("event")?,
        subject: row.try_get("subject")?,
        state: DeliveryState::from_name(&state)?,
        attempts: unsigned(row, "attempts")?,
        created_at_ms: row.try_get("created_at_ms")?,
        next_at_ms: row.try_get("next_at_ms")?,
        delivered_at_ms: row.try_get("delivered_at_ms")?,
        last_error: row.try_get("last_error")?,
    })
}

impl Store {
    /// Queues for every webhook that is to be told.
    async fn announce(&self, tx: &mut Tx, notice: &Notice<'_>) -> Result<()> {
        for webhook in self.webhooks.iter().filter(|webhook| webhook.wants(notice.event, notice.run)) {
            self.queue(tx, webhook, notice).await?;
        }
        Ok(())
    }

    /// Queues for one webhook, unless it was told of that subject; gives the row's id.
    async fn queue(&self, tx: &mut Tx, webhook: &Webhook, notice: &Notice<'_>) -> Result<String> {
        let (id, now) = (uuid::Uuid::now_v7().to_string(), self.now_in(tx).await?);
        let body = json!({ "type": notice.event, "timestamp": iso(now), "data": notice.data });
        sqlx::query(
            "INSERT INTO webhook_deliveries (id, webhook, event, subject, run_id, body, state, created_at_ms, next_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6, 'pending', $7, $7) ON CONFLICT (webhook, event, subject) DO NOTHING",
        )
        .bind(&id)
        .bind(&webhook.name)
        .bind(notice.event.to_string())
        .bind(&notice.subject)
        .bind(notice.run)
        .bind(body.to_string())
        .bind(now)
        .execute(&mut **tx)
        .await?;
        Ok(id)
    }

    /// Queues that a round ended, if it did: in the transaction that says so.
    pub(super) async fn announce_end(&self, tx: &mut Tx, run: &str, round: &Round) -> Result<()> {
        let subject = format!("{run}/{}", round.number);
        let (event, data) = match &round.state {
            State::Published { global } => (
                WebhookEvent::RoundPublished,
                json!({ "run": run, "round": round.number, "model": global.to_string(), "updates": round.accepted }),
            ),
            State::Failed { reason } => (
                WebhookEvent::RoundFailed,
                json!({ "run": run, "round": round.number, "reason": reason, "updates": round.accepted,
                        "quorum": round.window.quorum }),
            ),
            _ => return Ok(()),
        };
        self.announce(tx, &Notice { event, run: Some(run), subject, data }).await
    }

    /// Queues what time alone made so: quorums at risk, silent sites, sites' certificates that expire soon. Any number of processes may
    /// look.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn announce_due(&self) -> Result<()> {
        for webhook in self.webhooks.iter() {
            let mut due = Vec::new();
            if webhook.wants(WebhookEvent::QuorumAtRisk, None) {
                due.extend(self.quorums_at_risk(&webhook.name).await?);
            }
            if webhook.wants(WebhookEvent::SiteSilent, None) {
                due.extend(self.silent_sites(&webhook.name).await?);
            }
            if webhook.wants(WebhookEvent::CertificateExpiring, None) {
                due.extend(self.expiring_certificates(&webhook.name).await?);
            }
            due.retain(|(event, run, ..)| webhook.wants(*event, run.as_deref()));
            if due.is_empty() {
                continue;
            }
            let mut tx = self.begin().await?;
            for (event, run, subject, data) in due {
                self.queue(&mut tx, webhook, &Notice { event, run: run.as_deref(), subject, data }).await?;
            }
            self.commit_quietly(tx).await?;
        }
        Ok(())
    }

    async fn quorums_at_risk(&self, webhook: &str) -> Result<Vec<Due>> {
        let rows = sqlx::query(self.sql(
            "SELECT o.run_id, o.number, o.quorum, o.deadline_at_ms,
               (SELECT COUNT(*) FROM updates u WHERE u.run_id = o.run_id AND u.round = o.number
                  AND u.state IN ('accepted', 'aligned')) AS held
             FROM rounds o
             WHERE o.state = 'collecting' AND (o.deadline_at_ms - {now}) * 1000 <= (o.deadline_at_ms - o.opened_at_ms) * $2
               AND (SELECT COUNT(*) FROM updates u WHERE u.run_id = o.run_id AND u.round = o.number
                  AND u.state IN ('accepted', 'aligned')) < o.quorum
               AND NOT EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.webhook = $1 AND d.event = 'round.quorum-at-risk'
                  AND d.subject = o.run_id || '/' || o.number)",
        ))
        .bind(webhook)
        // A checked fraction: within 0 and 1000.
        .bind((self.notify.quorum_at_risk_fraction * 1000.0) as i64)
        .fetch_all(&self.pool)
        .await?;
        let mut due = Vec::new();
        for row in &rows {
            let (run, number): (String, u32) = (row.try_get("run_id")?, unsigned(row, "number")?);
            let data = json!({
                "run": run, "round": number, "updates": unsigned::<u64>(row, "held")?,
                "quorum": unsigned::<u64>(row, "quorum")?, "deadline_at": iso(row.try_get("deadline_at_ms")?),
            });
            due.push((WebhookEvent::QuorumAtRisk, Some(run.clone()), format!("{run}/{number}"), data));
        }
        Ok(due)
    }

    /// Of a round that has collected for long: sites of which nothing came, and which have not called for as long.
    async fn silent_sites(&self, webhook: &str) -> Result<Vec<Due>> {
        let rows = sqlx::query(self.sql(
            "SELECT o.run_id, o.number, o.deadline_at_ms, s.site_id, i.last_seen_at_ms
             FROM rounds o JOIN run_sites s ON s.run_id = o.run_id JOIN sites i ON i.id = s.site_id
             WHERE o.state = 'collecting' AND o.opened_at_ms <= {now} - $2 AND COALESCE(i.last_seen_at_ms, 0) <= {now} - $2
               AND NOT EXISTS (SELECT 1 FROM updates u WHERE u.run_id = o.run_id AND u.round = o.number
                  AND u.site_id = s.site_id AND u.state IN ('accepted', 'aligned'))
               AND NOT EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.webhook = $1 AND d.event = 'site.silent'
                  AND d.subject = o.run_id || '/' || o.number || '/' || s.site_id)",
        ))
        .bind(webhook)
        .bind(i64::try_from(self.notify.site_silent_seconds.saturating_mul(1000)).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await?;
        let mut due = Vec::new();
        for row in &rows {
            let (run, number): (String, u32) = (row.try_get("run_id")?, unsigned(row, "number")?);
            let (site, seen): (String, Option<Millis>) =
                (row.try_get("site_id")?, row.try_get("last_seen_at_ms")?);
            let data = json!({
                "run": run, "round": number, "site": site, "last_seen_at": seen.map(iso),
                "deadline_at": iso(row.try_get("deadline_at_ms")?),
            });
            due.push((WebhookEvent::SiteSilent, Some(run.clone()), format!("{run}/{number}/{site}"), data));
        }
        Ok(due)
    }

    /// Of each site the certificate that lasts longest: an older one ends while its successor is in use. Of one that has long expired
    /// enough was said.
    async fn expiring_certificates(&self, webhook: &str) -> Result<Vec<Due>> {
        let rows = sqlx::query(self.sql(
            "SELECT c.fingerprint, c.site_id, c.expires_at_ms, {now} AS now_ms FROM certificates c
             WHERE c.revoked_at_ms IS NULL AND c.site_id IS NOT NULL
               AND c.expires_at_ms < {now} + $2 AND c.expires_at_ms > {now} - $2
               AND NOT EXISTS (SELECT 1 FROM certificates n WHERE n.site_id = c.site_id AND n.revoked_at_ms IS NULL
                  AND n.expires_at_ms > c.expires_at_ms)
               AND NOT EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.webhook = $1 AND d.event = 'certificate.expiring'
                  AND d.subject = c.fingerprint)",
        ))
        .bind(webhook)
        .bind(CERTIFICATE_WARNING_DAYS * DAY_MS)
        .fetch_all(&self.pool)
        .await?;
        let mut due = Vec::new();
        for row in &rows {
            let (fingerprint, site): (String, String) =
                (row.try_get("fingerprint")?, row.try_get("site_id")?);
            let (expires, now): (Millis, Millis) = (row.try_get("expires_at_ms")?, row.try_get("now_ms")?);
            let data = json!({ "holder": "site", "site": site, "fingerprint": fingerprint,
                               "expires_at": iso(expires), "days_left": days_left(expires, now) });
            due.push((WebhookEvent::CertificateExpiring, None, fingerprint, data));
        }
        Ok(due)
    }

    /// Queues that a certificate of the settings (`holder`: `server` or `authority`) expires soon, which no row tells of.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn announce_expiry(&self, holder: &str, expires: Millis, now: Millis) -> Result<()> {
        if self.webhooks.is_empty() {
            return Ok(());
        }
        let subject = format!("{holder}/{}", iso(expires));
        let data =
            json!({ "holder": holder, "expires_at": iso(expires), "days_left": days_left(expires, now) });
        let mut tx = self.begin().await?;
        let notice = Notice { event: WebhookEvent::CertificateExpiring, run: None, subject, data };
        self.announce(&mut tx, &notice).await?;
        self.commit_quietly(tx).await
    }

    /// Notices, the newest first: at most `limit` of them, of one state if one is given, and before that one (by its id) if one is
    /// given.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn deliveries(
        &self,
        state: Option<DeliveryState>,
        before: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Delivery>> {
        // Ids grow with the time.
        let rows = sqlx::query(deliveries_query!(
            "WHERE (state = $1 OR $1 = '') AND (id < $2 OR $2 = '') ORDER BY id DESC LIMIT $3"
        ))
        .bind(state.map_or("", DeliveryState::name))
        .bind(before.unwrap_or_default())
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(delivery).collect()
    }

    /// Has a dead letter tried again, from the first try.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::Conflict`] where it is none.
    pub async fn retry_delivery(&self, id: &str) -> Result<Delivery> {
        let mut tx = self.begin().await?;
        let result = sqlx::query(self.sql(
            "UPDATE webhook_deliveries SET state = 'pending', attempts = 0, next_at_ms = {now} WHERE id = $1 AND state = 'dead'",
        ))
        .bind(id)
        .execute(&mut *tx)
        .await?;
        let row = sqlx::query(deliveries_query!("WHERE id = $1")).bind(id).fetch_optional(&mut *tx).await?;
        let found = row.as_ref().map(delivery).transpose()?;
        let found = found.ok_or_else(|| Error::not_found("there is no such notice; the list names them"))?;
        if result.rows_affected() == 0 {
            tx.rollback().await?;
            let what =
                format!("the notice is {}, not dead: there is nothing to try again", found.state.name());
            return Err(Error::new(Code::Conflict, what));
        }
        tx.record(Record::of("webhook.retried").object(id).detail("webhook", found.webhook.as_str()));
        self.commit(tx).await?;
        Ok(found)
    }

    /// Queues a notice that says nothing but that it is a test.
    ///
    /// # Errors
    /// [`Code::NotFound`] where the settings name no such webhook.
    pub async fn test_webhook(&self, name: &str) -> Result<Delivery> {
        let webhook = self.webhooks.iter().find(|webhook| webhook.name == name);
        let webhook =
            webhook.ok_or_else(|| Error::not_found("the server's settings name no such webhook"))?;
        let mut tx = self.begin().await?;
        let subject = uuid::Uuid::now_v7().to_string();
        let data = json!({ "webhook": name });
        let notice = Notice { event: WebhookEvent::Test, run: None, subject, data };
        let id = self.queue(&mut tx, webhook, &notice).await?;
        let row = sqlx::query(deliveries_query!("WHERE id = $1")).bind(&id).fetch_one(&mut *tx).await?;
        let queued = delivery(&row)?;
        tx.record(Record::of("webhook.tested").object(&id).detail("webhook", name));
        self.commit(tx).await?;
        Ok(queued)
    }

    /// Forgets notices of long ago, whatever became of them.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn sweep_deliveries(&self) -> Result<()> {
        sqlx::query(self.sql("DELETE FROM webhook_deliveries WHERE created_at_ms < {now} - $1"))
            .bind(KEPT_MS)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

/// What is to be queued: the event, its run, its subject, what is told of it.
type Due = (WebhookEvent, Option<String>, String, Value);
