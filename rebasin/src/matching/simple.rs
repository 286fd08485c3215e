//! Pieces that two groups move, one digit each: the tensors of nearly every network, and nearly all of the arithmetic.
//!
//! With the digits `y`, `x` and the rest `k`, the gain of the group of `x` is `sum over y, k of a[y, k, x] b[p(y), k, x']`,
//! `p` being the permutation of the other group. The reference lies in memory once, `[y][k][x]`; the update twice, so
//! that a permuted neighbour is a choice of whole rows whichever group is being solved.

use rayon::prelude::*;

use super::{
    optimality::sort_rows,
    pieces::{Cut, Dim, Label, arrange, arrange_dims},
};
use crate::{Permutation, gemm};

/// About so many floats of the update are gathered for one product: they stay in cache.
const CHUNK: usize = 1 << 20;

pub(super) struct Simple {
    y: Side,
    x: Side,
    /// Positions of the rest.
    depth: usize,
    /// The reference, `[y][k][x]`.
    a: Vec<f32>,
    /// The update, `[y][k][x]`.
    b_by_y: Vec<f32>,
    /// The update, `[x][k][y]`.
    b_by_x: Vec<f32>,
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

impl Simple {
    pub(super) fn new(cut: &Cut, y: usize, x: usize, a: Vec<f32>, b: Vec<f32>) -> Self {
        let side = |dim: usize| match cut.dims[dim].label {
            Label::Units(group) => Side { group, units: cut.dims[dim].extent },
            _ => unreachable!("a simple piece has two dims that move by their units"),
        };
        let rest: Vec<usize> = (0..cut.dims.len()).filter(|&dim| dim != y && dim != x).collect();
        let depth = rest.iter().map(|&dim| cut.dims[dim].extent).product();
        let by_y: Vec<usize> = [&[y][..], &rest, &[x]].concat();
        let by_x: Vec<usize> = [&[x][..], &rest, &[y]].concat();
        let whole = a.len() == cut.num_elements();
        let natural = whole && by_y.iter().enumerate().all(|(place, &dim)| place == dim);
        let b_by_x = arrange(&b, cut, &by_x);
        let (a, b_by_y) = if natural {
            (a, b)
        } else {
            rayon::join(|| arrange(&a, cut, &by_y), || arrange(&b, cut, &by_y))
        };
        Self { y: side(y), x: side(x), depth, a, b_by_y, b_by_x }
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

    /// Makes the piece's gain that of another permutation of the other group: a product over the rows that changed.
    /// Returns multiply-adds.
    pub(super) fn change(
        &self,
        solve: Solve,
        gain: &mut [f32],
        before: &Permutation,
        after: &Permutation,
    ) -> u64 {
        let changed: Vec<usize> =
            (0..after.len()).filter(|&unit| before.map(unit) != after.map(unit)).collect();
        let n = match solve {
            Solve::X => {
                self.change_for_x(gain, &changed, before, after);
                self.x.units
            }
            Solve::Y => {
                self.change_for_y(gain, &changed, before, after);
                self.y.units
            }
        };
        (changed.len() * self.depth * n * n) as u64
    }

    /// Inner product with the reference where all stays, in f64.
    pub(super) fn value(&self) -> f64 {
        self.a.iter().zip(&self.b_by_y).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    }

    /// Adds, for each pair of units, the most that the piece can be worth to them if the other group is free to choose for
    /// that pair alone, and for each position of the rest anew: both sides sorted along the other axis.
    pub(super) fn add_most(&self, solve: Solve, gain: &mut [f32]) {
        let (n, row, mut a, mut b) = match solve {
            Solve::Y => (self.y.units, self.x.units, self.a.clone(), self.b_by_y.clone()),
            Solve::X => {
                let dim = |extent, stride| Dim { extent, stride, label: Label::Stays };
                let (x, depth, y) = (self.x.units, self.depth, self.y.units);
                let by_x = [dim(x, 1), dim(depth, x), dim(y, depth * x)];
                (x, y, arrange_dims(&self.a, 0, &by_x), self.b_by_x.clone())
            }
        };
        rayon::join(|| sort_rows(&mut a, row), || sort_rows(&mut b, row));
        let depth = self.depth * row;
        let reference = gemm::Strided::by_unit(&a, depth);
        gemm::accumulate(gain, n, depth, reference, gemm::Strided::by_unit(&b, depth));
    }

    fn add_for_x(&self, gain: &mut [f32], other: &Permutation) {
        let (n, row) = (self.x.units, self.depth * self.x.units);
        let together = (CHUNK / row).max(1);
        let mut rows = Vec::new();
        for begin in (0..self.y.units).step_by(together) {
            let end = self.y.units.min(begin + together);
            let stay = (begin..end).all(|unit| other.map(unit) == unit);
            let update = if stay {
                &self.b_by_y[begin * row..end * row]
            } else {
                rows.resize((end - begin) * row, 0.0);
                rows.par_chunks_mut(row).zip(begin..end).for_each(|(to, unit)| {
                    let from = other.map(unit) * row;
                    to.copy_from_slice(&self.b_by_y[from..from + row]);
                });
                &rows[..]
            };
            let reference = gemm::Strided::by_depth(&self.a[begin * row..end * row], n);
            let depth = (end - begin) * self.depth;
            gemm::accumulate(gain, n, depth, reference, gemm::Strided::by_depth(update, n));
        }
    }

    fn add_for_y(&self, gain: &mut [f32], other: &Permutation) {
        let (n, units, depth) = (self.y.units, self.x.units, self.depth);
        let together = (CHUNK / n).max(64).min(units);
        let mut rows = vec![0.0; together * n];
        for k in 0..depth {
            for begin in (0..units).step_by(together) {
                let count = together.min(units - begin);
                let rows = &mut rows[..count * n];
                rows.par_chunks_mut(n).zip(begin..begin + count).with_min_len(8).for_each(|(to, unit)| {
                    let from = (other.map(unit) * depth + k) * n;
                    to.copy_from_slice(&self.b_by_x[from..from + n]);
                });
                let reference = gemm::Strided {
                    values: &self.a[k * units + begin..],
                    unit_stride: depth * units,
                    depth_stride: 1,
                };
                gemm::accumulate(gain, n, count, reference, gemm::Strided::by_depth(rows, n));
            }
        }
    }

    fn change_for_x(&self, gain: &mut [f32], changed: &[usize], before: &Permutation, after: &Permutation) {
        let (n, row) = (self.x.units, self.depth * self.x.units);
        let (mut a_rows, mut b_rows) = (Vec::new(), Vec::new());
        for some in changed.chunks((CHUNK / row).max(1)) {
            a_rows.resize(some.len() * row, 0.0);
            b_rows.resize(some.len() * row, 0.0);
            let to = a_rows.par_chunks_mut(row).zip(b_rows.par_chunks_mut(row));
            to.zip(some).for_each(|((a, b), &unit)| {
                a.copy_from_slice(&self.a[unit * row..(unit + 1) * row]);
                let (new, old) = (after.map(unit) * row, before.map(unit) * row);
                let pairs = self.b_by_y[new..new + row].iter().zip(&self.b_by_y[old..old + row]);
                for (b, (new, old)) in b.iter_mut().zip(pairs) {
                    *b = new - old;
                }
            });
            let depth = some.len() * self.depth;
            let reference = gemm::Strided::by_depth(&a_rows, n);
            gemm::accumulate(gain, n, depth, reference, gemm::Strided::by_depth(&b_rows, n));
        }
    }

    fn change_for_y(&self, gain: &mut [f32], changed: &[usize], before: &Permutation, after: &Permutation) {
        let (n, units, depth) = (self.y.units, self.x.units, self.depth);
        let (mut a_rows, mut b_rows) = (Vec::new(), Vec::new());
        for some in changed.chunks((CHUNK / (depth * n)).max(1)) {
            let row = depth * some.len();
            a_rows.resize(n * row, 0.0);
            b_rows.resize(n * row, 0.0);
            a_rows.par_chunks_mut(row).enumerate().with_min_len(8).for_each(|(y, to)| {
                for (k, to) in to.chunks_mut(some.len()).enumerate() {
                    let from = &self.a[(y * depth + k) * units..(y * depth + k + 1) * units];
                    for (to, &unit) in to.iter_mut().zip(some) {
                        *to = from[unit];
                    }
                }
            });
            b_rows.par_chunks_mut(n).enumerate().with_min_len(8).for_each(|(place, to)| {
                let (k, unit) = (place / some.len(), some[place % some.len()]);
                let new = (after.map(unit) * depth + k) * n;
                let old = (before.map(unit) * depth + k) * n;
                let pairs = self.b_by_x[new..new + n].iter().zip(&self.b_by_x[old..old + n]);
                for (to, (new, old)) in to.iter_mut().zip(pairs) {
                    *to = new - old;
                }
            });
            let reference = gemm::Strided::by_unit(&a_rows, row);
            gemm::accumulate(gain, n, row, reference, gemm::Strided::by_depth(&b_rows, n));
        }
    }
}
