//! The first page: what goes wrong, then how each run stands.

use std::collections::BTreeMap;

use axum::{extract::State, response::Response};
use fedbasin_proto::CERTIFICATE_WARNING_DAYS;
use maud::{Markup, html};

use super::{
    page::{Refused, Viewer},
    table::{Column::Text, table},
    text::{ago, left, plural, span, state, when},
};
use crate::{
    error::Result,
    http::{
        Api,
        certificates::ends,
        evaluations::Known,
        rounds::{self, Round},
    },
    model::{Run, RunState, days_left},
    round::Millis,
    store::DeliveryState,
};

/// So many runs are shown, the newest and those that are open first.
const MOST_RUNS: usize = 100;
/// So many silent sites of a round are named, and so many notices that were given up are looked at.
const MOST_NAMED: usize = 10;
const MOST_DEAD: u32 = 100;

/// A run with what its page tells first.
struct Standing {
    run: Run,
    /// Its newest round.
    round: Option<Round>,
    /// The newest one that is over, and how it ended.
    last: Option<(u32, &'static str, Option<String>)>,
}

/// What somebody should look at.
struct Trouble {
    /// Whether something failed, rather than may.
    bad: bool,
    what: Markup,
}

/// The first page.
pub(super) async fn show(State(api): State<Api>, viewer: Viewer) -> std::result::Result<Response, Refused> {
    let now = api.store.now().await?;
    let mut runs = api.store.runs().await?;
    let count = runs.len();
    runs.sort_by_key(|run| run.state != RunState::Open);
    runs.truncate(MOST_RUNS);
    let mut standing = Vec::with_capacity(runs.len());
    for run in runs {
        standing.push(stand(&api, run).await?);
    }
    let mut troubles: Vec<Trouble> = standing.iter().flat_map(of_run).collect();
    of_rounds(&api, now, &mut troubles).await?;
    of_notices(&api, &mut troubles).await?;
    of_certificates(&api, now, &mut troubles).await?;
    troubles.sort_by_key(|trouble| !trouble.bad);
    let open = standing.iter().any(|standing| standing.run.state == RunState::Open);
    let main = html! {
        h1 { "Overview" }
        (problems(&troubles))
        section aria-labelledby="runs" {
            h2 #runs { "Runs" }
            @if standing.is_empty() {
                p.card { "There is no run yet. " code { "fedbasin admin create-run" } " makes one." }
            } @else {
                (of_runs(&standing, now))
            }
            @if count > MOST_RUNS { p.hint { "The first " (MOST_RUNS) " of " (count) " runs; the API lists all." } }
        }
    };
    Ok(viewer.page("Overview", open.then_some(2), &main)?)
}

async fn stand(api: &Api, run: Run) -> Result<Standing> {
    let Some(number) = run.current_round else { return Ok(Standing { run, round: None, last: None }) };
    let last_seen = api.store.cohort_last_seen(&run.id).await?;
    // What sites say of models stands on the run's page.
    let mut known = Known::default();
    let round = match api.store.round(&run.id, number).await? {
        Some(record) => Some(rounds::describe(api, &run, &last_seen, &mut known, record).await?),
        None => None,
    };
    let over = |number: u32, state: &'static str, reason: Option<String>| Some((number, state, reason));
    let last = match &round {
        Some(round) if !round.is_open() => over(round.number, round.state, round.reason.clone()),
        _ => match api.store.round(&run.id, number.saturating_sub(1)).await? {
            Some(record) => {
                let state = &record.round.state;
                let reason = match state {
                    crate::round::State::Failed { reason } => Some(reason.clone()),
                    _ => None,
                };
                over(record.round.number, state.name(), reason)
            }
            None => None,
        },
    };
    Ok(Standing { run, round, last })
}

/// How many updates of a round are held.
pub(super) fn held(round: &Round) -> usize {
    round.sites.iter().filter(|site| site.is_held()).count()
}

fn link(run: &Run) -> Markup {
    html! { a href={ "/runs/" (run.id) } { (run.id) } }
}

fn link_site(site: &str) -> Markup {
    html! { a href={ "/sites/" (site) } { (site) } }
}

fn link_round_of(run: &str, number: u32) -> Markup {
    html! { "Run " a href={ "/runs/" (run) } { (run) } ", " a href={ "/runs/" (run) "/rounds/" (number) } { "round " (number) } }
}

fn link_round(run: &Run, number: u32) -> Markup {
    html! { a href={ "/runs/" (run.id) "/rounds/" (number) } { "round " (number) } }
}

fn of_run(standing: &Standing) -> Vec<Trouble> {
    let Standing { run, round, last } = standing;
    let mut found = Vec::new();
    let mut add = |bad, what| found.push(Trouble { bad, what });
    if let RunState::Failed { reason } = &run.state {
        add(true, html! { "Run " (link(run)) " failed: " (reason) });
        return found;
    }
    if run.state != RunState::Open {
        return found;
    }
    if run.paused_at_ms.is_some() {
        add(false, html! { "Run " (link(run)) " is paused: no further round opens." });
    }
    if let Some((number, "failed", reason)) = last {
        add(
            true,
            html! { "Run " (link(run)) ", " (link_round(run, *number)) " failed: " (reason.as_deref().unwrap_or("")) },
        );
    }
    let Some(round) = round else { return found };
    for site in &round.sites {
        if let ("rejected", Some(reason)) = (site.state, &site.reason) {
            add(
                true,
                html! {
                    "Run " (link(run)) ", " (link_round(run, round.number)) ": the update of "
                    a href={ "/sites/" (site.site) } { (site.site) } " was rejected: " (reason)
                },
            );
        }
    }
    found
}

/// Rounds that may fail, and the sites that they wait for.
async fn of_rounds(api: &Api, now: Millis, troubles: &mut Vec<Trouble>) -> Result<()> {
    let mut add = |what| troubles.push(Trouble { bad: false, what });
    for risky in api.store.quorums_at_risk(None).await? {
        add(html! {
            (link_round_of(&risky.run_id, risky.round)) ": the quorum is at risk, "
            (risky.held) " of " (risky.quorum) " updates and " (left(risky.deadline_at_ms, now)) "."
        });
    }
    let silent = api.store.silent_sites(None).await?;
    for of_round in silent.chunk_by(|one, other| (&one.run_id, one.round) == (&other.run_id, other.round)) {
        let Some(first) = of_round.first() else { continue };
        add(html! {
            (link_round_of(&first.run_id, first.round)) ": " (plural(of_round.len(), "site is silent: ", "sites are silent: "))
            @for (place, site) in of_round.iter().take(MOST_NAMED).enumerate() {
                @if place > 0 { ", " } (link_site(&site.site_id)) " ("
                @match site.last_seen_at_ms { Some(at) => { "last seen " (ago(at, now)) } None => { "never seen" } } ")"
            }
            @if of_round.len() > MOST_NAMED { " and " (of_round.len() - MOST_NAMED) " more" }
            "."
        });
    }
    Ok(())
}

/// What webhooks were to be told and did not take.
async fn of_notices(api: &Api, troubles: &mut Vec<Trouble>) -> Result<()> {
    let mut dead: BTreeMap<String, (usize, String)> = BTreeMap::new();
    // The newest come first.
    for notice in api.store.deliveries(Some(DeliveryState::Dead), None, MOST_DEAD).await? {
        dead.entry(notice.webhook).or_insert((0, notice.event)).0 += 1;
    }
    for (webhook, (count, event)) in dead {
        let what = html! {
            "The webhook " (webhook) " did not take " (plural(count, "notice", "notices")) ", the newest " (event)
            ": they are tried no more unless an operator asks."
        };
        troubles.push(Trouble { bad: true, what });
    }
    Ok(())
}

async fn of_certificates(api: &Api, now: Millis, troubles: &mut Vec<Trouble>) -> Result<()> {
    let mut add = |whose: Markup, until: Millis| {
        let days = days_left(until, now);
        if days < CERTIFICATE_WARNING_DAYS {
            let what = match days {
                ..0 => html! { (whose) " has expired, " (ago(until, now)) "." },
                days => {
                    html! { (whose) " expires in " (plural(usize::try_from(days).unwrap_or(0), "day", "days")) "." }
                }
            };
            troubles.push(Trouble { bad: days < 0, what });
        }
    };
    let (server, authority) = ends(api);
    if let Some(until) = server {
        add(html! { "The server's own certificate" }, until);
    }
    if let Some(until) = authority {
        add(html! { "The certificate of the authority that signs those of sites" }, until);
    }
    for found in api.store.expiring_certificates(None).await? {
        add(html! { "The certificate of " (link_site(&found.site_id)) }, found.expires_at_ms);
    }
    if api.clear_text {
        troubles.push(Trouble {
            bad: false,
            what: html! { "The server speaks clear text beyond its own machine." },
        });
    }
    Ok(())
}

fn problems(troubles: &[Trouble]) -> Markup {
    html! {
        section aria-labelledby="problems" {
            h2 #problems { "Problems" }
            @if troubles.is_empty() {
                p.note.good role="status" { "None that the server knows of." }
            } @else {
                ul.problems {
                    @for trouble in troubles {
                        li.note.bad[trouble.bad].warn[!trouble.bad] {
                            strong { @if trouble.bad { "Failed" } @else { "Check" } } " " (trouble.what)
                        }
                    }
                }
            }
        }
    }
}

fn of_runs(standing: &[Standing], now: Millis) -> Markup {
    table(
        "Runs",
        "Runs, those that are open first",
        &[Text("Run"), Text("State"), Text("Round"), Text("Updates"), Text("Time"), Text("Last result")],
        &html! { @for standing in standing { (row(standing, now)) } },
    )
}

fn row(standing: &Standing, now: Millis) -> Markup {
    let Standing { run, round, last } = standing;
    let open = round.as_ref().filter(|round| round.is_open());
    html! {
        tr {
            th scope="row" data-name="Run" { (link(run)) }
            td data-name="State" {
                (state(run.state.name()))
                @if run.paused_at_ms.is_some() { " " (state("paused")) }
            }
            td data-name="Round" {
                @match round {
                    Some(round) => { (link_round(run, round.number)) " of " (run.policy.rounds) " " (state(round.state)) }
                    None => { "–" }
                }
            }
            td data-name="Updates" {
                @match open {
                    Some(round) => { (presence(round)) }
                    None => { (plural(run.cohort.len(), "site", "sites")) }
                }
            }
            td data-name="Time" {
                @match open.and_then(|round| super::text::millis(&round.deadline_at)) {
                    Some(deadline) => { (left(deadline, now)) }
                    None => { "created " (span(now - run.created_at_ms)) " ago" }
                }
            }
            td data-name="Last result" {
                @match last {
                    Some((number, how, _)) => { (link_round(run, *number)) " " (state(how)) }
                    None => { "none yet" }
                }
            }
        }
    }
}

/// How many updates a round holds, against the quorum and the cohort.
pub(super) fn presence(round: &Round) -> Markup {
    let (held, cohort) = (held(round), round.sites.len());
    let enough = held >= usize::try_from(round.quorum).unwrap_or(usize::MAX);
    html! {
        meter min="0" max=(cohort) value=(held) aria-label={ (held) " of " (cohort) " updates" } {}
        " " (held) " of " (cohort) ", quorum " (round.quorum) @if enough { " reached" }
    }
}

/// When something happened, and how long ago.
pub(super) fn since(at: Millis, now: Millis) -> Markup {
    html! { (when(at)) " (" (ago(at, now)) ")" }
}
