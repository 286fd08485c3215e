//! A new run with the settings of another.

use axum::Json;
use http::StatusCode;
use serde::Deserialize;

use super::{
    super::{
        auth::Acting,
        problem::{Body, Path, Problem},
    },
    Run, Sites, check_cohort, digest, find, new_id,
};
use crate::{
    error::{Code, Error, Result},
    model,
    round::Policy,
};

/// What of a run's clone is not as the run's.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct CloneRun {
    /// 1 to 63 of `a-z 0-9 -`; absent: one is made.
    #[serde(default)]
    id: Option<String>,
    /// The sites that take part, by id; absent: those of the run.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    cohort: Option<Sites>,
    /// Absent: that of the run, as it is now.
    #[serde(default)]
    policy: Option<Policy>,
    /// Which checkpoint of the run it starts from. Absent: the one that the run started from, if any.
    #[serde(default)]
    from: Option<CloneFrom>,
    /// A stored checkpoint to start from, instead of `from`.
    #[serde(default)]
    #[schema(pattern = "^[0-9a-f]{64}$")]
    seed_digest: Option<String>,
}

/// Where a clone starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(in super::super) enum CloneFrom {
    /// Where the run started.
    Seed,
    /// At the newest model that the run published.
    Newest,
}

impl CloneRun {
    /// The new run, whose settings are those of `run` where nothing else is said.
    pub(in super::super) fn of(self, run: model::Run, max_cohort: usize) -> Result<model::NewRun> {
        let seed = match (digest("seed_digest", self.seed_digest)?, self.from) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid("from: a seed_digest is given too; give one of the two"));
            }
            (Some(seed), None) => Some(seed),
            (None, Some(CloneFrom::Newest)) => Some(run.global.ok_or_else(|| {
                let what = format!("run {}: published no model yet to start from", run.id);
                Error::new(Code::Conflict, what)
            })?),
            (None, Some(CloneFrom::Seed) | None) => run.seed,
        };
        let cohort = self.cohort.map_or(run.cohort, |Sites(sites)| sites);
        check_cohort(&cohort, max_cohort)?;
        Ok(model::NewRun {
            id: self.id.unwrap_or_else(new_id),
            strategy: run.strategy,
            // A graph has its spec.
            spec: run.spec.filter(|_| run.graph.is_none()),
            graph: run.graph,
            policy: self.policy.unwrap_or(run.policy),
            seed,
            cohort,
            cloned_from: Some(run.id),
        })
    }
}

/// Creates a run with the settings of another, whatever became of that: strategy, spec, cohort, policy and seed, but for what the body says. Its
/// first round opens at once.
#[utoipa::path(post, path = "/v1/runs/{run}/clone", tag = "runs", security(("token" = [])),
    params(("run" = String, Path)), request_body = CloneRun, responses((status = 201, body = Run),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json", description = "The run, a site or the seed is unknown"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "The id is taken, or the run published no model to start from")))]
pub(in super::super) async fn clone(
    Acting(api): Acting,
    Path(run): Path<String>,
    Body(clone): Body<CloneRun>,
) -> Result<(StatusCode, Json<Run>), Problem> {
    let source = find(&api, &run).await?;
    let new = clone.of(source, api.admission.limits().max_cohort).map_err(Problem::of_body)?;
    let made = api.store.create_run(new).await.map_err(Problem::of_body)?;
    tracing::info!(run.id = made.id, run.of = run, "run cloned");
    Ok((StatusCode::CREATED, Json(Run::of(&api, made).await?)))
}
