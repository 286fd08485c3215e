//! Weight matching: Git Re-Basin (Ainsworth, Hayase, Srinivasa, ICLR 2023), Sec. 3.2, Alg. 1.
//!
//! Maximises the sum over tensors of `<reference, aligned update>` by coordinate ascent over groups; each step is an
//! exact assignment. Departures from the paper, and why:
//! - A step counts only if it raises the objective by more than rounding, so that the true objective never falls and
//!   the ascent ends (the paper's code compares with an absolute 1e-12 on f32 sums).
//! - First it is asked whether any single step from the identity helps: mostly the row-wise argmax of each gain is the
//!   identity, which proves that none does without solving anything; else an assignment decides. If none helps, the
//!   update is in the reference's frame already, and no start from elsewhere is tried.
//! - Several starts from different orders, the best objective kept: the outcome depends on the order. One of them
//!   begins with no opinion instead of the identity: it visits next the group of whose gain most is known, and leaves
//!   out what depends on groups not yet visited.
//! - A group is skipped while nothing that its gain depends on changed.

use ndarray::Array2;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::{
    AlignReport, Alignment, CheckedSpec, Checkpoint, CheckpointError, Digest, Hasher, Permutation, assign,
    gain::{Gain, Pair},
    report,
};

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatchOptions {
    /// Of the random orders. Derive it from the digests: [`seed_from_digests`].
    pub seed: u64,
    /// How many starts; at least 1.
    pub starts: usize,
    /// Most sweeps a start.
    pub max_sweeps: usize,
}

impl Default for MatchOptions {
    fn default() -> Self {
        Self { seed: 0, starts: 4, max_sweeps: 100 }
    }
}

/// What cannot be aligned.
#[derive(Debug, thiserror::Error)]
pub enum AlignError {
    /// A checkpoint is not of the spec's layout.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Permutations of another spec.
    #[error("the alignment's permutations are not those of the spec's groups")]
    Alignment,
    /// Sums beyond f32.
    #[error(
        "group {group}: the weights are so large that their products overflow; they diverged in training"
    )]
    Overflow {
        /// The group.
        group: String,
    },
}

/// How a search goes on.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// A start begins.
    Start {
        /// From 0.
        start: usize,
        /// How many there will be.
        starts: usize,
    },
    /// A group is being visited.
    Group {
        /// Its index in the spec's order.
        group: usize,
    },
    /// A sweep over all groups ended.
    Sweep {
        /// From 1.
        sweep: u32,
        /// The true objective.
        objective: f64,
    },
}

/// An alignment and what it did.
#[derive(Debug, Clone, PartialEq)]
pub struct Aligned {
    /// The permutations.
    pub alignment: Alignment,
    /// What they did.
    pub report: AlignReport,
}

