//! The connections of both edges: how many there may be, their handshakes, and when one ends that says nothing, owes bytes, does not
//! take what it asked for, or has grown old.

mod calls;
mod frames;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzed;
mod guard;
mod places;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{either::Either, sync::CancellationToken};

use self::places::{Place, Places};
pub(crate) use self::{
    calls::{Call, CallsLayer},
    guard::{Guarded, Link},
};
use crate::{
    config::Limits,
    telemetry::{self, Telemetry},
};

/// Connections that wait for their edge to take them.
const AHEAD: usize = 16;

/// What peers speak on an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP/2 from the first byte.
    Http2,
    /// HTTP/1.1 or HTTP/2, as the first bytes say.
    Either,
}

/// Connections whose handshake is done, within the limits. One that takes its time delays no other; who comes when there are too many
/// is turned away.
pub(crate) fn incoming(
    listener: TcpListener,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    speaks: Speaks,
    limits: &Limits,
    telemetry: &Telemetry,
    stop: CancellationToken,
) -> ReceiverStream<std::io::Result<Guarded>> {
    let (send, receive) = mpsc::channel(AHEAD);
    let edge = Edge { speaks, limits: Arc::new(limits.clone()), send };
    let of = match speaks {
        Speaks::Http2 => telemetry::Edge::grpc,
        Speaks::Either => telemetry::Edge::http,
    };
    let places = Places::new(limits, of, telemetry);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Mostly: no file is left. Some end soon.
                    tracing::warn!(error.message = %error, "a connection could not be taken");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Some(place) = places.take(peer.ip()) else { continue };
            // Without it only small answers come later.
            let _ = stream.set_nodelay(true);
            match &tls {
                None => edge.take(stream, peer, place).await,
                Some(tls) => {
                    let acceptor = TlsAcceptor::from(Arc::clone(&tls.borrow()));
                    tokio::spawn(edge.clone().shake_hands(acceptor, stream, peer, place));
                }
            }
        }
    });
    ReceiverStream::new(receive)
}

/// Where connections go.
#[derive(Clone)]
struct Edge {
    speaks: Speaks,
    limits: Arc<Limits>,
    send: mpsc::Sender<std::io::Result<Guarded>>,
}

impl Edge {
    async fn take(&self, stream: TcpStream, peer: SocketAddr, place: Place) {
        let link = Link::new(peer.ip(), None, &self.limits);
        let guarded = Guarded::new(Either::Left(stream), link, peer.port(), self.speaks, &self.limits, place);
        // The edge is gone where nobody takes it.
        let _ = self.send.send(Ok(guarded)).await;
    }

    async fn shake_hands(self, acceptor: TlsAcceptor, stream: TcpStream, peer: SocketAddr, place: Place) {
        let patience = Duration::from_secs(self.limits.handshake_timeout_seconds);
        match tokio::time::timeout(patience, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                let (_, session) = stream.get_ref();
                let shown = session.peer_certificates().and_then(<[_]>::first);
                let link =
                    Link::new(peer.ip(), shown.map(|certificate| certificate.as_ref().into()), &self.limits);
                let io = Either::Right(Box::new(stream));
                let guarded = Guarded::new(io, link, peer.port(), self.speaks, &self.limits, place);
                let _ = self.send.send(Ok(guarded)).await;
            }
            Ok(Err(error)) => tracing::debug!(error.message = %error, "a handshake failed"),
            Err(_) => tracing::debug!("a handshake took too long"),
        }
    }
}
