//! Whether an update that is near the reference is in its frame already, told from a part of the products.
//!
//! The best assignment of a gain `G = A B'` (rows: units of the two models, all that moves with them) stays the best when a number is
//! added to each row and column: so it is the one of least squared distances. If every `|a_i - b_j|^2` is at least the mean of
//! `|a_i - b_i|^2` and `|a_j - b_j|^2`, these halves are a dual solution, and no assignment is better than the identity. The right
//! side costs one pass over the models. The left side is bounded from below by products over some of the columns, and by the norms of
//! what is left (Cauchy and Schwarz): for an update that moved each unit by less than a third of its norm, a sixteenth or an eighth of
//! the columns is enough. The few pairs for which it is not are computed whole. A bound is a bound: f32 sums are taken with the most
//! that they can be wrong by.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    gains::Pair,
    simple::{Simple, Solve},
    step::RELATIVE_TOLERANCE,
};
use crate::gemm::{self, Strided};

/// Parts of the columns that are looked at, one after the other, all in all.
const STAGES: [f64; 4] = [1.0 / 32.0, 1.0 / 16.0, 1.0 / 8.0, 1.0 / 4.0];

/// A piece is not cut finer than so many columns.
const LEAST: usize = 16;

/// Units whose norms one thread adds up.
const UNITS: usize = 64;

/// Whether no permutation of a group is worth more than the identity, beyond rounding, every other group staying as it is; `false` if
/// that cannot be told cheaply. Gives also multiply-adds. The group is within no other and has none within it; no general piece moves
/// with it.
pub(super) fn identity_is_best(pair: &Pair<'_>, group: usize) -> (bool, u64) {
    let n = pair.spec.groups()[group].units;
    let views = views(pair, group);
    let whole = Norms::of(&views, n, |columns| 0..columns);
    let numbers: usize = views.iter().map(View::depth).sum();
    let mut seen = Norms::nothing(n);
    let mut product = vec![0.0_f32; n * n];
    let (mut depth, mut work) = (0, 0);
    let mut begin = 0.0;
    for end in STAGES {
        let part = |columns: usize| at(begin, columns)..at(end, columns);
        for view in &views {
            depth += view.add(&mut product, n, part(view.columns()));
        }
        seen.add(&Norms::of(&views, n, part));
        if let Some(doubts) = doubts(&product, n, (depth, numbers), &whole, &seen) {
            work += doubts.len() * numbers;
            return (settle(&views, &whole, &doubts), (n * n * depth + work) as u64);
        }
        begin = end;
    }
    (false, (n * n * depth) as u64)
}

/// Columns up to a part of them; small pieces are not cut.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a part of a number of columns"
)]
fn at(part: f64, columns: usize) -> usize {
    if part == 0.0 { 0 } else { ((part * columns as f64) as usize).max(LEAST).min(columns) }
}

/// A piece as one of its groups sees it.
enum View<'p> {
    /// `[unit][column]`, the reference's and the update's.
    ByUnit { columns: usize, a: &'p [f32], b: &'p [f32] },
    /// `[column][unit][k]`.
    ByColumn { piece: &'p Simple<'p>, columns: usize, units: usize, k: usize, a: &'p [f32], b: &'p [f32] },
}

fn views<'p>(pair: &'p Pair<'_>, group: usize) -> Vec<View<'p>> {
    let constant = pair.pieces.constant[group].parts.iter();
    let constant = constant.map(|part| View::ByUnit { columns: part.depth, a: &part.a, b: &part.b });
    let simple = pair.sides[group].iter().map(|&(piece, solve)| {
        let piece: &Simple<'_> = &pair.pieces.simple[piece];
        let ([ys, xs], k, (a, b)) = (piece.units(), piece.depth(), piece.models());
        match solve {
            Solve::Y => View::ByUnit { columns: xs * k, a, b },
            Solve::X => View::ByColumn { piece, columns: ys, units: xs, k, a, b },
        }
    });
    constant.chain(simple).collect()
}

