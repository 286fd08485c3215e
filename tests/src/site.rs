//! A raw gRPC client: the generated stubs and nothing of the client crate, so that a test can also do what that never would.

use fedbasin_proto::{
    CODE_METADATA_KEY, MAX_CHUNK_BYTES,
    v1::{self, fed_basin_client::FedBasinClient},
};
use sha2::{Digest as _, Sha256};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use crate::PATIENCE;

/// The generated client, sending a token.
pub type Client = FedBasinClient<InterceptedService<Channel, Bearer>>;

/// Puts a token on every call, or none.
#[derive(Debug, Clone)]
pub struct Bearer(Option<MetadataValue<tonic::metadata::Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// What a test looks at in an error.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The gRPC code.
    pub code: Code,
    /// The stable string in the metadata.
    pub name: String,
    /// The message.
    pub message: String,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let name =
            status.metadata().get(CODE_METADATA_KEY).map_or("", |value| value.to_str().unwrap_or("not text"));
        Self { code: status.code(), name: name.to_owned(), message: status.message().to_owned() }
    }
}

/// Asserts that a call was refused with that code and stable string, and returns the message.
///
/// # Panics
/// Where it was not.
pub fn assert_refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, name: &str) -> String {
    let refusal = match result {
        Ok(answer) => panic!("wanted {code:?} {name}, got the answer {answer:?}"),
        Err(status) => Refusal::from(status),
    };
    assert_eq!((refusal.code, refusal.name.as_str()), (code, name), "{}", refusal.message);
    assert!(refusal.message.len() > 10, "a message says what was wrong: {:?}", refusal.message);
    refusal.message
}

/// What a stream ends with.
///
/// # Panics
/// Where it ends as if all were well, or not in time.
pub async fn last<T: std::fmt::Debug>(stream: &mut tonic::Streaming<T>) -> Status {
    let end = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended as if all were well"),
                Err(status) => return status,
            }
        }
    };
    tokio::time::timeout(PATIENCE, end).await.expect("it ends in time")
}

/// An open stream of chunks.
#[derive(Debug)]
pub struct Sending {
    progress: tonic::Streaming<v1::UpdateProgress>,
    /// Takes further chunks.
    pub sender: tokio::sync::mpsc::Sender<v1::UpdateChunk>,
}

impl Sending {
    /// The next offset that the server says is durable.
    ///
    /// # Errors
    /// As the server answers.
    ///
    /// # Panics
    /// Where it says nothing in time, or ends the stream.
    pub async fn acknowledged(&mut self) -> Result<u64, Status> {
        let told = tokio::time::timeout(PATIENCE, self.progress.message()).await.expect("progress in time");
        Ok(told?.expect("progress while the stream is open").durable_offset)
    }
}

/// A site, as the server sees one.
#[derive(Debug, Clone)]
pub struct Site {
    /// Its id.
    pub id: String,
    /// Its token.
    pub token: String,
    /// The generated client.
    pub client: Client,
}

impl Site {
    /// A site with its token. Connects when first used, and again after a loss.
    ///
    /// # Panics
    /// Where `url` is none.
    #[must_use]
    pub fn new(id: &str, url: &str, token: &str) -> Self {
        let endpoint = endpoint(url);
        Self {
            id: id.to_owned(),
            token: token.to_owned(),
            client: client(endpoint.connect_lazy(), Some(token)),
        }
    }

