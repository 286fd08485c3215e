//! Sites: enrol and list.

use axum::{Json, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    Api,
    problem::{Body, Problem},
    time::iso,
};
use crate::{auth, model};

/// A site to be enrolled.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSite {
    /// 1 to 63 of `a-z 0-9 -`.
    id: String,
}

/// A site with its token, which is shown this once.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct EnrolledSite {
    id: String,
    /// What the site's client authenticates with. Only its hash is kept here.
    token: String,
    created_at: String,
}

/// A site.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Site {
    id: String,
    created_at: String,
    /// Its last authenticated call, to about half a minute.
    last_seen_at: Option<String>,
}

/// All sites.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct SiteList {
    sites: Vec<Site>,
}

/// Enrols a site and gives its token once.
#[utoipa::path(post, path = "/v1/sites", tag = "sites", security(("admin_token" = [])), request_body = NewSite, responses(
    (status = 201, body = EnrolledSite),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn create(
    State(api): State<Api>,
    Body(new): Body<NewSite>,
) -> Result<(StatusCode, Json<EnrolledSite>), Problem> {
    model::check_id("id", &new.id)?;
    let token = auth::new_token(auth::SITE_PREFIX)?;
    let site = api.store.create_site(&new.id, &auth::hash(token.expose())).await?;
    tracing::info!(site.id = site.id, "site enrolled");
    let body =
        EnrolledSite { id: site.id, token: token.expose().to_owned(), created_at: iso(site.created_at_ms) };
    Ok((StatusCode::CREATED, Json(body)))
}

/// All sites, by id.
#[utoipa::path(get, path = "/v1/sites", tag = "sites", security(("admin_token" = [])), responses(
    (status = 200, body = SiteList),
    (status = 401, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(State(api): State<Api>) -> Result<Json<SiteList>, Problem> {
    let sites = api.store.sites().await?.into_iter().map(|site| Site {
        id: site.id,
        created_at: iso(site.created_at_ms),
        last_seen_at: site.last_seen_at_ms.map(iso),
    });
    Ok(Json(SiteList { sites: sites.collect() }))
}