/// A seed from digests in order: the same inputs give the same search.
#[must_use]
pub fn seed_from_digests(digests: &[Digest]) -> u64 {
    let mut hasher = Hasher::default();
    for digest in digests {
        hasher.update(digest.as_bytes());
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finish().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// Aligns `update` to `reference`. Deterministic: the same inputs and options give the same alignment, whatever the
/// number of threads.
///
/// # Errors
/// [`AlignError`] if a checkpoint is not of the spec's layout, or its numbers overflow.
pub fn align(
    spec: &CheckedSpec,
    reference: &Checkpoint,
    update: &Checkpoint,
    options: &MatchOptions,
    observe: &mut dyn FnMut(Progress),
) -> Result<Aligned, AlignError> {
    crate::scanner::compare(spec.layout(), reference.layout())?;
    crate::scanner::compare(spec.layout(), update.layout())?;
    let search = Search { spec, reference, update, pair: Pair::new(spec, reference, update) };
    if search.identity_is_certain(observe)? {
        let alignment = Alignment::identity(spec);
        let mut report = report(spec, reference, update, &alignment)?;
        report.identity_certified = true;
        return Ok(Aligned { alignment, report });
    }
    // One group is one assignment: it has one optimum, and no order.
    let starts = if spec.groups().len() == 1 { 1 } else { options.starts.max(1) };
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let identity = search.identity()?;
    let mut best = identity.clone();
    for start in 0..starts {
        observe(Progress::Start { start, starts });
        let order = match start {
            0 | 1 => (0..spec.groups().len()).collect(),
            _ => Permutation::random(spec.groups().len(), &mut rng)
                .as_slice()
                .iter()
                .map(|&g| g as usize)
                .collect(),
        };
        // Keeps the random orders of later starts the same, whatever this one draws.
        let mut own = ChaCha8Rng::seed_from_u64(rng.random());
        let outcome =
            search.ascend(identity.clone(), order, start == 1, options.max_sweeps, &mut own, observe)?;
        if outcome.objective > best.objective {
            best = outcome;
        }
    }
    let mut report = report(spec, reference, update, &best.alignment)?;
    report.sweeps = best.sweeps;
    report.starts = u32::try_from(starts).unwrap_or(u32::MAX);
    for (group, changes) in report.groups.iter_mut().zip(best.changes) {
        group.sweeps = changes;
    }
    Ok(Aligned { alignment: best.alignment, report })
}

struct Search<'a> {
    spec: &'a CheckedSpec,
    reference: &'a Checkpoint,
    update: &'a Checkpoint,
    pair: Pair,
}

/// Where one start ended.
#[derive(Clone)]
struct Outcome {
    alignment: Alignment,
    /// The true objective.
    objective: f64,
    sweeps: u32,
    /// For each group: visits that changed it.
    changes: Vec<u32>,
}

/// A step must raise the group's part of the true objective (f64 sums) by more than this fraction: less is the rounding of
/// the gains that chose it (f32 sums), and the ascent would go round in circles among equals.
const RELATIVE_TOLERANCE: f64 = 1e-7;

impl Search<'_> {
    fn identity_is_certain(&self, observe: &mut dyn FnMut(Progress)) -> Result<bool, AlignError> {
        let identity = Alignment::identity(self.spec);
        for group in 0..self.spec.groups().len() {
            observe(Progress::Group { group });
            let gain = self.gain(group, &identity, &self.all_known())?;
            if !diagonal_is_row_maximum(&gain.matrix)
                && improvement(&gain, &identity.permutations[group]).is_some()
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Where every start begins.
    fn identity(&self) -> Result<Outcome, AlignError> {
        let alignment = Alignment::identity(self.spec);
        let objective = self.objective(&alignment)?;
        Ok(Outcome { objective, sweeps: 0, changes: vec![0; alignment.permutations.len()], alignment })
    }

    fn all_known(&self) -> Vec<bool> {
        vec![true; self.spec.groups().len()]
    }

    fn gain(&self, group: usize, alignment: &Alignment, known: &[bool]) -> Result<Gain, AlignError> {
        let gain = self.pair.gain(self.spec, group, alignment, known);
        if gain.matrix.iter().all(|value| value.is_finite()) {
            return Ok(gain);
        }
        Err(AlignError::Overflow { group: self.spec.groups()[group].name.clone() })
    }

    fn objective(&self, alignment: &Alignment) -> Result<f64, AlignError> {
        Ok(report::objective(self.spec, self.reference, &alignment.apply(self.spec, self.update)?))
    }

    fn ascend(
        &self,
        start: Outcome,
        mut order: Vec<usize>,
        from_no_opinion: bool,
        max_sweeps: usize,
        rng: &mut ChaCha8Rng,
        observe: &mut dyn FnMut(Progress),
    ) -> Result<Outcome, AlignError> {
        let groups = self.spec.groups().len();
        let mut outcome = start;
        let mut stale = vec![true; groups];
        if from_no_opinion {
            self.first_sweep_from_what_is_known(&mut outcome, observe)?;
            outcome.objective = self.objective(&outcome.alignment)?;
            observe(Progress::Sweep { sweep: 1, objective: outcome.objective });
        }
        while (outcome.sweeps as usize) < max_sweeps && stale.contains(&true) {
            for &group in &order {
                if !std::mem::take(&mut stale[group]) {
                    continue;
                }
                observe(Progress::Group { group });
                if self.step(group, &mut outcome)? {
                    for neighbour in self.pair.neighbours(self.spec, group) {
                        stale[neighbour] = true;
                    }
                }
            }
            outcome.sweeps += 1;
            outcome.objective = self.objective(&outcome.alignment)?;
            observe(Progress::Sweep { sweep: outcome.sweeps, objective: outcome.objective });
            let shuffled = Permutation::random(groups, rng);
            order = shuffled.as_slice().iter().map(|&group| group as usize).collect();
        }
        Ok(outcome)
    }

    /// One exact assignment; tells whether it raised the objective.
    fn step(&self, group: usize, outcome: &mut Outcome) -> Result<bool, AlignError> {
        let gain = self.gain(group, &outcome.alignment, &self.all_known())?;
        let Some(better) = improvement(&gain, &outcome.alignment.permutations[group]) else {
            return Ok(false);
        };
        outcome.alignment.permutations[group] = better;
        outcome.changes[group] += 1;
        Ok(true)
    }

    fn first_sweep_from_what_is_known(
        &self,
        outcome: &mut Outcome,
        observe: &mut dyn FnMut(Progress),
    ) -> Result<(), AlignError> {
        let groups = self.spec.groups().len();
        let mut known = vec![false; groups];
        for _ in 0..groups {
            let mut next: Option<(usize, usize, usize)> = None;
            for group in (0..groups).filter(|&group| !known[group]) {
                let (all, usable) = self.pair.known_elements(self.spec, group, &known);
                // Compares usable / all without dividing.
                let better = next.is_none_or(|(_, best_all, best_usable)| {
                    (usable as u128) * (best_all as u128) > (best_usable as u128) * (all as u128)
                });
                if better {
                    next = Some((group, all, usable));
                }
            }
            let Some((group, _, _)) = next else { break };
            observe(Progress::Group { group });
            let gain = self.gain(group, &outcome.alignment, &known)?;
            // Nothing known, or nothing gained: the units stay.
            if let Some(better) = improvement(&gain, &outcome.alignment.permutations[group]) {
                outcome.alignment.permutations[group] = better;
                outcome.changes[group] += 1;
            }
            known[group] = true;
        }
        outcome.sweeps = 1;
        Ok(())
    }
}

/// The optimal assignment, if it truly is worth more than the one held.
fn improvement(gain: &Gain, held: &Permutation) -> Option<Permutation> {
    let solved = assign(gain.matrix.view()).permutation;
    let (before, after) = (gain.value(held), gain.value(&solved));
    (after > before + RELATIVE_TOLERANCE * before.abs().max(after.abs())).then_some(solved)
}

/// The identity is optimal then: the sum of row maxima bounds every assignment.
fn diagonal_is_row_maximum(gain: &Array2<f32>) -> bool {
    gain.rows().into_iter().enumerate().all(|(unit, row)| row.iter().all(|&other| other <= row[unit]))
}
