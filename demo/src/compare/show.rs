//! What is seen: a line while a method works, a table for each network.

use std::io::{IsTerminal as _, Write as _};

use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use indicatif::{ProgressBar, ProgressStyle};

use super::outcome::{Comparison, Path, Studied};

/// How far a piece of work is: a bar on a terminal, one plain line otherwise. On standard error.
pub(super) struct Line {
    bar: Option<ProgressBar>,
}

impl Line {
    /// Begins; `total` 0 where it is not known how long it takes.
    pub(super) fn new(label: &str, total: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            // Nowhere is left to say that this failed.
            let _ = writeln!(std::io::stderr(), "{label}");
            return Self { bar: None };
        }
        let template = if total > 0 {
            "{prefix} {bar:24} {msg}, {eta} left"
        } else {
            "{spinner} {prefix} {msg} {elapsed}"
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(total).with_style(style).with_prefix(label.to_owned());
        Self { bar: Some(bar) }
    }

    pub(super) fn at(&mut self, done: u64, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(text.to_owned());
        }
    }

    pub(super) fn say(&mut self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
            bar.tick();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A table for each network, and what its columns mean.
pub(super) fn tables(comparison: &Comparison) -> String {
    let mut text = String::new();
    for studied in &comparison.networks {
        text.push_str(&format!(
            "\n{}: two sites with {} and {} images, {} epochs, seed {}; {} test images\n{}\n",
            studied.network,
            studied.train_images[0],
            studied.train_images[1],
            comparison.epochs,
            comparison.seed,
            comparison.test_images,
            table(studied)
        ));
    }
    text.push_str(&format!(
        "barrier: the highest test loss on the path less the mean of its ends; over the chord: the highest excess over the line \
         between them. Where it is said, BatchNorm's statistics were computed anew on images that the sites held back. {:.0} s in all.",
        comparison.seconds
    ));
    text
}

fn table(studied: &Studied) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "model",
        "accuracy",
        "loss",
        "training loss",
        "barrier",
        "over the chord",
        "moved",
        "seconds",
    ]);
    let mut row = |name: &str, cells: [Option<f64>; 7]| {
        let digits = [3, 3, 3, 3, 3, 2, 2];
        let number = |(value, digits): (Option<f64>, usize)| {
            let text = value.map_or_else(String::new, |value| format!("{value:.digits$}"));
            Cell::new(text).set_alignment(CellAlignment::Right)
        };
        let cells = cells.into_iter().zip(digits).map(number);
        table.add_row(std::iter::once(Cell::new(name)).chain(cells).collect::<Vec<_>>());
    };
    for (index, site) in studied.sites.iter().enumerate() {
        let cells =
            [Some(site.test.accuracy), Some(site.test.loss), Some(site.train_loss), None, None, None, None];
        row(&format!("site {index}"), cells);
    }
    for method in &studied.methods {
        let mut path = |name: &str, path: &Path, seconds: Option<f64>| {
            let Path { middle, barrier, barrier_over_chord, .. } = path;
            let cells = [
                Some(middle.test.accuracy),
                Some(middle.test.loss),
                Some(middle.train_loss),
                Some(*barrier),
                Some(*barrier_over_chord),
                Some(method.moved),
                seconds,
            ];
            row(name, cells);
        };
        path(&method.name, &method.merged, Some(method.seconds));
        if let Some(anew) = &method.anew {
            path(&format!("{}, statistics anew", method.name), anew, None);
        }
    }
    let score = |score: crate::eval::Score| [Some(score.accuracy), Some(score.loss)];
    let [accuracy, loss] = score(studied.ensemble);
    row("logit ensemble (both models kept)", [accuracy, loss, None, None, None, None, None]);
    let [accuracy, loss] = score(studied.all_data.test);
    row("one model on all data", [accuracy, loss, Some(studied.all_data.train_loss), None, None, None, None]);
    table
}
