//! The dashboard: pages for people in a browser, made here, from the same views as the JSON.
//!
//! No page needs a script; the one there is asks again for what changes. What a page names comes from this server alone, and its policy
//! lets nothing else in.

mod audit;
mod charts;
mod evaluations;
mod manifest;
mod overview;
mod page;
mod provider;
mod round;
mod run;
pub(super) mod session;
mod site;
mod table;
mod text;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::Response,
    routing::{get, post},
};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use tower::limit::GlobalConcurrencyLimitLayer;

use self::page::Refused;
use super::{Api, auth, problem::Path, rounds};
use crate::config::RETURN;

/// So many pages are made at a time, of all persons'.
const MOST_AT_ONCE: usize = 4;
/// What a form may bring, in bytes: a token of an identity provider is the longest.
const MOST_FORM_BYTES: usize = 64 << 10;

/// What a page may load, and who may show it: this server, and nobody.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// What every answer says besides. With no referrer at all a browser would not say where a form comes from either.
const SAFE: [(HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::X_FRAME_OPTIONS, "DENY"),
];

/// Its pages.
pub(super) fn router(api: &Api) -> Router<Api> {
    let open = Router::new()
        .route("/signin", get(session::form).post(session::sign_in))
        .route("/signin/provider", get(provider::go))
        .route(RETURN, get(provider::come_back))
        .route("/signout", post(session::sign_out))
        .layer(from_fn(session::only_from_here))
        .route("/assets/{name}", get(page::asset))
        .layer(from_fn_with_state(api.clone(), auth::let_in));
    Router::new()
        .route("/", get(overview::show))
        .route("/runs/{run}", get(run::show))
        .route("/runs/{run}/cancel", get(run::ask_cancel).post(run::cancel))
        .route("/runs/{run}/pause", get(run::ask_pause).post(run::pause))
        .route("/runs/{run}/resume", get(run::ask_resume).post(run::resume))
        .route("/runs/{run}/rounds/{number}", get(round::show))
        .route("/runs/{run}/rounds/{number}/model", get(model))
        .route("/runs/{run}/rounds/{number}/model/signature", get(signature))
        .route("/sites", get(site::list))
        .route("/sites/{site}", get(site::show))
        .route("/sites/{site}/tokens", post(site::make_token))
        .route("/sites/{site}/tokens/{token}/revoke", get(site::ask_revoke).post(site::revoke_token))
        .route("/audit", get(audit::show))
        .route("/audit/export", get(export))
        .route("/audit/verify", post(audit::verify))
        // The others wait: many open pages leave the database to sites.
        .layer(GlobalConcurrencyLimitLayer::new(MOST_AT_ONCE))
        .layer(from_fn_with_state(api.clone(), session::guard))
        .merge(open)
        .layer(DefaultBodyLimit::max(MOST_FORM_BYTES))
        .layer(from_fn(say_what_is_safe))
}

async fn say_what_is_safe(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in SAFE {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // What a person may see stays in no cache; what is known by its own hash may.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn model(
    state: State<Api>,
    path: Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    Ok(rounds::model(state, path, headers).await?)
}

async fn signature(state: State<Api>, path: Path<(String, String)>) -> Result<Response, Refused> {
    Ok(page::as_file(rounds::signature(state, path).await?, "model.sig"))
}

async fn export(state: State<Api>) -> Result<Response, Refused> {
    Ok(page::as_file(super::audit::export(state).await?, "audit-log.jsonl"))
}

#[cfg(test)]
mod tests;
