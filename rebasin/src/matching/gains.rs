//! The gain matrix of each group, kept up to date by what changed.

use super::{
    change::Change,
    pieces::Pieces,
    simple::{Simple, Solve},
};
use crate::{Alignment, CheckedSpec, Checkpoint, Permutation, assignment::Prices, report::Measure};

/// The pieces of a pair of models, and which of them each group's gain is made of.
pub(super) struct Pair<'a> {
    pub(super) spec: &'a CheckedSpec,
    pub(super) pieces: Pieces<'a>,
    /// For each group: the simple pieces that it moves, and as which side.
    pub(super) sides: Vec<Vec<(usize, Solve)>>,
    /// Whether no gain can overflow, whatever is permuted.
    pub(super) surely_finite: bool,
}

/// One group's gain over its constant and simple pieces. Row = unit of the reference, column = unit of the update, whatever
/// the permutation held.
#[derive(Clone, Default)]
pub(super) struct Gain {
    /// `units × units`; empty if nothing was added yet.
    pub(super) matrix: Vec<f32>,
    /// For each side: the permutation of the other group that the matrix holds; `None`: that piece is not in it.
    held: Vec<Option<Permutation>>,
    /// What the columns came to when the group was last solved.
    pub(super) prices: Prices,
}

/// Beyond this part of changed rows a matrix is made anew: it costs the same, and drops the rounding gathered.
const ANEW: f64 = 0.95;

/// Far below the largest f32: rounding and the differences of a change fit between.
const SURELY_FINITE: f64 = 1e30;

impl<'a> Pair<'a> {
    /// `measures` are those of the two as they are, one a tensor.
    pub(super) fn new(
        spec: &'a CheckedSpec,
        reference: &'a Checkpoint,
        update: &'a Checkpoint,
        measures: &[Measure],
    ) -> Self {
        let pieces = Pieces::cut(spec, reference, update);
        let mut sides = vec![Vec::new(); spec.groups().len()];
        for (index, piece) in pieces.simple.iter().enumerate() {
            let [y, x] = piece.groups();
            sides[y].push((index, Solve::Y));
            sides[x].push((index, Solve::X));
        }
        // A gain is a sum of products, each element being in one at most; so are its parts and what a change adds.
        let surely_finite = Measure::sum(measures).most() < SURELY_FINITE;
        Self { spec, pieces, sides, surely_finite }
    }

    /// Gains that hold nothing.
    pub(super) fn no_gains(&self) -> Vec<Gain> {
        self.sides.iter().map(|sides| Gain { held: vec![None; sides.len()], ..Gain::default() }).collect()
    }

