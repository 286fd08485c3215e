//! What a person sees while it lasts: bars on a terminal, plain lines otherwise.

mod board;

use std::{
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::error::{Error, Result, one_line};
pub use board::Board;

/// For whom a program speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// A person: lines and answers on standard output.
    Person,
    /// A program: the answer as JSON on standard output, lines on standard error.
    Program,
    /// Nobody.
    Nobody,
}

/// Where a program speaks: lines and answers; bars on standard error when that is a terminal.
#[derive(Debug, Clone)]
pub struct Screen {
    bars: Option<MultiProgress>,
    reader: Reader,
}

impl Screen {
    /// Bars if standard error is a terminal. With `json`, answers are JSON on standard output, and all else goes to standard
    /// error.
    #[must_use]
    pub fn detect(json: bool) -> Self {
        let reader = if json { Reader::Program } else { Reader::Person };
        Self { bars: io::stderr().is_terminal().then(MultiProgress::new), reader }
    }

    /// Says nothing at all: for programs that use the library.
    #[must_use]
    pub fn silent() -> Self {
        Self { bars: None, reader: Reader::Nobody }
    }

    /// Whether standard output is for answers in JSON alone.
    #[must_use]
    pub fn is_for_a_program(&self) -> bool {
        self.reader == Reader::Program
    }

    /// Whether a person sees lines and bars on one terminal: what the bars show needs no line.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.reader == Reader::Person && self.bars.is_some() && io::stdout().is_terminal()
    }

    /// Says one line. A reader that went away is no reason to stop.
    pub fn say(&self, text: impl std::fmt::Display) {
        self.write(self.reader == Reader::Program, &one_line(&[&text.to_string()]));
    }

    /// Says one line on standard error, for whoever reads: beside an answer that may go into a pipe.
    pub fn remark(&self, text: impl std::fmt::Display) {
        self.write(true, &one_line(&[&text.to_string()]));
    }

    /// Gives the answer to what was asked: `value` for programs, `text` for people.
    ///
    /// # Errors
    /// A value that is none in JSON.
    pub fn answer(&self, value: &impl serde::Serialize, text: impl FnOnce() -> String) -> Result<()> {
        match self.reader {
            Reader::Person => self.write(false, &text()),
            Reader::Program => {
                let json = serde_json::to_string_pretty(value).map_err(|error| {
                    Error::failed(error, "the answer as JSON", "this is a defect, report it")
                })?;
                self.write(false, &json);
            }
            Reader::Nobody => {}
        }
        Ok(())
    }

    /// Gives one of many answers, as one line: of JSON for programs.
    ///
    /// # Errors
    /// A value that is none in JSON.
    pub fn event(&self, value: &(impl serde::Serialize + std::fmt::Display)) -> Result<()> {
        match self.reader {
            Reader::Person => self.say(value),
            Reader::Program => {
                let json = serde_json::to_string(value).map_err(|error| {
                    Error::failed(error, "the answer as JSON", "this is a defect, report it")
                })?;
                self.write(false, &json);
            }
            Reader::Nobody => {}
        }
        Ok(())
    }

    fn write(&self, to_stderr: bool, text: &str) {
        if self.reader == Reader::Nobody {
            return;
        }
        let text = text.trim_end();
        let write = || {
            let _ = if to_stderr {
                writeln!(io::stderr(), "{text}")
            } else {
                let mut out = io::stdout().lock();
                writeln!(out, "{text}").and_then(|()| out.flush())
            };
        };
        match &self.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    /// Begins to show the progress of something that has `total` steps.
    #[must_use]
    pub fn steps(&self, label: &str, total: u64) -> Steps {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new(total));
            if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}, {eta} left") {
                bar.set_style(style);
            }
            bar.set_message(label.to_owned());
            bar
        });
        Steps { bar }
    }

    /// Begins to show the progress of something that has `total` bytes.
    #[must_use]
    pub fn bytes(&self, label: &str, total: u64) -> Bar {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new(total));
            // A constant template: if it did not parse, the plain default would be shown.
            if let Ok(style) =
                ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
            {
                bar.set_style(style);
            }
            bar.set_message(label.to_owned());
            bar
        });
        let state = State { total, done: 0, said: Instant::now() };
        Bar {
            screen: self.clone(),
            bar,
            label: label.to_owned(),
            begun: Instant::now(),
            state: Arc::new(Mutex::new(state)),
        }
    }
}

