//! How much better any alignment could be, and how surely each unit has its partner.

use std::ops::ControlFlow;

use ndarray::ArrayView2;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    AlignError, Progress,
    ascent::{Observe, tell},
    gains::{Gain, Pair},
    simple::{Simple, Solve},
};
use crate::{Alignment, CheckedSpec, Checkpoint, Kind, Permutation, assign, report, wreath};

/// How good an alignment is beside what any could reach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Optimality {
    /// Sum over the averaged tensors of the inner product with the reference.
    pub objective: f64,
    /// No alignment of this update has a higher objective, but for the rounding of f32 sums (about 1e-6 of it).
    pub upper_bound: f64,
    /// For each group of the spec, in its order.
    pub groups: Vec<GroupOptimality>,
}

impl Optimality {
    /// `upper_bound - objective`, 0 where rounding makes it less: how far the alignment can be from the best one, at most.
    #[must_use]
    pub fn gap(&self) -> f64 {
        (self.upper_bound - self.objective).max(0.0)
    }
}

/// One group's part in an [`Optimality`]. Each tensor is counted for one of the groups that move it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupOptimality {
    /// The group.
    pub name: String,
    /// The objective over what is counted for this group.
    pub objective: f64,
    /// The most that any alignment can make of that.
    pub upper_bound: f64,
    /// Margins of its units; `None` for a group that cannot move, of fewer than two units, or all of whose gains are 0.
    pub margins: Option<Margins>,
}

/// What units would lose with their second-best partner, all other groups held. A unit's margin is its gain with its partner
/// less its best gain with any other; it is negative if another would suit it better but suits that one's own partner more.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Margins {
    /// Fraction of units whose partner is the best that they have: margin above 0.
    pub best: f64,
    /// The margin that 5 % of the units lie below, as a fraction of the mean gain of matched units.
    pub p5: f64,
    /// The median margin, as a fraction of the mean gain of matched units.
    pub median: f64,
}

