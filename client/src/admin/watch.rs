//! What changes in a run from one look to the next. Pure: it is shown what the server says, and tells what is new in it.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    time::{Duration, Instant},
};

use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::types::{AlignReport, Round, RoundSite, Run};
use crate::progress::bytes;

/// Something that is not as it was at the look before. As JSON: one object, whose `change` says of what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "lowercase")]
pub enum Change {
    /// The run.
    Run(RunChange),
    /// Its newest round.
    Round(RoundChange),
    /// One site's part in that.
    Site(SiteChange),
    /// The server itself.
    Server(ServerChange),
}

/// How a run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunChange {
    /// Its id.
    pub run: String,
    /// `open`, `complete`, `failed` or `cancelled`.
    pub state: String,
    /// Why it failed.
    pub reason: Option<String>,
    /// Since when no further round opens, ISO 8601 UTC.
    pub paused_at: Option<String>,
    /// How many rounds were published.
    pub rounds_published: u32,
    /// How many are to be.
    pub rounds: u32,
}

/// How a round stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RoundChange {
    /// The run's id.
    pub run: String,
    /// Its number, from 1.
    pub round: u32,
    /// `collecting`, `merging`, `published`, `failed` or `cancelled`.
    pub state: String,
    /// Why it failed.
    pub reason: Option<String>,
    /// Fewest updates that may be merged.
    pub quorum: u32,
    /// How many sites are to take part.
    pub sites: usize,
    /// When it opened, ISO 8601 UTC.
    pub opened_at: String,
    /// When collecting ends at the latest.
    pub deadline_at: String,
    /// How many seconds are left until then, by the server's clock. Where that alone changes, nothing does.
    pub seconds_left: Option<u64>,
    /// When it ended.
    pub closed_at: Option<String>,
    /// Digest of the model that it published.
    pub global_digest: Option<String>,
    /// Size of that in bytes.
    pub global_size: Option<u64>,
}

/// How a site stands in a round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SiteChange {
    /// The run's id.
    pub run: String,
    /// The round's number.
    pub round: u32,
    /// The site's id.
    pub site: String,
    /// `silent`, `receiving`, `accepted`, `rejected`, `declined` or `aligned`.
    pub state: String,
    /// Why it was rejected or declined.
    pub reason: Option<String>,
    /// How many bytes of its update were received so far.
    pub received_bytes: Option<u64>,
    /// Its update's size in bytes.
    pub size: Option<u64>,
    /// How fast they came of late. Where that alone changes, nothing does.
    pub bytes_per_second: Option<u64>,
    /// How many examples it trained on.
    pub num_examples: Option<u64>,
    /// Of how many units the aligned groups are.
    pub units: Option<u64>,
    /// How many of them moved.
    pub moved_units: Option<u64>,
}

/// Whether the server answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerChange {
    /// Whether it does.
    pub answers: bool,
    /// What went wrong.
    pub error: Option<String>,
}

/// Whether a run, or a round, is in a state that it does not leave.
#[must_use]
pub fn is_over(state: &str) -> bool {
    matches!(state, "complete" | "published" | "failed" | "cancelled")
}

/// What was seen of a run so far.
#[derive(Debug, Default)]
pub struct Watched {
    run: Option<RunChange>,
    round: Option<RoundChange>,
    sites: BTreeMap<String, SiteChange>,
    meters: BTreeMap<String, Meter>,
}

impl Watched {
    /// The run as it was last seen.
    #[must_use]
    pub fn run(&self) -> Option<&RunChange> {
        self.run.as_ref()
    }

    /// The newest round as it was last seen.
    #[must_use]
    pub fn round(&self) -> Option<&RoundChange> {
        self.round.as_ref()
    }

    /// Its sites, by id.
    pub fn sites(&self) -> impl Iterator<Item = &SiteChange> {
        self.sites.values()
    }

    /// The time that is left, a little later.
    pub fn tick(&mut self, server_now: Option<OffsetDateTime>) {
        if let Some(round) = &mut self.round {
            round.seconds_left = seconds_left(&round.state, &round.deadline_at, server_now);
        }
    }