    /// Groups that share a piece with `group`, itself too if it stands on one twice.
    pub(super) fn neighbours(&self, group: usize) -> Vec<usize> {
        let simple = self.sides[group].iter().map(|&(piece, solve)| self.pieces.simple[piece].other(solve));
        let general = self.pieces.general.iter().filter(|piece| piece.has(group)).flat_map(|piece| {
            let twice = piece.groups().filter(|&other| other == group).count() > 1;
            piece.groups().filter(move |&other| other != group || twice)
        });
        let mut found: Vec<usize> = simple.chain(general).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Elements that move with a group: all of them, and those whose other groups are all `known`.
    pub(super) fn known_elements(&self, group: usize, known: &[bool]) -> (usize, usize) {
        let mut all = self.pieces.constant[group].num_elements();
        let mut usable = all;
        for &(piece, solve) in &self.sides[group] {
            let piece = &self.pieces.simple[piece];
            all += piece.num_elements();
            if known[piece.other(solve)] {
                usable += piece.num_elements();
            }
        }
        for piece in self.pieces.general.iter().filter(|piece| piece.has(group)) {
            all += piece.num_elements();
            if piece.groups().all(|other| other == group || known[other]) {
                usable += piece.num_elements();
            }
        }
        (all, usable)
    }

    /// Multiply-adds of a group's gain, done whole.
    pub(super) fn dense_work(&self, group: usize) -> u64 {
        let n = self.spec.groups()[group].units as u64;
        let simple =
            self.sides[group].iter().map(|&(piece, solve)| self.pieces.simple[piece].dense_work(solve));
        simple.sum::<u64>() + n * self.pieces.constant[group].num_elements() as u64
    }

    /// Brings a gain up to date with the permutations of the groups that are `known`; leaves the others' pieces out.
    /// Returns multiply-adds.
    pub(super) fn refresh(
        &self,
        group: usize,
        gain: &mut Gain,
        alignment: &Alignment,
        known: &[bool],
    ) -> u64 {
        let n = self.spec.groups()[group].units;
        let sides = &self.sides[group];
        let mut work = 0;
        if gain.matrix.is_empty() {
            if sides.is_empty() && self.pieces.constant[group].is_empty() {
                return 0;
            }
            work += self.restart(group, gain);
        }
        if self.changed_part(group, gain, alignment) >= ANEW {
            work += self.restart(group, gain);
        }
        let mut change = Change::default();
        for (place, &(piece, solve)) in sides.iter().enumerate() {
            let piece: &Simple<'_> = &self.pieces.simple[piece];
            let other = piece.other(solve);
            if !known[other] {
                continue;
            }
            let now = &alignment.permutations[other];
            match &gain.held[place] {
                Some(held) if held == now => continue,
                Some(held) => change.add(piece, solve, held, now),
                None => {
                    piece.add(solve, &mut gain.matrix, now);
                    work += piece.dense_work(solve);
                }
            }
            gain.held[place] = Some(now.clone());
        }
        debug_assert_eq!(gain.matrix.len(), n * n);
        work + change.apply(&mut gain.matrix, n)
    }

    /// What of a group's gain never changes, and the multiply-adds that took now.
    pub(super) fn constant_gain(&self, group: usize) -> (&[f32], u64) {
        self.pieces.constant[group].gain(self.spec.groups()[group].units)
    }

    /// Bytes of the gains of all groups.
    pub(super) fn gains_size(&self) -> usize {
        self.spec.groups().iter().map(|group| group.units * group.units * size_of::<f32>()).sum()
    }

    /// Forgets all but what never changes. Returns multiply-adds.
    fn restart(&self, group: usize, gain: &mut Gain) -> u64 {
        let n = self.spec.groups()[group].units;
        let (constant, work) = self.constant_gain(group);
        gain.matrix.clear();
        gain.matrix.extend_from_slice(constant);
        gain.matrix.resize(n * n, 0.0);
        gain.held.fill(None);
        work
    }

    /// Of the elements in a gain: the part whose rows now come from elsewhere.
    #[expect(clippy::cast_precision_loss, reason = "a rough part")]
    fn changed_part(&self, group: usize, gain: &Gain, alignment: &Alignment) -> f64 {
        let (mut all, mut changed) = (0.0, 0.0);
        for (held, &(piece, solve)) in gain.held.iter().zip(&self.sides[group]) {
            let Some(held) = held else { continue };
            let piece = &self.pieces.simple[piece];
            let now = &alignment.permutations[piece.other(solve)];
            let moved = held.as_slice().iter().zip(now.as_slice()).filter(|(held, now)| held != now).count();
            all += piece.num_elements() as f64;
            changed += piece.num_elements() as f64 * moved as f64 / held.len() as f64;
        }
        if all == 0.0 { 0.0 } else { changed / all }
    }
}

impl Gain {
    /// What a permutation contributes to the objective: the sum of its entries, in f64.
    pub(super) fn value(&self, permutation: &Permutation) -> f64 {
        if self.matrix.is_empty() {
            return 0.0;
        }
        let n = permutation.len();
        (0..n).map(|unit| f64::from(self.matrix[unit * n + permutation.map(unit)])).sum()
    }
}
