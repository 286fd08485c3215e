//! Runs: create, list, show, pause, resume, cancel, extend, clone.

pub(super) mod clone;
pub(super) mod extend;

use std::fmt;

use axum::{Json, extract::State};
use http::StatusCode;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{
    Api,
    auth::Acting,
    page::Page,
    problem::{Body, Path, Problem, Query, object},
    time::iso,
};
use crate::{
    error::{Error, Result},
    model::{self, RunState, Strategy},
    round::Policy,
};

/// A run to be created.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRun {
    /// 1 to 63 of `a-z 0-9 -`; absent: one is made.
    #[serde(default)]
    id: Option<String>,
    /// The spec's JSON document; may be absent only for strategy `mean`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    spec: Option<Box<RawValue>>,
    /// A graph that was sent to `/v1/graphs`: the run takes the spec that was derived from it and verified. Instead of `spec`.
    #[serde(default)]
    graph_digest: Option<String>,
    strategy: Strategy,
    /// A stored checkpoint to start from; absent: the first round is a founding round.
    #[serde(default)]
    seed_digest: Option<String>,
    /// The sites that take part, by id.
    #[schema(value_type = Vec<String>)]
    cohort: Sites,
    #[serde(deserialize_with = "object")]
    policy: Policy,
}

/// More sites are in no cohort, whatever the limits say: so many are read at the most.
const MOST_SITES: usize = 100_000;

/// A list of sites, read as far as memory can bear.
#[derive(Debug)]
struct Sites(Vec<String>);

impl<'de> Deserialize<'de> for Sites {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        sites(deserializer).map(Self)
    }
}

fn sites<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Reader;

    impl<'de> Visitor<'de> for Reader {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of sites")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut sites = Vec::new();
            while let Some(site) = list.next_element()? {
                if sites.len() == MOST_SITES {
                    return Err(A::Error::custom(format_args!("cohort: more than {MOST_SITES} sites")));
                }
                sites.push(site);
            }
            Ok(sites)
        }
    }

    deserializer.deserialize_seq(Reader)
}

/// A run.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Run {
    id: String,
    /// `open`, `complete`, `failed` or `cancelled`.
    state: &'static str,
    /// Why it failed.
    reason: Option<String>,
    /// Since when no further round opens, where it was paused.
    paused_at: Option<String>,
    strategy: Strategy,
    #[schema(value_type = Option<Object>)]
    spec: Option<Value>,
    /// Whether this server verified the spec by running the network. False for a spec that was given.
    spec_verified: bool,
    /// The graph that the spec comes from; its certificate is at `/v1/graphs/{digest}`.
    graph_digest: Option<String>,
    /// Digest of the layout, once a seed or the first update fixed it.
    layout_digest: Option<String>,
    seed_digest: Option<String>,
    cohort: Vec<String>,
    policy: Policy,
    rounds_published: u32,
    /// Number of the newest round.
    current_round: Option<u32>,
    /// The newest global model.
    global_digest: Option<String>,
    /// The round of the best global model so far, by the mean loss that sites reported; absent while none did.
    best_round: Option<u32>,
    created_at: String,
}

/// All runs.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct RunList {
    runs: Vec<Run>,
    /// Where the next page begins (`after`), if this is not the last one.
    next: Option<String>,
}

impl Run {
    async fn of(api: &Api, run: model::Run) -> Result<Self> {
        let best_round = api.store.best_round(&run.id).await?;
        let spec = run.spec.as_ref().map(|spec| serde_json::from_str(&spec.to_json())).transpose();
        Ok(Self {
            state: run.state.name(),
            reason: match run.state {
                RunState::Failed { reason } => Some(reason),
                _ => None,
            },
            paused_at: run.paused_at_ms.map(iso),
            strategy: run.strategy,
            spec: spec.map_err(Error::internal)?,
            spec_verified: run.graph.is_some(),
            graph_digest: run.graph.map(|digest| digest.to_string()),
            layout_digest: run.layout.map(|layout| layout.digest().to_string()),
            seed_digest: run.seed.map(|digest| digest.to_string()),
            cohort: run.cohort,
            policy: run.policy,
            rounds_published: run.rounds_published,
            current_round: run.current_round,
            global_digest: run.global.map(|digest| digest.to_string()),
            best_round,
            created_at: iso(run.created_at_ms),
            id: run.id,
        })
    }
}

impl NewRun {
    pub(super) fn check(self, max_cohort: usize) -> Result<model::NewRun> {
        let Sites(cohort) = self.cohort;
        check_cohort(&cohort, max_cohort)?;
        let spec = self
            .spec
            .map(|spec| rebasin::Spec::from_json(spec.get()))
            .transpose()
            .map_err(|error| Error::invalid(format!("spec: {error}")))?;
        let seed = digest("seed_digest", self.seed_digest)?;
        let graph = digest("graph_digest", self.graph_digest)?;
        Ok(model::NewRun {
            id: self.id.unwrap_or_else(new_id),
            strategy: self.strategy,
            spec,
            graph,
            policy: self.policy,
            seed,
            cohort,
            cloned_from: None,
        })
    }
}

fn new_id() -> String {
    format!("run-{}", uuid::Uuid::now_v7().simple())
}

fn check_cohort(cohort: &[String], most: usize) -> Result<()> {
    if cohort.len() <= most {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "cohort: {} sites are more than the {most} of limits.max_cohort",
        cohort.len()
    )))
}

