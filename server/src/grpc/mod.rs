//! The gRPC edge, for sites: decode, authenticate, call, encode. No SQL, no decisions.

mod convert;
mod download;
mod failed_calls;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzed;
mod service;
mod upload;
mod watch;

use std::{sync::Arc, time::Duration};

use fedbasin_proof::Who;
use fedbasin_proto::v1;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, service::LayerExt as _, transport::Server};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};
use tower_http::auth::AsyncRequireAuthorizationLayer;

use self::{failed_calls::FailedCalls, service::Sites, upload::Uploads};
use crate::{
    admission::{self, Admission},
    auth,
    config::{Limits, Tls},
    connections::{self, Call, CallsLayer, Link, Speaks},
    error::{Code, Error, Result},
    model::Holder,
    requests,
    sessions::Sessions,
    signing::Signer,
    store::{Actor, Alive, Store},
    telemetry::Edge,
    tls::{self, Peer},
};

/// What the edge speaks.
const ALPN: &[&[u8]] = &[b"h2"];

/// How long connections may take to end once the server is to stop.
const DRAIN: Duration = Duration::from_secs(7);

/// The calling site, put into a request's extensions once its token is known.
#[derive(Debug, Clone)]
struct Caller {
    site: Arc<str>,
    /// By what it is known: for the audit log.
    actor: Actor,
    /// Cancelled when its token ceases to open anything.
    ended: CancellationToken,
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut status = Status::new(error.code().grpc(), error.public_message());
        let code = tonic::metadata::MetadataValue::from_static(error.code().as_str());
        status.metadata_mut().insert(fedbasin_proto::CODE_METADATA_KEY, code);
        if let Some(wait) = error.retry_after() {
            let milliseconds = wait.as_millis().try_into().unwrap_or(u64::MAX);
            status.metadata_mut().insert(fedbasin_proto::RETRY_METADATA_KEY, milliseconds.into());
        }
        status
    }
}

/// Serves until `stop` is cancelled; streams under way are told to end.
///
/// # Errors
/// Says what of the certificate cannot be used, or why the listener failed.
pub(crate) async fn serve(
    store: Store,
    (sessions, signer): (Sessions, Signer),
    listener: TcpListener,
    tls: Option<&Tls>,
    admission: &Admission,
    stop: CancellationToken,
) -> Result<()> {
    let (limits, telemetry) = (admission.limits(), store.telemetry().clone());
    let uploads = Uploads::new(limits);
    tokio::spawn({
        let (uploads, stop) = (uploads.clone(), stop.clone());
        async move { stop.run_until_cancelled(uploads.keep_swept()).await }
    });
    let sites = Sites::new(store.clone(), signer.clone(), limits.clone(), uploads, stop.clone());
    let service = v1::fed_basin_server::FedBasinServer::new(sites)
        .max_decoding_message_size(fedbasin_proto::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(fedbasin_proto::MAX_MESSAGE_BYTES);
    let failed = FailedCalls::default();
    tokio::spawn({
        let (failed, store, stop) = (failed.clone(), store.clone(), stop.clone());
        async move { stop.run_until_cancelled(failed.keep_written(&store)).await }
    });
    let service = tower::ServiceBuilder::new()
        .layer(AsyncRequireAuthorizationLayer::new({
            let admission = admission.clone();
            move |request: http::Request<Body>| {
                authorize(store.clone(), sessions.clone(), admission.clone(), request)
            }
        }))
        .map_response(move |response| with_head(&signer, response))
        .layer(failed)
        .map_response(with_code)
        .named_layer(service);
    let open = tower::ServiceBuilder::new().layer(AsyncRequireAuthorizationLayer::new({
        let admission = admission.clone();
        move |request: http::Request<Body>| let_in(admission.clone(), request)
    }));

    let drained = stop.clone();
    let server = settings(limits)
        .layer(CallsLayer::new(
            limits,
            (Edge::grpc, &telemetry),
            |error| Status::from(error).into(),
            Body::new,
            Body::new,
        ))
        .add_service(open.named_layer(health(stop.clone()).await))
        .add_service(open.named_layer(reflection()?))
        .add_service(service);
    let (watched, reload) = match tls {
        Some(tls) => {
            let (send, config) = tokio::sync::watch::channel(tls::server_config(tls, ALPN, true)?);
            (Some(config), Some((tls.clone(), send)))
        }
        None => (None, None),
    };
    let incoming = connections::incoming(listener, watched, Speaks::Http2, limits, &telemetry, stop.clone());
    let serving = async {
        let serving = server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned());
        match reload {
            Some((tls, send)) => tokio::select! {
                served = serving => served,
                () = tls::keep_current(tls, ALPN, true, |config| _ = send.send(config)) => Ok(()),
            },
            None => serving.await,
        }
        .map_err(|error| Error::internal(format_args!("grpc: {error}")))
    };
    let too_long = async {
        drained.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served,
        // A connection that asks nothing, or a watched health, would never end.
        () = too_long => {
            tracing::warn!("gRPC connections that did not end in time are cut");
            Ok(())
        }
    }
}

