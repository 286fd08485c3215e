//! The round: its states, its events, its policy. Pure: no clock, no rows, no network.
//!
//! ```text
//! collecting ──quorum and (cohort complete | open long enough | deadline)──▶ merging ──▶ published
//!     └── deadline without quorum ──▶ failed ◀── attempts spent ──┘        cancelled: from any open state
//! ```
//!
//! [`Round::apply`] is the only function that changes a state. Uploads record that an update was accepted; only a
//! [`Event::Tick`], sent by the reconciler, closes the collecting. Between merging and published there will stand
//! further states (calibrating, evaluating): what follows a merge is decided in one arm of `apply`.

mod plausibility;

use rebasin::Digest;
use serde::{Deserialize, Serialize};

pub use self::plausibility::{Implausible, Judged, Plausibility, Verdict};

/// How often merging a round is begun before the round fails, and aligning an update before it is rejected.
pub const MAX_ATTEMPTS: u32 = 3;

/// Milliseconds since the Unix epoch, by the database's clock.
pub type Millis = i64;

/// What a run asks of its rounds. Made by [`Policy::check`], which refuses what cannot work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// How many rounds are to be published. At least 1.
    pub rounds: u32,
    /// Fewest updates that may be merged. At least 1, at most the cohort.
    pub quorum: u32,
    /// How long a round collects at the most, in seconds.
    pub deadline_seconds: u64,
    /// A round takes no more updates than this and closes when it holds them; absent: the whole cohort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_updates: Option<u32>,
    /// How many rounds in a row may fail, each followed by a new one, before the run fails.
    #[serde(default = "default_failed_rounds_allowed")]
    pub failed_rounds_allowed: u32,
    /// Once a round has been open for so many seconds, its quorum is enough for it to close. Absent: it waits for the whole
    /// cohort, until its deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_open_seconds: Option<u64>,
    /// How many of the newest global models are kept, at least 1; older ones stay on record and their bytes are removed, within
    /// minutes. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_models: Option<u32>,
    /// A global model that is kept beside the newest ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_best: Option<KeepBest>,
    /// Of how many of the newest rounds that are over the updates are kept; 0: none is, once its round is over. Receipts and
    /// alignments always are. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_updates: Option<u32>,
    /// Whether a global model's signature names the sites that it was made from, with their digests, their shares and what alignment did to
    /// each. False: their number, and figures of all together.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub name_participants: bool,
    /// Whether the mean of each round's updates as they came, by their shares and without alignment, is made too, for sites to try beside
    /// the global model. It is kept until the next round is published, and for a day once the run is over. Nothing where the strategy is
    /// `mean`: there it is the global model.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub evaluate_naive: bool,
    /// An update with a value of a magnitude beyond so many times the root mean square of the reference's same tensor is rejected as
    /// soon as that value arrives; 0: values need only be finite. The median of all the reference's tensors counts where that is more,
    /// for BatchNorm's statistics the factor counts twice, and while there is no reference (a founding round) there is no bound.
    #[serde(default = "default_max_magnitude_factor")]
    pub max_magnitude_factor: f64,
    /// Which updates are implausible beside the others, and what becomes of them.
    #[serde(default)]
    pub plausibility: Plausibility,
}

/// The global model of the round whose updates reported the best mean of a metric, weighted by their examples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeepBest {
    /// The metric's name, as sites report it.
    pub metric: String,
    /// Which is best.
    pub goal: Goal,
}

/// Which figure is best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// As of a loss.
    Lowest,
    /// As of an accuracy.
    Highest,
}

fn default_failed_rounds_allowed() -> u32 {
    2
}

/// [`Policy::max_magnitude_factor`] where none is given: training changes a tensor's size by less in a round, and what overflows is
/// far beyond.
#[must_use]
pub fn default_max_magnitude_factor() -> f64 {
    1e4
}

/// Longest a round may collect: a year, in seconds.
pub(crate) const MAX_DEADLINE_SECONDS: u64 = 366 * 24 * 3600;

