//! Sites: enrol and list.

use axum::{Json, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    Api,
    auth::Acting,
    page::Page,
    problem::{Body, Problem, Query},
    time::iso,
    tokens::life,
};
use crate::{auth, error::Result, model, round::Millis};

/// A site to be enrolled.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSite {
    /// 1 to 63 of `a-z 0-9 -`.
    #[schema(pattern = "^[a-z0-9][a-z0-9-]{0,62}$")]
    id: String,
    /// Days until its token opens nothing, 1 to 366; absent: 90.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 366)]
    token_expires_in_days: Option<u32>,
}

impl NewSite {
    /// How long its token is to open something, in milliseconds, if it can be enrolled.
    pub(super) fn check(&self) -> Result<Millis> {
        model::check_id("id", &self.id)?;
        life(self.token_expires_in_days)
    }
}

/// A site with its token, which is shown this once.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct EnrolledSite {
    id: String,
    /// What the site's client authenticates with. Only its hash is kept here.
    token: String,
    /// By which the token is revoked.
    token_id: String,
    /// From then on it opens nothing; another one can be made before.
    token_expires_at: String,
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

impl Site {
    pub(super) fn of(site: model::Site) -> Self {
        let last_seen_at = site.last_seen_at_ms.map(iso);
        Self { id: site.id, created_at: iso(site.created_at_ms), last_seen_at }
    }
}

/// All sites.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct SiteList {
    sites: Vec<Site>,
    /// Where the next page begins (`after`), if this is not the last one.
    next: Option<String>,
}

/// Enrols a site and gives its token once.
#[utoipa::path(post, path = "/v1/sites", tag = "sites", security(("token" = [])), request_body = NewSite, responses(
    (status = 201, body = EnrolledSite),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn create(
    Acting(api): Acting,
    Body(new): Body<NewSite>,
) -> Result<(StatusCode, Json<EnrolledSite>), Problem> {
    let life = new.check().map_err(Problem::of_body)?;
    let secret = auth::new_token(auth::SITE_PREFIX)?;
    let (site, token) = api.store.create_site(&new.id, &auth::hash(secret.expose()), life).await?;
    tracing::info!(site.id = site.id, token.id = token.id, "site enrolled");
    let body = EnrolledSite {
        id: site.id,
        token: secret.expose().to_owned(),
        token_id: token.id,
        token_expires_at: iso(token.expires_at_ms),
        created_at: iso(site.created_at_ms),
    };
    Ok((StatusCode::CREATED, Json(body)))
}

/// Which sites.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AskedSites {
    /// How many entries at the most; absent: as many as the server gives at once (`limits.max_page_size`).
    limit: Option<usize>,
    /// The entries after this one: `next` of the page before. Absent: from the first.
    after: Option<String>,
    /// Only those in whose id this stands.
    q: Option<String>,
}

/// All sites, by id, or those in whose id something stands.
#[utoipa::path(get, path = "/v1/sites", tag = "sites", security(("token" = [])), params(AskedSites), responses(
    (status = 200, body = SiteList),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    State(api): State<Api>,
    Query(asked): Query<AskedSites>,
) -> Result<Json<SiteList>, Problem> {
    let page = Page::of_parts(asked.limit, asked.after, api.admission.limits().max_page_size)?;
    let mut sites = api.store.sites().await?;
    sites.retain(|site| asked.q.as_ref().is_none_or(|part| site.id.contains(part)));
    let (sites, next) = page.of(sites, |site| site.id.clone())?;
    Ok(Json(SiteList { sites: sites.into_iter().map(Site::of).collect(), next }))
}
