//! Seed checkpoints.

use axum::{
    Json,
    body::{Body, BodyDataStream},
};
use futures::StreamExt as _;
use headers::{ContentLength, HeaderMapExt as _};
use http::{HeaderMap, StatusCode};
use serde::Serialize;

use super::{
    Api,
    auth::Acting,
    problem::{Problem, broke_off},
};
use crate::{
    error::{Code, Error, Result},
    store::{Kind, Staging, StoredCheckpoint},
};

/// A stored checkpoint.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Checkpoint {
    /// SHA-256 of its bytes, hex.
    digest: String,
    /// Their number.
    size: u64,
    /// Names, dtypes and shapes.
    #[schema(value_type = Object)]
    layout: rebasin::Layout,
}

/// Stores a checkpoint (the body: a safetensors file, with its `content-length`), to seed a run with.
#[utoipa::path(post, path = "/v1/checkpoints", tag = "checkpoints", security(("token" = [])),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses(
    (status = 201, body = Checkpoint),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 413, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn create(
    Acting(api): Acting,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Checkpoint>), Problem> {
    let Some(ContentLength(size)) = headers.typed_get() else {
        return Err(Error::invalid("content-length: absent; send the file's size").into());
    };
    if size > api.admission.limits().max_checkpoint_bytes {
        let detail =
            format!("{size} bytes are more than the {} taken", api.admission.limits().max_checkpoint_bytes);
        return Err(Error::new(Code::TooLarge, detail).into());
    }
    // Goes with this call, also where the client goes away and the call is dropped.
    let scratch = api.store.scratch(Kind::Seed);
    let stored = receive(&api, scratch.name(), size, body.into_data_stream()).await?;
    tracing::info!(checkpoint.digest = %stored.digest, checkpoint.bytes = stored.size, "checkpoint stored");
    let body = Checkpoint { digest: stored.digest.to_string(), size: stored.size, layout: stored.layout };
    Ok((StatusCode::CREATED, Json(body)))
}

async fn receive(api: &Api, name: &str, size: u64, mut parts: BodyDataStream) -> Result<StoredCheckpoint> {
    let mut staging = api.store.staging_measured(name, size, None)?;
    while let Some(part) = parts.next().await {
        let part = part.map_err(|error| broke_off(&error))?;
        let append = move || -> Result<Staging> {
            staging.append(&part)?;
            Ok(staging)
        };
        staging = tokio::task::spawn_blocking(append).await.map_err(Error::internal)??;
    }
    let sealed = tokio::task::spawn_blocking(move || staging.seal(None)).await.map_err(Error::internal)??;
    api.store.put_checkpoint(sealed).await
}
