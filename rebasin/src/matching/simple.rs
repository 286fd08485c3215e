//! Pieces that two groups move, one digit each: the tensors of nearly every network, and nearly all of the arithmetic.
//!
//! With the digits `y`, `x` and the rest `k`, the gain of the group of `x` is `sum over y, k of a[y, x, k] b[p(y), x', k]`,
//! `p` being the permutation of the other group. Both models lie as `[y][x][k]`, which is how a linear layer and a convolution lie
//! in their checkpoints: these are read where they are. A permuted neighbour is a choice of whole rows when `x` is solved, and of
//! runs of `k` within rows when `y` is; what a product needs together is copied a cache's worth at a time.

use std::{borrow::Cow, ops::Range};

use rayon::prelude::*;

use super::{
    change::{Moved, Units},
    optimality::sort_rows,
    pieces::{Cut, Label, arrange},
};
use crate::{Permutation, gemm};

/// About so many floats are copied for one product: they stay in cache.
pub(super) const CHUNK: usize = 1 << 20;

pub(super) struct Simple<'a> {
    y: Side,
    x: Side,
    /// Positions of the rest.
    depth: usize,
    /// The reference, `[y][x][k]`.
    a: Cow<'a, [f32]>,
    /// The update, likewise.
    b: Cow<'a, [f32]>,
}

#[derive(Clone, Copy)]
struct Side {
    group: usize,
    units: usize,
}

/// Which of a piece's two groups is being solved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Solve {
    Y,
    X,
}

impl Solve {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Y => Self::X,
            Self::X => Self::Y,
        }
    }
}

impl<'a> Simple<'a> {
    pub(super) fn new(cut: &Cut, y: usize, x: usize, a: Cow<'a, [f32]>, b: Cow<'a, [f32]>) -> Self {
        let side = |dim: usize| match cut.dims[dim].label {
            Label::Units(group) => Side { group, units: cut.dims[dim].extent },
            _ => unreachable!("a simple piece has two dims that move by their units"),
        };
        let rest: Vec<usize> = (0..cut.dims.len()).filter(|&dim| dim != y && dim != x).collect();
        let depth = rest.iter().map(|&dim| cut.dims[dim].extent).product();
        let order: Vec<usize> = [&[y, x][..], &rest].concat();
        let (a, b) = rayon::join(|| arrange(a, cut, &order), || arrange(b, cut, &order));
        Self { y: side(y), x: side(x), depth, a, b }
    }

    pub(super) fn num_elements(&self) -> usize {
        self.a.len()
    }

    /// The two groups: of `y`, and of `x`.
    pub(super) fn groups(&self) -> [usize; 2] {
        [self.y.group, self.x.group]
    }

    /// Units of the two groups: of `y`, and of `x`.
    pub(super) fn units(&self) -> [usize; 2] {
        [self.y.units, self.x.units]
    }

    pub(super) fn other(&self, solve: Solve) -> usize {
        if solve == Solve::X { self.y.group } else { self.x.group }
    }

    /// Multiply-adds of a whole product.
    pub(super) fn dense_work(&self, solve: Solve) -> u64 {
        (self.a.len() * if solve == Solve::X { self.x.units } else { self.y.units }) as u64
    }

    /// Adds the piece's gain, the other group being permuted.
    pub(super) fn add(&self, solve: Solve, gain: &mut [f32], other: &Permutation) {
        match solve {
            Solve::X => self.add_for_x(gain, other),
            Solve::Y => self.add_for_y(gain, other),
        }
    }

    /// The reference and the update, `[y][x][k]`.
    pub(super) fn models(&self) -> (&[f32], &[f32]) {
        (&self.a, &self.b)
    }

    /// Positions of the rest.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Writes what the product over one unit `y` that moved is made of: `[k][x]`, of the reference and of what the update changed.
    pub(super) fn write_for_x(&self, moved: &Moved<'_>, reference: &mut [f32], difference: &mut [f32]) {
        self.by_depth(reference, self.row(&self.a, moved.unit));
        let (new, old) = (self.row(&self.b, moved.after), self.row(&self.b, moved.before));
        self.by_depth(difference, new);
        self.less_by_depth(difference, old);
    }

