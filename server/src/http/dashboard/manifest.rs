//! What a model's signature says that the model was made from, as people read it. `proof/README.md` has the fields.

use fedbasin_proof::{ProofError, model::ModelStatement};
use maud::{Markup, html};
use serde_json::{Map, Value};

use super::{
    table::{
        Column::{Number, Text},
        table,
    },
    text::{digest, number, percent, plural},
};
use crate::{error::Result, http::Api};

/// The fields that are shown in a form of their own; any other one is shown as it is.
const KNOWN: [&str; 11] = [
    "kind",
    "run",
    "round",
    "strategy",
    "reference",
    "participants",
    "num_examples",
    "greatest_share_at_most",
    "alignment",
    "software",
    "log_record",
];

/// A signature of a round's model, and what it says once it was checked.
pub(super) struct Manifest(std::result::Result<ModelStatement, ProofError>);

/// That of a round, if its model is signed.
///
/// # Errors
/// Those of the database.
pub(super) async fn of_round(api: &Api, run: &str, number: u32) -> Result<Option<Manifest>> {
    let bundle = api.store.model_signature(run, number).await?;
    Ok(bundle.map(|bundle| Manifest(ModelStatement::open(&bundle, &api.signer.public()))))
}

impl Manifest {
    /// What is signed, beside the model's `global` digest that the rows tell. What is not as it was signed is not shown.
    pub(super) fn show(&self, global: &str) -> Markup {
        let statement = match &self.0 {
            Ok(statement) => statement,
            Err(error) => {
                return html! { p.note.bad role="alert" { "Its signature cannot be relied upon: " (error.to_string()) } };
            }
        };
        let empty = Map::new();
        let fields = statement.provenance.as_object().unwrap_or(&empty);
        html! {
            h3 { "What its signature says" }
            @if statement.digest != global {
                p.note.bad role="alert" { "It is the signature of another model, " (digest(&statement.digest)) }
            }
            dl.facts {
                div { dt { "Name" } dd { (statement.name) } }
                (of_making(fields))
                @for (name, value) in fields.iter().filter(|(name, _)| !KNOWN.contains(&name.as_str())) {
                    div { dt { (name) } dd { (plain(value)) } }
                }
            }
            @if let Some(named) = fields.get("participants").and_then(Value::as_array) { (participants(named)) }
        }
    }
}

/// How the model was made, of what, by what, and where the log has it.
fn of_making(fields: &Map<String, Value>) -> Markup {
    let of = |name: &str| fields.get(name).filter(|value| !value.is_null());
    html! {
        @if let (Some(run), Some(round)) = (of("run"), of("round")) {
            div { dt { "Run and round" } dd { (plain(run)) ", " (plain(round)) } }
        }
        @if let Some(strategy) = of("strategy") { div { dt { "Strategy" } dd { (plain(strategy)) } } }
        div { dt { "Reference" } dd {
            @match of("reference").and_then(Value::as_str) {
                Some(reference) => { (digest(reference)) }
                None => { "one of the updates, not named" }
            }
        } }
        div { dt { "Participants" } dd {
            @match of("participants") {
                Some(Value::Array(named)) => { (named.len()) ", named below" }
                Some(count) => { (plain(count)) ", not named" }
                None => { "–" }
            }
        } }
        @if let Some(examples) = of("num_examples") { div { dt { "Examples" } dd { (plain(examples)) } } }
        @if let Some(most) = of("greatest_share_at_most").and_then(Value::as_f64) {
            div { dt { "Greatest share" } dd { "at most " (percent(most)) } }
        }
        div.long { dt { "Alignment" } dd {
            @match of("alignment").and_then(Value::as_object) {
                Some(figures) => { (alignment(figures)) }
                None => { "nothing was aligned" }
            }
        } }
        @if let Some(software) = of("software") { div { dt { "Software" } dd { (plain(software)) } } }
        @if let Some(place) = of("log_record").and_then(Value::as_u64) {
            div { dt { "Published by" } dd { a href={ "/audit?from=" (place) } { "record " (place) } " of the audit log" } }
        }
    }
}

/// What alignment did to all updates together.
fn alignment(figures: &Map<String, Value>) -> Markup {
    let count = |name: &str| figures.get(name).and_then(Value::as_u64);
    let part = |name: &str| figures.get(name).and_then(Value::as_f64);
    let updates = count("updates").unwrap_or_default();
    html! {
        (plural(usize::try_from(updates).unwrap_or(usize::MAX), "update", "updates"))
        @if let Some(count) = count("nothing_moved") { ", of " (count) " nothing moved" }
        @if let Some(count) = count("identity_certified") { ", " (count) " proved to need no permutation" }
        @if let (Some(mean), Some(most)) = (part("moved_mean"), part("moved_most")) {
            "; units moved: " (percent(mean)) " in the mean, " (percent(most)) " at the most"
        }
        @if let (Some(before), Some(after)) = (part("distance_before_mean"), part("distance_after_mean")) {
            "; distance by the reference's length: " (number(before)) " before, " (number(after)) " after"
        }
        @if let (Some(least), Some(most)) = (part("scaled_least"), part("scaled_most")) {
            "; units scaled by " (number(least)) " to " (number(most))
        }
        @if figures.get("refined").and_then(Value::as_bool) == Some(true) { "; refined by MergeMany" }
    }
}

fn participants(named: &[Value]) -> Markup {
    let figure = |of: &Value, name: &str, shown: fn(f64) -> String| {
        of.get(name).and_then(Value::as_f64).map_or_else(|| "–".into(), shown)
    };
    table(
        "Participants",
        "Participants, as the model's signature names them",
        &[
            Text("Site"),
            Text("Update"),
            Number("Share"),
            Number("Units moved"),
            Number("Distance before"),
            Number("after"),
        ],
        &html! {
            @for of in named {
                tr {
                    th scope="row" data-name="Site" { (plain(&of["site"])) }
                    td data-name="Update" { (digest(of["digest"].as_str().unwrap_or_default())) }
                    td.number data-name="Share" { (figure(of, "share", percent)) }
                    td.number data-name="Units moved" { (figure(of, "moved", percent)) }
                    td.number data-name="Distance before" { (figure(of, "distance_before", number)) }
                    td.number data-name="Distance after" { (figure(of, "distance_after", number)) }
                }
            }
        },
    )
}

/// A value as a person writes it: a text without its quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests;
