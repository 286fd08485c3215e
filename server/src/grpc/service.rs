//! The rpcs of `fedbasin.v1.FedBasin`.

use std::{pin::Pin, time::Duration};

use fedbasin_proto::v1;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{SiteId, convert, download, upload::Uploads};
use crate::{
    config::Limits,
    error::{Code, Error, Result},
    model::Run,
    store::Store,
};

/// How often a watched run is read again when nothing in this process wakes the stream.
const WATCH_POLL: Duration = Duration::from_secs(1);

type Answer<T> = std::result::Result<Response<T>, Status>;
type AnswerStream<T> = Pin<Box<dyn Stream<Item = std::result::Result<T, Status>> + Send>>;

/// Answers sites.
pub(super) struct Sites {
    store: Store,
    limits: Limits,
    uploads: Uploads,
    stop: CancellationToken,
}

impl Sites {
    pub(super) fn new(store: Store, limits: Limits, uploads: Uploads, stop: CancellationToken) -> Self {
        Self { store, limits, uploads, stop }
    }
}

/// The caller, known since the token was checked.
fn site<T>(request: &Request<T>) -> Result<String> {
    let site = request.extensions().get::<SiteId>();
    site.map(|site| site.0.to_string()).ok_or_else(|| Error::internal("a call passed without a site"))
}

async fn status_of(store: &Store, site: &str, run: &Run, limits: &Limits) -> Result<v1::RunStatus> {
    let record = match run.current_round {
        Some(number) => store.round(&run.id, number).await?,
        None => None,
    };
    let Some(record) = record else { return Ok(convert::run_status(run, None, limits.max_checkpoint_bytes)) };
    let own = store.update_that_counts(&run.id, record.round.number, site).await?;
    // A founding round's reference is another site's update: shown is what the site may download, and nothing else.
    let reference = match record.reference {
        Some(digest) if store.site_may_read(site, &digest).await? => Some(digest),
        _ => None,
    };
    let size_of = async |digest: Option<rebasin::Digest>| -> Result<u64> {
        match digest {
            Some(digest) => Ok(store.checkpoint(&digest).await?.map_or(0, |stored| stored.size)),
            None => Ok(0),
        }
    };
    let global = match &record.round.state {
        crate::round::State::Published { global } => Some(*global),
        _ => None,
    };
    let sizes = (size_of(reference).await?, size_of(global).await?);
    let round = convert::round_status(&record, run.cohort.len(), reference, sizes, own.as_ref());
    Ok(convert::run_status(run, Some(round), limits.max_checkpoint_bytes))
}

fn is_over(status: &v1::RunStatus) -> bool {
    status.state() != v1::RunState::Open
}

#[tonic::async_trait]
impl v1::fed_basin_server::FedBasin for Sites {
    async fn list_runs(&self, request: Request<v1::ListRunsRequest>) -> Answer<v1::ListRunsResponse> {
        let site = site(&request)?;
        let mut runs = Vec::new();
        for run in self.store.runs_of_site(&site).await? {
            runs.push(status_of(&self.store, &site, &run, &self.limits).await?);
        }
        Ok(Response::new(v1::ListRunsResponse { runs }))
    }

    type WatchRunStream = AnswerStream<v1::RunStatus>;

    async fn watch_run(&self, request: Request<v1::WatchRunRequest>) -> Answer<Self::WatchRunStream> {
        let site = site(&request)?;
        let run_id = request.into_inner().run_id;
        self.store.run_of_site(&site, &run_id).await?;
        let (send, receive) = mpsc::channel(2);
        let (store, limits, stop) = (self.store.clone(), self.limits.clone(), self.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {
                    let error = Error::new(Code::Unavailable, "the server is stopping");
                    // The client may be gone already.
                    let _ = send.try_send(Err(error.into()));
                }
                () = watch(&store, &site, &run_id, &limits, &send) => {}
                () = send.closed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    type DownloadStream = AnswerStream<v1::DownloadChunk>;

    async fn download(&self, request: Request<v1::DownloadRequest>) -> Answer<Self::DownloadStream> {
        let site = site(&request)?;
        let request = request.into_inner();
        let digest = convert::digest(&request.digest)?;
        if !self.store.site_may_read(&site, &digest).await? {
            return Err(Error::not_found(format!(
                "this site's runs have no checkpoint {digest} to download"
            ))
            .into());
        }
        let chunks = download::stream(&self.store, digest, request.offset, self.stop.clone()).await?;
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
        let site = site(&request)?;
        let chunks = request.into_inner();
        let (send, receive) = mpsc::channel(4);
        let uploads = self.uploads.clone();
        let store = self.store.clone();
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let outcome = tokio::select! {
                outcome = uploads.receive(&store, &site, chunks, &send) => outcome,
                () = stop.cancelled() => Err(Error::new(Code::Unavailable, "the server is stopping; go on elsewhere")),
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

/// Sends the run's status now and whenever it differs, until it is over or the receiver is gone.
async fn watch(
    store: &Store,
    site: &str,
    run_id: &str,
    limits: &Limits,
    send: &mpsc::Sender<std::result::Result<v1::RunStatus, Status>>,
) {
    let mut changes = store.changes();
    let mut last: Option<v1::RunStatus> = None;
    loop {
        changes.mark_unchanged();
        let status = async {
            let run = store.run_of_site(site, run_id).await?;
            status_of(store, site, &run, limits).await
        };
        match status.await {
            Ok(status) if last.as_ref() == Some(&status) => {}
            Ok(status) => {
                last = Some(status.clone());
                let over = is_over(&status);
                if send.send(Ok(status)).await.is_err() || over {
                    return;
                }
            }
            Err(error) => {
                // The client may be gone already.
                let _ = send.send(Err(error.into())).await;
                return;
            }
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(WATCH_POLL) => {}
        }
    }
}
