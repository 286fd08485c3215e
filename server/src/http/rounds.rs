//! Rounds: list, show with every cohort site, download the model.

mod alignment;

use std::collections::HashMap;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use rebasin::{AlignReport, Standing};
use serde::{Deserialize, Serialize};

use super::{
    Api,
    auth::Acting,
    content,
    evaluations::{Evaluations, Known},
    page::Page,
    problem::{Path, Problem, Query},
    runs, site,
    time::iso,
};
use crate::{
    error::{Code, Error, Result},
    model::{self, Metrics, RoundRecord, Update, UpdateState},
    round::{Judged, Millis, State as RoundState},
};

/// A round.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Round {
    pub(super) number: u32,
    /// `collecting`, `merging`, `published`, `failed` or `cancelled`.
    pub(super) state: &'static str,
    /// Why it failed.
    pub(super) reason: Option<String>,
    /// What its updates are aligned to; absent while a founding round collects.
    pub(super) reference_digest: Option<String>,
    /// The model that it published.
    pub(super) global_digest: Option<String>,
    /// Size of that model in bytes; absent once it is no longer kept.
    pub(super) global_size: Option<u64>,
    /// Since when the model is no longer kept, by the run's policy.
    pub(super) model_retired_at: Option<String>,
    /// The round that this one merges again, without the updates that were withdrawn of it.
    pub(super) remerge_of: Option<u32>,
    /// Whether its model is the best of the run so far, by the mean loss that sites reported.
    pub(super) best: bool,
    /// How good its models are, by what sites reported.
    pub(super) evaluations: Evaluations,
    /// Fewest updates that may be merged.
    pub(super) quorum: u32,
    pub(super) opened_at: String,
    /// From when on the quorum is enough to close it; absent: at the deadline.
    pub(super) quorum_closes_at: Option<String>,
    pub(super) deadline_at: String,
    pub(super) closed_at: Option<String>,
    /// Every site of the cohort, by id.
    pub(super) sites: Vec<RoundSite>,
}

/// A site in a round: its update that is held, else its newest, or silence.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct RoundSite {
    pub(super) site: String,
    /// `silent`, `receiving`, `accepted`, `aligned`, `rejected` or `declined`.
    pub(super) state: &'static str,
    /// Why its update was rejected or declined.
    pub(super) reason: Option<String>,
    /// When the site last called, to about half a minute: what is silent is silent since then. Absent: never.
    pub(super) last_seen_at: Option<String>,
    pub(super) update_id: Option<String>,
    pub(super) digest: Option<String>,
    /// Size of its checkpoint in bytes.
    pub(super) size: Option<u64>,
    /// How many bytes have arrived, while receiving.
    pub(super) received_bytes: Option<u64>,
    /// That, divided by the time since it was announced, while receiving.
    pub(super) bytes_per_second: Option<f64>,
    /// When its update was announced.
    pub(super) begun_at: Option<String>,
    pub(super) num_examples: Option<u64>,
    /// Its part of the mean, once the updates of the round are final.
    pub(super) share: Option<f64>,
    /// The site's own figures.
    pub(super) metrics: Option<Metrics>,
    pub(super) accepted_at: Option<String>,
    /// When the site took its update back; the model of a round that was published before holds what it gave.
    pub(super) withdrawn_at: Option<String>,
    /// How its update was brought into the reference's frame: figures in all and for each of `groups`, with `margins` where a search
    /// matched units: the fraction that have the `best` partner there is for them, and their `p5` and `median` margin over the second-best,
    /// as fractions of the mean gain.
    #[schema(value_type = Option<alignment::Alignment>)]
    pub(super) alignment: Option<AlignReport>,
    /// How its update stood beside the others, once the round was merged, or the update was rejected for that.
    pub(super) plausibility: Option<UpdatePlausibility>,
}

