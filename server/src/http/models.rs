//! Models: what rounds published, and how persons mark it.

use axum::{Json, extract::State, response::Response};
use http::HeaderMap;
use rebasin::Digest;
use serde::{Deserialize, Serialize};

use super::{
    Api,
    auth::Acting,
    content,
    page::Page,
    problem::{Path, Problem, Query},
    time::iso,
};
use crate::{
    error::{Error, Result},
    model,
    store::Part,
};

/// A model: the bytes that a round published.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Model {
    /// SHA-256 of its bytes, hex.
    digest: String,
    /// Their number.
    size: u64,
    /// Whether they are kept.
    kept: bool,
    /// Since when they are not, by the policies of its runs.
    let_go_at: Option<String>,
    /// What persons call it, sorted.
    tags: Vec<String>,
    /// The rounds that published these bytes, the newest first.
    published: Vec<Published>,
}

/// A round that published a model.
#[derive(Serialize, utoipa::ToSchema)]
struct Published {
    run: String,
    /// Its number.
    round: u32,
    published_at: Option<String>,
    /// Whether this is the model of the run that is in use, as a person said.
    promoted: bool,
    /// Where the model's signature is, which says what it was made from; absent where it has none.
    signature: Option<String>,
}

/// Models that rounds published.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct ModelList {
    models: Vec<Model>,
    /// Where the next page begins (`after`), if this is not the last one.
    next: Option<String>,
}

impl Model {
    fn of(model: model::Model) -> Self {
        Self {
            digest: model.digest.to_string(),
            size: model.size,
            kept: model.removed_at_ms.is_none(),
            let_go_at: model.removed_at_ms.map(iso),
            tags: model.tags,
            published: model.published.into_iter().map(Published::of).collect(),
        }
    }
}

impl Published {
    fn of(published: model::Published) -> Self {
        let (run, round) = (published.run_id, published.round);
        let signature = published.is_signed.then(|| format!("/v1/runs/{run}/rounds/{round}/model/signature"));
        let published_at = published.at_ms.map(iso);
        Self { run, round, published_at, promoted: published.is_promoted, signature }
    }
}

/// Which models.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// How many entries at the most; absent: as many as the server gives at once (`limits.max_page_size`).
    limit: Option<usize>,
    /// The entries after this one: `next` of the page before. Absent: from the first.
    after: Option<String>,
    /// Only those that a round of this run published.
    run: Option<String>,
    /// Only those with this tag.
    tag: Option<String>,
}

/// The models that rounds published, the newest first.
#[utoipa::path(get, path = "/v1/models", tag = "models", security(("token" = [])), params(Asked), responses(
    (status = 200, body = ModelList),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    State(api): State<Api>,
    Query(asked): Query<Asked>,
) -> Result<Json<ModelList>, Problem> {
    let page = Page::of_parts(asked.limit, asked.after, api.admission.limits().max_page_size)?;
    if let Some(run) = &asked.run {
        model::check_id("run", run)?;
    }
    if let Some(tag) = &asked.tag {
        check_tag(tag)?;
    }
    let models = api.store.models(asked.run.as_deref(), asked.tag.as_deref(), &Part::from(&page)).await?;
    let (models, next) = page.cut(models, |model| model.digest.to_string());
    Ok(Json(ModelList { models: models.into_iter().map(Model::of).collect(), next }))
}

