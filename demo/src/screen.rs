//! What is seen while the demo runs: a bar for each trainer on a terminal, plain lines otherwise. On standard error.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The lanes of the screen: the sites, then the model of all data.
#[derive(Debug)]
pub struct Screen {
    multi: MultiProgress,
    lanes: Vec<Lane>,
    plain: bool,
}

#[derive(Debug)]
struct Lane {
    name: String,
    bar: ProgressBar,
    /// What the last plain line said.
    told: String,
}

impl Screen {
    /// A lane for each name.
    #[must_use]
    pub fn new(names: &[String]) -> Self {
        let multi = MultiProgress::new();
        let plain = multi.is_hidden();
        // The template is a constant: it parses.
        let style = ProgressStyle::with_template("{prefix:<9} {bar:24} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let lane = |name: &String| {
            let bar = multi.add(ProgressBar::new(1).with_style(style.clone()).with_prefix(name.clone()));
            bar.set_message("starting");
            Lane { name: name.clone(), bar, told: String::new() }
        };
        let lanes = names.iter().map(lane).collect();
        Self { multi, lanes, plain }
    }

    /// A line of its own, above the bars.
    pub fn say(&self, text: impl std::fmt::Display) {
        if self.plain {
            eprintln!("{text}");
        } else {
            // A terminal that went away is no reason to stop.
            let _ = self.multi.println(text.to_string());
        }
    }

    /// A lane's state: `stage` is told in plain lines when it changes, `detail` only stands beside a bar.
    pub fn show(&mut self, lane: usize, done: u64, total: u64, stage: &str, detail: &str) {
        let Some(lane) = self.lanes.get_mut(lane) else { return };
        lane.bar.set_length(total.max(1));
        lane.bar.set_position(done.min(total));
        lane.bar.set_message(format!("{stage}{detail}"));
        if self.plain && lane.told != stage {
            eprintln!("{:<9} {stage}", lane.name);
            stage.clone_into(&mut lane.told);
        }
    }

    /// Takes the bars away.
    pub fn clear(&self) {
        // As above.
        let _ = self.multi.clear();
    }
}
