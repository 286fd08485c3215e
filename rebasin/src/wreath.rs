//! Wreath products: a permutation of blocks, and for each block one of its units.

use rayon::prelude::*;

use crate::{
    Permutation,
    assignment::{self, Prices},
};

/// The best element, exactly: the best inner permutations for each pair of blocks, then the best pairing of blocks.
///
/// `inner(part, a, b)` says, for each of the `parts` (groups that move along with the blocks), what stands at block `a` of the
/// outcome if it comes from source block `b`, and what that is worth; `own(a, b)` what pairing the blocks is worth besides.
/// `fixed` blocks keep their places. Returns the blocks' permutation and, for each part, that of all its units.
pub(crate) fn solve(
    blocks: usize,
    fixed: bool,
    parts: usize,
    own: impl Fn(usize, usize) -> f64 + Sync,
    inner: impl Fn(usize, usize, usize) -> (Permutation, f64) + Sync,
) -> (Permutation, Vec<Permutation>) {
    let outer = if fixed {
        Permutation::identity(blocks)
    } else {
        #[expect(clippy::cast_possible_truncation, reason = "the solver takes f32")]
        let value = |pair: usize| {
            let (a, b) = (pair / blocks, pair % blocks);
            (own(a, b) + (0..parts).map(|part| inner(part, a, b).1).sum::<f64>()) as f32
        };
        let values: Vec<f32> = (0..blocks * blocks).into_par_iter().map(value).collect();
        assignment::solve(&values, blocks, Prices::default()).permutation
    };
    let whole = |part: usize| {
        let inner: Vec<Permutation> =
            (0..blocks).into_par_iter().map(|a| inner(part, a, outer.map(a)).0).collect();
        Permutation::wreath(&outer, &inner)
    };
    let wholes = (0..parts).map(whole).collect();
    (outer, wholes)
}

/// The best inner permutation of `size` units between block `a` of a gain's rows and block `b` of its columns, and its value.
pub(crate) fn best_inner(gain: &[f32], size: usize, units: usize, a: usize, b: usize) -> (Permutation, f64) {
    let block: Vec<f32> = (0..size * size).map(|at| gain[index(size, units, a, b, at)]).collect();
    let best = assignment::solve(&block, size, Prices::default()).permutation;
    let value = value(gain, size, units, a, b, &best);
    (best, value)
}

/// What an inner permutation is worth between block `a` of a gain's rows and block `b` of its columns, in f64.
pub(crate) fn value(gain: &[f32], size: usize, units: usize, a: usize, b: usize, inner: &Permutation) -> f64 {
    (0..size).map(|unit| f64::from(gain[index(size, units, a, b, unit * size + inner.map(unit))])).sum()
}

fn index(size: usize, units: usize, a: usize, b: usize, at: usize) -> usize {
    (a * size + at / size) * units + b * size + at % size
}