/// How an update stood beside the reference and the other updates of its round, all aligned. Over the averaged tensors; BatchNorm's
/// statistics have a figure of their own.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct UpdatePlausibility {
    /// Euclidean distance to the reference.
    pub(super) distance: f64,
    /// That, divided by the median of the others'. Absent where no other went anywhere.
    pub(super) distance_ratio: Option<f64>,
    /// Cosine of the difference to the reference with the mean of the others', by their shares. Absent where one of the two is nothing.
    pub(super) cosine: Option<f64>,
    /// As the ratio, over BatchNorm's statistics.
    pub(super) statistics_ratio: Option<f64>,
    /// How many others it is compared with: those that are not the reference itself.
    pub(super) others: u32,
    /// What lies beyond the policy's thresholds, in sentences for a person.
    pub(super) warnings: Vec<String>,
}

impl From<&Judged> for UpdatePlausibility {
    fn from(judged: &Judged) -> Self {
        let Standing { distance, distance_ratio, cosine, statistics_ratio, others } = judged.standing;
        let warnings = judged.warnings.clone();
        Self { distance, distance_ratio, cosine, statistics_ratio, others, warnings }
    }
}

impl Round {
    /// Whether it is not over.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, "collecting" | "merging")
    }
}

impl RoundSite {
    /// Whether its update is held: merged, or to be.
    pub(super) fn is_held(&self) -> bool {
        matches!(self.state, "accepted" | "aligned")
    }
}

/// A run's rounds.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct RoundList {
    rounds: Vec<Round>,
    /// Where the next page begins (`after`), if this is not the last one.
    next: Option<String>,
}

/// Which rounds.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AskedRounds {
    /// How many entries at the most; absent: as many as the server gives at once (`limits.max_page_size`).
    limit: Option<usize>,
    /// The entries after this one: `next` of the page before. Absent: from the first.
    after: Option<String>,
    /// Only those in this state.
    #[param(inline)]
    state: Option<StateName>,
}

/// The state of a round, by its name.
#[derive(Debug, Clone, Copy, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
enum StateName {
    Collecting,
    Merging,
    Published,
    Failed,
    Cancelled,
}

impl StateName {
    fn is_of(self, state: &RoundState) -> bool {
        match self {
            Self::Collecting => *state == RoundState::Collecting,
            Self::Merging => *state == RoundState::Merging,
            Self::Published => matches!(state, RoundState::Published { .. }),
            Self::Failed => matches!(state, RoundState::Failed { .. }),
            Self::Cancelled => *state == RoundState::Cancelled,
        }
    }
}

/// A run's rounds, oldest first, or those in a state.
#[utoipa::path(get, path = "/v1/runs/{run}/rounds", tag = "rounds", security(("token" = [])),
    params(("run" = String, Path), AskedRounds), responses((status = 200, body = RoundList),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    State(api): State<Api>,
    Path(run): Path<String>,
    Query(asked): Query<AskedRounds>,
) -> Result<Json<RoundList>, Problem> {
    let page = Page::of_parts(asked.limit, asked.after, api.admission.limits().max_page_size)?;
    let run = runs::find(&api, &run).await?;
    let last_seen = api.store.cohort_last_seen(&run.id).await?;
    let mut rounds = Vec::new();
    let mut records = api.store.rounds(&run.id).await?;
    records.retain(|record| asked.state.is_none_or(|state| state.is_of(&record.round.state)));
    let (records, next) = page.of(records, |record| record.round.number.to_string())?;
    let mut known = Known::of(&api, &run.id, records.iter().map(|record| record.round.number)).await?;
    for record in records {
        rounds.push(describe(&api, &run, &last_seen, &mut known, record).await?);
    }
    Ok(Json(RoundList { rounds, next }))
}

