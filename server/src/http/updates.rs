//! Updates: all that sites sent for a run, the newest first.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use super::{
    Api,
    page::Page,
    problem::{Path, Problem, Query},
    runs,
    time::iso,
};
use crate::{
    model::{self, Metrics},
    store::{Part, WantedUpdates},
};

/// What a site sent.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Update {
    id: String,
    /// The round's number; how the update stood there is in the round.
    round: u32,
    site: String,
    /// `receiving`, `accepted`, `aligned`, `rejected` or `declined`.
    state: &'static str,
    /// Why it was rejected or declined.
    reason: Option<String>,
    digest: String,
    /// Size of its checkpoint in bytes.
    size: u64,
    num_examples: u64,
    /// The site's own figures.
    metrics: Metrics,
    accepted_at: Option<String>,
    /// When the site took it back.
    withdrawn_at: Option<String>,
}

/// A run's updates.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct UpdateList {
    updates: Vec<Update>,
    /// Where the next page begins (`after`), if this is not the last one.
    next: Option<String>,
}

/// Which updates.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AskedUpdates {
    /// How many entries at the most; absent: as many as the server gives at once (`limits.max_page_size`).
    limit: Option<usize>,
    /// The entries after this one: `next` of the page before. Absent: from the first.
    after: Option<String>,
    /// Only those of the round of this number.
    round: Option<i64>,
    /// Only those of this site.
    site: Option<String>,
    /// Only those in this state.
    #[param(inline)]
    state: Option<StateName>,
}

/// The state of an update, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
enum StateName {
    Receiving,
    Accepted,
    Aligned,
    Rejected,
    Declined,
}

impl StateName {
    fn name(self) -> &'static str {
        match self {
            Self::Receiving => "receiving",
            Self::Accepted => "accepted",
            Self::Aligned => "aligned",
            Self::Rejected => "rejected",
            Self::Declined => "declined",
        }
    }
}

impl Update {
    fn of(update: model::Update) -> Self {
        Self {
            id: update.id,
            round: update.round,
            site: update.site_id,
            state: update.state.name(),
            reason: update.state.reason().map(str::to_owned),
            digest: update.digest.to_string(),
            size: update.size,
            num_examples: update.num_examples,
            metrics: update.metrics,
            accepted_at: update.state.accepted_at_ms().map(iso),
            withdrawn_at: update.withdrawn_at_ms.map(iso),
        }
    }
}

/// All that sites sent for a run, the newest first, or what one site sent, or for one round, or what is in a state.
#[utoipa::path(get, path = "/v1/runs/{run}/updates", tag = "updates", security(("token" = [])),
    params(("run" = String, Path), AskedUpdates), responses((status = 200, body = UpdateList),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    State(api): State<Api>,
    Path(run): Path<String>,
    Query(asked): Query<AskedUpdates>,
) -> Result<Json<UpdateList>, Problem> {
    let page = Page::of_parts(asked.limit, asked.after, api.admission.limits().max_page_size)?;
    if let Some(site) = &asked.site {
        model::check_id("site", site)?;
    }
    let run = runs::find(&api, &run).await?;
    let wanted = WantedUpdates {
        round: asked.round,
        site: asked.site.as_deref(),
        state: asked.state.map(StateName::name),
    };
    let updates = api.store.updates_of_run(&run.id, &wanted, &Part::from(&page)).await?;
    let (updates, next) = page.cut(updates, |update| update.id.clone());
    Ok(Json(UpdateList { updates: updates.into_iter().map(Update::of).collect(), next }))
}
