//! Weight matching: Git Re-Basin (Ainsworth, Hayase, Srinivasa, ICLR 2023), Sec. 3.2, Alg. 1.
//!
//! Maximises the sum over tensors of `<reference, aligned update>` by coordinate ascent over groups; each step is an
//! exact assignment. Departures from the paper, and why:
//! - A step counts only if it raises the objective by more than rounding, so that the ascent ends (the paper's code compares
//!   with an absolute 1e-12 on f32 sums), and it ends too when two sweeps in a row hardly raised it; the outcome is measured in
//!   f64, and is never below the identity's.
//! - First it is asked whether any single step from the identity helps: where the update is near the reference, bounds from a
//!   part of each gain prove that none does (`nearby`); else mostly the row-wise argmax of the gain is the identity, which proves it
//!   without solving anything; else an assignment decides. If none helps, the
//!   update is in the reference's frame already, and no start from elsewhere is tried.
//! - Several starts from different orders, the best objective kept: the outcome depends on the order. The first one
//!   begins with no opinion instead of the identity: it visits next the group of whose gain most is known, and leaves
//!   out what depends on groups not yet visited. If it ends where every unit has the best partner that it has anywhere, it
//!   is the only one; the others climb side by side while their gains are small.
//! - A gain is kept and changed by the rows that moved, not computed anew; a group is skipped while nothing that its gain
//!   depends on changed; groups that do not bear on one another are solved side by side.

mod ascent;
mod canonically;
mod change;
mod climb;
mod gains;
mod general;
mod nearby;
mod optimality;
mod pieces;
mod simple;
mod step;

use std::ops::{ControlFlow, Range};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

pub use self::canonically::align_canonically;
pub use self::optimality::{GroupOptimality, Margins, Optimality, optimality};
use self::{
    ascent::{Ascent, Observe, State, tell},
    climb::{Climb, climb, climb_from, random_order},
    gains::Pair,
};
use crate::{
    AlignReport, Alignment, CheckedSpec, Checkpoint, CheckpointError, Digest, Hasher,
    report::{self, Measure},
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
    /// Whoever observes the search ended it.
    #[error("the alignment was cancelled")]
    Cancelled,
    /// An update that its dtype cannot hold at the reference's scale.
    #[error(
        "{what}: no number holds it at the scale that the reference's units have; its units' weights are too far apart on their way in and out: \
         balance them (`fedbasin scale`), or send a wider dtype"
    )]
    Scale {
        /// The tensor, or the group.
        what: String,
    },
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
    /// Another pass over all units that may be scaled begins.
    Balance {
        /// From 0.
        pass: u32,
    },
    /// Some starts begin, side by side.
    Starts {
        /// Which, from 0.
        some: Range<usize>,
        /// How many there will be, at most.
        of: usize,
    },
    /// A group is being visited, perhaps with others side by side: the first of them.
    Group {
        /// Its index in the spec's order.
        group: usize,
    },
    /// A sweep over all groups ended.
    Sweep {
        /// Of which start, from 0.
        start: usize,
        /// From 1.
        sweep: u32,
        /// The objective, by the ascent's own sums (f32 gains, added in f64).
        objective: f64,
    },
}

/// Observes nothing and never ends a search.
pub fn quietly(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// An alignment and what it did.
#[derive(Debug, Clone, PartialEq)]
pub struct Aligned {
    /// The permutations.
    pub alignment: Alignment,
    /// What they did.
    pub report: AlignReport,
    /// What it took.
    pub work: Work,
}

/// The arithmetic of a search.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Multiply-adds done for gains, over all starts.
    pub multiply_adds: u64,
    /// Multiply-adds that one sweep costs which computes every gain whole.
    pub dense_sweep: u64,
    /// Sweeps, over all starts.
    pub sweeps: u32,
}