/// One round, with every site of the cohort.
#[utoipa::path(get, path = "/v1/runs/{run}/rounds/{number}", tag = "rounds", security(("token" = [])),
    params(("run" = String, Path), ("number" = u32, Path)), responses((status = 200, body = Round),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(
    State(api): State<Api>,
    Path((run, number)): Path<(String, String)>,
) -> Result<Json<Round>, Problem> {
    let run = runs::find(&api, &run).await?;
    let record = find(&api, &run, &number).await?;
    let last_seen = api.store.cohort_last_seen(&run.id).await?;
    let mut known = Known::of_one(&api, &run.id, record.round.number).await?;
    Ok(Json(describe(&api, &run, &last_seen, &mut known, record).await?))
}

/// The model that a round published, a safetensors file. Single ranges are answered with 206, who has it already (`If-None-Match`) with 304.
#[utoipa::path(get, path = "/v1/runs/{run}/rounds/{number}/model", tag = "rounds", security(("token" = [])),
    params(("run" = String, Path), ("number" = u32, Path)), responses(
    (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
    (status = 206, body = Vec<u8>, content_type = "application/octet-stream"),
    (status = 304, description = "The caller has it already"),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "Not published"),
    (status = 416, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn model(
    State(api): State<Api>,
    Path((run, number)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let run = runs::find(&api, &run).await?;
    let record = find(&api, &run, &number).await?;
    let RoundState::Published { global } = record.round.state else {
        let detail = format!("round {number} is {}: it has no model", record.round.state.name());
        return Err(Error::new(Code::Conflict, detail).into());
    };
    let stored = api.store.checkpoint(&global).await?;
    let size = stored
        .ok_or_else(|| {
            Error::not_found(format!(
                "round {number}: its model is no longer kept, by the run's policy (keep_models); its digest is {global}"
            ))
        })?
        .size;
    let file = format!("{}-round-{}.safetensors", run.id, record.round.number);
    Ok(content::answer(&api, (&global, size), &file, &headers).await?)
}

/// Merges the newest published round again, without the updates that their sites withdrew since: as a new round, aligned to what the old one
/// was. A round that is open is cancelled, a run that was complete is open until the new model is published.
#[utoipa::path(post, path = "/v1/runs/{run}/rounds/{number}/remerge", tag = "rounds", security(("token" = [])),
    params(("run" = String, Path), ("number" = u32, Path)), responses(
    (status = 201, body = Round),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "Nothing was withdrawn, too little is left, or a later round was published")))]
pub(super) async fn remerge(
    Acting(api): Acting,
    Path((run, number)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Round>), Problem> {
    let run = super::runs::find(&api, &run).await?;
    let record = find(&api, &run, &number).await?;
    let next = api.store.remerge(&run, record.round.number).await?;
    tracing::info!(
        run.id = run.id,
        round.number = next,
        round.of = record.round.number,
        "a round is merged again"
    );
    let opened = find(&api, &run, &next.to_string()).await?;
    let last_seen = api.store.cohort_last_seen(&run.id).await?;
    let mut known = Known::of_one(&api, &run.id, next).await?;
    Ok((StatusCode::CREATED, Json(describe(&api, &run, &last_seen, &mut known, opened).await?)))
}

/// What a round's model was made from, signed: a bundle in the OpenSSF model signing format, which its tools verify with the P-256 key of
/// `/v1/keys`.
#[utoipa::path(get, path = "/v1/runs/{run}/rounds/{number}/model/signature", tag = "rounds", security(("token" = [])),
    params(("run" = String, Path), ("number" = u32, Path)), responses(
    (status = 200, body = Object, content_type = "application/json"),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn signature(
    State(api): State<Api>,
    Path((run, number)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let run = super::runs::find(&api, &run).await?;
    let record = find(&api, &run, &number).await?;
    let found = api.store.model_signature(&run.id, record.round.number).await?;
    let bundle = found.ok_or_else(|| {
        Error::not_found(format!("round {} of run {} has no signed model", record.round.number, run.id))
    })?;
    Ok(([(header::CONTENT_TYPE, "application/json")], bundle).into_response())
}

pub(super) async fn find(api: &Api, run: &model::Run, number: &str) -> Result<RoundRecord> {
    let unknown = || Error::not_found(format!("run {}: there is no such round", run.id));
    let number: u32 = number.parse().map_err(|_| unknown())?;
    api.store.round(&run.id, number).await?.ok_or_else(unknown)
}

/// `last_seen` tells when each site last called, `known` how good the round's models are.
pub(super) async fn describe(
    api: &Api,
    run: &model::Run,
    last_seen: &HashMap<String, Millis>,
    known: &mut Known,
    record: RoundRecord,
) -> Result<Round> {
    let round = record.round;
    let updates = api.store.updates_that_count(&run.id, round.number).await?;
    let total: u64 = updates.iter().filter(|update| held(update)).map(|update| update.num_examples).sum();
    let total = (round.state != RoundState::Collecting && total > 0).then_some(total);
    let mut sites = Vec::with_capacity(run.cohort.len());
    // Asked for where an update arrives, and once.
    let mut now = None;
    for id in &run.cohort {
        let update = updates.iter().find(|update| update.site_id == *id);
        let receiving = update.filter(|update| matches!(update.state, UpdateState::Receiving));
        let arriving = match receiving {
            Some(update) => {
                let received_bytes = api.store.received_bytes(&update.id).await?;
                let now = match now {
                    Some(now) => now,
                    None => *now.insert(api.store.now().await?),
                };
                let for_ms = now - update.begun_at_ms;
                Some((received_bytes, site::bytes_per_second(received_bytes, for_ms)))
            }
            None => None,
        };
        let last_seen = last_seen.get(id).copied();
        sites.push(describe_site(id, last_seen, update, total, arriving));
    }
    let (reason, global) = match &round.state {
        RoundState::Failed { reason } => (Some(reason.clone()), None),
        RoundState::Published { global } => (None, Some(*global)),
        _ => (None, None),
    };
    let global_size = match &global {
        Some(digest) => api.store.checkpoint(digest).await?.map(|stored| stored.size),
        None => None,
    };
    Ok(Round {
        number: round.number,
        state: round.state.name(),
        reason,
        reference_digest: record.reference.map(|digest| digest.to_string()),
        global_digest: global.map(|digest| digest.to_string()),
        global_size,
        quorum: round.window.quorum,
        model_retired_at: record.model_retired_at_ms.map(iso),
        remerge_of: record.remerge_of,
        best: known.is_best(round.number),
        evaluations: known.take(round.number),
        opened_at: iso(round.window.opened_at_ms),
        quorum_closes_at: round.window.quorum_closes_at_ms.map(iso),
        deadline_at: iso(round.window.deadline_at_ms),
        closed_at: record.closed_at_ms.map(iso),
        sites,
    })
}

fn held(update: &Update) -> bool {
    update.state.accepted_at_ms().is_some()
}

#[expect(clippy::cast_precision_loss, reason = "at most 10^12 examples a site: exact in an f64")]
fn describe_site(
    site: &str,
    last_seen_at_ms: Option<Millis>,
    update: Option<&Update>,
    total: Option<u64>,
    arriving: Option<(u64, f64)>,
) -> RoundSite {
    let share = update.filter(|update| held(update)).zip(total);
    RoundSite {
        site: site.to_owned(),
        state: update.map_or("silent", |update| update.state.name()),
        reason: update.and_then(|update| update.state.reason()).map(str::to_owned),
        last_seen_at: last_seen_at_ms.map(iso),
        update_id: update.map(|update| update.id.clone()),
        digest: update.map(|update| update.digest.to_string()),
        size: update.map(|update| update.size),
        received_bytes: arriving.map(|(bytes, _)| bytes),
        bytes_per_second: arriving.map(|(_, rate)| rate),
        begun_at: update.map(|update| iso(update.begun_at_ms)),
        num_examples: update.map(|update| update.num_examples),
        share: share.map(|(update, total)| update.num_examples as f64 / total as f64),
        metrics: update.map(|update| update.metrics.clone()),
        withdrawn_at: update.and_then(|update| update.withdrawn_at_ms).map(iso),
        accepted_at: update.and_then(|update| update.state.accepted_at_ms()).map(iso),
        alignment: match update.map(|update| &update.state) {
            Some(UpdateState::Aligned { report, .. }) => Some((**report).clone()),
            _ => None,
        },
        plausibility: update.and_then(|update| update.judged.as_deref()).map(UpdatePlausibility::from),
    }
}