/// Says that sites are served, until that ends.
async fn health(stop: CancellationToken) -> HealthServer<impl Health> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<v1::fed_basin_server::FedBasinServer<Sites>>().await;
    tokio::spawn(async move {
        stop.cancelled().await;
        // Who watches the health sends no more here while what is under way ends.
        reporter.set_not_serving::<v1::fed_basin_server::FedBasinServer<Sites>>().await;
    });
    health
}

/// Says what the contract is.
fn reflection() -> Result<ServerReflectionServer<impl ServerReflection>> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(Error::internal)
}

/// Lets the audit log's head travel with an answer.
fn with_head(signer: &Signer, mut response: http::Response<Body>) -> http::Response<Body> {
    signer.send_head(response.headers_mut());
    response
}

/// What the edge's connections go by. Without these hyper's own limits are switched off by tonic, or too small for long links.
fn settings(limits: &Limits) -> Server {
    Server::builder()
        .max_concurrent_streams(Some(limits.max_concurrent_streams))
        .http2_max_local_error_reset_streams(Some(limits.max_local_error_reset_streams))
        .http2_max_pending_accept_reset_streams(Some(limits.max_pending_accept_reset_streams))
        .http2_max_header_list_size(Some(limits.max_header_list_bytes))
        .initial_stream_window_size(Some(limits.stream_window_bytes))
        .initial_connection_window_size(Some(limits.connection_window_bytes))
        .max_frame_size(Some(limits.max_frame_bytes))
        .http2_keepalive_interval(Some(Duration::from_secs(limits.keepalive_interval_seconds)))
        .http2_keepalive_timeout(Some(Duration::from_secs(limits.keepalive_timeout_seconds)))
        // Not tonic's grace: with one it never tells the peer to take another connection. The connection itself ends then.
        .max_connection_age(limits.connection_age())
}

/// Whether the server is well: cheap, and never refused, for whoever asks it decides who is sent here.
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// Lets a call in that needs no token.
async fn let_in(
    admission: Admission,
    request: http::Request<Body>,
) -> std::result::Result<http::Request<Body>, http::Response<Body>> {
    if request.uri().path() == HEALTH {
        return Ok(request);
    }
    let permit = match request.extensions().get::<Link>() {
        Some(link) => admission.admit(admission::Caller::Address(link.address()), 0),
        None => Err(Error::internal("a call passed without its connection")),
    };
    hold(request.extensions(), permit).map_err(|error| Status::from(error).into_http())?;
    Ok(request)
}

/// Keeps what let a call in for as long as it lasts.
fn hold(extensions: &http::Extensions, permit: Result<admission::Permit>) -> Result<()> {
    let permit = permit?;
    let call = extensions.get::<Call>();
    call.ok_or_else(|| Error::internal("a call passed without being counted"))?.hold(permit);
    Ok(())
}

/// Gives what tonic refuses by itself a stable code, too: a message that is too large, or that cannot be read. The caller's fault, and
/// tonic calls most of it internal.
fn with_code(response: http::Response<Body>) -> http::Response<Body> {
    if response.headers().contains_key(fedbasin_proto::CODE_METADATA_KEY) {
        return response;
    }
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    let error = match status.code() {
        tonic::Code::OutOfRange => Error::new(
            Code::TooLarge,
            format!("a message has more than the {} bytes that are taken", fedbasin_proto::MAX_MESSAGE_BYTES),
        ),
        tonic::Code::Internal => Error::invalid(format!("the message cannot be read: {}", status.message())),
        _ => return response,
    };
    Status::from(error).into_http()
}

