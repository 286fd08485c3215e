//! How good a round's models are, as a table.

use super::table;
use crate::admin::types::{MeanOfSites, Round};

/// A table of what sites reported of a round's models; nothing where none did.
pub(super) fn text(round: &Round) -> String {
    let all = &round.evaluations;
    let mut table = table(&["model", "site", "loss", "accuracy", "examples"]);
    let mut row = |model: &str, of: &str, figures: (Option<f64>, Option<f64>), examples: u64| {
        let (of_loss, of_accuracy) = figures;
        table.add_row([model, of, &loss(of_loss), &accuracy(of_accuracy), &examples.to_string()]);
    };
    let mut any = false;
    for (model, mean) in [("global", &all.global), ("naive", &all.naive), ("own", &all.own)] {
        let Some(MeanOfSites { sites, num_examples, loss, accuracy, .. }) = mean else { continue };
        any = true;
        row(model, &format!("mean of {sites}"), (*loss, *accuracy), *num_examples);
        for site in all.sites.iter().flatten().filter(|site| site.model == model) {
            row(model, &site.site, (site.loss, site.accuracy), site.num_examples);
        }
    }
    if !any {
        return String::new();
    }
    let best = if round.best { "\nthe best global model of the run so far" } else { "" };
    format!("\n{table}{best}{}{}", path("naive", all.naive.as_ref()), path("own", all.own.as_ref()))
}

/// The mean loss on the way from models to the global one; nothing where no site measured it.
fn path(model: &str, mean: Option<&MeanOfSites>) -> String {
    let Some(path) = mean.and_then(|mean| mean.path.as_ref()) else { return String::new() };
    let points: Vec<String> =
        path.points.iter().map(|point| format!("{:.4} at {:.2}", point.loss, point.t)).collect();
    format!("\nloss from {model} (0) to global (1), mean of {}: {}", path.sites, points.join(", "))
}

pub(super) fn loss(loss: Option<f64>) -> String {
    loss.map(|loss| format!("{loss:.4}")).unwrap_or_default()
}

pub(super) fn accuracy(accuracy: Option<f64>) -> String {
    accuracy.map(|accuracy| format!("{:.2} %", 100.0 * accuracy)).unwrap_or_default()
}
