//! Graphs: networks whose spec this server derives and verifies.

use std::io::Write as _;

use axum::{
    Json,
    body::{Body, BodyDataStream},
    extract::State,
};
use futures::StreamExt as _;
use headers::{ContentLength, HeaderMapExt as _};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::Value;

use super::{
    Api,
    auth::Acting,
    problem::{Path, Problem, broke_off},
    time::iso,
};
use crate::{
    error::{Code, Error, Result},
    store::{Kind, Scratch, StoredGraph},
};

/// A network's graph with the spec that was derived from it.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Graph {
    /// SHA-256 of the ONNX file, hex: what `graph_digest` of a new run names.
    digest: String,
    /// Its bytes.
    size: u64,
    /// The spec as derived.
    #[schema(value_type = Object)]
    spec: Value,
    /// How the spec was verified by running the network.
    #[schema(value_type = Object)]
    certificate: Value,
    /// Each axis that stays where it is, and why: `tensor`, `axis`, `reason`.
    #[schema(value_type = Vec<Object>)]
    pinned: Value,
    created_at: String,
}

impl Graph {
    fn of(graph: StoredGraph) -> Result<Self> {
        Ok(Self {
            digest: graph.digest.to_string(),
            size: graph.size,
            spec: serde_json::from_str(&graph.spec.to_json()).map_err(Error::internal)?,
            certificate: graph.certificate,
            pinned: graph.pinned,
            created_at: iso(graph.created_at_ms),
        })
    }
}

/// Takes a network's graph (the body: an ONNX file, with its `content-length`), derives which axes move together, proves it by
/// running the network, and keeps spec and certificate; the file itself is not kept. May be asked again.
#[utoipa::path(post, path = "/v1/graphs", tag = "graphs", security(("token" = [])),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses(
    (status = 201, body = Graph),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 413, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json", description = "`invalid-graph`: it is refused")))]
pub(super) async fn create(
    Acting(api): Acting,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Graph>), Problem> {
    let Some(ContentLength(size)) = headers.typed_get() else {
        return Err(Error::invalid("content-length: absent; send the file's size").into());
    };
    if size > api.admission.limits().max_graph_bytes {
        let detail = format!(
            "{size} bytes are more than the {} of limits.max_graph_bytes; export the network with few units a layer",
            api.admission.limits().max_graph_bytes
        );
        return Err(Error::new(Code::TooLarge, detail).into());
    }
    let scratch = api.store.scratch(Kind::Graph);
    receive(&scratch, size, body.into_data_stream()).await?;
    let verified = api.graphs.verify(scratch.path()).await?;
    let stored = api
        .store
        .put_graph(&verified.digest, size, &verified.spec, &verified.certificate, &verified.pinned)
        .await?;
    tracing::info!(graph.digest = %stored.digest, graph.groups = stored.spec.groups().len(), "graph verified");
    Ok((StatusCode::CREATED, Json(Graph::of(stored)?)))
}

async fn receive(scratch: &Scratch, size: u64, mut parts: BodyDataStream) -> Result<()> {
    let mut file = std::fs::File::create(scratch.path())?;
    let mut written = 0;
    while let Some(part) = parts.next().await {
        let part = part.map_err(|error| broke_off(&error))?;
        written += part.len() as u64;
        if written > size {
            break;
        }
        let append = move || file.write_all(&part).map(|()| file);
        file = tokio::task::spawn_blocking(append).await.map_err(Error::internal)??;
    }
    if written == size {
        return Ok(());
    }
    Err(Error::invalid(format!("body: not the {size} bytes of content-length; send the whole file")))
}

/// One graph.
#[utoipa::path(get, path = "/v1/graphs/{digest}", tag = "graphs", security(("token" = [])),
    params(("digest" = String, Path)), responses((status = 200, body = Graph),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(State(api): State<Api>, Path(digest): Path<String>) -> Result<Json<Graph>, Problem> {
    let unknown = || Error::not_found("there is no graph of that digest; send it to /v1/graphs first");
    let digest = digest.parse().map_err(|_| unknown())?;
    let graph = api.store.graph(&digest).await?.ok_or_else(unknown)?;
    Ok(Json(Graph::of(graph)?))
}
