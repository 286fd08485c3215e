//! A run: its course over rounds, and what an operator may do to it.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    Extension, Form,
    extract::{State, rejection::FormRejection},
    response::{IntoResponse as _, Redirect, Response},
};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    charts::{Line, Lines, lines},
    overview::{held, presence},
    page::{self, Refused, Viewer},
    table::{Column::Text, table},
    text::{digest, left, millis, percent, plural, state, when, when_said},
};
use crate::{
    error::Result,
    http::{
        Api,
        evaluations::{Known, MeanOfSites, SiteEvaluation},
        problem::{Path, Query},
        reason,
        rounds::{self, Round, RoundSite},
        runs,
    },
    model::{Evaluated, Role, Run, RunState},
    round::Millis,
    store::Actor,
};

/// So many rounds are on one page.
const MOST_ROUNDS: usize = 40;
/// So many metrics that sites report have a chart.
const MOST_METRICS: usize = 4;

/// Which rounds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// Those before this one; absent: the newest.
    before: Option<u32>,
}

/// A run.
pub(super) async fn show(
    State(api): State<Api>,
    Path(run): Path<String>,
    Query(asked): Query<Asked>,
    viewer: Viewer,
) -> std::result::Result<Response, Refused> {
    let run = runs::find(&api, &run).await?;
    let now = api.store.now().await?;
    let mut records = api.store.rounds(&run.id).await?;
    records.retain(|record| asked.before.is_none_or(|before| record.round.number < before));
    let first = records.len().saturating_sub(MOST_ROUNDS);
    let last_seen = api.store.cohort_last_seen(&run.id).await?;
    let mut rounds = Vec::new();
    let mut known =
        Known::with_sites(&api, &run.id, records[first..].iter().map(|record| record.round.number)).await?;
    for record in records.drain(first..) {
        rounds.push(rounds::describe(&api, &run, &last_seen, &mut known, record).await?);
    }
    let older = rounds.first().map(|round| round.number).filter(|number| *number > 1);
    let main = html! {
        (head(&run, &viewer, now))
        (course(&run, &rounds)?)
        (of_rounds(&run, &rounds, now))
        @if let Some(number) = older { p { a href={ "/runs/" (run.id) "?before=" (number) } { "Older rounds" } } }
        (facts(&run))
    };
    let live = (run.state == RunState::Open && asked.before.is_none()).then_some(2);
    Ok(viewer.page(&format!("Run {}", run.id), live, &main)?)
}

fn head(run: &Run, viewer: &Viewer, now: Millis) -> Markup {
    let open = run.state == RunState::Open;
    html! {
        h1 { "Run " (run.id) }
        p.lead role="status" {
            (state(run.state.name())) @if run.paused_at_ms.is_some() { " " (state("paused")) }
            " " (run.rounds_published) " of " (run.policy.rounds) " rounds published, "
            (plural(run.cohort.len(), "site", "sites")) ", strategy " (run.strategy.name())
        }
        @if let RunState::Failed { reason } = &run.state { p.note.bad { (reason) } }
        @if let Some(at) = run.paused_at_ms {
            p.note.warn { "Paused: no further round opens. Since " (super::overview::since(at, now)) }
        }
        @if open && viewer.may(Role::Operator) {
            nav.controls aria-label="Controls" {
                @if run.paused_at_ms.is_some() {
                    a.button href={ "/runs/" (run.id) "/resume" } { "Resume…" }
                } @else {
                    a.button href={ "/runs/" (run.id) "/pause" } { "Pause…" }
                }
                a.button.danger href={ "/runs/" (run.id) "/cancel" } { "Cancel the run…" }
            }
        }
    }
}

