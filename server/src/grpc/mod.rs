//! The gRPC edge, for sites: decode, authenticate, call, encode. No SQL, no decisions.

mod convert;
mod download;
mod service;
mod upload;
mod watch;

use std::{sync::Arc, time::Duration};

use fedbasin_proto::v1;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    body::Body,
    service::LayerExt as _,
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};
use tower_http::auth::AsyncRequireAuthorizationLayer;

use self::{service::Sites, upload::Uploads};
use crate::{
    auth,
    config::{Limits, Tls},
    error::{Code, Error, RETRY_AFTER, Result},
    store::Store,
};

/// How long connections may take to end once the server is to stop.
const DRAIN: Duration = Duration::from_secs(7);

/// The calling site, put into a request's extensions once its token is known.
#[derive(Debug, Clone)]
struct SiteId(Arc<str>);

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut status = Status::new(error.code().grpc(), error.public_message());
        let code = tonic::metadata::MetadataValue::from_static(error.code().as_str());
        status.metadata_mut().insert(fedbasin_proto::CODE_METADATA_KEY, code);
        if error.code() == Code::Unavailable {
            status
                .metadata_mut()
                .insert(fedbasin_proto::RETRY_METADATA_KEY, (RETRY_AFTER.as_millis() as u64).into());
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
    listener: TcpListener,
    tls: Option<&Tls>,
    limits: &Limits,
    stop: CancellationToken,
) -> Result<()> {
    let uploads = Uploads::new(limits);
    tokio::spawn({
        let (uploads, stop) = (uploads.clone(), stop.clone());
        async move { stop.run_until_cancelled(uploads.keep_swept()).await }
    });
    let sites = Sites::new(store.clone(), limits.clone(), uploads, stop.clone());
    let service = v1::fed_basin_server::FedBasinServer::new(sites)
        .max_decoding_message_size(fedbasin_proto::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(fedbasin_proto::MAX_MESSAGE_BYTES);
    let service = tower::ServiceBuilder::new()
        .layer(AsyncRequireAuthorizationLayer::new(move |request: http::Request<Body>| {
            authorize(store.clone(), request)
        }))
        .named_layer(service);

    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_serving::<v1::fed_basin_server::FedBasinServer<Sites>>().await;
    tokio::spawn({
        let stop = stop.clone();
        async move {
            stop.cancelled().await;
            // Who watches the health sends no more here while what is under way ends.
            health_reporter.set_not_serving::<v1::fed_basin_server::FedBasinServer<Sites>>().await;
        }
    });
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(Error::internal)?;

    // Without these hyper's own limits are switched off by tonic, or too small for long links.
    let mut server = Server::builder()
        .max_concurrent_streams(Some(limits.max_concurrent_streams))
        .http2_max_local_error_reset_streams(Some(128))
        .http2_max_pending_accept_reset_streams(Some(20))
        .http2_max_header_list_size(Some(16 << 10))
        .initial_stream_window_size(Some(4 << 20))
        .initial_connection_window_size(Some(16 << 20))
        .max_frame_size(Some(64 << 10))
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .tcp_nodelay(true);
    if let Some(tls) = tls {
        let read = |what: &str, path: &std::path::Path| {
            std::fs::read(path)
                .map_err(|error| Error::invalid(format!("{what}: cannot read {}: {error}", path.display())))
        };
        let identity =
            Identity::from_pem(read("tls.cert_file", &tls.cert_file)?, read("tls.key_file", &tls.key_file)?);
        server = server
            .tls_config(ServerTlsConfig::new().identity(identity).timeout(Duration::from_secs(5)))
            .map_err(|error| {
                Error::invalid(format!("tls: the certificate or key cannot be used: {error}"))
            })?;
    }
    let drained = stop.clone();
    let serving =
        server.add_service(health).add_service(reflection).add_service(service).serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            stop.cancelled_owned(),
        );
    let too_long = async {
        drained.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served.map_err(|error| Error::internal(format_args!("grpc: {error}"))),
        // A connection that asks nothing, or a watched health, would never end.
        () = too_long => {
            tracing::warn!("gRPC connections that did not end in time are cut");
            Ok(())
        }
    }
}

/// Finds the site by the token, before the body is read.
async fn authorize(
    store: Store,
    mut request: http::Request<Body>,
) -> std::result::Result<http::Request<Body>, http::Response<Body>> {
    let outcome = match auth::bearer(request.headers().get(http::header::AUTHORIZATION)) {
        Some(token) => store.site_by_token_hash(&auth::hash(token)).await,
        None => Ok(None),
    };
    match outcome {
        Ok(Some(site)) => {
            request.extensions_mut().insert(SiteId(site.into()));
            Ok(request)
        }
        Ok(None) => {
            let error = Error::new(
                Code::Unauthenticated,
                "no token, or one that this server does not know; send `authorization: Bearer <the site's token>`",
            );
            Err(Status::from(error).into_http())
        }
        Err(error) => Err(Status::from(error).into_http()),
    }
}