    /// Looks at the run.
    pub fn see_run(&mut self, run: &Run) -> Option<Change> {
        let seen = RunChange {
            run: run.id.clone(),
            state: run.state.clone(),
            reason: run.reason.clone(),
            paused_at: run.paused_at.clone(),
            rounds_published: run.rounds_published,
            rounds: run.policy.rounds,
        };
        if self.run.as_ref() == Some(&seen) {
            return None;
        }
        self.run = Some(seen.clone());
        Some(Change::Run(seen))
    }

    /// Looks at a round of it, which is none before the one that was seen last. `now` is for the rates, `server_now` for the time that is
    /// left. A round's end is told after what its sites did.
    pub fn see_round(
        &mut self,
        run: &Run,
        round: &Round,
        now: Instant,
        server_now: Option<OffsetDateTime>,
    ) -> Vec<Change> {
        if self.round.as_ref().is_some_and(|before| before.round != round.number) {
            self.sites.clear();
            self.meters.clear();
        }
        let mut changes = Vec::new();
        let seen = described(run, round, server_now);
        let is_new = self.round.as_ref().is_none_or(|before| {
            *before != RoundChange { seconds_left: before.seconds_left, ..seen.clone() }
        });
        self.round = Some(seen.clone());
        let over = is_over(&round.state);
        if is_new && !over {
            changes.push(Change::Round(seen.clone()));
        }
        for site in &round.sites {
            changes.extend(self.see_site(run, round, site, now));
        }
        if is_new && over {
            changes.push(Change::Round(seen));
        }
        changes
    }

    fn see_site(&mut self, run: &Run, round: &Round, site: &RoundSite, now: Instant) -> Option<Change> {
        let receiving = (site.state == "receiving").then_some(site.received_bytes).flatten();
        let bytes_per_second = match receiving {
            Some(received) => self.meters.entry(site.site.clone()).or_default().see(now, received),
            None => {
                self.meters.remove(&site.site);
                None
            }
        };
        let units = site.alignment.as_ref().map(units);
        let seen = SiteChange {
            run: run.id.clone(),
            round: round.number,
            site: site.site.clone(),
            state: site.state.clone(),
            reason: site.reason.clone(),
            received_bytes: receiving,
            size: site.size,
            bytes_per_second,
            num_examples: site.num_examples,
            units: units.map(|(all, _)| all),
            moved_units: units.map(|(_, moved)| moved),
        };
        let before = self.sites.insert(site.site.clone(), seen.clone());
        let same = before.is_some_and(|before| {
            before == SiteChange { bytes_per_second: before.bytes_per_second, ..seen.clone() }
        });
        (!same).then_some(Change::Site(seen))
    }
}

fn described(run: &Run, round: &Round, server_now: Option<OffsetDateTime>) -> RoundChange {
    RoundChange {
        run: run.id.clone(),
        round: round.number,
        state: round.state.clone(),
        reason: round.reason.clone(),
        quorum: run.policy.quorum,
        sites: round.sites.len(),
        opened_at: round.opened_at.clone(),
        deadline_at: round.deadline_at.clone(),
        seconds_left: seconds_left(&round.state, &round.deadline_at, server_now),
        closed_at: round.closed_at.clone(),
        global_digest: round.global_digest.clone(),
        global_size: round.global_size,
    }
}

/// Only where a round collects.
fn seconds_left(state: &str, deadline_at: &str, server_now: Option<OffsetDateTime>) -> Option<u64> {
    let deadline = OffsetDateTime::parse(deadline_at, &Rfc3339).ok()?;
    let left = (deadline - server_now?).whole_seconds();
    (state == "collecting").then(|| u64::try_from(left).unwrap_or(0))
}

