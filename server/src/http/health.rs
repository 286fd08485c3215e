//! Whether the process lives, and whether it can work; if it cannot, what is missing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use serde::Serialize;
use tokio::sync::Mutex;

use super::Api;
use crate::{
    error::{Error, RETRY_AFTER, Result},
    round::Millis,
    tls,
};

/// So long an answer of storage is given again: whoever asks, it answers no more often.
const FRESH: Duration = Duration::from_secs(1);
/// With less the data folder takes no upload that is worth one, in bytes.
const LEAST_FREE: u64 = 64 << 20;
/// So much the database's clock may differ from this machine's, in milliseconds: certificates go by the one, all else by the other.
const MOST_APART: Millis = 60_000;

/// What was found last. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub(super) struct Ready(Arc<Mutex<Option<Found>>>);

/// When it was asked, and what was found.
type Found = (Instant, Vec<Check>);

impl Ready {
    /// Asks, or says again what was found within `fresh`; who comes meanwhile waits for that answer.
    async fn ask<F: Future<Output = Vec<Check>> + Send + 'static>(
        &self,
        fresh: Duration,
        ask: impl FnOnce() -> F + Send + 'static,
    ) -> Vec<Check> {
        let found = Arc::clone(&self.0);
        // To its end, also where the caller goes away: else nothing would be known, and the next one would ask again.
        let asking = tokio::spawn(async move {
            let mut found = found.lock().await;
            match &*found {
                Some((at, checks)) if at.elapsed() < fresh => checks.clone(),
                _ => {
                    let checks = ask().await;
                    *found = Some((Instant::now(), checks.clone()));
                    checks
                }
            }
        });
        asking.await.unwrap_or_else(|error| vec![Check::of("database", &Err(Error::internal(error)))])
    }
}

/// How the server stands.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Health {
    /// `ok`.
    status: &'static str,
}

/// Whether the server can work.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Readiness {
    /// `ok`, or `unready` where one of the checks is not.
    status: &'static str,
    checks: Vec<Check>,
}

/// One thing that the server needs.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub(super) struct Check {
    /// `database`, `schema`, `objects`, `keys`, `certificate` (with TLS alone), `disk` or `clock`.
    what: &'static str,
    ok: bool,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl Check {
    fn of(what: &'static str, found: &Result<()>) -> Self {
        let detail = found.as_ref().err().map(|error| error.public_text().to_owned());
        Self { what, ok: detail.is_none(), detail }
    }
}

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = Health)))]
pub(super) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// What the server needs is there: the database, its schema, the object store, the keys, a certificate, room on the disk, one time.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, body = Readiness), (status = 503, body = Readiness, description = "Something is missing")))]
pub(super) async fn readyz(State(api): State<Api>) -> Response {
    let asked = api.clone();
    let checks = api.ready.ask(FRESH, move || look(asked)).await;
    if checks.iter().all(|check| check.ok) {
        return Json(Readiness { status: "ok", checks }).into_response();
    }
    let wait = [(header::RETRY_AFTER, RETRY_AFTER.as_secs().to_string())];
    (StatusCode::SERVICE_UNAVAILABLE, wait, Json(Readiness { status: "unready", checks })).into_response()
}

async fn look(api: Api) -> Vec<Check> {
    let before = machine_clock();
    let now = api.store.now().await;
    let after = machine_clock();
    let mut checks = vec![
        Check::of(
            "database",
            &now.as_ref().map(|_| ()).map_err(|error| Error::new(error.code(), error.public_text())),
        ),
        Check::of("objects", &api.store.objects_ready().await),
        Check::of("disk", &disk(&api)),
    ];
    // The rest is of a database that answers.
    let Ok(now) = now else { return checks };
    checks.push(Check::of("schema", &api.store.check_schema().await));
    checks.push(Check::of("keys", &keys(&api).await));
    if let Some(tls) = &api.tls {
        let lasts = tls::validity(tls).and_then(|(begins, expires)| match (now >= begins, now < expires) {
            (true, true) => Ok(()),
            (false, _) => Err(Error::invalid(
                "the server's certificate is not valid yet: is the clock here, or where it was made, right?",
            )),
            (_, false) => Err(Error::invalid("the server's certificate has expired")),
        });
        checks.push(Check::of("certificate", &lasts));
    }
    checks.push(Check::of("clock", &clock(before, now, after)));
    checks
}

/// Whether the database's log is still signed with the keys that are held here.
async fn keys(api: &Api) -> Result<()> {
    match api.store.log_keys().await? {
        Some(keys) if keys != api.signer.public() => Err(Error::invalid(
            "the database's log is signed with other keys than this process has: is it another database?",
        )),
        _ => Ok(()),
    }
}

fn disk(api: &Api) -> Result<()> {
    match api.store.free_bytes()? {
        LEAST_FREE.. => Ok(()),
        free => Err(Error::invalid(format!(
            "{} MiB are free in the data folder, less than {}",
            free >> 20,
            LEAST_FREE >> 20
        ))),
    }
}

/// Whether the database told a time that is about this machine's, which was asked before and after.
fn clock(before: Millis, database: Millis, after: Millis) -> Result<()> {
    let apart = if database < before { database - before } else { (database - after).max(0) };
    match apart.abs() > MOST_APART {
        false => Ok(()),
        true => Err(Error::invalid(format!(
            "the database's clock is {} s {} this machine's",
            apart.abs() / 1000,
            if apart < 0 { "behind" } else { "ahead of" }
        ))),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where this machine's clock is held against the database's"
)]
fn machine_clock() -> Millis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

#[cfg(test)]
mod tests;