impl View<'_> {
    /// What it can be cut into.
    fn columns(&self) -> usize {
        match self {
            Self::ByUnit { columns, .. } | Self::ByColumn { columns, .. } => *columns,
        }
    }

    /// Numbers of one unit.
    fn depth(&self) -> usize {
        match self {
            Self::ByUnit { columns, .. } => *columns,
            Self::ByColumn { columns, k, .. } => columns * k,
        }
    }

    /// Adds some columns' products; gives how many numbers of a unit those were.
    fn add(&self, product: &mut [f32], n: usize, some: Range<usize>) -> usize {
        match *self {
            Self::ByUnit { columns, a, b } => {
                let from = |values| Strided { values, unit_stride: columns, depth_stride: 1 };
                gemm::accumulate(product, n, some.len(), from(&a[some.start..]), from(&b[some.start..]));
                some.len()
            }
            Self::ByColumn { piece, k, .. } => {
                piece.add_rows_for_x(product, some.clone(), |unit| unit);
                some.len() * k
            }
        }
    }

    /// The product of a unit of the reference and one of the update.
    fn pair(&self, i: usize, j: usize) -> f64 {
        let product = |(&a, &b): (&f32, &f32)| f64::from(a) * f64::from(b);
        match *self {
            Self::ByUnit { columns, a, b } => {
                let of = |unit: usize| unit * columns..(unit + 1) * columns;
                a[of(i)].iter().zip(&b[of(j)]).map(product).sum()
            }
            Self::ByColumn { columns, units, k, a, b, .. } => {
                let of =
                    |column: usize, unit: usize| (column * units + unit) * k..(column * units + unit + 1) * k;
                (0..columns).map(|y| a[of(y, i)].iter().zip(&b[of(y, j)]).map(product).sum::<f64>()).sum()
            }
        }
    }
}

/// For each unit, over some columns, in f64.
struct Norms {
    /// `|a_i|^2`.
    a: Vec<f64>,
    /// `|b_i|^2`.
    b: Vec<f64>,
    /// `|a_i - b_i|^2`.
    apart: Vec<f64>,
}

impl Norms {
    fn nothing(n: usize) -> Self {
        Self { a: vec![0.0; n], b: vec![0.0; n], apart: vec![0.0; n] }
    }

    fn add(&mut self, other: &Self) {
        for (sums, more) in
            [(&mut self.a, &other.a), (&mut self.b, &other.b), (&mut self.apart, &other.apart)]
        {
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
    }

    /// Over the columns that `some` chooses of each view's. Each unit's sum is made by one thread, in order.
    fn of(views: &[View<'_>], n: usize, some: impl Fn(usize) -> Range<usize>) -> Self {
        let mut norms = Self::nothing(n);
        for view in views {
            let some = some(view.columns());
            let sums = norms.a.par_chunks_mut(UNITS).zip(norms.b.par_chunks_mut(UNITS));
            sums.zip(norms.apart.par_chunks_mut(UNITS)).enumerate().for_each(|(chunk, ((a, b), apart))| {
                let (first, some) = (chunk * UNITS, some.clone());
                pulp::Arch::new().dispatch(AddNorms { view, first, some, a, b, apart });
            });
        }
        norms
    }

    /// What a row and a column are worth in the dual solution.
    fn row_dual(&self, i: usize) -> f64 {
        self.a[i] / 2.0 - self.apart[i] / 4.0
    }

    fn column_dual(&self, j: usize) -> f64 {
        self.b[j] / 2.0 - self.apart[j] / 4.0
    }

    /// The identity's part of the objective.
    fn identity(&self) -> f64 {
        (0..self.a.len()).map(|unit| self.row_dual(unit) + self.column_dual(unit)).sum()
    }
}

/// Adds the norms of some units over some columns: plain loops, compiled for each width of the machine's vectors.
struct AddNorms<'n> {
    view: &'n View<'n>,
    first: usize,
    some: Range<usize>,
    a: &'n mut [f64],
    b: &'n mut [f64],
    apart: &'n mut [f64],
}

impl pulp::NullaryFnOnce for AddNorms<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { view, first, some, a: aa, b: bb, apart } = self;
        match *view {
            View::ByUnit { columns, a, b } => {
                for unit in 0..aa.len() {
                    let place = (first + unit) * columns + some.start..(first + unit) * columns + some.end;
                    let sums = norms(&a[place.clone()], &b[place]);
                    aa[unit] += sums[0];
                    bb[unit] += sums[1];
                    apart[unit] += sums[2];
                }
            }
            View::ByColumn { units, k, a, b, .. } => {
                for column in some {
                    let place = (column * units + first) * k..(column * units + first + aa.len()) * k;
                    let (a, b) = (&a[place.clone()], &b[place]);
                    for (unit, (a, b)) in a.chunks_exact(k).zip(b.chunks_exact(k)).enumerate() {
                        for (&a, &b) in a.iter().zip(b) {
                            let more = squares(a, b);
                            aa[unit] += more[0];
                            bb[unit] += more[1];
                            apart[unit] += more[2];
                        }
                    }
                }
            }
        }
    }
}

/// What one number of each adds to [`Norms`].
#[inline(always)]
fn squares(a: f32, b: f32) -> [f64; 3] {
    let (a, b) = (f64::from(a), f64::from(b));
    [a * a, b * b, (a - b) * (a - b)]
}

