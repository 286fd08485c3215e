//! What makes an update implausible beside the others of its round, and what becomes of it then. Pure.

use rebasin::Standing;
use serde::{Deserialize, Serialize};

/// When an update is implausible. Figures are taken once all updates are aligned, in the pass that merges them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Plausibility {
    /// Most that an update's distance to the reference may be, as a multiple of the median of the others'; more than 1. BatchNorm's
    /// statistics, a variance being a square, may be the square of it.
    pub max_distance_ratio: f64,
    /// Least cosine between an update's difference to the reference and the mean of the others', -1 to 1; -1: any. It is not held
    /// against an update where most of the others are below it too: they have no direction in common then.
    pub min_cosine: f64,
    /// What becomes of an update beyond one of the two.
    pub action: Implausible,
}

/// What becomes of an implausible update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Implausible {
    /// It is merged, and the round's record says what is odd.
    Warn,
    /// It is rejected before anything is published, and the round goes on if its quorum is still there. Where it has fewer than two others to
    /// compare with, nobody can say whose fault it is: a warning then.
    Reject,
}

impl Default for Plausibility {
    /// Sites that train for different times on different data differ, in distance by a few times; their directions have little in
    /// common, but seldom point against one another.
    fn default() -> Self {
        Self { max_distance_ratio: 8.0, min_cosine: -0.1, action: Implausible::Warn }
    }
}

/// What is said of one update.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Sentences for a person: figure and threshold.
    pub warnings: Vec<String>,
    /// Whether it is to be rejected for them.
    pub rejected: bool,
}

/// What the record says of an update that was merged, or rejected for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Its figures.
    #[serde(flatten)]
    pub standing: Standing,
    /// Sentences for a person.
    pub warnings: Vec<String>,
}

/// Fewest others of an update that is rejected: of two, one is not odder than the other.
const ENOUGH: u32 = 2;

impl Plausibility {
    /// Checks the thresholds.
    ///
    /// # Errors
    /// A sentence that names the field and what it may be.
    pub fn check(&self) -> Result<(), String> {
        if !self.max_distance_ratio.is_finite() || self.max_distance_ratio <= 1.0 {
            let ratio = self.max_distance_ratio;
            return Err(format!(
                "policy.plausibility.max_distance_ratio: {ratio} is not more than 1; the median itself is 1"
            ));
        }
        if !(-1.0..=1.0).contains(&self.min_cosine) {
            return Err(format!(
                "policy.plausibility.min_cosine: {} is not within -1 and 1",
                self.min_cosine
            ));
        }
        Ok(())
    }

    /// What is said of each update of a round, in order.
    #[must_use]
    pub fn judge(&self, standings: &[Standing]) -> Vec<Verdict> {
        let verdict = |(index, standing): (usize, &Standing)| {
            let mut warnings = Vec::new();
            if let Some(ratio) = standing.distance_ratio.filter(|_| self.is_far(standing)) {
                warnings.push(format!(
                    "its distance to the reference is {} times the median of the others' (at most {}: \
                     plausibility.max_distance_ratio)",
                    figure(ratio),
                    self.max_distance_ratio
                ));
            }
            if let Some(ratio) = standing.statistics_ratio.filter(|&ratio| ratio > self.most_of_statistics())
            {
                warnings.push(format!(
                    "its BatchNorm statistics are {} times as far from the reference's as the median of the others' \
                     (at most {}: the square of plausibility.max_distance_ratio)",
                    figure(ratio),
                    self.most_of_statistics()
                ));
            }
            if let Some(cosine) = standing.cosine.filter(|_| self.is_astray(standings, index)) {
                warnings.push(format!(
                    "its difference to the reference points away from the others': the cosine with their mean is \
                     {cosine:.3} (at least {}: plausibility.min_cosine)",
                    self.min_cosine
                ));
            }
            let rejected =
                self.action == Implausible::Reject && standing.others >= ENOUGH && !warnings.is_empty();
            Verdict { warnings, rejected }
        };
        standings.iter().enumerate().map(verdict).collect()
    }

    fn is_far(&self, standing: &Standing) -> bool {
        standing.distance_ratio.is_some_and(|ratio| ratio > self.max_distance_ratio)
    }

    /// Whether an update points away from the others, and these have a direction: where another one lies beyond the ratio, their mean is
    /// mostly that one; and where most of them point away from the rest too (two updates always do both or neither; so do those of sites
    /// whose data differ, near the end of a run, when they pull at the model from all sides), none is odder than another.
    fn is_astray(&self, standings: &[Standing], index: usize) -> bool {
        let astray = |standing: &Standing| standing.cosine.is_some_and(|cosine| cosine < self.min_cosine);
        let others = || standings.iter().enumerate().filter(|(at, _)| *at != index).map(|(_, other)| other);
        let known = others().filter(|other| other.cosine.is_some()).count();
        let most = 2 * others().filter(|other| astray(other)).count() > known;
        astray(&standings[index]) && !most && !others().any(|other| self.is_far(other))
    }

    fn most_of_statistics(&self) -> f64 {
        self.max_distance_ratio * self.max_distance_ratio
    }
}

/// A ratio for a person.
fn figure(ratio: f64) -> String {
    if ratio < 1e6 { format!("{ratio:.1}") } else { format!("{ratio:.1e}") }
}

#[cfg(test)]
mod tests;
