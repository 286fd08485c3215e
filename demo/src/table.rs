//! The tables and the words under them.

use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

use crate::{
    eval::Score,
    report::{Report, Round},
};

#[cfg(test)]
mod tests;

/// One table for each round.
#[must_use]
pub fn tables(report: &Report) -> String {
    let mut text = String::new();
    for round in &report.rounds {
        text.push_str(&format!("\nRound {}\n{}\n", round.round, table(report, round)));
    }
    text
}

fn table(report: &Report, round: &Round) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["model", "trained on", "accuracy", "loss", "units moved"]);
    let mut row = |name: &str, trained_on: String, score: Score, moved: String| {
        let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        table.add_row([
            Cell::new(name),
            number(trained_on),
            number(format!("{:.3}", score.accuracy)),
            number(format!("{:.3}", score.loss)),
            number(moved),
        ]);
    };
    for (site, about) in round.sites.iter().zip(&report.sites) {
        let moved = format!("{} of {}", site.units_moved, report.units);
        row(&site.site, about.num_examples.to_string(), site.model.score, moved);
    }
    let all = || report.train_images.to_string();
    row("naive mean", all(), round.naive, String::new());
    let aligned = if round.units_moved() == 0 { "aligned mean (nothing moved)" } else { "aligned mean" };
    row(aligned, all(), round.aligned.score, round.units_moved().to_string());
    row("MergeMany", all(), round.merge_many, String::new());
    row("logit ensemble (all models kept)", all(), round.ensemble, String::new());
    row("one model on all data (the bound)", all(), report.all_data, String::new());
    table
}
