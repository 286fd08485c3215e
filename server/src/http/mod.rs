//! The HTTP edge, for operators: JSON, `application/problem+json` errors, OpenAPI at `/openapi.json`.

mod audit;
mod auth;
mod certificates;
mod checkpoints;
mod graphs;
mod health;
mod openapi;
mod problem;
mod rounds;
mod runs;
mod sites;
mod time;
mod tokens;

use std::net::TcpListener;

use ::http::header;
use axum::{Router, extract::DefaultBodyLimit, response::IntoResponse as _};
use axum_server::{Handle, tls_rustls::RustlsConfig};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::problem::Problem;
use crate::{
    auth::People,
    config::{Config, Limits, Tls},
    error::{Code, Error, Result},
    graphs::Graphs,
    sessions::Sessions,
    signing::Signer,
    store::Store,
    tls,
};

/// What the edge speaks.
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// How long a connection may take to send a request's headers.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// What the handlers share.
#[derive(Clone)]
struct Api {
    /// For the server's own certificate.
    tls: Option<Tls>,
    store: Store,
    people: People,
    sessions: Sessions,
    signer: Signer,
    limits: Limits,
    graphs: Graphs,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "fedbasin admin API",
        description = "Enrol sites, create runs, see how rounds stand, fetch global models. Every call but the health \
                       checks and this document carries `authorization: Bearer <token>`; what a token may do goes by its role: viewer, operator, admin. Errors are \
                       `application/problem+json` with a stable `code`."
    ),
    modifiers(&BearerToken)
)]
struct Document;

struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The admin token, one made at /v1/tokens, or, where the server has [oidc] set, one of that identity provider (a JWT)."))
            .build();
        openapi.components.get_or_insert_default().add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// Calls without a token.
fn open_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(health::healthz)).routes(routes!(health::readyz))
}

/// Calls with small JSON bodies.
fn json_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(sites::create, sites::list))
        .routes(routes!(runs::create, runs::list))
        .routes(routes!(runs::show))
        .routes(routes!(runs::cancel))
        .routes(routes!(runs::pause))
        .routes(routes!(runs::resume))
        .routes(routes!(rounds::list))
        .routes(routes!(rounds::show))
        .routes(routes!(rounds::model))
        .routes(routes!(graphs::show))
        .routes(routes!(tokens::create, tokens::list))
        .routes(routes!(tokens::create_for_site))
        .routes(routes!(tokens::revoke))
        .routes(routes!(certificates::list))
        .routes(routes!(certificates::revoke))
        .routes(routes!(rounds::signature))
        .routes(routes!(rounds::remerge))
        .routes(routes!(audit::list))
        .routes(routes!(audit::export))
        .routes(routes!(audit::growth))
        .routes(routes!(audit::keys))
}

/// Calls whose body streams in and is limited as it is counted.
fn stream_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(checkpoints::create)).routes(routes!(graphs::create))
}

/// The OpenAPI document as it is served at `/openapi.json`.
///
/// # Errors
/// Those of writing JSON.
pub fn openapi_json() -> Result<String> {
    let routes = OpenApiRouter::with_openapi(Document::openapi()).merge(open_routes());
    let mut document = routes.merge(json_routes()).merge(stream_routes()).into_openapi();
    openapi::complete(&mut document);
    document.to_pretty_json().map_err(Error::internal)
}

fn router(api: Api) -> Result<Router> {
    let document = openapi_json()?;
    let guarded = json_routes()
        .layer(DefaultBodyLimit::max(api.limits.max_json_bytes))
        .merge(stream_routes().layer(DefaultBodyLimit::disable()))
        .layer(axum::middleware::from_fn_with_state(api.clone(), auth::require_role));
    let (router, _) = open_routes().merge(guarded).split_for_parts();
    let document =
        move || std::future::ready(([(header::CONTENT_TYPE, "application/json")], document.clone()));
    Ok(router
        .route("/openapi.json", axum::routing::get(document))
        .fallback(|| async {
            Problem::from(Error::not_found("there is no such page; the API is described at /openapi.json"))
        })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
            Problem::from(Error::internal("a handler panicked")).into_response()
        }))
        .with_state(api))
}

/// Serves until `stop` is cancelled; requests under way may finish within seven seconds.
///
/// # Errors
/// Says what of the certificate cannot be used, or why the listener failed.
pub(crate) async fn serve(
    store: Store,
    people: People,
    sessions: Sessions,
    signer: Signer,
    listener: TcpListener,
    config: &Config,
    stop: CancellationToken,
) -> Result<()> {
    let (tls, limits) = (config.tls.as_ref(), &config.limits);
    let service = router(Api {
        tls: tls.cloned(),
        store,
        people,
        sessions,
        signer,
        limits: limits.clone(),
        graphs: Graphs::new(limits),
    })?
    .into_make_service();
    let handle = Handle::new();
    let stopped = stop.clone();
    tokio::spawn({
        let handle = handle.clone();
        async move {
            stop.cancelled().await;
            handle.graceful_shutdown(Some(std::time::Duration::from_secs(7)));
        }
    });
    let failed = |error: std::io::Error| Error::new(Code::Unavailable, format!("http: {error}"));
    match tls {
        Some(tls) => {
            let config = RustlsConfig::from_config(tls::server_config(tls, ALPN, false)?);
            tokio::spawn({
                let (tls, config, stop) = (tls.clone(), config.clone(), stopped);
                async move {
                    let apply = |newer| config.reload_from_config(newer);
                    stop.run_until_cancelled(tls::keep_current(tls, ALPN, false, apply)).await
                }
            });
            let mut server = axum_server::from_tcp_rustls(listener, config)
                .map_err(failed)?
                .first_request_timeout(PATIENCE);
            server.http_builder().http1().header_read_timeout(Some(PATIENCE));
            server.handle(handle).serve(service).await
        }
        None => {
            let mut server = axum_server::from_tcp(listener).map_err(failed)?.first_request_timeout(PATIENCE);
            server.http_builder().http1().header_read_timeout(Some(PATIENCE));
            server.handle(handle).serve(service).await
        }
    }
    .map_err(failed)
}
