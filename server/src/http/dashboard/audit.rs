//! The audit log: read, checked, exported.

use axum::{extract::State, response::Response};
use fedbasin_proof::{Record, SignedHead};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    page::{Refused, Viewer},
    table::{
        Column::{Number, Text},
        table,
    },
    text::{digest, when},
};
use crate::{
    error::{Code, Error, Result},
    http::{Api, problem::Query},
    model::{Role, check_id},
};

/// Records on one page.
const PAGE: u32 = 100;
/// Longer logs are not read whole while a browser waits.
const MOST_CHECKED: u64 = 200_000;

/// Which records.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// The place of the first one; absent: the newest of all, or the oldest of a run.
    #[serde(default)]
    from: Option<u64>,
    /// Only those of this run; empty: all.
    #[serde(default)]
    run: String,
}

/// Records of the log.
pub(super) async fn show(
    State(api): State<Api>,
    Query(asked): Query<Asked>,
    viewer: Viewer,
) -> std::result::Result<Response, Refused> {
    let main = records(&api, &asked, &viewer, None).await?;
    Ok(viewer.page("Audit", None, &main)?)
}

/// Reads the whole log, compares it with its head and the rows with their records, and says so.
pub(super) async fn verify(State(api): State<Api>, viewer: Viewer) -> std::result::Result<Response, Refused> {
    let size = api.store.log_head().await?.size;
    if size > MOST_CHECKED {
        let what = format!(
            "the log has {size} records, more than are read while a browser waits; `fedbasin-server audit verify` reads all"
        );
        return Err(Error::new(Code::TooLarge, what).into());
    }
    let outcome = match api.checks.whole(&api.store, api.signer.head()).await {
        Ok(head) => html! {
            p.note.good role="status" {
                "Whole: all " (head.size) " records follow one another, the tree over them and its head are theirs, the log goes on from the head that was last signed, "
                "and rounds, updates and models are as their records say."
            }
        },
        Err(error) if error.code() == Code::DataLoss => {
            html! { p.note.bad role="alert" { (error.message()) } }
        }
        Err(error) => return Err(error.into()),
    };
    let asked = Asked { from: None, run: String::new() };
    let main = records(&api, &asked, &viewer, Some(&outcome)).await?;
    Ok(viewer.page("Audit", None, &main)?)
}

async fn records(api: &Api, asked: &Asked, viewer: &Viewer, outcome: Option<&Markup>) -> Result<Markup> {
    let run = Some(asked.run.trim()).filter(|run| !run.is_empty());
    if let Some(run) = run {
        check_id("run", run)?;
    }
    let head = api.store.log_head().await?;
    let newest = if run.is_some() { 0 } else { head.size.saturating_sub(PAGE.into()) };
    let from = asked.from.unwrap_or(newest);
    let lines = api.store.log_lines(from, PAGE, run).await?;
    let records: Vec<Record> = lines
        .iter()
        .map(|line| serde_json::from_str(line).map_err(Error::internal))
        .collect::<Result<_>>()?;
    let next = records.last().map(|record| record.seq + 1).filter(|next| *next < head.size);
    let next = next.filter(|_| records.len() == PAGE as usize);
    let query = |from: u64| match run {
        Some(run) => format!("/audit?run={run}&from={from}"),
        None => format!("/audit?from={from}"),
    };
    Ok(html! {
        h1 { "Audit log" }
        @if let Some(outcome) = outcome { (outcome) }
        (standing(api, &head.origin, head.size))
        div.controls {
            @if viewer.may(Role::Operator) {
                form method="post" action="/audit/verify" { button type="submit" { "Check the whole log" } }
            }
            a.button href="/audit/export" { "Export" }
        }
        p.hint {
            "A server cannot vouch for itself: " code { "fedbasin audit verify" }
            " checks an export with nothing else at hand than the public keys."
        }
        section aria-labelledby="records" {
            h2 #records { "Records" }
            form.filter method="get" action="/audit" {
                div { label for="run" { "Run" } input #run type="text" name="run" value=(asked.run) autocomplete="off"; }
                div { label for="from" { "From record" } input #from type="number" name="from" min="0" value=(from); }
                button type="submit" { "Filter" }
                a href="/audit" { "All, the newest" }
            }
            @if records.is_empty() { p { "There are none." } } @else { (of_records(&records)) }
            nav.crumbs aria-label="Pages" {
                @if from > 0 && run.is_none() { a href=(query(from.saturating_sub(PAGE.into()))) { "Older" } }
                @if let Some(next) = next { a href=(query(next)) { "Newer" } }
            }
        }
    })
}

/// How the log stands, and whether the head that travels with answers is signed by the keys that are given out.
fn standing(api: &Api, origin: &str, size: u64) -> Markup {
    let keys = api.signer.public();
    let signed = api.signer.head();
    let opened = signed.as_ref().map(|head| SignedHead::open(head.note(), &keys));
    html! {
        dl.facts {
            div { dt { "Log" } dd { (origin) } }
            div { dt { "Records" } dd { (size) } }
            div { dt { "Signed head" } dd {
                @match opened {
                    Some(Ok(head)) => { "of " (head.head.size) " records, its signature is right" }
                    Some(Err(error)) => { span.bad { "its signature is wrong: " (error.to_string()) } }
                    None => { "none yet" }
                }
            } }
            div.long { dt { "Keys" } dd { code { (keys.fingerprint()) } } }
        }
        @if let Some(head) = &signed {
            details { summary { "The signed head" } pre tabindex="0" { (head.note()) } }
        }
    }
}

fn of_records(records: &[Record]) -> Markup {
    table(
        "Records",
        "Records, the newest first",
        &[Number("Place"), Text("When"), Text("What"), Text("Who"), Text("Of"), Text("Why and what else")],
        &html! { @for record in records.iter().rev() { (row(record)) } },
    )
}

fn row(record: &Record) -> Markup {
    html! {
        tr {
            th.number scope="row" data-name="Place" { (record.seq) }
            td data-name="When" { (when(record.at_ms)) }
            td data-name="What" { (record.action) }
            td data-name="Who" {
                (record.who.kind)
                @if let Some(name) = &record.who.name { " " (name) }
            }
            td data-name="Of" {
                @match (&record.run, record.round) {
                    (Some(run), Some(round)) => { a href={ "/runs/" (run) "/rounds/" (round) } { (run) ", round " (round) } " " }
                    (Some(run), None) => { a href={ "/runs/" (run) } { (run) } " " }
                    _ => {}
                }
                @if let Some(site) = &record.site { a href={ "/sites/" (site) } { (site) } " " }
                @if let Some(after) = &record.after { (digest(after)) }
            }
            td data-name="Why and what else" {
                @if let Some(reason) = &record.reason { (reason) " " }
                @for (name, value) in &record.details { span.figure { (name) " " (short(&value.to_string())) } " " }
            }
        }
    }
}

/// No more of a value than a cell can hold.
fn short(value: &str) -> String {
    const MOST: usize = 120;
    let mut text: String = value.chars().take(MOST).collect();
    if text.len() < value.len() {
        text.push('…');
    }
    text
}