/// Bounds what any alignment of an update can reach, given the update as some alignment put it, and measures how surely its
/// units are matched.
///
/// The bound relaxes the joint problem to one assignment a group, whose optimum is exact: a tensor that one group moves counts as
/// it is; a tensor that two groups move counts for one of them, with a gain for each pair of its units that lets the other group
/// choose anew for that pair. The best choice for two rows of numbers is to sort both (rearrangement inequality; Hardy,
/// Littlewood, Pólya, Inequalities, 1934, Theorem 368). A tensor that groups move in another way counts as if all its elements
/// could be sorted. Costs about two sweeps that compute every gain whole.
///
/// # Errors
/// As [`align`](crate::align).
pub fn optimality(
    spec: &CheckedSpec,
    reference: &Checkpoint,
    aligned: &Checkpoint,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Optimality, AlignError> {
    crate::scanner::compare(spec.layout(), reference.layout())?;
    crate::scanner::compare(spec.layout(), aligned.layout())?;
    let measures = report::measure(spec, reference, aligned, None);
    let moves = |tensor: &usize| spec.axes(*tensor).iter().any(Option::is_some);
    let pinned: f64 =
        (0..measures.len()).filter(|tensor| !moves(tensor)).map(|tensor| measures[tensor].objective).sum();
    let objective: f64 = measures.iter().map(|measure| measure.objective).sum();
    let pair = Pair::new(spec, reference, aligned, &measures);
    let mut groups = Vec::with_capacity(spec.groups().len());
    for (index, group) in spec.groups().iter().enumerate() {
        tell(observe, Progress::Group { group: index })?;
        let margins = margins(&pair, index, observe)?;
        groups.push(GroupOptimality { name: group.name.clone(), objective: 0.0, upper_bound: 0.0, margins });
    }
    for piece in &pair.pieces.general {
        let mut of_piece = piece.groups();
        let first = of_piece.next().expect("a piece without groups is not cut");
        let group = &mut groups[spec.groups()[first].within.unwrap_or(first)];
        group.objective += piece.value(piece.update());
        group.upper_bound += piece.most();
    }
    for top in (0..groups.len()).filter(|&group| spec.groups()[group].within.is_none()) {
        bound_family(&pair, top, &mut groups, observe)?;
    }
    let upper_bound = pinned + groups.iter().map(|group| group.upper_bound).sum::<f64>();
    Ok(Optimality { objective, upper_bound, groups })
}

fn not_finite(spec: &CheckedSpec, group: usize, values: &[f32]) -> Result<(), AlignError> {
    if values.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    Err(AlignError::Overflow { group: spec.groups()[group].name.clone() })
}

/// The margins of a group's units where they stand.
fn margins(pair: &Pair<'_>, group: usize, observe: Observe<'_>) -> Result<Option<Margins>, AlignError> {
    let groups = pair.spec.groups();
    let n = groups[group].units;
    if n < 2 || !can_move(pair, group) {
        return Ok(None);
    }
    let mut gain: Gain = pair.no_gains().swap_remove(group);
    let known = vec![true; groups.len()];
    pair.refresh(group, &mut gain, &Alignment::identity(pair.spec), &known);
    gain.matrix.resize(n * n, 0.0);
    for piece in pair.pieces.general.iter().filter(|piece| piece.has(group)) {
        piece.add(group, piece.update(), &mut gain.matrix);
    }
    tell(observe, Progress::Group { group })?;
    not_finite(pair.spec, group, &gain.matrix)?;
    // All that it moves is counted for groups within it: no pair of its units is worth anything by itself.
    if gain.matrix.iter().all(|&value| value == 0.0) {
        return Ok(None);
    }
    Ok(Some(Margins::of(&gain.matrix, n, |unit| unit)))
}

/// Whether anything but the identity is allowed.
fn can_move(pair: &Pair<'_>, group: usize) -> bool {
    let own = &pair.spec.groups()[group];
    let parent_moves = own.within.is_some_and(|parent| pair.spec.groups()[parent].kind == Kind::Symmetric);
    own.kind == Kind::Symmetric || parent_moves
}

impl Margins {
    #[expect(clippy::cast_precision_loss, reason = "counts of units are far below 2^52")]
    pub(super) fn of(gain: &[f32], n: usize, partner: impl Fn(usize) -> usize + Sync) -> Self {
        let matched = |unit: usize| f64::from(gain[unit * n + partner(unit)]);
        let margin = |unit: usize| {
            let row = &gain[unit * n..(unit + 1) * n];
            let others = row[..partner(unit)].iter().chain(&row[partner(unit) + 1..]);
            matched(unit) - f64::from(others.fold(f32::NEG_INFINITY, |best, &other| best.max(other)))
        };
        let mut margins: Vec<f64> = (0..n).into_par_iter().with_min_len(64).map(margin).collect();
        margins.sort_by(f64::total_cmp);
        let mean = (0..n).map(matched).sum::<f64>() / n as f64;
        let relative = |margin: f64| if mean > 0.0 { margin / mean } else { 0.0 };
        Self {
            best: margins.iter().filter(|&&margin| margin > 0.0).count() as f64 / n as f64,
            p5: relative(margins[n / 20]),
            median: relative(margins[n / 2]),
        }
    }
}

/// Adds the objective and the bound of a group and of those within it, over constant and simple pieces.
fn bound_family(
    pair: &Pair<'_>,
    top: usize,
    groups: &mut [GroupOptimality],
    observe: Observe<'_>,
) -> Result<(), AlignError> {
    let own = &pair.spec.groups()[top];
    let within: Vec<usize> =
        (0..groups.len()).filter(|&group| pair.spec.groups()[group].within == Some(top)).collect();
    let mut matrices = Vec::with_capacity(1 + within.len());
    for group in std::iter::once(top).chain(within.iter().copied()) {
        tell(observe, Progress::Group { group })?;
        let (objective, matrix) = relaxed_gain(pair, group);
        not_finite(pair.spec, group, &matrix)?;
        groups[group].objective += objective;
        matrices.push(matrix);
    }
    if within.is_empty() {
        groups[top].upper_bound += most(&matrices[0], own.units, own.kind);
        return Ok(());
    }
    let inner = |part: usize, a: usize, b: usize| {
        let (group, matrix) = (&pair.spec.groups()[within[part]], &matrices[part + 1]);
        let stays = || Permutation::identity(group.size);
        if matrix.is_empty() {
            return (stays(), 0.0);
        }
        match group.kind {
            Kind::Symmetric => wreath::best_inner(matrix, group.size, group.units, a, b),
            Kind::Fixed => (stays(), wreath::value(matrix, group.size, group.units, a, b, &stays())),
        }
    };
    let outright = |a: usize, b: usize| matrices[0].get(a * own.size + b).copied().map_or(0.0, f64::from);
    let (outer, wholes) = wreath::solve(own.size, own.kind == Kind::Fixed, within.len(), outright, inner);
    groups[top].upper_bound += value(&matrices[0], &outer);
    for ((&group, whole), matrix) in within.iter().zip(&wholes).zip(&matrices[1..]) {
        groups[group].upper_bound += value(matrix, whole);
    }
    Ok(())
}

/// The objective over the constant and simple pieces that are counted for a group, and their relaxed gain; empty if there are none.
fn relaxed_gain(pair: &Pair<'_>, group: usize) -> (f64, Vec<f32>) {
    let n = pair.spec.groups()[group].units;
    let mut matrix = pair.pieces.constant[group].gain(n).0.to_vec();
    let mut objective = value(&matrix, &Permutation::identity(n));
    for piece in &pair.pieces.simple {
        let solve = counted_for(piece);
        if piece.other(solve.other()) != group {
            continue;
        }
        matrix.resize(n * n, 0.0);
        objective += piece.value();
        piece.add_most(solve, &mut matrix);
    }
    (objective, matrix)
}

/// The larger of a piece's groups: the fewer the units that choose anew for each pair, the nearer the bound.
fn counted_for(piece: &Simple<'_>) -> Solve {
    let [y, x] = piece.units();
    if y >= x { Solve::Y } else { Solve::X }
}

/// The most that an assignment is worth: what its duals sum to, and what they are off by.
#[expect(clippy::cast_precision_loss, reason = "counts of units are far below 2^52")]
fn most(gain: &[f32], n: usize, kind: Kind) -> f64 {
    if gain.is_empty() || kind == Kind::Fixed {
        return value(gain, &Permutation::identity(n));
    }
    let view = ArrayView2::from_shape((n, n), gain).expect("a gain is square");
    let best = assign(view);
    let duals: f64 = best.row_dual.iter().chain(&best.col_dual).sum();
    duals + n as f64 * best.violation(view)
}

fn value(gain: &[f32], permutation: &Permutation) -> f64 {
    if gain.is_empty() {
        return 0.0;
    }
    let n = permutation.len();
    (0..n).map(|unit| f64::from(gain[unit * n + permutation.map(unit)])).sum()
}

/// Sorts each row of that many numbers, so that the inner product of two rows is the most that any order gives.
pub(super) fn sort_rows(values: &mut [f32], row: usize) {
    values.par_chunks_mut(row.max(1)).with_min_len(16).for_each(|row| row.sort_unstable_by(f32::total_cmp));
}
