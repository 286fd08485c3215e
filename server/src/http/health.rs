//! Whether the process lives, and whether it can work.

use axum::{Json, extract::State};
use serde::Serialize;

use super::{Api, problem::Problem};

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
pub(super) async fn readyz(State(api): State<Api>) -> Result<Json<Health>, Problem> {
    api.store.ready().await?;
    Ok(Json(Health { status: "ok" }))
}
