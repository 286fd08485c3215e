//! `fedbasin admin watch`: looks again and again, and says what changed.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use crate::{
    admin::{
        Admin,
        watch::{Change, RunChange, ServerChange, SiteChange, Watched, is_over, time_left},
    },
    cli::args::{Until, WatchArgs},
    error::{Error, Kind, Result},
    progress::{Board, Screen, bytes},
    retry::{Backoff, Patience},
};

/// How soon it looks again where something changed; each further look that finds nothing new comes later, up to the longest pause.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Watches a run to its end, or as long as is asked for.
///
/// # Errors
/// The run failed or was cancelled; the server refuses, or is another one; it was away for longer than patience lasts.
pub(super) fn watch(admin: &Admin, args: &WatchArgs, screen: &Screen) -> Result<()> {
    let mut watch = Watch::new(admin, args, screen);
    let mut backoff = Backoff::new(Patience::lasting(Duration::from_secs(args.patience_seconds)));
    let mut pause = SHORTEST_PAUSE;
    // A server that never answered is none that restarts.
    let mut answered = false;
    loop {
        let looked = watch.look();
        match looked {
            Ok(changed) => {
                answered = true;
                backoff.reset();
                if let Some(end) = watch.end() {
                    return end;
                }
                pause = if changed { SHORTEST_PAUSE } else { (pause * 3 / 2).min(LONGEST_PAUSE) };
            }
            Err(error) if answered && backoff.heeds(error.again()) => {
                watch.is_away(&error)?;
                let Some(wait) = backoff.pause(Instant::now()) else { return Err(error) };
                pause = wait;
            }
            Err(error) => return Err(error),
        }
        watch.wait(pause);
    }
}

/// A run that is watched.
struct Watch<'a> {
    admin: &'a Admin,
    args: &'a WatchArgs,
    screen: &'a Screen,
    board: Board,
    watched: Watched,
    /// Tens of percent of a site's update that were said as a line.
    said: BTreeMap<String, u64>,
    /// Whether the server did not answer the last time.
    away: bool,
    /// Whether a round was seen published: the next one may be open by the same look.
    published: bool,
}

impl<'a> Watch<'a> {
    fn new(admin: &'a Admin, args: &'a WatchArgs, screen: &'a Screen) -> Self {
        Self {
            admin,
            args,
            screen,
            board: Board::new(screen),
            watched: Watched::default(),
            said: BTreeMap::new(),
            away: false,
            published: false,
        }
    }

    /// Asks the server, and says what is new; whether anything is.
    fn look(&mut self) -> Result<bool> {
        let run = self.admin.run(&self.args.id)?;
        let mut rounds = Vec::new();
        if let Some(newest) = run.current_round {
            // The one that was seen last may have gone on, and others may have opened and ended since.
            let first = match self.watched.round() {
                Some(seen) if is_over(&seen.state) => seen.round.saturating_add(1),
                Some(seen) => seen.round,
                None => newest,
            };
            for number in first..=newest {
                rounds.push(self.admin.round(&self.args.id, number)?);
            }
        }
        let mut changed = std::mem::take(&mut self.away);
        if changed {
            self.tell(&Change::Server(ServerChange { answers: true, error: None }))?;
        }
        // The run's end is said after its last round's.
        let over = is_over(&run.state);
        if !over && let Some(change) = self.watched.see_run(&run) {
            self.tell(&change)?;
            changed = true;
        }
        for round in &rounds {
            for change in self.watched.see_round(&run, round, Instant::now(), self.admin.server_time()) {
                self.tell(&change)?;
                changed = true;
            }
        }
        if over && let Some(change) = self.watched.see_run(&run) {
            self.tell(&change)?;
            changed = true;
        }
        self.show();
        Ok(changed)
    }