impl Policy {
    /// Checks the policy against the size of its cohort.
    ///
    /// # Errors
    /// A sentence that names the field and what it may be.
    pub fn check(&self, cohort: u32) -> Result<(), String> {
        if cohort == 0 {
            return Err("cohort: empty; name at least one site".into());
        }
        if self.rounds == 0 || self.rounds > 100_000 {
            return Err(format!("policy.rounds: {} is not within 1 to 100000", self.rounds));
        }
        if self.quorum == 0 || self.quorum > cohort {
            return Err(format!(
                "policy.quorum: {} is not within 1 and the cohort's {cohort} sites",
                self.quorum
            ));
        }
        if self.deadline_seconds == 0 || self.deadline_seconds > MAX_DEADLINE_SECONDS {
            return Err(format!(
                "policy.deadline_seconds: {} is not within 1 and {MAX_DEADLINE_SECONDS} (a year)",
                self.deadline_seconds
            ));
        }
        if let Some(most) = self.max_updates
            && (most < self.quorum || most > cohort)
        {
            return Err(format!(
                "policy.max_updates: {most} is not within the quorum's {} and the cohort's {cohort}",
                self.quorum
            ));
        }
        if let Some(least) = self.min_open_seconds
            && least > self.deadline_seconds
        {
            return Err(format!(
                "policy.min_open_seconds: {least} is more than the {} of deadline_seconds",
                self.deadline_seconds
            ));
        }
        if self.keep_models == Some(0) {
            return Err(
                "policy.keep_models: 0 would not keep the model that the next round begins with; at least 1"
                    .into(),
            );
        }
        if let Some(best) = &self.keep_best {
            if self.keep_models.is_none() {
                return Err("policy.keep_best: all models are kept already; give keep_models too".into());
            }
            if !fedbasin_proto::is_metric_name(&best.metric) {
                return Err(format!("policy.keep_best.metric: {:?} is no name of a metric", best.metric));
            }
        }
        let factor = self.max_magnitude_factor;
        if factor != 0.0 && !(1.0..=1e30).contains(&factor) {
            return Err(format!(
                "policy.max_magnitude_factor: {factor} is neither 0 (no bound) nor within 1 and 1e30"
            ));
        }
        self.plausibility.check()
    }

    /// Whether anything of a run is ever removed.
    #[must_use]
    pub fn lets_go(&self) -> bool {
        self.keep_models.is_some() || self.keep_updates.is_some() || self.evaluate_naive
    }

    /// The window of a round that opens now.
    #[must_use]
    pub fn window(&self, cohort: u32, now: Millis) -> Window {
        let after = |seconds: u64| {
            let length = i64::try_from(seconds.min(MAX_DEADLINE_SECONDS) * 1000).unwrap_or(i64::MAX);
            now.saturating_add(length)
        };
        Window {
            quorum: self.quorum,
            full_at: self.max_updates.unwrap_or(cohort),
            opened_at_ms: now,
            quorum_closes_at_ms: self.min_open_seconds.map(after),
            deadline_at_ms: after(self.deadline_seconds),
        }
    }
}

/// When and how much a round collects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Fewest updates that may be merged.
    pub quorum: u32,
    /// At so many updates the round takes no more, and closes.
    pub full_at: u32,
    /// When it opened.
    pub opened_at_ms: Millis,
    /// When the quorum begins to be enough; absent: at the deadline.
    pub quorum_closes_at_ms: Option<Millis>,
    /// When collecting ends at the latest.
    pub deadline_at_ms: Millis,
}

/// Where a round stands, with what is true there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Takes updates.
    Collecting,
    /// Takes no more; the accepted updates are being aligned and merged.
    Merging,
    /// Done: `global` is its model.
    Published {
        /// Digest of the global model.
        global: Digest,
    },
    /// Over without a model.
    Failed {
        /// A sentence for a person.
        reason: String,
    },
    /// Ended by an operator.
    Cancelled,
}

impl State {
    /// The state's name, as stored and shown.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Collecting => "collecting",
            Self::Merging => "merging",
            Self::Published { .. } => "published",
            Self::Failed { .. } => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        !matches!(self, Self::Collecting | Self::Merging)
    }
}

/// What can happen to a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time passed, or somebody looked. Legal always, and without effect where nothing is due.
    Tick,
    /// One more update is held.
    UpdateAccepted,
    /// An accepted update turned out not to be alignable, or not plausible.
    UpdateWithdrawn,
    /// A try at merging failed. It was counted when it began, so that one that ends the process counts too.
    AttemptFailed {
        /// What went wrong, a sentence for a person.
        reason: String,
    },
    /// The merged model is durable.
    Merged {
        /// Its digest.
        global: Digest,
    },
    /// An operator ends the round.
    Cancel,
}

/// One collect-align-merge-publish cycle of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// From 1.
    pub number: u32,
    /// Where it stands.
    pub state: State,
    /// When and how much it collects.
    pub window: Window,
    /// Updates it holds.
    pub accepted: u32,
    /// Tries at merging that were begun.
    pub attempts: u32,
}

/// An event that the round's state does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTransition {
    /// The round takes no more updates: its deadline passed, or it left collecting.
    #[error("round {round} is closed ({state}): it takes no more updates")]
    Closed {
        /// The round's number.
        round: u32,
        /// Its state's name.
        state: &'static str,
    },
    /// The round holds as many updates as it takes.
    #[error("round {round} is full: it holds all {full_at} updates that it takes")]
    Full {
        /// The round's number.
        round: u32,
        /// How many it takes.
        full_at: u32,
    },
    /// Any other event out of place.
    #[error("round {round} is {state}: {event} is not possible there")]
    OutOfPlace {
        /// The round's number.
        round: u32,
        /// Its state's name.
        state: &'static str,
        /// The event's name.
        event: &'static str,
    },
}

impl Round {
    /// A round that opens now.
    #[must_use]
    pub fn open(number: u32, window: Window) -> Self {
        Self { number, state: State::Collecting, window, accepted: 0, attempts: 0 }
    }

