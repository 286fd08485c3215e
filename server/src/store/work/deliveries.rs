//! Leases on notices to deliver.

use std::time::Duration;

use sqlx::Row as _;

use super::{
    super::{Store, unsigned},
    Lease, fence, millis, never_ended,
};
use crate::{error::Result, round::Millis};

/// Send one notice.
#[derive(Debug)]
pub struct DeliverWork {
    /// Its id, which goes along.
    pub id: String,
    /// What is sent.
    pub body: String,
    /// How often it was begun, this time among them.
    pub attempts: u32,
    /// When, by the database's clock.
    pub now: Millis,
}

impl Store {
    /// Leases a notice that a webhook is to be told now, if there is one. One that was begun as often as is allowed and never ended is
    /// given up.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lease_delivery(
        &self,
        webhook: &str,
        length: Duration,
    ) -> Result<Option<Lease<DeliverWork>>> {
        // Most looks find nothing, and begin no transaction.
        let due = sqlx::query(self.sql(
            "SELECT 1 FROM webhook_deliveries WHERE webhook = $1 AND state = 'pending' AND next_at_ms <= {now}
               AND lease_expires_at_ms <= {now} LIMIT 1",
        ))
        .bind(webhook)
        .fetch_optional(&self.pool)
        .await?;
        if due.is_none() {
            return Ok(None);
        }
        let mut tx = self.begin().await?;
        let token = uuid::Uuid::now_v7().to_string();
        let row = sqlx::query(self.sql(
            "WITH due AS (
               SELECT d.id FROM webhook_deliveries d
               WHERE d.webhook = $1 AND d.state = 'pending' AND d.next_at_ms <= {now} AND d.lease_expires_at_ms <= {now}
               ORDER BY d.next_at_ms, d.id LIMIT 1 {skip_locked_d})
             UPDATE webhook_deliveries SET lease_token = $2, lease_expires_at_ms = {now} + $3, fence = fence + 1,
                    attempts = attempts + 1
             WHERE id IN (SELECT id FROM due) RETURNING id, body, fence, attempts, {now} AS now_ms",
        ))
        .bind(webhook)
        .bind(&token)
        .bind(millis(length))
        .fetch_optional(&mut *tx)
        .await?;
        self.commit_quietly(tx).await?;
        let Some(row) = row else { return Ok(None) };
        let work = DeliverWork {
            id: row.try_get("id")?,
            body: row.try_get("body")?,
            attempts: unsigned(&row, "attempts")?,
            now: row.try_get("now_ms")?,
        };
        let lease = Lease { work, token, fence: fence(&row)? };
        if lease.work.attempts > self.notify.max_attempts {
            self.fail_delivery(&lease, &never_ended(self.notify.max_attempts), Duration::ZERO).await?;
            return Ok(None);
        }
        Ok(Some(lease))
    }

    /// Notes that a notice was delivered. False if the lease was lost: nothing is written then.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn finish_delivery(&self, lease: &Lease<DeliverWork>) -> Result<bool> {
        let result = sqlx::query(self.sql(
            "UPDATE webhook_deliveries SET state = 'delivered', delivered_at_ms = {now}, last_error = NULL,
                    lease_token = NULL, lease_expires_at_ms = 0
             WHERE id = $1 AND fence = $2 AND state = 'pending'",
        ))
        .bind(&lease.work.id)
        .bind(lease.fence)
        .execute(&self.pool)
        .await?;
        Ok(result.rows_affected() == 1)
    }

    /// Notes that a notice was not delivered: it is tried again after `pause`, or is a dead letter once the tries are spent. Tells
    /// whether it is one. Nothing is written if the lease was lost.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn fail_delivery(
        &self,
        lease: &Lease<DeliverWork>,
        why: &str,
        pause: Duration,
    ) -> Result<bool> {
        let dead = lease.work.attempts >= self.notify.max_attempts;
        sqlx::query(self.sql(
            "UPDATE webhook_deliveries SET state = $3, last_error = $4, next_at_ms = {now} + $5, lease_token = NULL,
                    lease_expires_at_ms = 0
             WHERE id = $1 AND fence = $2 AND state = 'pending'",
        ))
        .bind(&lease.work.id)
        .bind(lease.fence)
        .bind(if dead { "dead" } else { "pending" })
        .bind(why)
        .bind(millis(pause))
        .execute(&self.pool)
        .await?;
        Ok(dead)
    }
}