/// The charts: what sites report, how far updates are from the reference, and how much alignment moved.
fn course(run: &Run, rounds: &[Round]) -> Result<Markup> {
    let numbers: Vec<u32> = rounds.iter().map(|round| round.number).collect();
    let mut names = BTreeSet::new();
    for site in rounds.iter().flat_map(|round| &round.sites) {
        names.extend(site.metrics.iter().flat_map(|metrics| metrics.keys().cloned()));
    }
    // What people look for first.
    let mut names: Vec<String> = names.into_iter().collect();
    names.sort_by_key(|name| match name.as_str() {
        "loss" => 0,
        "accuracy" => 1,
        _ => 2,
    });
    names.truncate(MOST_METRICS);
    let mut charts = Vec::new();
    let of_mean: [fn(&MeanOfSites) -> Option<f64>; 2] = [|mean| mean.loss, |mean| mean.accuracy];
    let of_site: [fn(&SiteEvaluation) -> Option<f64>; 2] = [|said| said.loss, |said| said.accuracy];
    for (name, (of_mean, of_site)) in ["loss", "accuracy"].into_iter().zip(of_mean.into_iter().zip(of_site)) {
        let title = format!("{name} of each round's model, as sites evaluate it");
        let lines_of = evaluated(run, rounds, of_mean, of_site);
        charts.extend(lines(&Lines { title: &title, unit: name, rounds: &numbers, lines: lines_of })?);
    }
    for name in &names {
        let title = format!("{name}, as sites report it of their updates");
        let of = |site: &RoundSite| site.metrics.as_ref().and_then(|metrics| metrics.get(name)).copied();
        let lines_of = by_site(run, rounds, of);
        charts.extend(lines(&Lines { title: &title, unit: name, rounds: &numbers, lines: lines_of })?);
    }
    let of = |site: &RoundSite| site.alignment.as_ref().map(|report| report.l2_after);
    let title = "Distance of each update to the reference, after alignment";
    let lines_of = by_site(run, rounds, of);
    charts.extend(lines(&Lines { title, unit: "distance", rounds: &numbers, lines: lines_of })?);
    let of = |site: &RoundSite| site.alignment.as_ref().map(|report| report.moved * 100.0);
    let title = "Units that alignment moved";
    let lines_of = by_site(run, rounds, of);
    charts.extend(lines(&Lines { title, unit: "% of units", rounds: &numbers, lines: lines_of })?);
    Ok(html! {
        @if !charts.is_empty() {
            section aria-labelledby="course" {
                h2 #course { "Course" }
                div.charts { @for chart in charts { (chart) } }
            }
        }
    })
}

/// The mean over sites of the global model, of the naive mean and of the sites' own models, and the global model at each site.
fn evaluated(
    run: &Run,
    rounds: &[Round],
    of_mean: fn(&MeanOfSites) -> Option<f64>,
    of_site: fn(&SiteEvaluation) -> Option<f64>,
) -> Vec<Line> {
    let mean = |name: &str, of: fn(&Round) -> &Option<MeanOfSites>| Line {
        name: name.to_owned(),
        values: rounds.iter().map(|round| of(round).as_ref().and_then(of_mean)).collect(),
    };
    let mut lines = vec![
        mean("global, mean", |round| &round.evaluations.global),
        mean("naive mean, mean", |round| &round.evaluations.naive),
        mean("sites' own, mean", |round| &round.evaluations.own),
    ];
    for site in &run.cohort {
        let of = |round: &Round| {
            let said = round.evaluations.sites.as_deref().unwrap_or_default();
            said.iter().find(|said| said.site == *site && said.model == Evaluated::Global).and_then(of_site)
        };
        lines.push(Line { name: format!("global at {site}"), values: rounds.iter().map(of).collect() });
    }
    lines.retain(|line| line.values.iter().any(Option::is_some));
    lines
}

/// A line for each site, and before them their mean by examples.
fn by_site(run: &Run, rounds: &[Round], of: impl Fn(&RoundSite) -> Option<f64>) -> Vec<Line> {
    let mut sites: BTreeMap<&str, Vec<Option<f64>>> =
        run.cohort.iter().map(|site| (site.as_str(), vec![None; rounds.len()])).collect();
    let mut means = vec![None; rounds.len()];
    for (place, round) in rounds.iter().enumerate() {
        let (mut sum, mut total) = (0.0, 0.0);
        for site in &round.sites {
            let Some(value) = of(site).filter(|_| site.is_held()) else { continue };
            if let Some(values) = sites.get_mut(site.site.as_str()) {
                values[place] = Some(value);
            }
            let examples = examples(site);
            (sum, total) = (sum + value * examples, total + examples);
        }
        means[place] = (total > 0.0).then(|| sum / total);
    }
    let of_sites = sites.into_iter().map(|(name, values)| Line { name: name.to_owned(), values });
    let mean = Line { name: "mean, by examples".into(), values: means };
    std::iter::once(mean).chain(of_sites).collect()
}