    /// Writes what a row of the product over units `x` that moved is made of, as `[x][k]`.
    pub(super) fn write_for_y(&self, y: usize, moved: &Units, reference: &mut [f32], difference: &mut [f32]) {
        let rows = [self.row(&self.a, y), self.row(&self.b, y)];
        match self.depth {
            1 => write_runs::<1>(rows, moved, reference, difference),
            9 => write_runs::<9>(rows, moved, reference, difference),
            depth => {
                let run = |unit: u32| unit as usize * depth..(unit as usize + 1) * depth;
                let runs = reference.chunks_exact_mut(depth).zip(difference.chunks_exact_mut(depth));
                for ((a, b), [unit, before, after]) in runs.zip(moved.iter()) {
                    a.copy_from_slice(&rows[0][run(unit)]);
                    let (new, old) = (&rows[1][run(after)], &rows[1][run(before)]);
                    b.iter_mut().zip(new.iter().zip(old)).for_each(|(to, (new, old))| *to = new - old);
                }
            }
        }
    }

    /// Inner product with the reference where all stays, in f64.
    pub(super) fn value(&self) -> f64 {
        self.a.iter().zip(&*self.b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    }

    /// Adds, for each pair of units, the most that the piece can be worth to them if the other group is free to choose for
    /// that pair alone, and for each position of the rest anew: both sides sorted along the other axis.
    pub(super) fn add_most(&self, solve: Solve, gain: &mut [f32]) {
        let (k, units) = (self.depth, [self.y.units, self.x.units]);
        let (n, row) = if solve == Solve::Y { (units[0], units[1]) } else { (units[1], units[0]) };
        // By unit, then by position of the rest, along the other axis.
        let sorted = |values: &[f32]| {
            let mut out = vec![0.0; values.len()];
            out.par_chunks_mut(k * row).enumerate().with_min_len(8).for_each(|(unit, out)| {
                for (place, out) in out.iter_mut().enumerate() {
                    let (rest, other) = (place / row, place % row);
                    let (y, x) = if solve == Solve::Y { (unit, other) } else { (other, unit) };
                    *out = values[(y * units[1] + x) * k + rest];
                }
            });
            sort_rows(&mut out, row);
            out
        };
        let (a, b) = (sorted(&self.a), sorted(&self.b));
        let depth = self.depth * row;
        let reference = gemm::Strided::by_unit(&a, depth);
        gemm::accumulate(gain, n, depth, reference, gemm::Strided::by_unit(&b, depth));
    }

    /// A row of either model: one `y`.
    fn row<'v>(&self, values: &'v [f32], y: usize) -> &'v [f32] {
        let row = self.x.units * self.depth;
        &values[y * row..(y + 1) * row]
    }

    fn add_for_x(&self, gain: &mut [f32], other: &Permutation) {
        self.add_rows_for_x(gain, 0..self.y.units, |unit| other.map(unit));
    }

    /// Adds what some units `y` contribute to the gain of `x`.
    pub(super) fn add_rows_for_x(
        &self,
        gain: &mut [f32],
        units: Range<usize>,
        other: impl Fn(usize) -> usize + Sync,
    ) {
        let (n, row) = (self.x.units, self.x.units * self.depth);
        let (mut a_rows, mut b_rows) = (Vec::new(), Vec::new());
        let together = (CHUNK / row).max(1);
        for begin in units.clone().step_by(together) {
            let end = units.end.min(begin + together);
            let place = begin * row..end * row;
            let a = match self.depth {
                1 => &self.a[place.clone()],
                _ => self.rows_by_depth(&mut a_rows, end - begin, |at| self.row(&self.a, begin + at)),
            };
            let stay = (begin..end).all(|unit| other(unit) == unit);
            let from = |at| self.row(&self.b, other(begin + at));
            let b = match self.depth {
                1 if stay => &self.b[place],
                _ => self.rows_by_depth(&mut b_rows, end - begin, from),
            };
            let depth = (end - begin) * self.depth;
            gemm::accumulate(gain, n, depth, gemm::Strided::by_depth(a, n), gemm::Strided::by_depth(b, n));
        }
    }

    /// So many rows one after the other, each as `[k][x]`.
    fn rows_by_depth<'v, 'o>(
        &self,
        out: &'o mut Vec<f32>,
        count: usize,
        row_at: impl Fn(usize) -> &'v [f32] + Sync,
    ) -> &'o [f32] {
        let row = self.x.units * self.depth;
        out.resize(count * row, 0.0);
        out.par_chunks_mut(row).enumerate().for_each(|(at, to)| {
            self.by_depth(to, row_at(at));
        });
        out
    }

    /// A row's elements, given as `[x][k]`, as `[k][x]`.
    fn by_depth(&self, to: &mut [f32], from: &[f32]) {
        self.each_by_depth(to, from, |to, value| *to = value);
    }

    /// Takes a row's elements, given as `[x][k]`, from those of another, which lie as `[k][x]`.
    fn less_by_depth(&self, to: &mut [f32], from: &[f32]) {
        self.each_by_depth(to, from, |to, value| *to -= value);
    }

    fn each_by_depth(&self, to: &mut [f32], from: &[f32], each: impl Fn(&mut f32, f32)) {
        match self.depth {
            1 => to.iter_mut().zip(from).for_each(|(to, &value)| each(to, value)),
            9 => transposed::<9>(to, from, each),
            depth => {
                for (k, to) in to.chunks_exact_mut(self.x.units).enumerate() {
                    to.iter_mut()
                        .zip(from[k..].iter().step_by(depth))
                        .for_each(|(to, &value)| each(to, value));
                }
            }
        }
    }

    fn add_for_y(&self, gain: &mut [f32], other: &Permutation) {
        let (n, units, depth) = (self.y.units, self.x.units, self.depth);
        let row = units * depth;
        let mut rows = Vec::new();
        let together = (CHUNK / (n * depth)).clamp(1, units);
        for begin in (0..units).step_by(together) {
            let count = together.min(units - begin);
            let some = &other.as_slice()[begin..begin + count];
            let beside = |values| gemm::Strided { values, unit_stride: row, depth_stride: 1 };
            let stay = (begin..begin + count).all(|unit| other.map(unit) == unit);
            let update = if stay {
                beside(&self.b[begin * depth..])
            } else {
                rows.resize(n * count * depth, 0.0);
                rows.par_chunks_mut(count * depth).enumerate().with_min_len(8).for_each(|(y, to)| {
                    let from = self.row(&self.b, y);
                    match depth {
                        1 => copy_runs::<1>(from, some, to),
                        9 => copy_runs::<9>(from, some, to),
                        _ => {
                            for (to, &unit) in to.chunks_exact_mut(depth).zip(some) {
                                to.copy_from_slice(&from[unit as usize * depth..(unit as usize + 1) * depth]);
                            }
                        }
                    }
                });
                gemm::Strided::by_unit(&rows, count * depth)
            };
            gemm::accumulate(gain, n, count * depth, beside(&self.a[begin * depth..]), update);
        }
    }
}

