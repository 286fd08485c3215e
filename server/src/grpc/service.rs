//! The rpcs of `fedbasin.v1.FedBasin`.

use std::pin::Pin;

use fedbasin_proof::{Hash, Record};
use fedbasin_proto::v1;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use super::{
    Caller, convert, download,
    upload::Uploads,
    watch::{Watches, status_of},
};
use crate::{
    config::Limits,
    error::{Code, Error, Result},
    model::Receipt,
    requests, sessions,
    signing::Signer,
    store::Store,
};

type Answer<T> = std::result::Result<Response<T>, Status>;
type AnswerStream<T> = Pin<Box<dyn Stream<Item = std::result::Result<T, Status>> + Send>>;

/// Answers sites.
pub(super) struct Sites {
    store: Store,
    signer: Signer,
    limits: Limits,
    uploads: Uploads,
    watches: Watches,
    stop: CancellationToken,
}

impl Sites {
    pub(super) fn new(
        store: Store,
        signer: Signer,
        limits: Limits,
        uploads: Uploads,
        stop: CancellationToken,
    ) -> Self {
        let watches = Watches::new(store.clone(), limits.max_checkpoint_bytes);
        Self { store, signer, limits, uploads, watches, stop }
    }

    /// A receipt as it is sent: signed, with the place of its record in the audit log.
    async fn signed(&self, receipt: Receipt) -> Result<v1::Receipt> {
        let place = self.store.log_place("update.accepted", &receipt.update_id).await?;
        let signature = self.signer.receipt(&receipt, place);
        Ok(v1::Receipt { signature: signature.into(), log_record: place, ..convert::receipt(receipt) })
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

fn no_checkpoint(digest: &rebasin::Digest) -> Error {
    Error::not_found(format!("this site's runs have no checkpoint {digest} to download"))
}

fn bytes_of(hashes: Vec<Hash>) -> Vec<bytes::Bytes> {
    hashes.into_iter().map(|hash| hash.to_vec().into()).collect()
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
        let Caller { site, ended: token_ended, .. } = caller(&request)?;
        let site = site.to_string();
        let run_id = request.into_inner().run_id;
        self.store.run_of_site(&site, &run_id).await?;
        let (send, receive) = mpsc::channel(2);
        let (watches, stop) = (self.watches.clone(), self.stop.clone());
        let watching = async move {
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
        };
        // A task is within the call still.
        tokio::spawn(watching.in_current_span());
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    type DownloadStream = AnswerStream<v1::DownloadChunk>;

    async fn download(&self, request: Request<v1::DownloadRequest>) -> Answer<Self::DownloadStream> {
        let Caller { site, ended: token_ended, .. } = caller(&request)?;
        let request = request.into_inner();
        let digest = convert::digest(&request.digest)?;
        if !self.store.site_may_read(&site, &digest).await? {
            return Err(no_checkpoint(&digest).into());
        }
        let (stop, offset) = (self.stop.clone(), request.offset);
        let chunks = download::stream(&self.store, digest, offset, stop, token_ended).await?;
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn begin_update(
        &self,
        request: Request<v1::BeginUpdateRequest>,
    ) -> Answer<v1::BeginUpdateResponse> {
        let Caller { site, actor, .. } = caller(&request)?;
        let trace = request.extensions().get::<requests::Request>().map(requests::Request::trace);
        let span = trace.and_then(|trace| self.store.traces().begin("announce", trace));
        let new = convert::new_update(request.into_inner())?;
        new.check(self.limits.max_checkpoint_bytes)?;
        let update = self.store.acting_as(actor).begin_update(&site, &new).await?;
        if let Some(span) = span {
            let span = span.tell("run.id", &update.run_id).tell("round.number", &update.round);
            let span = span.tell("site.id", &site).tell("update.id", &update.id);
            if let Some(place) = span.place() {
                self.store.note_trace(&update.id, place).await;
            }
        }
        let receipt = update.receipt();
        let offset = match receipt {
            Some(_) => update.size,
            None => self.store.received_bytes(&update.id).await?,
        };
        Ok(Response::new(v1::BeginUpdateResponse {
            update_id: update.id,
            offset,
            receipt: match receipt {
                Some(receipt) => Some(self.signed(receipt).await?),
                None => None,
            },
        }))
    }

    type SendUpdateStream = AnswerStream<v1::UpdateProgress>;

    async fn send_update(
        &self,
        request: Request<Streaming<v1::UpdateChunk>>,
    ) -> Answer<Self::SendUpdateStream> {
        let Caller { site, actor, ended: token_ended } = caller(&request)?;
        let chunks = request.into_inner();
        let (send, receive) = mpsc::channel(4);
        let uploads = self.uploads.clone();
        let store = self.store.acting_as(actor);
        let stop = self.stop.clone();
        let receiving = async move {
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
        };
        tokio::spawn(receiving.in_current_span());
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn finish_update(
        &self,
        request: Request<v1::FinishUpdateRequest>,
    ) -> Answer<v1::FinishUpdateResponse> {
        let Caller { site, actor, .. } = caller(&request)?;
        let store = self.store.acting_as(actor);
        let receipt = self.uploads.finish(&store, &site, &request.into_inner().update_id).await?;
        Ok(Response::new(v1::FinishUpdateResponse { receipt: Some(self.signed(receipt).await?) }))
    }

    async fn get_update(&self, request: Request<v1::GetUpdateRequest>) -> Answer<v1::GetUpdateResponse> {
        let site = site(&request)?;
        let update = self.store.update_of_site(&site, &request.into_inner().update_id).await?;
        let mut sent = convert::update(&update);
        if let Some(receipt) = update.receipt() {
            sent.receipt = Some(self.signed(receipt).await?);
        }
        Ok(Response::new(v1::GetUpdateResponse { update: Some(sent) }))
    }

    async fn withdraw_update(
        &self,
        request: Request<v1::WithdrawUpdateRequest>,
    ) -> Answer<v1::WithdrawUpdateResponse> {
        let Caller { site, actor, .. } = caller(&request)?;
        let id = request.into_inner().update_id;
        let update = self.store.acting_as(actor).withdraw_update(&site, &id).await?;
        tracing::info!(site.id = %site, update.id = id, run.id = update.run_id, round.number = update.round, "update withdrawn");
        Ok(Response::new(v1::WithdrawUpdateResponse { update: Some(convert::update(&update)) }))
    }

    async fn report_evaluation(
        &self,
        request: Request<v1::ReportEvaluationRequest>,
    ) -> Answer<v1::ReportEvaluationResponse> {
        let Caller { site, actor, .. } = caller(&request)?;
        let new = convert::new_evaluations(request.into_inner())?;
        new.check()?;
        if self.store.acting_as(actor).report_evaluations(&site, &new).await? {
            tracing::info!(site.id = %site, run.id = new.run_id, round.number = new.round, "models evaluated");
        }
        Ok(Response::new(v1::ReportEvaluationResponse {}))
    }

    async fn get_server_keys(
        &self,
        _: Request<v1::GetServerKeysRequest>,
    ) -> Answer<v1::GetServerKeysResponse> {
        let origin = self.store.log_head().await?.origin;
        Ok(Response::new(v1::GetServerKeysResponse {
            keys: self.signer.public().to_pem(),
            log_origin: origin,
        }))
    }

    async fn prove_log(&self, request: Request<v1::ProveLogRequest>) -> Answer<v1::ProveLogResponse> {
        let site = site(&request)?;
        let request = request.into_inner();
        let growth = self.store.prove_growth(request.first, request.second).await?;
        let mut answer = v1::ProveLogResponse { growth: bytes_of(growth), ..Default::default() };
        if let Some(place) = request.record {
            let inclusion = self.store.prove_record(place, request.second).await?;
            let record = Record::from_line(&inclusion.line).map_err(Error::internal)?;
            if record.site.as_ref() != Some(&site) {
                return Err(
                    Error::not_found(format!("record {place} of the audit log is not of this site")).into()
                );
            }
            (answer.record, answer.inclusion) = (inclusion.line, bytes_of(inclusion.proof));
        }
        Ok(Response::new(answer))
    }

    async fn get_model_signature(
        &self,
        request: Request<v1::GetModelSignatureRequest>,
    ) -> Answer<v1::GetModelSignatureResponse> {
        let site = site(&request)?;
        let digest = convert::digest(&request.into_inner().digest)?;
        if !self.store.site_may_read(&site, &digest).await? {
            return Err(no_checkpoint(&digest).into());
        }
        let stored = match self.store.published_for(&site, &digest).await? {
            Some((run, round)) => self.store.model_signature(&run, round).await?,
            None => None,
        };
        let bundle = match stored {
            Some(bundle) => bundle,
            None => self.signer.given_out(&digest, self.store.is_naive_alone(&digest).await?)?,
        };
        Ok(Response::new(v1::GetModelSignatureResponse { bundle }))
    }
}
