//! One step of the ascent: the best permutation of a group, and of the groups within it, the others held.

use std::borrow::Cow;

use rayon::prelude::*;

use super::gains::{Gain, Pair};
use crate::{Alignment, Kind, Permutation, assignment, wreath};

/// What one step decides: a group that is within no other, and of those within it some that share no piece. Several steps
/// cover a group whose inner groups share pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) top: usize,
    /// All groups within it.
    pub(super) within: Vec<usize>,
    /// Those that this step decides; the others are carried along with their unit.
    active: Vec<usize>,
    /// Indices of the general pieces that it moves.
    general: Vec<usize>,
}

/// A step that raises the objective.
pub(super) struct Better {
    /// The groups that it sets, and to what.
    pub(super) permutations: Vec<(usize, Permutation)>,
    /// By how much the objective rises.
    pub(super) rise: f64,
    /// What the step's groups contribute then.
    pub(super) value: f64,
    /// Whether every unit got the best partner that it has in the whole matrix.
    pub(super) all_best: bool,
}

/// What a step found.
pub(super) enum Found {
    /// Nothing that is worth more than rounding.
    Nothing {
        /// Whether every unit already has the best partner that it has in the whole matrix.
        all_best: bool,
        /// What the step's groups contribute.
        value: f64,
    },
    Better(Better),
    /// The named group's gain is not finite.
    Overflow(usize),
}

/// A step must raise its part of the objective by more than this fraction: less is the rounding of f32 sums, and the ascent
/// would go round in circles among equals.
pub(super) const RELATIVE_TOLERANCE: f64 = 1e-6;

impl Step {
    /// All steps of a spec, in the order of its groups.
    pub(super) fn all(pair: &Pair<'_>) -> Vec<Self> {
        let groups = pair.spec.groups();
        let mut steps = Vec::new();
        for top in (0..groups.len()).filter(|&group| groups[group].within.is_none()) {
            let within: Vec<usize> =
                (0..groups.len()).filter(|&group| groups[group].within == Some(top)).collect();
            let general: Vec<usize> = (0..pair.pieces.general.len())
                .filter(|&piece| {
                    let piece = &pair.pieces.general[piece];
                    piece.has(top) || within.iter().any(|&group| piece.has(group))
                })
                .collect();
            let movable = |group: &usize| groups[*group].kind == Kind::Symmetric;
            let mut left: Vec<usize> = within.iter().copied().filter(movable).collect();
            if left.is_empty() && groups[top].kind == Kind::Symmetric {
                steps.push(Self {
                    top,
                    within: within.clone(),
                    active: Vec::new(),
                    general: general.clone(),
                });
            }
            while !left.is_empty() {
                let mut active: Vec<usize> = Vec::new();
                left.retain(|&group| {
                    let shares = active.iter().any(|&other| {
                        let shared = |&piece: &usize| {
                            let piece = &pair.pieces.general[piece];
                            piece.has(group) && piece.has(other)
                        };
                        general.iter().any(shared)
                    });
                    if !shares {
                        active.push(group);
                    }
                    shares
                });
                steps.push(Self { top, within: within.clone(), active, general: general.clone() });
            }
        }
        steps
    }

    /// Whether it decides one group, whose gain is one matrix.
    pub(super) fn is_plain(&self) -> bool {
        self.within.is_empty() && self.general.is_empty()
    }

