//! Notes what sites are told when their calls fail, so that who helps a site sees it without its log.
//!
//! A call only leaves word here; one task writes it down, every two seconds at the most. What a site can make of that is bounded: of more than
//! so many different words at a time none is noted. A stream that breaks off once it has begun is not noted, nor who is no site.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::Caller;
use crate::{model::Failed, store::Store};

/// So often it is written down.
const PAUSE: Duration = Duration::from_secs(2);
/// So many different words of one site wait to be written down,
const MOST_OF_A_SITE: usize = 20;
/// and so many of all.
const MOST: usize = 2000;
/// The longest message that is kept, in bytes.
const MOST_BYTES: usize = 500;

/// What waits to be written down. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub(super) struct FailedCalls(Arc<Mutex<HashMap<Failed, u64>>>);

impl FailedCalls {
    fn waiting(&self) -> MutexGuard<'_, HashMap<Failed, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, call: Failed) {
        let mut waiting = self.waiting();
        if let Some(times) = waiting.get_mut(&call) {
            *times += 1;
        } else if waiting.len() < MOST
            && waiting.keys().filter(|other| other.site == call.site).count() < MOST_OF_A_SITE
        {
            waiting.insert(call, 1);
        }
    }

    /// Writes down what was noted, again and again.
    pub(super) async fn keep_written(&self, store: &Store) {
        loop {
            tokio::time::sleep(PAUSE).await;
            let mut told: Vec<(Failed, u64)> = self.waiting().drain().collect();
            // In one order, so that no two replicas wait for one another.
            told.sort_unstable();
            if told.is_empty() {
                continue;
            }
            if let Err(error) = store.note_failed_calls(&told).await {
                tracing::warn!(error.message = error.message(), "what sites were told cannot be noted");
            }
        }
    }
}

/// What an answer tells of a failure, where it is one: such an answer has its status beside its headers, and no message.
fn told(caller: &Caller, rpc: &str, response: &Response<Body>) -> Option<Failed> {
    let status = Status::from_header_map(response.headers())?;
    let code = response.headers().get(fedbasin_proto::CODE_METADATA_KEY)?.to_str().ok()?;
    let mut message: String = status.message().chars().filter(|letter| !letter.is_control()).collect();
    message.truncate(message.floor_char_boundary(MOST_BYTES));
    Some(Failed { site: caller.site.to_string(), rpc: rpc.to_owned(), code: code.to_owned(), message })
}

impl<S> Layer<S> for FailedCalls {
    type Service = Noting<S>;

    fn layer(&self, inner: S) -> Noting<S> {
        Noting { inner, failed: self.clone() }
    }
}

/// The service that does so.
#[derive(Clone)]
pub(super) struct Noting<S> {
    inner: S,
    failed: FailedCalls,
}

impl<S> Service<Request<Body>> for Noting<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let caller = request.extensions().get::<Caller>().cloned();
        let rpc = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let (failed, answering) = (self.failed.clone(), self.inner.call(request));
        Box::pin(async move {
            let response = answering.await?;
            if let Some(call) = caller.and_then(|caller| told(&caller, &rpc, &response)) {
                failed.note(call);
            }
            Ok(response)
        })
    }
}
