//! Connections of the HTTP edge: HTTP/1.1 or HTTP/2, within the limits.

use std::time::Duration;

use axum::{Router, body::Body};
use futures::StreamExt as _;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{config::Limits, connections::Guarded};

/// How long connections may take to end once the server is to stop.
const DRAIN: Duration = Duration::from_secs(7);

/// What HTTP/1 reads and writes at once, in bytes: seeds and models pass through it, and a request's head must fit.
const HTTP1_BUFFER: usize = 64 << 10;

/// Serves each connection until it ends, or until `stop` is cancelled and it ended or took too long.
pub(super) async fn connections(
    mut incoming: ReceiverStream<std::io::Result<Guarded>>,
    router: Router,
    limits: &Limits,
    stop: CancellationToken,
) {
    let (builder, age) = (builder(limits), limits.connection_age());
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = open.join_next() => {}
            next = incoming.next() => match next {
                Some(Ok(connection)) => {
                    open.spawn(serve(connection, router.clone(), builder.clone(), age, stop.clone()));
                }
                Some(Err(_)) => {}
                None => break,
            }
        }
    }
    let ended = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, ended).await.is_err() {
        tracing::warn!("HTTP connections that did not end in time are cut");
    }
}

async fn serve(
    connection: Guarded,
    router: Router,
    builder: Builder<TokioExecutor>,
    age: Duration,
    stop: CancellationToken,
) {
    let link = connection.link();
    let service = router.map_request(move |request: http::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(link.clone());
        request
    });
    let serving = builder.serve_connection(TokioIo::new(connection), TowerToHyperService::new(service));
    tokio::pin!(serving);
    tokio::select! {
        _ = &mut serving => return,
        () = stop.cancelled() => {}
        () = tokio::time::sleep(age) => {}
    }
    // No new calls; those under way go on.
    serving.as_mut().graceful_shutdown();
    // How it ended is its peer's affair.
    let _ = serving.await;
}

/// What connections go by.
fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Some(limits.first_call_timeout()))
        .max_buf_size((limits.max_header_list_bytes as usize).max(HTTP1_BUFFER));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(Some(limits.max_concurrent_streams))
        .max_local_error_reset_streams(Some(limits.max_local_error_reset_streams))
        .max_pending_accept_reset_streams(Some(limits.max_pending_accept_reset_streams))
        .max_header_list_size(limits.max_header_list_bytes)
        .initial_stream_window_size(Some(limits.stream_window_bytes))
        .initial_connection_window_size(Some(limits.connection_window_bytes))
        .max_frame_size(Some(limits.max_frame_bytes))
        .keep_alive_interval(Some(Duration::from_secs(limits.keepalive_interval_seconds)))
        .keep_alive_timeout(Duration::from_secs(limits.keepalive_timeout_seconds));
    builder
}