/// How many units the groups of an alignment have, and how many moved: the server says the fraction of each group.
fn units(report: &AlignReport) -> (u64, u64) {
    let (mut all, mut moved) = (0, 0);
    for group in &report.groups {
        all += group.size as u64;
        // Not negative, and not more than the group has: a cast of a float ends at the type's limits.
        moved += (group.moved * group.size as f64).round() as u64;
    }
    (all, moved)
}

/// How fast bytes come, over the last seconds.
#[derive(Debug, Default)]
struct Meter(VecDeque<(Instant, u64)>);

impl Meter {
    /// Over how long a rate is taken.
    const WINDOW: Duration = Duration::from_secs(10);

    /// So many were there at `now`. Gives the bytes a second, once there are two looks.
    fn see(&mut self, now: Instant, received: u64) -> Option<u64> {
        while self.0.len() > 1 && self.0.front().is_some_and(|(at, _)| now.duration_since(*at) > Self::WINDOW)
        {
            self.0.pop_front();
        }
        let first = self.0.front().copied();
        self.0.push_back((now, received));
        let (at, before) = first?;
        let seconds = now.duration_since(at).as_secs_f64();
        (seconds > 0.0).then(|| (received.saturating_sub(before) as f64 / seconds) as u64)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(run) => run.fmt(f),
            Self::Round(round) => round.fmt(f),
            Self::Site(site) => write!(f, "round {}, site {}: {}", site.round, site.site, site.state()),
            Self::Server(ServerChange { answers: true, .. }) => f.write_str("the server answers again"),
            Self::Server(ServerChange { error, .. }) => {
                write!(
                    f,
                    "the server does not answer, trying again: {}",
                    error.as_deref().unwrap_or_default()
                )
            }
        }
    }
}

impl fmt::Display for RunChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run {}: {}", self.run, self.state)?;
        if let Some(since) = &self.paused_at {
            write!(f, ", paused since {since}")?;
        }
        write!(f, ", {} of {} rounds published", self.rounds_published, self.rounds)?;
        because(f, self.reason.as_deref())
    }
}

impl fmt::Display for RoundChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "round {}: {}", self.round, self.state)?;
        if self.state == "collecting" {
            write!(f, ", {} sites, quorum {}, until {}", self.sites, self.quorum, self.deadline_at)?;
            if let Some(seconds) = self.seconds_left {
                write!(f, " ({} left)", time_left(seconds))?;
            }
        }
        if let Some(digest) = &self.global_digest {
            write!(f, ", model {digest}")?;
        }
        if let Some(size) = self.global_size {
            write!(f, ", {}", bytes(size))?;
        }
        because(f, self.reason.as_deref())
    }
}

fn because(f: &mut fmt::Formatter<'_>, reason: Option<&str>) -> fmt::Result {
    reason.map_or(Ok(()), |reason| write!(f, ": {reason}"))
}

impl SiteChange {
    /// How far its update came, in percent, while it is received.
    #[must_use]
    pub fn percent(&self) -> Option<u64> {
        let (received, size) = (self.received_bytes?, self.size?);
        received.saturating_mul(100).checked_div(size)
    }

    /// Its state in words.
    #[must_use]
    pub fn state(&self) -> String {
        let mut text = self.state.clone();
        match (self.received_bytes, self.size) {
            (Some(received), Some(size)) => {
                let percent = self.percent().unwrap_or(0);
                text.push_str(&format!(" {percent} %, {} of {}", bytes(received), bytes(size)));
            }
            (None, Some(size)) => text.push_str(&format!(", {}", bytes(size))),
            (_, None) => {}
        }
        if let Some(rate) = self.bytes_per_second {
            text.push_str(&format!(", {}/s", bytes(rate)));
        }
        if let Some(count) = self.num_examples {
            text.push_str(&format!(", {count} examples"));
        }
        if let (Some(units), Some(moved)) = (self.units, self.moved_units) {
            text.push_str(&format!(", {moved} of {units} units moved"));
        }
        if let Some(reason) = &self.reason {
            text.push_str(&format!(": {reason}"));
        }
        text
    }
}

/// Seconds for a person: the two largest units that are there.
#[must_use]
pub fn time_left(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests;