/// One model: who published it, what it is called, whether it is kept.
#[utoipa::path(get, path = "/v1/models/{digest}", tag = "models", security(("token" = [])),
    params(("digest" = String, Path, description = "SHA-256 of its bytes, hex.")), responses(
    (status = 200, body = Model),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(State(api): State<Api>, Path(digest): Path<String>) -> Result<Json<Model>, Problem> {
    Ok(Json(Model::of(find(&api, read(&digest)?).await?)))
}

/// A model's bytes, a safetensors file. Single ranges are answered with 206 (`If-Range` with the `ETag`, which is the digest, makes sure that they
/// are of the same bytes), who has it already (`If-None-Match`) with 304.
#[utoipa::path(get, path = "/v1/models/{digest}/content", tag = "models", security(("token" = [])),
    params(("digest" = String, Path, description = "SHA-256 of its bytes, hex.")), responses(
    (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
    (status = 206, body = Vec<u8>, content_type = "application/octet-stream"),
    (status = 304, description = "The caller has it already"),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json", description = "There is none, or it is no longer kept"),
    (status = 416, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn content(
    State(api): State<Api>,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let model = find(&api, read(&digest)?).await?;
    if model.removed_at_ms.is_some() {
        let what = format!("model {digest}: is no longer kept, by its run's policy (keep_models)");
        return Err(Error::not_found(what).into());
    }
    let file = format!("{digest}.safetensors");
    Ok(content::answer(&api, (&model.digest, model.size), &file, &headers).await?)
}

/// Of which run.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct OfRun {
    /// The run that published it; needed only where several did.
    run: Option<String>,
}

/// Marks a model as the one of its run that is in use, in the place of any other. It is kept from then on, whatever the run's policy lets go.
#[utoipa::path(post, path = "/v1/models/{digest}/promote", tag = "models", security(("token" = [])),
    params(("digest" = String, Path, description = "SHA-256 of its bytes, hex."), OfRun), responses(
    (status = 200, body = Model),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "It is no longer kept, or several runs published it")))]
pub(super) async fn promote(
    Acting(api): Acting,
    Path(digest): Path<String>,
    Query(of): Query<OfRun>,
) -> Result<Json<Model>, Problem> {
    let digest = read(&digest)?;
    if let Some(run) = &of.run {
        model::check_id("run", run)?;
    }
    api.store.promote_model(&digest, of.run.as_deref()).await?;
    tracing::info!(model.digest = %digest, "model promoted");
    Ok(Json(Model::of(find(&api, digest).await?)))
}

/// Gives a model a tag: 1 to 64 of `a-z 0-9 . _ -`, at most 32 a model. It is kept from then on, whatever the run's policy lets go. Twice is as
/// once.
#[utoipa::path(put, path = "/v1/models/{digest}/tags/{tag}", tag = "models", security(("token" = [])),
    params(("digest" = String, Path, description = "SHA-256 of its bytes, hex."), ("tag" = String, Path)), responses(
    (status = 200, body = Model),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "It is no longer kept, or has as many tags as it may")))]
pub(super) async fn tag(
    Acting(api): Acting,
    Path((digest, tag)): Path<(String, String)>,
) -> Result<Json<Model>, Problem> {
    let digest = read(&digest)?;
    check_tag(&tag)?;
    api.store.tag_model(&digest, &tag).await?;
    tracing::info!(model.digest = %digest, model.tag = tag, "model tagged");
    Ok(Json(Model::of(find(&api, digest).await?)))
}

/// Takes a tag from a model; one that it does not have changes nothing. What nothing marks any more, the run's policy may let go.
#[utoipa::path(delete, path = "/v1/models/{digest}/tags/{tag}", tag = "models", security(("token" = [])),
    params(("digest" = String, Path, description = "SHA-256 of its bytes, hex."), ("tag" = String, Path)), responses(
    (status = 200, body = Model),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn untag(
    Acting(api): Acting,
    Path((digest, tag)): Path<(String, String)>,
) -> Result<Json<Model>, Problem> {
    let digest = read(&digest)?;
    check_tag(&tag)?;
    api.store.untag_model(&digest, &tag).await?;
    tracing::info!(model.digest = %digest, model.tag = tag, "model untagged");
    Ok(Json(Model::of(find(&api, digest).await?)))
}

fn check_tag(tag: &str) -> Result<()> {
    match model::is_tag(tag) {
        true => Ok(()),
        false => Err(Error::invalid(
            "tag: not 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit",
        )),
    }
}

/// What is no digest names nothing.
fn read(digest: &str) -> Result<Digest> {
    digest.parse().map_err(|_| {
        Error::not_found("there is no such model: not a SHA-256 in lower-case hex, 64 characters")
    })
}

async fn find(api: &Api, digest: Digest) -> Result<model::Model> {
    let found = api.store.model(&digest).await?;
    found.ok_or_else(|| Error::not_found(format!("there is no model {digest}: no round published it")))
}
