//! A round, while it collects and after: each site, what alignment did, the model.

use axum::{extract::State, response::Response};
use maud::{Markup, html};
use rebasin::AlignReport;

use super::{
    charts::{Heat, heat},
    evaluations,
    manifest::{self, Manifest},
    overview::presence,
    page::{Refused, Viewer},
    table::{
        Column::{Number, Text},
        table,
    },
    text::{ago, bytes, digest, left, millis, number, percent, plural, span, state, when_said},
};
use crate::{
    error::Result,
    http::{
        Api,
        evaluations::Known,
        problem::Path,
        rounds::{self, Round, RoundSite},
        runs,
    },
    model::{Role, Run},
    round::Millis,
};

/// So many sites and groups are drawn; the API tells of all.
const MOST_ROWS: usize = 64;
const MOST_COLUMNS: usize = 128;

/// So long after a round is over something may still be said of it, in milliseconds.
const STILL_NEW: Millis = 300_000;

/// A round.
pub(super) async fn show(
    State(api): State<Api>,
    Path((run, number)): Path<(String, String)>,
    viewer: Viewer,
) -> std::result::Result<Response, Refused> {
    let run = runs::find(&api, &run).await?;
    let record = rounds::find(&api, &run, &number).await?;
    let last_seen = api.store.cohort_last_seen(&run.id).await?;
    let mut known = Known::of_one(&api, &run.id, record.round.number).await?;
    let round = rounds::describe(&api, &run, &last_seen, &mut known, record).await?;
    let now = api.store.now().await?;
    let open = round.is_open();
    let signed = if open { None } else { manifest::of_round(&api, &run.id, round.number).await? };
    let main = html! {
        (head(&run, &round, now))
        (sites(&round, now))
        (alignment(&round)?)
        (evaluations::show(&round)?)
        (model(&run, &round, signed.as_ref(), &viewer))
    };
    let closed = round.closed_at.as_deref().and_then(millis);
    let fresh = closed.is_some_and(|closed| now - closed < STILL_NEW);
    let live = if open { Some(1) } else { fresh.then_some(3) };
    Ok(viewer.page(&format!("Round {} of {}", round.number, run.id), live, &main)?)
}

fn head(run: &Run, round: &Round, now: Millis) -> Markup {
    let open = round.is_open();
    let path = format!("/runs/{}/rounds/", run.id);
    html! {
        nav.crumbs aria-label="Place" {
            a href={ "/runs/" (run.id) } { "Run " (run.id) }
            @if round.number > 1 { a href={ (path) (round.number - 1) } { "Round " (round.number - 1) } }
            @if run.current_round.is_some_and(|newest| newest > round.number) {
                a href={ (path) (round.number + 1) } { "Round " (round.number + 1) }
            }
        }
        h1 { "Round " (round.number) " of " (run.policy.rounds) }
        p.lead role="status" {
            (state(round.state)) " "
            @if round.best { (state("best")) " " }
            @match round.state {
                "collecting" => { "takes updates" @if let Some(at) = millis(&round.deadline_at) { ", " (left(at, now)) } }
                "merging" => { "updates are aligned and merged" }
                "published" => { "the model is ready" }
                _ => { "over without a model" }
            }
        }
        @if let Some(reason) = &round.reason { p.note.bad { (reason) } }
        dl.facts {
            div { dt { "Updates" } dd { (presence(round)) } }
            div { dt { "Opened" } dd { (when_said(Some(&round.opened_at))) } }
            div { dt { "Deadline" } dd { (when_said(Some(&round.deadline_at))) } }
            @if !open { div { dt { "Closed" } dd { (when_said(round.closed_at.as_deref())) } } }
            div { dt { "Reference" } dd {
                @match &round.reference_digest {
                    Some(reference) => { (digest(reference)) }
                    None => { "none yet: a founding round" }
                }
            } }
            @if let Some(of) = round.remerge_of {
                div { dt { "Merges again" } dd { a href={ (path) (of) } { "round " (of) } ", without what was withdrawn" } }
            }
        }
    }
}