impl Work {
    fn add(&mut self, state: &State) {
        self.multiply_adds += state.work;
        self.sweeps += state.sweeps;
    }
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
/// `observe` is told how the search goes on, before each batch of groups that are solved side by side and after each sweep; it ends the search by [`ControlFlow::Break`].
///
/// # Errors
/// [`AlignError`] if a checkpoint is not of the spec's layout, its numbers overflow, or the search was ended.
pub fn align(
    spec: &CheckedSpec,
    reference: &Checkpoint,
    update: &Checkpoint,
    options: &MatchOptions,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Aligned, AlignError> {
    crate::scanner::compare(spec.layout(), reference.layout())?;
    crate::scanner::compare(spec.layout(), update.layout())?;
    let before = report::measure(spec, reference, update, None);
    let (ascent, mut identity) = pair_up(spec, reference, update, &before);
    let mut work = ascent.work();
    let certain = ascent.identity_is_best(&mut identity, observe)?;
    work.multiply_adds += std::mem::take(&mut identity.work);
    if certain {
        return nothing_moves(spec, &before, true, work);
    }
    let (mut best, starts) = best_of(&ascent, identity, options, &mut work, observe)?;
    let after = report::measure(spec, reference, update, Some(&best.alignment));
    let report = report::compare(spec, &best.alignment, &before, &after)?;
    if report.objective_after < report.objective_before {
        // Less than rounding was gained.
        return nothing_moves(spec, &before, false, work);
    }
    let report = settle(&ascent, &mut best, starts, report);
    Ok(Aligned { alignment: best.alignment, report, work })
}

/// What is said of an update that stays as it came, all its tensors being measured there.
fn nothing_moves(
    spec: &CheckedSpec,
    before: &[Measure],
    certain: bool,
    work: Work,
) -> Result<Aligned, AlignError> {
    let alignment = Alignment::identity(spec);
    let mut report = report::compare(spec, &alignment, before, before)?;
    report.identity_certified = certain;
    Ok(Aligned { alignment, report, work })
}

/// The steps of a pair of models, and where nothing moves, all tensors being measured there.
fn pair_up<'a>(
    spec: &'a CheckedSpec,
    reference: &'a Checkpoint,
    update: &'a Checkpoint,
    measures: &[Measure],
) -> (Ascent<'a>, State) {
    let moves = |tensor: &usize| spec.axes(*tensor).iter().any(Option::is_some);
    let (moving, pinned): (Vec<usize>, Vec<usize>) = (0..measures.len()).partition(moves);
    let over = |tensors: &[usize]| Measure::sum(tensors.iter().map(|&tensor| &measures[tensor])).objective;
    let ascent = Ascent::new(Pair::new(spec, reference, update, measures), over(&pinned));
    let identity = ascent.identity(over(&moving));
    (ascent, identity)
}

/// Adds to a report what the search that ended there tells.
fn settle(ascent: &Ascent<'_>, best: &mut State, starts: u32, mut report: AlignReport) -> AlignReport {
    report.sweeps = best.sweeps;
    report.starts = starts;
    let margins = ascent.margins(best);
    for ((group, &changes), margins) in report.groups.iter_mut().zip(&best.changes).zip(margins) {
        group.sweeps = changes;
        group.margins = margins;
    }
    report
}

/// As [`align`], from where an earlier search ended, without other starts: what a slowly moving reference wants. The outcome is
/// at least as good as `from`.
///
/// # Errors
/// As [`align`], and [`AlignError::Alignment`] if `from` is not of the spec.
pub fn align_from(
    spec: &CheckedSpec,
    reference: &Checkpoint,
    update: &Checkpoint,
    from: &Alignment,
    options: &MatchOptions,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Aligned, AlignError> {
    crate::scanner::compare(spec.layout(), reference.layout())?;
    crate::scanner::compare(spec.layout(), update.layout())?;
    from.check(spec)?;
    let before = report::measure(spec, reference, update, None);
    let at = Measure::sum(&report::measure(spec, reference, update, Some(from))).objective;
    // Of the state's objective only differences are used here.
    let ascent = Ascent::new(Pair::new(spec, reference, update, &before), 0.0);
    let mut state = climb_from(&ascent, ascent.at(from.clone(), at), options, observe)?;
    let mut work = ascent.work();
    work.add(&state);
    let measured = |alignment: &Alignment| {
        let after = report::measure(spec, reference, update, Some(alignment));
        report::compare(spec, alignment, &before, &after)
    };
    let mut report = measured(&state.alignment)?;
    if report.objective_after < at {
        // Less than rounding was gained.
        state.alignment = from.clone();
        report = measured(from)?;
    }
    report.sweeps = state.sweeps;
    report.starts = 1;
    Ok(Aligned { alignment: state.alignment, report, work })
}

/// Starts climb side by side as long as their gains are no more bytes than this; at least one does.
const SIDE_BY_SIDE: usize = 64 << 20;

/// The best of several starts, and how many there were. `identity` holds the gains that were computed already.
fn best_of(
    ascent: &Ascent<'_>,
    identity: State,
    options: &MatchOptions,
    work: &mut Work,
    observe: Observe<'_>,
) -> Result<(State, u32), AlignError> {
    let steps = ascent.steps.len();
    // One step is one assignment: it has one optimum, and no order.
    let starts = if steps == 1 { 1 } else { options.starts.max(1) };
    let together = (SIDE_BY_SIDE / ascent.pair.gains_size().max(1)).max(1);
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let nowhere = ascent.identity(identity.objective);
    let mut best = nowhere.clone();
    let mut identity = Some(identity);
    let mut begun = 0;
    let mut tried = 0;
    while begun < starts {
        // The first one goes alone: mostly it is the only one if the update is a permuted copy.
        let some = begun..if begun == 0 { 1 } else { starts.min(begun + together) };
        begun = some.end;
        tell(observe, Progress::Starts { some: some.clone(), of: starts })?;
        let mut climbs: Vec<Climb> = some
            .map(|start| {
                let order = match start {
                    0 | 1 => (0..steps).collect(),
                    _ => random_order(steps, &mut rng),
                };
                // Keeps the random orders of later starts the same, whatever this one draws.
                let own = ChaCha8Rng::seed_from_u64(rng.random());
                let state =
                    if start == 1 { identity.take() } else { None }.unwrap_or_else(|| nowhere.clone());
                let climb = Climb::from(ascent, start, state, order, options.max_sweeps, own);
                if start == 0 { climb.with_no_opinion(ascent) } else { climb }
            })
            .collect();
        climb(ascent, &mut climbs, observe)?;
        climbs.iter().for_each(|climb| work.add(&climb.state));
        for Climb { state, .. } in climbs {
            tried += 1;
            let settled = ascent.every_unit_has_its_best(&state);
            if state.objective > best.objective {
                best = state;
            }
            if settled {
                return Ok((best, tried));
            }
        }
    }
    Ok((best, tried))
}
