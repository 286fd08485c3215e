//! The rpcs of `fedbasin.v1.FedBasin`.

use std::pin::Pin;

use fedbasin_proto::v1;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Caller, convert, download,
    upload::Uploads,
    watch::{Watches, status_of},
};
use crate::{
    config::Limits,
    error::{Code, Error, Result},
    sessions,
    store::Store,
};

type Answer<T> = std::result::Result<Response<T>, Status>;
type AnswerStream<T> = Pin<Box<dyn Stream<Item = std::result::Result<T, Status>> + Send>>;

/// Answers sites.
pub(super) struct Sites {
    store: Store,
    limits: Limits,
    uploads: Uploads,
    watches: Watches,
    stop: CancellationToken,
}

impl Sites {
    pub(super) fn new(store: Store, limits: Limits, uploads: Uploads, stop: CancellationToken) -> Self {
        let watches = Watches::new(store.clone(), limits.max_checkpoint_bytes);
        Self { store, limits, uploads, watches, stop }
    }
}

/// The caller, known since the token was checked.
fn caller<T>(request: &Request<T>) -> Result<Caller> {
    let caller = request.extensions().get::<Caller>();
    let caller = caller.cloned().ok_or_else(|| Error::internal("a call passed without a site"))?;
    // A call may wait for its message for long after its headers were looked at.
    if caller.ended.is_cancelled() { Err(sessions::ended()) } else { Ok(caller) }
}

fn site<T>(request: &Request<T>) -> Result<String> {
    caller(request).map(|caller| caller.site.to_string())
}

#[tonic::async_trait]
impl v1::fed_basin_server::FedBasin for Sites {
    async fn list_runs(&self, request: Request<v1::ListRunsRequest>) -> Answer<v1::ListRunsResponse> {
        let site = site(&request)?;
        let mut runs = Vec::new();
        for run in self.store.runs_of_site(&site).await? {
            runs.push(status_of(&self.store, &site, &run, self.limits.max_checkpoint_bytes).await?);
        }
        Ok(Response::new(v1::ListRunsResponse { runs }))
    }

    type WatchRunStream = AnswerStream<v1::RunStatus>;

    async fn watch_run(&self, request: Request<v1::WatchRunRequest>) -> Answer<Self::WatchRunStream> {
        let Caller { site, ended: token_ended } = caller(&request)?;
        let site = site.to_string();
        let run_id = request.into_inner().run_id;
        self.store.run_of_site(&site, &run_id).await?;
        let (send, receive) = mpsc::channel(2);
        let (watches, stop) = (self.watches.clone(), self.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {
                    let error = Error::new(Code::Unavailable, "the server is stopping");
                    // The client may be gone already.
                    let _ = send.try_send(Err(error.into()));
                }
                () = token_ended.cancelled() => {
                    // The client may be gone already.
                    let _ = send.try_send(Err(sessions::ended().into()));
                }
                () = watches.watch(&site, &run_id, &send) => {}
                () = send.closed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    type DownloadStream = AnswerStream<v1::DownloadChunk>;

    async fn download(&self, request: Request<v1::DownloadRequest>) -> Answer<Self::DownloadStream> {
        let Caller { site, ended: token_ended } = caller(&request)?;
        let request = request.into_inner();
        let digest = convert::digest(&request.digest)?;
        if !self.store.site_may_read(&site, &digest).await? {
            return Err(Error::not_found(format!(
                "this site's runs have no checkpoint {digest} to download"
            ))
            .into());
        }
        let (stop, offset) = (self.stop.clone(), request.offset);
        let chunks = download::stream(&self.store, digest, offset, stop, token_ended).await?;
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn begin_update(
        &self,
        request: Request<v1::BeginUpdateRequest>,
    ) -> Answer<v1::BeginUpdateResponse> {
        let site = site(&request)?;
        let new = convert::new_update(request.into_inner())?;
        new.check(self.limits.max_checkpoint_bytes)?;
        let update = self.store.begin_update(&site, &new).await?;
        let receipt = update.receipt();
        let offset = match receipt {
            Some(_) => update.size,
            None => self.store.received_bytes(&update.id).await?,
        };
        Ok(Response::new(v1::BeginUpdateResponse {
            update_id: update.id,
            offset,
            receipt: receipt.map(convert::receipt),
        }))
    }

    type SendUpdateStream = AnswerStream<v1::UpdateProgress>;

    async fn send_update(
        &self,
        request: Request<Streaming<v1::UpdateChunk>>,
    ) -> Answer<Self::SendUpdateStream> {
        let Caller { site, ended: token_ended } = caller(&request)?;
        let chunks = request.into_inner();
        let (send, receive) = mpsc::channel(4);
        let uploads = self.uploads.clone();
        let store = self.store.clone();
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let outcome = tokio::select! {
                outcome = uploads.receive(&store, &site, chunks, &send) => outcome,
                () = stop.cancelled() => Err(Error::new(Code::Unavailable, "the server is stopping; go on elsewhere")),
                () = token_ended.cancelled() => Err(sessions::ended()),
                () = send.closed() => return,
            };
            if let Err(error) = outcome {
                // The client may be gone already.
                let _ = send.send(Err(error.into())).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn finish_update(
        &self,
        request: Request<v1::FinishUpdateRequest>,
    ) -> Answer<v1::FinishUpdateResponse> {
        let site = site(&request)?;
        let receipt = self.uploads.finish(&self.store, &site, &request.into_inner().update_id).await?;
        Ok(Response::new(v1::FinishUpdateResponse { receipt: Some(convert::receipt(receipt)) }))
    }

    async fn get_update(&self, request: Request<v1::GetUpdateRequest>) -> Answer<v1::GetUpdateResponse> {
        let site = site(&request)?;
        let update = self.store.update_of_site(&site, &request.into_inner().update_id).await?;
        Ok(Response::new(v1::GetUpdateResponse { update: Some(convert::update(&update)) }))
    }
}