fn sites(round: &Round, now: Millis) -> Markup {
    html! {
        section aria-labelledby="sites" {
            h2 #sites { "Sites" }
            (table(
                "Sites",
                "Every site of the cohort",
                &[Text("Site"), Text("State"), Text("Since, or why"), Text("Update"), Number("Examples"),
                  Number("Share"), Text("Its own figures")],
                &html! { @for site in &round.sites { (row(site, now)) } },
            ))
        }
    }
}

fn row(site: &RoundSite, now: Millis) -> Markup {
    html! {
        tr {
            th scope="row" data-name="Site" { a href={ "/sites/" (site.site) } { (site.site) } }
            td data-name="State" {
                (state(site.state))
                @if site.withdrawn_at.is_some() { " " (state("withdrawn")) }
            }
            td data-name="Since, or why" { (how(site, now)) }
            td data-name="Update" {
                @match (&site.digest, site.size) {
                    (Some(of), Some(size)) => { (digest(of)) " " (bytes(size)) }
                    _ => { "–" }
                }
            }
            td.number data-name="Examples" { @match site.num_examples { Some(count) => { (count) } None => { "–" } } }
            td.number data-name="Share" { @match site.share { Some(share) => { (percent(share)) } None => { "–" } } }
            td data-name="Its own figures" {
                @match &site.metrics {
                    Some(metrics) if !metrics.is_empty() => {
                        @for (name, value) in metrics { span.figure { (name) " " (number(*value)) } " " }
                    }
                    _ => { "–" }
                }
            }
        }
    }
}

/// What there is to say of a site's state.
fn how(site: &RoundSite, now: Millis) -> Markup {
    let seen = site.last_seen_at.as_deref().and_then(millis);
    html! {
        @match (site.state, &site.reason) {
            ("silent", _) => {
                @match seen { Some(at) => { "last seen " (ago(at, now)) } None => { "never seen" } }
            }
            ("receiving", _) => { (progress(site, now)) }
            (_, Some(reason)) => { (reason) }
            _ => { (when_said(site.accepted_at.as_deref())) }
        }
        @if let Some(judged) = &site.plausibility {
            @for warning in &judged.warnings { p.note.warn { (warning) } }
        }
    }
}

/// How far an upload is, and how fast it went so far.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "for people to read"
)]
fn progress(site: &RoundSite, now: Millis) -> Markup {
    let (received, size) = (site.received_bytes.unwrap_or(0), site.size.unwrap_or(0).max(1));
    let fraction = received as f64 / size as f64;
    let rate = site.bytes_per_second.unwrap_or(0.0);
    let took = site.begun_at.as_deref().and_then(millis).map_or(0, |begun| now - begun);
    html! {
        progress max=(size) value=(received) aria-label={ "Upload of " (site.site) } { (percent(fraction)) }
        " " (percent(fraction)) ", " (bytes(received)) " of " (bytes(size)) ", "
        @if rate > 0.0 { (bytes(rate as u64)) "/s since it began, " (span(took)) " ago" } @else { "nothing yet" }
    }
}

/// How like each other two sets of tensors are: twice their product over the sum of their squares. The cosine, where both have one norm.
fn similarity(objective: f64, distance: f64) -> f64 {
    let squares = distance * distance + 2.0 * objective;
    if squares > 0.0 { 2.0 * objective / squares } else { 0.0 }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of units"
)]
fn units(moved: f64, size: usize) -> String {
    format!("{} of {size}", (moved * size as f64).round() as u64)
}

