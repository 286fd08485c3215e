//! The HTTP edge, for operators: JSON, `application/problem+json` errors, OpenAPI at `/openapi.json`; and the dashboard's pages.

mod audit;
mod auth;
mod certificates;
mod checkpoints;
mod checks;
mod content;
mod dashboard;
mod docs;
mod evaluations;
mod events;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzed;
mod graphs;
mod health;
mod metrics;
mod models;
mod once;
mod openapi;
mod page;
mod pointer;
mod problem;
mod reason;
mod rounds;
mod runs;
mod serve;
mod site;
mod sites;
mod time;
mod tokens;
mod until;
mod updates;
mod webhooks;

use ::http::header;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, MatchedPath, Request},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use self::metrics::serve_own;
use self::{checks::Checks, health::Ready, problem::Problem};
use crate::{
    admission::Admission,
    auth::People,
    config::Tls,
    connections::{self, Call, CallsLayer, Speaks},
    error::{Error, Result},
    graphs::Graphs,
    sessions::Sessions,
    signing::Signer,
    store::Store,
    telemetry::Edge,
    tls,
};

/// What the edge speaks.
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// What the handlers share.
#[derive(Clone)]
struct Api {
    /// For the server's own certificate, and the authority's.
    tls: Option<Tls>,
    /// Whether an edge speaks clear text beyond this machine.
    clear_text: bool,
    store: Store,
    people: People,
    sessions: Sessions,
    signer: Signer,
    admission: Admission,
    graphs: Graphs,
    checks: Checks,
    ready: Ready,
    /// Cancelled when the server is to stop: streams that have no end of their own end then.
    stop: CancellationToken,
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
        .routes(routes!(sites::list))
        .routes(routes!(runs::list))
        .routes(routes!(runs::show))
        .routes(routes!(runs::cancel))
        .routes(routes!(runs::pause))
        .routes(routes!(runs::resume))
        .routes(routes!(rounds::list))
        .routes(routes!(rounds::show))
        .routes(routes!(rounds::model))
        .routes(routes!(graphs::show))
        .routes(routes!(updates::list))
        .routes(routes!(tokens::list))
        .routes(routes!(tokens::revoke))
        .routes(routes!(certificates::list))
        .routes(routes!(certificates::revoke))
        .routes(routes!(rounds::signature))
        .routes(routes!(rounds::remerge))
        .routes(routes!(audit::list))
        .routes(routes!(audit::export))
        .routes(routes!(audit::growth))
        .routes(routes!(audit::keys))
        .routes(routes!(webhooks::list))
        .routes(routes!(webhooks::retry))
        .routes(routes!(webhooks::test))
        .routes(routes!(metrics::metrics))
        .routes(routes!(events::stream))
        .routes(routes!(models::list))
        .routes(routes!(models::show))
        .routes(routes!(models::content))
        .routes(routes!(models::promote))
        .routes(routes!(models::tag, models::untag))
        .routes(routes!(site::show))
        .routes(routes!(site::revoke))
}

/// Calls with small JSON bodies that make something each time: with a key they make it once.
fn making_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(sites::create))
        .routes(routes!(runs::create))
        .routes(routes!(runs::clone::clone))
        .routes(routes!(runs::extend::extend))
        .routes(routes!(tokens::create))
        .routes(routes!(tokens::create_for_site))
        .routes(routes!(site::rotate))
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
    let making = making_routes().into_openapi();
    let mut document =
        routes.merge(json_routes()).merge(making_routes()).merge(stream_routes()).into_openapi();
    openapi::complete(&mut document, &making);
    document.to_pretty_json().map_err(Error::internal)
}

/// Lets figures of calls go by the route, not by what a caller wrote.
async fn named(route: MatchedPath, request: Request, next: Next) -> Response {
    if let Some(call) = request.extensions().get::<Call>() {
        call.name(route.as_str());
    }
    next.run(request).await
}

fn router(api: Api) -> Result<Router> {
    let document = Bytes::from(openapi_json()?);
    let limits = api.admission.limits().clone();
    let once = axum::middleware::from_fn_with_state(api.clone(), once::once);
    let guarded = json_routes()
        .merge(making_routes().layer(once))
        .layer(DefaultBodyLimit::max(limits.max_json_bytes))
        .merge(stream_routes().layer(DefaultBodyLimit::disable()))
        .layer(axum::middleware::from_fn_with_state(api.clone(), auth::require_role));
    let page = docs::page(&serde_json::from_slice(&document).map_err(Error::internal)?);
    let document =
        move || std::future::ready(([(header::CONTENT_TYPE, "application/json")], document.clone()));
    let page = move || std::future::ready(docs::answer(page.clone()));
    let style = || std::future::ready(docs::style());
    let let_in = axum::middleware::from_fn_with_state(api.clone(), auth::let_in);
    let document = Router::new()
        .route("/openapi.json", axum::routing::get(document))
        .route("/docs", axum::routing::get(page))
        .route("/docs/style.css", axum::routing::get(style))
        .layer(let_in);
    // Never refused: whoever asks it decides who is sent here.
    let (open, _) = open_routes().split_for_parts();
    let (guarded, _) = guarded.split_for_parts();
    let dashboard = dashboard::router(&api);
    Ok(open
        .merge(document)
        .merge(guarded)
        .merge(dashboard)
        .route_layer(axum::middleware::from_fn(named))
        .fallback(|| async {
            Problem::from(Error::not_found("there is no such page; the API is described at /docs"))
        })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
            Problem::from(Error::internal("a handler panicked")).into_response()
        }))
        .layer(CallsLayer::new(
            &limits,
            (Edge::http, api.store.telemetry()),
            |error| Box::new(error),
            Body::new,
            Body::new,
        ))
        .with_state(api))
}

/// Serves until `stop` is cancelled; requests under way may finish within seven seconds.
///
/// # Errors
/// Says what of the certificate cannot be used.
pub(crate) async fn serve(
    store: Store,
    people: People,
    (sessions, signer): (Sessions, Signer),
    listener: TcpListener,
    (tls, clear_text): (Option<&Tls>, bool),
    admission: &Admission,
    stop: CancellationToken,
) -> Result<()> {
    let (limits, telemetry) = (admission.limits(), store.telemetry().clone());
    let router = router(Api {
        tls: tls.cloned(),
        clear_text,
        ready: Ready::default(),
        store,
        people,
        sessions,
        signer,
        admission: admission.clone(),
        graphs: Graphs::new(limits),
        checks: Checks::default(),
        stop: stop.clone(),
    })?;
    let (watched, reload) = match tls {
        Some(tls) => {
            let (send, config) = tokio::sync::watch::channel(tls::server_config(tls, ALPN, false)?);
            (Some(config), Some((tls.clone(), send)))
        }
        None => (None, None),
    };
    let incoming = connections::incoming(listener, watched, Speaks::Either, limits, &telemetry, stop.clone());
    let serving = serve::connections(incoming, router, limits, stop);
    match reload {
        Some((tls, send)) => tokio::select! {
            () = serving => {}
            () = tls::keep_current(tls, ALPN, false, |config| _ = send.send(config)) => {}
        },
        None => serving.await,
    }
    Ok(())
}