/// Finds the site by the token, before the body is read.
async fn authorize(
    store: Store,
    sessions: Sessions,
    admission: Admission,
    request: http::Request<Body>,
) -> std::result::Result<http::Request<Body>, http::Response<Body>> {
    let (mut parts, body) = request.into_parts();
    match caller(&store, &sessions, &admission, &parts).await {
        Ok(caller) => {
            parts.extensions.insert(caller);
            Ok(http::Request::from_parts(parts, body))
        }
        Err(error) => Err(Status::from(error).into_http()),
    }
}

async fn caller(
    store: &Store,
    sessions: &Sessions,
    admission: &Admission,
    request: &http::request::Parts,
) -> Result<Caller> {
    let of_site = |(site, _): &(String, String)| admission::Caller::Site(site.clone());
    let link = request.extensions.get::<Link>();
    let link = link.ok_or_else(|| Error::internal("a call passed without its connection"))?;
    let token = auth::bearer(&request.headers);
    let by_token = match token {
        Some(token) => {
            let hash = auth::hash(token);
            Some(admission.identify(link.address(), &hash, by_token(store, token, &hash), of_site).await?)
        }
        None => None,
    };
    let by_certificate = match link.certificate() {
        Some(certificate) => {
            let peer = Peer::of(certificate)?;
            Some(
                admission
                    .identify(link.address(), &peer.fingerprint, by_certificate(store, &peer), of_site)
                    .await?,
            )
        }
        None => None,
    };
    let (site, credential) = match (by_token, by_certificate) {
        (Some((of_token, _)), Some((of_certificate, _))) if of_token != of_certificate => {
            return Err(Error::new(
                Code::Forbidden,
                format!(
                    "the certificate is site {of_certificate}'s and the token another one's; send one of them"
                ),
            ));
        }
        (_, Some(known)) | (Some(known), None) => known,
        (None, None) => {
            return Err(Error::new(
                Code::Unauthenticated,
                "neither a certificate nor a token; send `authorization: Bearer <the site's token>`",
            ));
        }
    };
    let rpc = request.uri.path();
    let bytes = match rpc.rsplit('/').next() {
        Some("SendUpdate") => admission.limits().bytes_of_upload(),
        Some("Download") => admission.limits().bytes_of_download(),
        _ => 0,
    };
    let permit = admission.admit(admission::Caller::Site(site.clone()), bytes);
    hold(&request.extensions, permit)?;
    if !auth::access::site_may(rpc) {
        return Err(Error::new(Code::Forbidden, "no site may call this"));
    }
    let ended = sessions.of(&credential);
    let who = Who { kind: "site".into(), name: Some(site.clone()), credential: Some(credential) };
    let known = request.extensions.get::<requests::Request>();
    let actor = Actor { who, request: known.map(requests::Request::id), reason: None, once: None };
    Ok(Caller { site: site.into(), actor, ended })
}

/// A site, and the id of what it showed.
async fn by_token(store: &Store, token: &str, hash: &str) -> Result<(String, String)> {
    if auth::is_whole(token, auth::SITE_PREFIX)
        && let Some(Alive { id, holder: Holder::Site(site) }) = store.token_by_hash(hash).await?
    {
        return Ok((site, id));
    }
    Err(Error::new(
        Code::Unauthenticated,
        "the token opens nothing here (unknown, expired or revoked); send `authorization: Bearer <the site's token>`",
    ))
}

async fn by_certificate(store: &Store, peer: &Peer) -> Result<(String, String)> {
    if store.certificate_opens(&peer.fingerprint, &peer.site, peer.expires_at_ms).await? {
        return Ok((peer.site.clone(), peer.fingerprint.clone()));
    }
    Err(Error::new(
        Code::Unauthenticated,
        format!(
            "the certificate {} opens nothing here: it was revoked, has expired, or its site is not enrolled",
            peer.fingerprint
        ),
    ))
}
