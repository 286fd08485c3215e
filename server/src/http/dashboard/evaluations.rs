//! How good sites find a round's models, and models on the way from theirs to the global one.

use maud::{Markup, html};

use super::{
    charts::{Path, Paths, paths},
    table::{
        Column::{Number, Text},
        table,
    },
    text::{number, percent, plural},
};
use crate::{
    error::Result,
    http::{
        evaluations::{Evaluations, MeanOfSites, SiteEvaluation},
        rounds::Round,
    },
    model::{Evaluated, PathPoint, path::barrier},
};

/// One figure of a place.
type Figure = fn(&PathPoint) -> Option<f64>;

/// What sites say of the round's models.
///
/// # Errors
/// None that is expected: a drawing that fails.
pub(super) fn show(round: &Round) -> Result<Markup> {
    let known = &round.evaluations;
    let sites = known.sites.as_deref().unwrap_or_default();
    let means = [
        ("the global model", &known.global),
        ("the naive mean", &known.naive),
        ("the sites' own models", &known.own),
    ];
    let along = along(known)?;
    Ok(html! {
        @if !sites.is_empty() {
            section aria-labelledby="evaluations" {
                h2 #evaluations { "Evaluations by sites" }
                (table(
                    "Evaluations",
                    "How good sites find the round's models",
                    &[Text("Model"), Text("Site"), Number("Examples"), Number("Loss"), Number("Accuracy")],
                    &html! {
                        @for (name, mean) in means {
                            @if let Some(mean) = mean { (mean_row(name, mean)) }
                        }
                        @for said in sites { (site_row(said)) }
                    },
                ))
                (along)
            }
        }
    })
}

fn site_row(said: &SiteEvaluation) -> Markup {
    html! {
        tr {
            th scope="row" data-name="Model" { (said.model.name()) }
            td data-name="Site" { a href={ "/sites/" (said.site) } { (said.site) } }
            td.number data-name="Examples" { (said.num_examples) }
            td.number data-name="Loss" { (or_dash(said.loss, number)) }
            td.number data-name="Accuracy" { (or_dash(said.accuracy, percent)) }
        }
    }
}

fn mean_row(name: &str, mean: &MeanOfSites) -> Markup {
    html! {
        tr {
            th scope="row" data-name="Model" { "mean of " (name) }
            td data-name="Site" { (plural(mean.sites as usize, "site", "sites")) }
            td.number data-name="Examples" { (mean.num_examples) }
            td.number data-name="Loss" { (or_dash(mean.loss, number)) }
            td.number data-name="Accuracy" { (or_dash(mean.accuracy, percent)) }
        }
    }
}

fn or_dash(value: Option<f64>, shown: fn(f64) -> String) -> String {
    value.map_or_else(|| "–".into(), shown)
}

/// The ways to the global model, where sites measured them: loss and accuracy, from their own models and from the naive mean.
fn along(known: &Evaluations) -> Result<Markup> {
    let figures: [(&str, Figure); 2] =
        [("loss", |point| Some(point.loss)), ("accuracy", |point| point.accuracy)];
    let models = [
        (Evaluated::Own, &known.own, "each site's own model, as it sent it,"),
        (Evaluated::Naive, &known.naive, "the naive mean"),
    ];
    let mut charts = Vec::new();
    let mut barriers = Vec::new();
    for (model, mean, name) in models {
        for (unit, of) in figures {
            charts.extend(paths(&Paths {
                title: &format!("{unit} from {name} to the global model"),
                unit,
                across: "0: that model, 1: the global one",
                paths: lines(known, model, mean.as_ref(), of),
            })?);
        }
        let path = mean.as_ref().and_then(|mean| mean.path.as_ref());
        barriers.extend(path.and_then(|path| barrier(&path.points)).map(|barrier| (name, barrier)));
    }
    Ok(html! {
        @if !charts.is_empty() {
            h3 { "On the way to the global model" }
            p.hint {
                "The straight line between two models: at each place, a part of the one and the rest of the other, tried by the sites' own examples."
                @for (name, barrier) in &barriers {
                    " From " (name)
                    @if *barrier > 0.0 { " the mean loss rises by " (number(*barrier)) " above the line between its two ends (the barrier)." }
                    @else { " the mean loss rises nowhere above the line between its two ends: there is no barrier." }
                }
            }
            div.charts { @for chart in charts { (chart) } }
        }
    })
}

/// The mean, if it is of several sites, and each site's.
fn lines(known: &Evaluations, model: Evaluated, mean: Option<&MeanOfSites>, of: Figure) -> Vec<Path> {
    let line = |name: String, points: &[PathPoint]| Path {
        name,
        points: points.iter().filter_map(|point| Some((point.t, of(point)?))).collect(),
    };
    let mean = mean.and_then(|mean| mean.path.as_ref()).filter(|path| path.sites > 1);
    let mean = mean.map(|path| line(format!("mean of {} sites", path.sites), &path.points));
    let sites = known.sites.iter().flatten().filter(|said| said.model == model);
    let sites = sites.map(|said| line(said.site.clone(), said.path.as_deref().unwrap_or_default()));
    mean.into_iter().chain(sites).filter(|line| !line.points.is_empty()).collect()
}

#[cfg(test)]
mod tests;
