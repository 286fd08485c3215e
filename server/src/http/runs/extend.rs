//! More time for a run: further rounds, a later deadline.

use axum::Json;
use serde::Deserialize;

use super::{
    super::{
        auth::Acting,
        problem::{Body, Path, Problem},
    },
    Run, find,
};
use crate::{
    error::{Error, Result},
    model,
};

/// What a run gets more of: at least one of the two.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Extension {
    /// So many rounds more than its policy says are to be published.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100_000)]
    rounds: Option<u32>,
    /// So many seconds later than now said is the deadline of the round that collects.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 31_622_400)]
    deadline_seconds: Option<u64>,
}

impl Extension {
    pub(in super::super) fn check(&self) -> Result<model::Extension> {
        if self.rounds.is_none() && self.deadline_seconds.is_none() {
            return Err(Error::invalid("rounds: neither this nor deadline_seconds says what is to be more"));
        }
        let Extension { rounds, deadline_seconds } = *self;
        if rounds == Some(0) {
            return Err(Error::invalid("rounds: 0 are not more; at least 1"));
        }
        if deadline_seconds == Some(0) {
            return Err(Error::invalid("deadline_seconds: 0 is not later; at least 1"));
        }
        Ok(model::Extension { rounds: rounds.unwrap_or(0), deadline_seconds: deadline_seconds.unwrap_or(0) })
    }
}

/// Extends a run that is open or paused: by further rounds, by a later deadline of the round that collects, or both. A run that is over stays
/// over: clone it.
#[utoipa::path(post, path = "/v1/runs/{run}/extend", tag = "runs", security(("token" = [])),
    params(("run" = String, Path)), request_body = Extension, responses((status = 200, body = Run),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "The run is over, or no round collects")))]
pub(in super::super) async fn extend(
    Acting(api): Acting,
    Path(run): Path<String>,
    Body(extension): Body<Extension>,
) -> Result<Json<Run>, Problem> {
    let extension = extension.check().map_err(Problem::of_body)?;
    let run = find(&api, &run).await?;
    api.store.extend_run(&run, extension).await.map_err(Problem::of_body)?;
    tracing::info!(
        run.id = run.id,
        run.more_rounds = extension.rounds,
        round.later_seconds = extension.deadline_seconds,
        "run extended"
    );
    Ok(Json(Run::of(&api, find(&api, &run.id).await?).await?))
}