/// The progress of a search: start, sweep, objective and the time it has taken. On a terminal only: elsewhere the outcome is one
/// line. Gone from the screen when dropped.
#[derive(Debug)]
pub struct SearchLine {
    bar: Option<ProgressBar>,
    label: String,
    begun: Instant,
    starts: usize,
    /// At most so long, as far as the starts so far tell.
    left: Option<Duration>,
}

/// How long the starts that are left take, if each takes as long as those before.
fn time_left(passed: Duration, done: usize, starts: usize) -> Option<Duration> {
    let each = passed.checked_div(u32::try_from(done).ok()?)?;
    each.checked_mul(u32::try_from(starts.saturating_sub(done)).ok()?)
}

impl SearchLine {
    /// Begins to show a search.
    #[must_use]
    pub fn new(screen: &Screen, label: &str) -> Self {
        let bar = screen.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar.set_message(label.to_owned());
            bar
        });
        Self { bar, label: label.to_owned(), begun: Instant::now(), starts: 0, left: None }
    }

    /// Notes an event.
    pub fn see(&mut self, event: &rebasin::Progress) {
        let Some(bar) = &self.bar else { return };
        match event {
            rebasin::Progress::Starts { some, of } => {
                self.left = time_left(self.begun.elapsed(), some.start, *of);
                self.starts = *of;
            }
            rebasin::Progress::Sweep { start, sweep, objective } => {
                let (start, starts) = (start + 1, self.starts);
                let label = &self.label;
                let left = match self.left {
                    Some(left) => format!("at most {:.0} s left", left.as_secs_f64().ceil()),
                    None => "time left not known yet".to_owned(),
                };
                bar.set_message(format!(
                    "{label}: start {start} of at most {starts}, sweep {sweep}, objective {objective:.4}, {left}"
                ));
            }
            rebasin::Progress::Group { .. } | rebasin::Progress::Balance { .. } => {}
        }
    }
}

impl SearchLine {
    /// Notes an event of `MergeMany` over that many checkpoints.
    pub fn see_merge(&mut self, event: &rebasin::MergeProgress<'_>, checkpoints: usize) {
        let Some(bar) = &self.bar else { return };
        let label = &self.label;
        match event {
            rebasin::MergeProgress::Turn { iteration, done, .. } => {
                bar.set_message(format!(
                    "{label}: pass {iteration}, checkpoint {} of {checkpoints}",
                    done + 1
                ));
            }
            rebasin::MergeProgress::Iteration { iteration, outcome } => {
                bar.set_message(format!(
                    "{label}: pass {iteration} done, objective {:.4}",
                    outcome.objective
                ));
            }
            rebasin::MergeProgress::Search(_) => {}
        }
    }
}

impl Drop for SearchLine {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Progress in steps of about equal length, with the time left. On a terminal only. Gone from the screen when dropped.
#[derive(Debug)]
pub struct Steps {
    bar: Option<ProgressBar>,
}

impl Steps {
    /// One more is done.
    pub fn advance(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How often a plain line may be said.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct State {
    total: u64,
    done: u64,
    said: Instant,
}

/// Progress of one transfer. Gone from the screen when dropped.
#[derive(Debug)]
pub struct Bar {
    screen: Screen,
    bar: Option<ProgressBar>,
    label: String,
    begun: Instant,
    state: Arc<Mutex<State>>,
}

impl Bar {
    /// Learns how many bytes there are in all.
    pub fn set_total(&self, total: u64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).total = total;
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
    }

    /// `done` bytes are done.
    pub fn set(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
        let line = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.done = done;
            let due = self.bar.is_none() && done < state.total && state.said.elapsed() >= PLAIN_INTERVAL;
            due.then(|| {
                state.said = Instant::now();
                format!("{}: {} of {}", self.label, bytes(done), bytes(state.total))
            })
        };
        if let Some(line) = line {
            self.screen.say(line);
        }
    }

    /// How long it took so far, and how fast that was: `100.0 MB in 1.2 s, 83.3 MB/s`.
    #[must_use]
    pub fn summary(&self, moved: u64) -> String {
        let seconds = self.begun.elapsed().as_secs_f64();
        let rate = if seconds > 0.0 { moved as f64 / seconds } else { 0.0 };
        format!("{} in {seconds:.1} s, {}/s", bytes(moved), bytes(rate as u64))
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A number of bytes for a person, in powers of 1000.
#[must_use]
pub fn bytes(count: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

#[cfg(test)]
mod tests;