fn alignment(round: &Round) -> Result<Markup> {
    let aligned: Vec<(&RoundSite, &AlignReport)> =
        round.sites.iter().filter_map(|site| Some((site, site.alignment.as_ref()?))).collect();
    let drawn: Vec<_> = aligned.iter().take(MOST_ROWS).collect();
    let columns: Vec<String> = drawn.first().map_or_else(Vec::new, |(_, report)| {
        report.groups.iter().take(MOST_COLUMNS).map(|group| group.name.clone()).collect()
    });
    let picture = heat(&Heat {
        title: "Similarity to the reference, a site and group",
        rows: drawn.iter().map(|(site, _)| site.site.clone()).collect(),
        cells: drawn
            .iter()
            .map(|(_, report)| {
                let groups = report.groups.iter().take(MOST_COLUMNS);
                groups
                    .map(|group| {
                        let before = similarity(group.objective_before, group.l2_before);
                        (before, similarity(group.objective_after, group.l2_after))
                    })
                    .collect()
            })
            .collect(),
        also: (
            "Units moved",
            drawn
                .iter()
                .map(|(_, report)| {
                    let groups = report.groups.iter().take(MOST_COLUMNS);
                    groups.map(|group| units(group.moved, group.size)).collect()
                })
                .collect(),
        ),
        columns,
    })?;
    Ok(html! {
        @if !aligned.is_empty() {
            section aria-labelledby="alignment" {
                h2 #alignment { "Alignment" }
                (table(
                    "Alignment",
                    "What alignment did to each update",
                    &[Text("Site"), Text("Units moved"), Number("Similarity before"), Number("after"),
                      Number("Distance before"), Number("after")],
                    &html! { @for (site, report) in &aligned { (aligned_row(site, report)) } },
                ))
                @if let Some(picture) = picture {
                    (picture)
                    p.hint {
                        "Similarity of two checkpoints: twice their inner product over the sum of their squares; the cosine, where both have one norm."
                        @if aligned.len() > MOST_ROWS { " The first " (MOST_ROWS) " sites are drawn." }
                    }
                }
            }
        }
    })
}

fn aligned_row(site: &RoundSite, report: &AlignReport) -> Markup {
    let all: usize = report.groups.iter().map(|group| group.size).sum();
    html! {
        tr {
            th scope="row" data-name="Site" { (site.site) }
            td data-name="Units moved" {
                @if report.identity_certified { "0 of " (all) ": it was in the reference's frame already" }
                @else { (units(report.moved, all)) " (" (percent(report.moved)) "), " (plural(report.sweeps as usize, "sweep", "sweeps")) }
            }
            td.number data-name="Similarity before" { (number(similarity(report.objective_before, report.l2_before))) }
            td.number data-name="Similarity after" { (number(similarity(report.objective_after, report.l2_after))) }
            td.number data-name="Distance before" { (number(report.l2_before)) }
            td.number data-name="Distance after" { (number(report.l2_after)) }
        }
    }
}

fn model(run: &Run, round: &Round, signed: Option<&Manifest>, viewer: &Viewer) -> Markup {
    let path = format!("/runs/{}/rounds/{}/model", run.id, round.number);
    html! {
        @if let Some(global) = &round.global_digest {
            section aria-labelledby="model" {
                h2 #model { "Model" }
                dl.facts {
                    div.long { dt { "SHA-256" } dd { code #digest { (global) } } }
                    div { dt { "Size" } dd {
                        @match round.global_size { Some(size) => { (bytes(size)) } None => { "no longer kept" } }
                    } }
                    div { dt { "Signature" } dd { @if signed.is_some() { "signed, in the OpenSSF model signing format" } @else { "none" } } }
                }
                @if viewer.may(Role::Operator) {
                    div.controls {
                        @if round.global_size.is_some() { a.button #download href=(path) { "Download the model" } }
                        @if signed.is_some() { a.button href={ (path) "/signature" } { "Download its signature" } }
                    }
                    @if let Some(signed) = signed { (signed.show(global)) }
                } @else {
                    p.hint { "An operator may download it, and read what its signature says." }
                }
            }
        }
    }
}
