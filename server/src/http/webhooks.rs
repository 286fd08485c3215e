//! What webhooks were told, and what became of it.

use axum::{Json, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    Api,
    auth::Acting,
    problem::{Path, Problem, Query},
    time::iso,
};
use crate::{
    error::{Error, Result},
    store::{self, DeliveryState},
};

/// Which notices.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// Only those that stand so.
    state: Option<DeliveryState>,
    /// How many at the most; absent: 100.
    limit: Option<u32>,
    /// Those before this one: `next` of the page before. Absent: from the newest.
    after: Option<String>,
}

impl Asked {
    /// How many are asked for, of a server that gives no more than `most` entries at once.
    fn check(&self, most: usize) -> Result<u32> {
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let limit = self.limit.unwrap_or(100.min(most));
        match (1..=most).contains(&limit) {
            true => Ok(limit),
            false => Err(Error::invalid(format!(
                "limit: {limit} is not within 1 and the {most} of limits.max_page_size"
            ))),
        }
    }
}

/// A notice to a webhook.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Delivery {
    /// Goes along as `webhook-id`.
    id: String,
    /// The webhook's name in the server's settings.
    webhook: String,
    /// `round.published`, `round.failed`, `round.quorum-at-risk`, `site.silent`, `certificate.expiring` or `test`.
    event: String,
    /// What the event is of; a webhook is told of it once.
    subject: String,
    state: DeliveryState,
    /// How often it was tried.
    attempts: u32,
    created_at: String,
    /// When it is tried next, at the earliest; absent where it is not.
    next_at: Option<String>,
    delivered_at: Option<String>,
    /// Why the last try failed.
    last_error: Option<String>,
}

/// Notices, the newest first.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct DeliveryList {
    deliveries: Vec<Delivery>,
    /// Where the next page begins (`after`), if this is not the last one.
    next: Option<String>,
}

impl From<store::Delivery> for Delivery {
    fn from(found: store::Delivery) -> Self {
        let waits = found.state == DeliveryState::Pending;
        Self {
            id: found.id,
            webhook: found.webhook,
            event: found.event,
            subject: found.subject,
            state: found.state,
            attempts: found.attempts,
            created_at: iso(found.created_at_ms),
            next_at: waits.then(|| iso(found.next_at_ms)),
            delivered_at: found.delivered_at_ms.map(iso),
            last_error: found.last_error,
        }
    }
}

/// What webhooks were told, are told, or could not be told (`state=dead`), the newest first.
#[utoipa::path(get, path = "/v1/webhooks/deliveries", tag = "webhooks", security(("token" = [])), params(Asked), responses(
    (status = 200, body = DeliveryList),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    State(api): State<Api>,
    Query(asked): Query<Asked>,
) -> Result<Json<DeliveryList>, Problem> {
    let limit = asked.check(api.admission.limits().max_page_size)?;
    // One more tells whether there is a next page.
    let mut found =
        api.store.deliveries(asked.state, asked.after.as_deref(), limit.saturating_add(1)).await?;
    let is_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next = found.last().filter(|_| is_more).map(|last| last.id.clone());
    Ok(Json(DeliveryList { deliveries: found.into_iter().map(Delivery::from).collect(), next }))
}

/// Has a notice that was given up tried again.
#[utoipa::path(post, path = "/v1/webhooks/deliveries/{delivery}/retry", tag = "webhooks", security(("token" = [])),
    params(("delivery" = String, Path, description = "The notice's id, from the list.")), responses(
    (status = 200, body = Delivery),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn retry(
    Acting(api): Acting,
    Path(delivery): Path<String>,
) -> Result<Json<Delivery>, Problem> {
    let found = api.store.retry_delivery(&delivery).await?;
    tracing::info!(webhook.name = found.webhook, delivery.id = found.id, "a notice is tried again");
    Ok(Json(found.into()))
}

/// Tells a webhook that this is a test: it is queued and sent as any notice.
#[utoipa::path(post, path = "/v1/webhooks/{webhook}/test", tag = "webhooks", security(("token" = [])),
    params(("webhook" = String, Path, description = "The webhook's name in the server's settings.")), responses(
    (status = 202, body = Delivery),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn test(
    Acting(api): Acting,
    Path(webhook): Path<String>,
) -> Result<(StatusCode, Json<Delivery>), Problem> {
    Ok((StatusCode::ACCEPTED, Json(api.store.test_webhook(&webhook).await?.into())))
}