    /// The server did not answer: said once, and made sure of who answers next.
    fn is_away(&mut self, error: &Error) -> Result<()> {
        if !std::mem::replace(&mut self.away, true) {
            self.admin.compare_again();
            self.tell(&Change::Server(ServerChange { answers: false, error: Some(error.to_string()) }))?;
        }
        self.show();
        Ok(())
    }

    /// Says a change: to a program each, to a person what the board does not show.
    fn tell(&mut self, change: &Change) -> Result<()> {
        self.published |= matches!(change, Change::Round(round) if round.state == "published");
        let live = self.screen.is_live() && !self.args.once;
        let worth_a_line = match change {
            _ if self.screen.is_for_a_program() => true,
            Change::Site(site) if live => matches!(site.state.as_str(), "rejected" | "declined"),
            Change::Site(site) => self.is_a_step(site),
            _ => true,
        };
        if live
            && let Change::Round(round) = change
            && is_over(&round.state)
        {
            // The board is about to show the next one.
            for site in
                self.watched.sites().filter(|site| !matches!(site.state.as_str(), "rejected" | "declined"))
            {
                self.screen.say(Change::Site(site.clone()));
            }
        }
        if worth_a_line { self.screen.event(change) } else { Ok(()) }
    }

    /// Whether a line is due: of an update on its way at each ten percent.
    fn is_a_step(&mut self, site: &SiteChange) -> bool {
        match site.percent() {
            Some(percent) => self.said.insert(site.site.clone(), percent / 10) != Some(percent / 10),
            None => {
                self.said.remove(&site.site);
                true
            }
        }
    }

    fn show(&mut self) {
        let mut lines = Vec::new();
        let run = self.watched.run().map(ToString::to_string).unwrap_or_default();
        let away = if self.away { "; the server does not answer" } else { "" };
        lines.push((format!("{run}{away}"), None));
        if let Some(round) = self.watched.round() {
            let held = self
                .watched
                .sites()
                .filter(|site| matches!(site.state.as_str(), "accepted" | "aligned"))
                .count();
            let left = round.seconds_left.map(|seconds| format!(", {} left", time_left(seconds)));
            let text = format!(
                "round {}: {}, {held} of {} updates, quorum {}{}",
                round.round,
                round.state,
                round.sites,
                round.quorum,
                left.unwrap_or_default()
            );
            lines.push((text, None));
        }
        for site in self.watched.sites() {
            lines.push(match (site.received_bytes, site.size) {
                (Some(received), Some(size)) => {
                    let rate = site.bytes_per_second.map(|rate| format!(", {}/s", bytes(rate)));
                    let percent = site.percent().unwrap_or(0);
                    let text = format!("{}: receiving {percent} %{}", site.site, rate.unwrap_or_default());
                    (text, Some((received, size)))
                }
                _ => (format!("{}: {}", site.site, site.state()), None),
            });
        }
        self.board.show(&lines);
    }

    /// How it ended, if it did.
    fn end(&self) -> Option<Result<()>> {
        let run = self.watched.run()?;
        let until = self.args.until == Some(Until::Published) && self.published;
        match run.state.as_str() {
            "failed" => Some(Err(ended(run, Kind::RunFailed))),
            "cancelled" => Some(Err(ended(run, Kind::RunCancelled))),
            "complete" => Some(Ok(())),
            _ if self.args.once || until => Some(Ok(())),
            _ => None,
        }
    }

    /// Sleeps, while the time that is left goes on.
    fn wait(&mut self, pause: Duration) {
        let begun = Instant::now();
        while let Some(left) = pause.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
            thread::sleep(left.min(Duration::from_secs(1)));
            self.watched.tick(self.admin.server_time());
            self.show();
        }
    }
}

fn ended(run: &RunChange, kind: Kind) -> Error {
    let reason = run.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    Error::run_ended(
        kind,
        format_args!("it is {}{reason}", run.state),
        format_args!("run {}", run.run),
        format_args!("see `fedbasin admin rounds {}`", run.run),
    )
}