/// `|a|^2`, `|b|^2` and `|a - b|^2`, in eight sums side by side.
#[inline(always)]
fn norms(a: &[f32], b: &[f32]) -> [f64; 3] {
    const LANES: usize = 8;
    let mut sums = [[0.0_f64; LANES]; 3];
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            let more = squares(a[lane], b[lane]);
            sums[0][lane] += more[0];
            sums[1][lane] += more[1];
            sums[2][lane] += more[2];
        }
    }
    for (lane, (&a, &b)) in rest_a.iter().zip(rest_b).enumerate() {
        sums.iter_mut().zip(squares(a, b)).for_each(|(sums, more)| sums[lane] += more);
    }
    sums.map(|lanes| lanes.iter().sum())
}

/// The pairs that may be worth more than their duals, by what is known, which is so many of each unit's numbers; nothing if they are
/// more than a few.
fn doubts(
    product: &[f32],
    n: usize,
    (depth, numbers): (usize, usize),
    whole: &Norms,
    seen: &Norms,
) -> Option<Vec<(usize, usize)>> {
    // The most that a sum of so many products can be wrong by, for each unit of |a| |b|, and where products are so small that they
    // vanish; and the most that the norms, and so the duals, can be.
    #[expect(clippy::cast_precision_loss, reason = "numbers of columns")]
    let (rounding, vanished, slack) = (
        (depth as f64 + 2.0) * f64::from(f32::EPSILON),
        depth as f64 * f64::from(f32::from_bits(1)),
        1e-12 + 4.0 * numbers as f64 * f64::EPSILON,
    );
    let left = |whole: &[f64], seen: &[f64]| -> Vec<f64> {
        whole.iter().zip(seen).map(|(whole, seen)| (whole * (1.0 + slack) - seen).max(0.0).sqrt()).collect()
    };
    let root =
        |norms: &[f64]| -> Vec<f64> { norms.iter().map(|norm| norm.sqrt() * rounding.sqrt()).collect() };
    let (left_a, left_b) = (left(&whole.a, &seen.a), left(&whole.b, &seen.b));
    let (root_a, root_b) = (root(&seen.a), root(&seen.b));
    let dual: Vec<f64> =
        (0..n).map(|j| whole.column_dual(j) - slack * (whole.b[j] + whole.apart[j])).collect();
    let row_dual: Vec<f64> =
        (0..n).map(|i| whole.row_dual(i) - slack * (whole.a[i] + whole.apart[i]) - vanished).collect();
    let above = |i: usize, j: usize, value: f32| {
        most(value, [left_a[i], left_b[j]], [root_a[i], root_b[j]]) > row_dual[i] + dual[j]
    };
    let count = |(i, row): (usize, &[f32])| {
        let bound = Bound {
            row,
            left: left_a[i],
            root: root_a[i],
            dual: row_dual[i],
            others: [&left_b, &root_b, &dual],
        };
        pulp::Arch::new().dispatch(bound) - u64::from(above(i, i, row[i]))
    };
    let all: u64 = product.par_chunks(n).enumerate().map(count).sum();
    if all > (n / 2) as u64 {
        return None;
    }
    let mut found = Vec::new();
    for (i, row) in product.chunks(n).enumerate() {
        found.extend((0..n).filter(|&j| j != i && above(i, j, row[j])).map(|j| (i, j)));
    }
    Some(found)
}

/// The most that a pair can be worth: what was seen of it, what was not, and what rounding can have lost.
#[inline(always)]
fn most(value: f32, left: [f64; 2], root: [f64; 2]) -> f64 {
    f64::from(value) + left[0] * left[1] + root[0] * root[1]
}

/// How many of a row's bounds are above its duals.
struct Bound<'r> {
    row: &'r [f32],
    left: f64,
    root: f64,
    dual: f64,
    /// The same of the columns.
    others: [&'r [f64]; 3],
}

impl pulp::NullaryFnOnce for Bound<'_> {
    type Output = u64;

    #[inline(always)]
    fn call(self) -> u64 {
        let [left, root, dual] = self.others;
        let mut above = 0;
        for (((&value, left), root), dual) in self.row.iter().zip(left).zip(root).zip(dual) {
            above += u64::from(most(value, [self.left, *left], [self.root, *root]) > self.dual + dual);
        }
        above
    }
}

/// Whether the pairs that are in doubt, computed whole, leave room for no more than rounding: each row's excess over its duals is what
/// an assignment can gain there at most.
fn settle(views: &[View<'_>], whole: &Norms, doubts: &[(usize, usize)]) -> bool {
    let excess = |&(i, j): &(usize, usize)| {
        let worth: f64 = views.iter().map(|view| view.pair(i, j)).sum();
        (i, worth - whole.row_dual(i) - whole.column_dual(j))
    };
    let excesses: Vec<(usize, f64)> = doubts.par_iter().map(excess).collect();
    let mut most = vec![0.0_f64; whole.a.len()];
    for (i, excess) in excesses {
        most[i] = most[i].max(excess);
    }
    most.iter().sum::<f64>() <= RELATIVE_TOLERANCE * whole.identity().abs()
}

#[cfg(test)]
mod tests;