/// Copies the runs of some units, each `K` long: what linear layers and 3 x 3 convolutions have, without a call for each.
fn copy_runs<const K: usize>(from: &[f32], units: &[u32], to: &mut [f32]) {
    let ((from, _), (to, _)) = (from.as_chunks::<K>(), to.as_chunks_mut::<K>());
    to.iter_mut().zip(units).for_each(|(to, &unit)| *to = from[unit as usize]);
}

/// The runs of some units in the reference, and what the update changed; each `K` long.
fn write_runs<const K: usize>(
    [from_a, from_b]: [&[f32]; 2],
    moved: &Units,
    reference: &mut [f32],
    difference: &mut [f32],
) {
    let ((from_a, _), (from_b, _)) = (from_a.as_chunks::<K>(), from_b.as_chunks::<K>());
    let ((to_a, _), (to_b, _)) = (reference.as_chunks_mut::<K>(), difference.as_chunks_mut::<K>());
    for ((a, b), [unit, before, after]) in to_a.iter_mut().zip(to_b).zip(moved.iter()) {
        *a = from_a[unit as usize];
        let (new, old) = (&from_b[after as usize], &from_b[before as usize]);
        *b = std::array::from_fn(|k| new[k] - old[k]);
    }
}

/// Goes through `[x][K]` once, some `x` at a time, and through as many of each of `K` rows `[x]`: both sides by whole cache lines.
fn transposed<const K: usize>(to: &mut [f32], from: &[f32], each: impl Fn(&mut f32, f32)) {
    const SOME: usize = 16;
    let (from, _) = from.as_chunks::<K>();
    let units = from.len();
    for (part, from) in from.chunks(SOME).enumerate() {
        for k in 0..K {
            let begin = k * units + part * SOME;
            let to = &mut to[begin..begin + from.len()];
            to.iter_mut().zip(from).for_each(|(to, run)| each(to, run[k]));
        }
    }
}