#[expect(clippy::cast_precision_loss, reason = "at most 10^12 examples a site: exact in an f64")]
fn examples(site: &RoundSite) -> f64 {
    site.num_examples.unwrap_or(0) as f64
}

fn of_rounds(run: &Run, rounds: &[Round], now: Millis) -> Markup {
    html! {
        section aria-labelledby="rounds" {
            h2 #rounds { "Rounds" }
            @if rounds.is_empty() {
                p { "No round has opened yet." }
            } @else {
                (table(
                    "Rounds",
                    "Rounds, the newest first",
                    &[Text("Round"), Text("State"), Text("Updates"), Text("Moved"), Text("Time"), Text("Model")],
                    &html! { @for round in rounds.iter().rev() { (row(run, round, now)) } },
                ))
            }
        }
    }
}

fn row(run: &Run, round: &Round, now: Millis) -> Markup {
    let moved: Vec<f64> =
        round.sites.iter().filter_map(|site| site.alignment.as_ref()).map(|report| report.moved).collect();
    let most = moved.iter().copied().fold(0.0, f64::max);
    let open = round.is_open();
    let deadline = millis(&round.deadline_at).unwrap_or(now);
    html! {
        tr {
            th scope="row" data-name="Round" { a href={ "/runs/" (run.id) "/rounds/" (round.number) } { "Round " (round.number) } }
            td data-name="State" {
                (state(round.state))
                @if round.best { " " (state("best")) }
                @if let Some(reason) = &round.reason { " " (reason) }
                @if let Some(of) = round.remerge_of { " round " (of) " again" }
            }
            td data-name="Updates" {
                @if open { (presence(round)) } @else { (held(round)) " of " (round.sites.len()) }
            }
            td data-name="Moved" {
                @if moved.is_empty() { "–" } @else { "up to " (percent(most)) " of the units" }
            }
            td data-name="Time" {
                @if open { (left(deadline, now)) } @else { (when_said(round.closed_at.as_deref())) }
            }
            td data-name="Model" {
                @match &round.global_digest { Some(global) => { (digest(global)) } None => { "–" } }
            }
        }
    }
}

fn facts(run: &Run) -> Markup {
    let policy = &run.policy;
    html! {
        section aria-labelledby="facts" {
            h2 #facts { "What the run goes by" }
            dl.facts {
                div { dt { "Created" } dd { (when(run.created_at_ms)) } }
                div { dt { "Quorum" } dd { (policy.quorum) " of " (run.cohort.len()) } }
                div { dt { "Deadline" } dd { (super::text::span(i64::try_from(policy.deadline_seconds).unwrap_or(i64::MAX / 1000) * 1000)) " a round" } }
                div { dt { "Spec" } dd {
                    @match (&run.spec, &run.graph) {
                        (Some(_), Some(graph)) => { "verified, from the graph " (digest(&graph.to_string())) }
                        (Some(_), None) => { "given, not verified here" }
                        (None, _) => { "none" }
                    }
                } }
                div { dt { "Seed" } dd {
                    @match &run.seed { Some(seed) => { (digest(&seed.to_string())) } None => { "none: the first round founds" } }
                } }
                div { dt { "Newest model" } dd {
                    @match &run.global { Some(global) => { (digest(&global.to_string())) } None => { "none yet" } }
                } }
                @if let Some(layout) = &run.layout {
                    div { dt { "Network" } dd {
                        (plural(layout.tensors().len(), "tensor", "tensors")) ", "
                        (plural(layout.tensors().iter().map(rebasin::TensorInfo::num_elements).sum(), "parameter", "parameters"))
                    } }
                }
                div { dt { "Cohort" } dd {
                    @for (place, site) in run.cohort.iter().enumerate() {
                        @if place > 0 { ", " } a href={ "/sites/" (site) } { (site) }
                    }
                } }
            }
        }
    }
}

