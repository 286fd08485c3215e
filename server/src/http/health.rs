//! Whether the process lives, and whether it can work.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Json, extract::State};
use serde::Serialize;
use tokio::sync::Mutex;

use super::{Api, problem::Problem};
use crate::error::{Error, Result};

/// So long an answer of storage is given again: whoever asks, it answers no more often.
const FRESH: Duration = Duration::from_secs(1);

/// Whether storage answers, as it was found last. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub(super) struct Ready(Arc<Mutex<Option<Found>>>);

/// When storage was asked, and what it answered.
type Found = (Instant, Result<()>);

impl Ready {
    /// Asks, or says again what was found within `fresh`; who comes meanwhile waits for that answer.
    async fn ask(&self, fresh: Duration, ask: impl Future<Output = Result<()>>) -> Result<()> {
        let mut found = self.0.lock().await;
        if found.as_ref().is_none_or(|(at, _)| at.elapsed() >= fresh) {
            let answer = ask.await;
            *found = Some((Instant::now(), answer));
        }
        match &*found {
            Some((_, Err(error))) => Err(Error::new(error.code(), error.public_text())),
            _ => Ok(()),
        }
    }
}

/// How the server stands.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Health {
    /// `ok`.
    status: &'static str,
}

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = Health)))]
pub(super) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// The database and the object store answer too.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, body = Health), (status = 503, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn readyz(State(api): State<Api>) -> std::result::Result<Json<Health>, Problem> {
    api.ready.ask(FRESH, api.store.ready()).await?;
    Ok(Json(Health { status: "ok" }))
}

#[cfg(test)]
mod tests;
