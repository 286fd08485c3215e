//! What webhooks are told: queued in the transaction of what happened, or, where time alone makes it so, once somebody looks. A webhook
//! is told of one subject once, however many processes see it: the row's key says so.

use fedbasin_proof::Record;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{Row as _, any::AnyRow};

use super::{QuorumAtRisk, SilentSite, Store, Tx, unsigned};
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
            let due = self.due(webhook).await?;
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

    async fn due(&self, webhook: &Webhook) -> Result<Vec<Due>> {
        let (mut due, untold) = (Vec::new(), Some(webhook.name.as_str()));
        if webhook.wants(WebhookEvent::QuorumAtRisk, None) {
            for QuorumAtRisk { run_id, round, held, quorum, deadline_at_ms } in
                self.quorums_at_risk(untold).await?
            {
                let data = json!({ "run": run_id, "round": round, "updates": held, "quorum": quorum,
                                   "deadline_at": iso(deadline_at_ms) });
                due.push((
                    WebhookEvent::QuorumAtRisk,
                    Some(run_id.clone()),
                    format!("{run_id}/{round}"),
                    data,
                ));
            }
        }
        if webhook.wants(WebhookEvent::SiteSilent, None) {
            for SilentSite { run_id, round, site_id, last_seen_at_ms, deadline_at_ms } in
                self.silent_sites(untold).await?
            {
                let data = json!({ "run": run_id, "round": round, "site": site_id,
                                   "last_seen_at": last_seen_at_ms.map(iso), "deadline_at": iso(deadline_at_ms) });
                let subject = format!("{run_id}/{round}/{site_id}");
                due.push((WebhookEvent::SiteSilent, Some(run_id), subject, data));
            }
        }
        if webhook.wants(WebhookEvent::CertificateExpiring, None) {
            for found in self.expiring_certificates(untold).await? {
                let data = json!({ "holder": "site", "site": found.site_id, "fingerprint": found.fingerprint,
                                   "expires_at": iso(found.expires_at_ms),
                                   "days_left": days_left(found.expires_at_ms, found.now_ms) });
                due.push((WebhookEvent::CertificateExpiring, None, found.fingerprint, data));
            }
        }
        due.retain(|(event, run, ..)| webhook.wants(*event, run.as_deref()));
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