/// What can be done to a run.
#[derive(Clone, Copy)]
enum Deed {
    Cancel,
    Pause,
    Resume,
}

impl Deed {
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Cancel => (
                "cancel",
                "Cancel the run",
                "Its open round ends without a model and no further one opens. Models that were published stay. This cannot be undone.",
            ),
            Self::Pause => (
                "pause",
                "Pause the run",
                "The round that is open goes on; no further one opens until the run is resumed.",
            ),
            Self::Resume => ("resume", "Resume the run", "Its next round opens."),
        }
    }
}

/// What a form that confirms brings.
#[derive(Deserialize)]
pub(super) struct Confirmed {
    /// Why, in words; empty: nothing is said.
    #[serde(default)]
    pub(super) reason: String,
}

impl Confirmed {
    /// The API on behalf of whoever confirmed, for the reason that they gave.
    ///
    /// # Errors
    /// The reason is too long, or holds control characters.
    pub(super) fn acting(self, api: &Api, actor: Actor) -> Result<Api> {
        let given = Some(self.reason.trim().to_owned()).filter(|reason| !reason.is_empty());
        let reason = reason::checked(given)?;
        Ok(Api { store: api.store.acting_as(Actor { reason, ..actor }), ..api.clone() })
    }
}

/// A form that asks once more before something is done.
pub(super) fn confirmation(action: &str, back: &str, (name, what): (&str, &str), danger: bool) -> Markup {
    html! {
        h1 { (name) "?" }
        form.card.narrow method="post" action=(action) {
            p { (what) }
            label for="reason" { "Why (optional, stays in the audit log)" }
            input #reason type="text" name="reason" maxlength=(reason::MOST) autocomplete="off";
            div.controls {
                button.danger[danger] type="submit" { (name) }
                a.button href=(back) { "Back" }
            }
        }
    }
}

async fn ask(api: &Api, run: &str, viewer: &Viewer, deed: Deed) -> std::result::Result<Response, Refused> {
    let run = runs::find(api, run).await?.id;
    let (word, name, what) = deed.words();
    let (action, back) = (format!("/runs/{run}/{word}"), format!("/runs/{run}"));
    let main = confirmation(&action, &back, (&format!("{name} {run}"), what), matches!(deed, Deed::Cancel));
    Ok(viewer.page(name, None, &main)?)
}

type Confirming = std::result::Result<Form<Confirmed>, FormRejection>;

async fn act(
    api: &Api,
    actor: Actor,
    run: &str,
    form: Confirming,
    deed: Deed,
) -> std::result::Result<Response, Refused> {
    let Form(confirmed) = form.map_err(page::bad_form)?;
    let api = confirmed.acting(api, actor)?;
    let run = runs::find(&api, run).await?.id;
    match deed {
        Deed::Cancel => api.store.cancel_run(&run).await?,
        Deed::Pause => api.store.pause_run(&run, true).await?,
        Deed::Resume => api.store.pause_run(&run, false).await?,
    }
    tracing::info!(run.id = run, "{} at the dashboard", deed.words().1);
    Ok(Redirect::to(&format!("/runs/{run}")).into_response())
}

macro_rules! deeds {
    ($($ask:ident, $act:ident: $deed:expr;)+) => {
        $(
            /// Asks once more.
            pub(super) async fn $ask(
                State(api): State<Api>,
                Path(run): Path<String>,
                viewer: Viewer,
            ) -> std::result::Result<Response, Refused> {
                ask(&api, &run, &viewer, $deed).await
            }

            /// Does it.
            pub(super) async fn $act(
                State(api): State<Api>,
                Extension(actor): Extension<Actor>,
                Path(run): Path<String>,
                form: Confirming,
            ) -> std::result::Result<Response, Refused> {
                act(&api, actor, &run, form, $deed).await
            }
        )+
    };
}

deeds! {
    ask_cancel, cancel: Deed::Cancel;
    ask_pause, pause: Deed::Pause;
    ask_resume, resume: Deed::Resume;
}