    /// Its groups: the top one, then those within it.
    pub(super) fn groups(&self) -> impl Iterator<Item = usize> + '_ {
        std::iter::once(self.top).chain(self.within.iter().copied())
    }

    /// Looks for better permutations. `gains` are those of [`Self::groups`], up to date. Returns also multiply-adds.
    pub(super) fn solve(
        &self,
        pair: &Pair<'_>,
        gains: &mut [Gain],
        alignment: &Alignment,
        known: &[bool],
    ) -> (Found, u64) {
        let mut work = 0;
        let mut prices = std::mem::take(&mut gains[0].prices);
        let usable: Vec<usize> = self
            .general
            .iter()
            .copied()
            .filter(|&piece| {
                let mut groups = pair.pieces.general[piece].groups();
                groups.all(|group| known[group] || self.groups().any(|own| own == group))
            })
            .collect();
        let held: Vec<Vec<f32>> =
            usable.iter().map(|&piece| pair.pieces.general[piece].permuted(pair.spec, alignment)).collect();
        let mut matrices: Vec<Cow<'_, [f32]>> =
            gains.iter().map(|gain| Cow::Borrowed(gain.matrix.as_slice())).collect();
        for (&piece, permuted) in usable.iter().zip(&held) {
            work += self.add_general(pair, piece, permuted, alignment, &mut matrices);
        }
        for (group, matrix) in self.groups().zip(&matrices) {
            let finite = || matrix.par_chunks(1 << 16).all(|part| part.iter().all(|value| value.is_finite()));
            if !pair.surely_finite && !finite() {
                return (Found::Overflow(group), work);
            }
        }
        let (permutations, all_best) = if self.within.is_empty() {
            let n = pair.spec.groups()[self.top].units;
            if matrices[0].is_empty() {
                return (Found::Nothing { all_best: true, value: 0.0 }, work);
            }
            let solved = assignment::solve(&matrices[0], n, prices);
            prices = solved.prices;
            (vec![(self.top, solved.permutation)], solved.all_best)
        } else {
            (self.solve_wreath(pair, &matrices, alignment), false)
        };
        gains[0].prices = prices;
        (self.compare(pair, gains, alignment, (&usable, &held), permutations, all_best), work)
    }

    /// Adds a general piece's gain to the matrix of the active group on it, or of the top group if there is none.
    fn add_general(
        &self,
        pair: &Pair<'_>,
        piece: usize,
        permuted: &[f32],
        alignment: &Alignment,
        matrices: &mut [Cow<'_, [f32]>],
    ) -> u64 {
        let piece = &pair.pieces.general[piece];
        let target = self.active.iter().copied().find(|&group| piece.has(group)).unwrap_or(self.top);
        let n = pair.spec.groups()[target].units;
        let mut relative = vec![0.0; n * n];
        let work = piece.add(target, permuted, &mut relative);
        let place = self.groups().position(|group| group == target).unwrap_or(0);
        let matrix = matrices[place].to_mut();
        matrix.resize(n * n, 0.0);
        let now = &alignment.permutations[target];
        for (row, relative) in matrix.chunks_mut(n).zip(relative.chunks(n)) {
            for (column, value) in relative.iter().enumerate() {
                row[now.map(column)] += value;
            }
        }
        work
    }

    /// Exact where no active groups share a piece. Groups that are not active are carried along with their block as they are.
    fn solve_wreath(
        &self,
        pair: &Pair<'_>,
        matrices: &[Cow<'_, [f32]>],
        alignment: &Alignment,
    ) -> Vec<(usize, Permutation)> {
        let groups = pair.spec.groups();
        let (top, blocks) = (&groups[self.top], groups[self.top].size);
        let now_of_source = alignment.permutations[self.top].inverse();
        let carried = |group: usize, size: usize, b: usize| {
            let now = now_of_source.map(b) * size;
            let own = &alignment.permutations[group];
            let map = (0..size).map(|unit| u32::try_from(own.map(now + unit) % size).unwrap_or(u32::MAX));
            Permutation::new(map.collect()).expect("a group's own permutation, within a block")
        };
        let inner = |part: usize, a: usize, b: usize| {
            let (group, matrix) = (self.within[part], &matrices[part + 1]);
            let (size, units) = (groups[group].size, groups[group].units);
            if !matrix.is_empty() && self.active.contains(&group) {
                return wreath::best_inner(matrix, size, units, a, b);
            }
            let carried = carried(group, size, b);
            let value =
                if matrix.is_empty() { 0.0 } else { wreath::value(matrix, size, units, a, b, &carried) };
            (carried, value)
        };
        let own = |a: usize, b: usize| matrices[0].get(a * blocks + b).copied().map_or(0.0, f64::from);
        let (outer, wholes) = wreath::solve(blocks, top.kind == Kind::Fixed, self.within.len(), own, inner);
        let mut permutations: Vec<(usize, Permutation)> = self.within.iter().copied().zip(wholes).collect();
        permutations.push((self.top, outer));
        permutations
    }

    /// Whether permutations are truly worth more than those held: exactly where a group stands on a piece twice, too.
    fn compare(
        &self,
        pair: &Pair<'_>,
        gains: &[Gain],
        alignment: &Alignment,
        (usable, held): (&[usize], &[Vec<f32>]),
        permutations: Vec<(usize, Permutation)>,
        all_best: bool,
    ) -> Found {
        let (mut before, mut after) = (0.0, 0.0);
        for (group, gain) in self.groups().zip(gains) {
            before += gain.value(&alignment.permutations[group]);
            if let Some((_, better)) = permutations.iter().find(|(set, _)| *set == group) {
                after += gain.value(better);
            }
        }
        if !usable.is_empty() {
            let mut next = alignment.clone();
            for (group, better) in &permutations {
                next.permutations[*group] = better.clone();
            }
            for (&piece, held) in usable.iter().zip(held) {
                let piece = &pair.pieces.general[piece];
                before += piece.value(held);
                after += piece.value(&piece.permuted(pair.spec, &next));
            }
        }
        if after > before + RELATIVE_TOLERANCE * before.abs().max(after.abs()) {
            return Found::Better(Better { permutations, rise: after - before, value: after, all_best });
        }
        let same = permutations.iter().all(|(group, better)| *better == alignment.permutations[*group]);
        Found::Nothing { all_best: all_best && same, value: before }
    }
}