    /// Applies one event. The only place where a round's state changes.
    ///
    /// # Errors
    /// [`InvalidTransition`] where the state does not allow the event; the round is then as it was.
    pub fn apply(self, event: Event, now: Millis) -> Result<Self, InvalidTransition> {
        let state = match (&self.state, event) {
            (State::Collecting, Event::Tick) => self.due(now),
            (_, Event::Tick) => self.state.clone(),

            (State::Collecting, Event::UpdateAccepted) => return self.admit(now),
            (state, Event::UpdateAccepted) => {
                return Err(InvalidTransition::Closed { round: self.number, state: state.name() });
            }

            (State::Collecting, Event::UpdateWithdrawn) => {
                return Ok(Self { accepted: self.accepted.saturating_sub(1), ..self });
            }
            (State::Merging, Event::UpdateWithdrawn) => {
                let accepted = self.accepted.saturating_sub(1);
                let state = if accepted < self.window.quorum {
                    State::Failed { reason: below_quorum(accepted, self.window.quorum, "were left to merge") }
                } else {
                    State::Merging
                };
                return Ok(Self { accepted, state, ..self });
            }

            (State::Merging, Event::AttemptFailed { reason }) => {
                if self.attempts < MAX_ATTEMPTS {
                    State::Merging
                } else {
                    let attempts = self.attempts;
                    State::Failed {
                        reason: format!("merging failed {attempts} times; the last time: {reason}"),
                    }
                }
            }

            // Later phases between merging and published begin here.
            (State::Merging, Event::Merged { global }) => State::Published { global },

            (State::Collecting | State::Merging, Event::Cancel) => State::Cancelled,

            (state, event) => {
                return Err(InvalidTransition::OutOfPlace {
                    round: self.number,
                    state: state.name(),
                    event: event.name(),
                });
            }
        };
        Ok(Self { state, ..self })
    }

    /// When to look again, if time alone can change the round.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        let quorum = self.window.quorum_closes_at_ms.filter(|_| self.accepted >= self.window.quorum);
        matches!(self.state, State::Collecting).then_some(quorum.unwrap_or(self.window.deadline_at_ms))
    }

    fn due(&self, now: Millis) -> State {
        let enough = self.accepted >= self.window.quorum;
        let waited = self.window.quorum_closes_at_ms.is_some_and(|at| now >= at);
        if enough && (waited || self.accepted >= self.window.full_at) {
            return State::Merging;
        }
        if now < self.window.deadline_at_ms {
            return State::Collecting;
        }
        if enough {
            State::Merging
        } else {
            State::Failed {
                reason: below_quorum(self.accepted, self.window.quorum, "had arrived at the deadline"),
            }
        }
    }

    fn admit(self, now: Millis) -> Result<Self, InvalidTransition> {
        if now >= self.window.deadline_at_ms {
            return Err(InvalidTransition::Closed { round: self.number, state: "past its deadline" });
        }
        if self.accepted >= self.window.full_at {
            return Err(InvalidTransition::Full { round: self.number, full_at: self.window.full_at });
        }
        Ok(Self { accepted: self.accepted + 1, ..self })
    }
}

fn below_quorum(accepted: u32, quorum: u32, what: &str) -> String {
    format!("quorum not reached: {accepted} of at least {quorum} updates {what}")
}

impl Event {
    fn name(&self) -> &'static str {
        match self {
            Self::Tick => "a tick",
            Self::UpdateAccepted => "accepting an update",
            Self::UpdateWithdrawn => "withdrawing an update",
            Self::AttemptFailed { .. } => "a failed attempt",
            Self::Merged { .. } => "publishing",
            Self::Cancel => "cancelling",
        }
    }
}

/// What a run does once its newest round is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Open the round of this number.
    Open(u32),
    /// All rounds are published.
    Complete,
    /// Too many rounds in a row failed.
    Fail {
        /// A sentence for a person.
        reason: String,
    },
    /// Nothing: the newest round is still open, or was cancelled together with its run.
    Wait,
}

/// Decides what follows `last`, the newest round, if there is one.
///
/// `published` counts the run's published rounds, `failed_in_a_row` the failed ones since the last published one.
#[must_use]
pub fn next(policy: &Policy, last: Option<&Round>, published: u32, failed_in_a_row: u32) -> Next {
    let Some(last) = last else { return Next::Open(1) };
    match &last.state {
        State::Collecting | State::Merging | State::Cancelled => Next::Wait,
        State::Published { .. } if published >= policy.rounds => Next::Complete,
        State::Published { .. } => Next::Open(last.number + 1),
        State::Failed { .. } if failed_in_a_row <= policy.failed_rounds_allowed => {
            Next::Open(last.number + 1)
        }
        State::Failed { reason } => Next::Fail {
            reason: format!("{failed_in_a_row} rounds in a row failed; the last, {}: {reason}", last.number),
        },
    }
}

#[cfg(test)]
mod tests;