    /// The same site over TLS, trusting one certificate (PEM) that was made for `localhost`.
    ///
    /// # Panics
    /// Where `url` is none.
    #[must_use]
    pub fn trusting(&self, url: &str, pem: &str) -> Self {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)).domain_name("localhost");
        let endpoint = endpoint(url).tls_config(tls).expect("a TLS configuration");
        Self { client: client(endpoint.connect_lazy(), Some(&self.token)), ..self.clone() }
    }

    /// The same address with another token, or none.
    ///
    /// # Panics
    /// Where `url` is none.
    #[must_use]
    pub fn with_token(&self, url: &str, token: Option<&str>) -> Self {
        Self { client: client(endpoint(url).connect_lazy(), token), ..self.clone() }
    }

    /// Announces an update.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn begin(
        &self,
        run: &str,
        round: u32,
        checkpoint: &[u8],
        num_examples: u64,
    ) -> Result<v1::BeginUpdateResponse, Status> {
        self.begin_as(v1::BeginUpdateRequest {
            run_id: run.to_owned(),
            round,
            digest: digest(checkpoint),
            size: checkpoint.len() as u64,
            num_examples,
            metrics: [("loss".to_owned(), 0.5)].into(),
        })
        .await
    }

    /// Announces an update, whatever it says.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn begin_as(&self, request: v1::BeginUpdateRequest) -> Result<v1::BeginUpdateResponse, Status> {
        Ok(self.client.clone().begin_update(request).await?.into_inner())
    }

    /// Sends chunks in one stream and returns the last durable offset.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn send(&self, chunks: Vec<v1::UpdateChunk>) -> Result<u64, Status> {
        let mut progress = self.client.clone().send_update(tokio_stream::iter(chunks)).await?.into_inner();
        let mut durable = 0;
        while let Some(message) = progress.message().await? {
            durable = message.durable_offset;
        }
        Ok(durable)
    }

    /// Sends chunks in a stream that stays open.
    ///
    /// # Panics
    /// Where the server does not take the stream.
    pub async fn open_stream(&self, chunks: &[v1::UpdateChunk]) -> Sending {
        let (sender, receiver) = tokio::sync::mpsc::channel(32);
        for chunk in chunks {
            sender.send(chunk.clone()).await.expect("room in the channel");
        }
        let receiver = ReceiverStream::new(receiver);
        let progress = self.client.clone().send_update(receiver).await.expect("a stream").into_inner();
        Sending { progress, sender }
    }

    /// Ends an update.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn finish(&self, update: &str) -> Result<v1::Receipt, Status> {
        let request = v1::FinishUpdateRequest { update_id: update.to_owned() };
        let answer = self.client.clone().finish_update(request).await?.into_inner();
        Ok(answer.receipt.expect("a finished update has a receipt"))
    }

    /// Announces, sends and ends an update, from the offset that the server holds.
    ///
    /// # Errors
    /// As the server answers first.
    pub async fn upload(
        &self,
        run: &str,
        round: u32,
        checkpoint: &[u8],
        num_examples: u64,
    ) -> Result<v1::Receipt, Status> {
        let begun = self.begin(run, round, checkpoint, num_examples).await?;
        if let Some(receipt) = begun.receipt {
            return Ok(receipt);
        }
        if begun.offset < checkpoint.len() as u64 {
            self.send(chunks(&begun.update_id, checkpoint, begun.offset)).await?;
        }
        self.finish(&begun.update_id).await
    }

    /// What became of an update.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn update(&self, update: &str) -> Result<v1::Update, Status> {
        let request = v1::GetUpdateRequest { update_id: update.to_owned() };
        let answer = self.client.clone().get_update(request).await?.into_inner();
        Ok(answer.update.expect("an update that exists"))
    }

    /// A checkpoint's bytes from an offset.
    ///
    /// # Errors
    /// As the server answers.
    ///
    /// # Panics
    /// Where a chunk is out of place or larger than the contract allows.
    pub async fn download(&self, digest: &str, offset: u64) -> Result<Vec<u8>, Status> {
        let request = v1::DownloadRequest { digest: digest.to_owned(), offset };
        let mut stream = self.client.clone().download(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.message().await? {
            assert_eq!(chunk.offset, offset + bytes.len() as u64, "chunks come in order");
            assert!(chunk.data.len() <= MAX_CHUNK_BYTES, "a chunk of {} bytes", chunk.data.len());
            bytes.extend_from_slice(&chunk.data);
        }
        Ok(bytes)
    }

    /// The run as this site sees it now.
    ///
    /// # Errors
    /// As the server answers.
    ///
    /// # Panics
    /// Where the site belongs to no such run.
    pub async fn status(&self, run: &str) -> Result<v1::RunStatus, Status> {
        let runs = self.client.clone().list_runs(v1::ListRunsRequest {}).await?.into_inner().runs;
        Ok(runs.into_iter().find(|status| status.run_id == run).expect("a run of this site"))
    }

    /// Watches a run until `enough` says so of a state, and returns that.
    ///
    /// # Errors
    /// As the server answers.
    ///
    /// # Panics
    /// Where the stream ends before, or nothing happens in time.
    pub async fn watch_until(
        &self,
        run: &str,
        mut enough: impl FnMut(&v1::RunStatus) -> bool,
    ) -> Result<v1::RunStatus, Status> {
        let request = v1::WatchRunRequest { run_id: run.to_owned() };
        let mut stream = self.client.clone().watch_run(request).await?.into_inner();
        let watching = async {
            while let Some(status) = stream.message().await? {
                if enough(&status) {
                    return Ok(status);
                }
            }
            panic!("the stream of {run} ended before the awaited state")
        };
        tokio::time::timeout(PATIENCE, watching).await.expect("the run changes in time")
    }
}

/// A checkpoint from an offset on, as the messages of a stream.
#[must_use]
pub fn chunks(update: &str, checkpoint: &[u8], from: u64) -> Vec<v1::UpdateChunk> {
    let mut offset = usize::try_from(from).expect("an offset within memory");
    let mut chunks = Vec::new();
    for data in checkpoint[offset..].chunks(MAX_CHUNK_BYTES) {
        chunks.push(v1::UpdateChunk {
            update_id: update.to_owned(),
            offset: offset as u64,
            data: data.to_vec().into(),
            crc32c: crc32c::crc32c(data),
        });
        offset += data.len();
    }
    chunks
}

/// SHA-256 in lower-case hex.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint::from_shared(url.to_owned()).expect("a URL").connect_timeout(PATIENCE)
}

fn client(channel: Channel, token: Option<&str>) -> Client {
    let bearer = token.map(|token| format!("Bearer {token}").parse().expect("a token of ASCII"));
    FedBasinClient::with_interceptor(channel, Bearer(bearer))
        .max_decoding_message_size(fedbasin_proto::MAX_MESSAGE_BYTES)
}