fn digest(field: &str, text: Option<String>) -> Result<Option<rebasin::Digest>> {
    text.map(|text| text.parse())
        .transpose()
        .map_err(|_| Error::invalid(format!("{field}: not a SHA-256 in lower-case hex, 64 characters")))
}

/// Creates a run; its first round opens at once.
#[utoipa::path(post, path = "/v1/runs", tag = "runs", security(("token" = [])), request_body = NewRun, responses(
    (status = 201, body = Run),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json", description = "A site or the seed is unknown"),
    (status = 409, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn create(
    Acting(api): Acting,
    Body(new): Body<NewRun>,
) -> Result<(StatusCode, Json<Run>), Problem> {
    let new = new.check(api.admission.limits().max_cohort).map_err(Problem::of_body)?;
    let run = api.store.create_run(new).await.map_err(Problem::of_body)?;
    tracing::info!(
        run.id = run.id,
        run.strategy = run.strategy.name(),
        run.sites = run.cohort.len(),
        "run created"
    );
    Ok((StatusCode::CREATED, Json(Run::of(&api, run).await?)))
}

/// Which runs.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AskedRuns {
    /// How many entries at the most; absent: as many as the server gives at once (`limits.max_page_size`).
    limit: Option<usize>,
    /// The entries after this one: `next` of the page before. Absent: from the first.
    after: Option<String>,
    /// Only those in this state.
    #[param(inline)]
    state: Option<StateName>,
    /// Only those in whose cohort this site is.
    site: Option<String>,
}

/// The state of a run, by its name.
#[derive(Debug, Clone, Copy, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
enum StateName {
    Open,
    Complete,
    Failed,
    Cancelled,
}

impl StateName {
    fn is_of(self, state: &RunState) -> bool {
        match self {
            Self::Open => *state == RunState::Open,
            Self::Complete => *state == RunState::Complete,
            Self::Failed => matches!(state, RunState::Failed { .. }),
            Self::Cancelled => *state == RunState::Cancelled,
        }
    }
}

/// All runs, newest first, or those of a state or a site.
#[utoipa::path(get, path = "/v1/runs", tag = "runs", security(("token" = [])), params(AskedRuns), responses(
    (status = 200, body = RunList),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    State(api): State<Api>,
    Query(asked): Query<AskedRuns>,
) -> Result<Json<RunList>, Problem> {
    let page = Page::of_parts(asked.limit, asked.after, api.admission.limits().max_page_size)?;
    let mut found = match &asked.site {
        Some(site) => {
            model::check_id("site", site)?;
            api.store.runs_of_site(site).await?
        }
        None => api.store.runs().await?,
    };
    found.retain(|run| asked.state.is_none_or(|state| state.is_of(&run.state)));
    let (found, next) = page.of(found, |run| run.id.clone())?;
    let mut runs = Vec::with_capacity(found.len());
    for run in found {
        runs.push(Run::of(&api, run).await?);
    }
    Ok(Json(RunList { runs, next }))
}

/// One run.
#[utoipa::path(get, path = "/v1/runs/{run}", tag = "runs", security(("token" = [])), params(("run" = String, Path)),
    responses((status = 200, body = Run),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(State(api): State<Api>, Path(run): Path<String>) -> Result<Json<Run>, Problem> {
    Ok(Json(Run::of(&api, find(&api, &run).await?).await?))
}

/// Cancels a run and its open round; updates already merged into published models stay.
#[utoipa::path(post, path = "/v1/runs/{run}/cancel", tag = "runs", security(("token" = [])),
    params(("run" = String, Path)), responses((status = 200, body = Run),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "The run is over")))]
pub(super) async fn cancel(Acting(api): Acting, Path(run): Path<String>) -> Result<Json<Run>, Problem> {
    let run = find(&api, &run).await?.id;
    api.store.cancel_run(&run).await?;
    tracing::info!(run.id = run, "run cancelled");
    Ok(Json(Run::of(&api, find(&api, &run).await?).await?))
}

/// Pauses an open run: the round that is open goes on, no further one opens. Pausing twice changes nothing.
#[utoipa::path(post, path = "/v1/runs/{run}/pause", tag = "runs", security(("token" = [])),
    params(("run" = String, Path)), responses((status = 200, body = Run),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "The run is over")))]
pub(super) async fn pause(Acting(api): Acting, Path(run): Path<String>) -> Result<Json<Run>, Problem> {
    set_paused(&api, &run, true).await
}

/// Resumes a paused run: its next round opens.
#[utoipa::path(post, path = "/v1/runs/{run}/resume", tag = "runs", security(("token" = [])),
    params(("run" = String, Path)), responses((status = 200, body = Run),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "The run is over")))]
pub(super) async fn resume(Acting(api): Acting, Path(run): Path<String>) -> Result<Json<Run>, Problem> {
    set_paused(&api, &run, false).await
}

async fn set_paused(api: &Api, run: &str, pause: bool) -> Result<Json<Run>, Problem> {
    let run = find(api, run).await?.id;
    api.store.pause_run(&run, pause).await?;
    tracing::info!(run.id = run, "{}", if pause { "run paused" } else { "run resumed" });
    Ok(Json(Run::of(api, find(api, &run).await?).await?))
}

pub(super) async fn find(api: &Api, run: &str) -> Result<model::Run> {
    if model::check_id("run", run).is_err() {
        return Err(Error::not_found("there is no run of that id: it is not 1 to 63 of a-z, 0-9 and -"));
    }
    api.store.run(run).await?.ok_or_else(|| Error::not_found(format!("there is no run {run:?}")))
}
