//! The exact linear assignment problem, with a proof.

use std::collections::VecDeque;

use ndarray::ArrayView2;
use rayon::prelude::*;

use crate::Permutation;

/// An optimal assignment and its dual certificate.
///
/// For every row `i` and column `j`: `row_dual[i] + col_dual[j] >= gain[i, j]`, with equality where `i` is assigned
/// `j`. Summing shows that no assignment is worth more than the sum of the duals, which this one reaches.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// Column of each row.
    pub permutation: Permutation,
    /// One number a row.
    pub row_dual: Vec<f64>,
    /// One number a column.
    pub col_dual: Vec<f64>,
    /// Sum of the gains assigned, added in f64 in row order.
    pub value: f64,
}

impl Assignment {
    /// How far the certificate is from holding: the largest violation of an inequality or of an equality, 0 or
    /// rounding for a true optimum.
    ///
    /// # Panics
    /// If `gain` is not the matrix's size.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "ndarray's views are passed by value")]
    pub fn violation(&self, gain: ArrayView2<'_, f32>) -> f64 {
        let mut worst = 0.0_f64;
        for (row, gains) in gain.rows().into_iter().enumerate() {
            for (column, &gain) in gains.iter().enumerate() {
                let slack = self.row_dual[row] + self.col_dual[column] - f64::from(gain);
                worst = worst.max(-slack);
                if self.permutation.map(row) == column {
                    worst = worst.max(slack.abs());
                }
            }
        }
        worst
    }
}

/// Maximises the sum of `gain[i, column(i)]` over all assignments of rows to columns, exactly. O(n³) at worst.
///
/// If the row-wise argmax is a permutation it is optimal: the sum of row maxima bounds every assignment. Otherwise
/// shortest augmenting paths with dual variables (Jonker and Volgenant 1987; Crouse 2016), begun from the rows whose
/// maximum is free; each path is the shortest from any of several rows. Ties go to the lower index, so that the outcome is the same on every machine.
///
/// # Panics
/// If the matrix is not square or holds a value that is not finite.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "ndarray's views are passed by value")]
pub fn assign(gain: ArrayView2<'_, f32>) -> Assignment {
    let n = gain.nrows();
    assert_eq!(n, gain.ncols(), "a gain matrix is square");
    assert!(gain.iter().all(|value| value.is_finite()), "a gain matrix is finite");
    let gain = gain.as_standard_layout();
    let mut solver = Solver::new(gain.as_slice().unwrap_or_default(), n);
    solver.run();
    Assignment {
        row_dual: (0..n).map(|row| solver.worth(row, solver.column_of[row])).collect(),
        col_dual: solver.bonus.iter().map(|bonus| -bonus).collect(),
        value: (0..n).map(|row| f64::from(solver.row(row)[solver.column_of[row]])).sum(),
        permutation: solver.permutation(),
    }
}

/// What the matcher needs of an assignment.
pub(crate) struct Solved {
    pub(crate) permutation: Permutation,
    /// Whether each row got its best column: the sum of row maxima bounds every assignment.
    pub(crate) all_best: bool,
    /// What the columns' duals came to, to begin the next search with.
    pub(crate) prices: Prices,
}

/// Columns' duals of an earlier assignment, less the largest of them; empty if there was none. Any numbers are a valid beginning;
/// those of a matrix that was much like this one leave few rows to be moved.
#[derive(Debug, Clone, Default)]
pub(crate) struct Prices(Vec<f64>);

/// As [`assign`], of a row-major matrix that is known to be finite, begun from what an earlier matrix came to.
pub(crate) fn solve(gain: &[f32], n: usize, prices: Prices) -> Solved {
    let mut solver = Solver::new(gain, n);
    solver.before = prices.0;
    let all_best = solver.run();
    let permutation = solver.permutation();
    let most = solver.bonus.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // Searches only lower them: without this they would fall for ever.
    solver.bonus.iter_mut().for_each(|bonus| *bonus -= most);
    Solved { permutation, all_best, prices: Prices(solver.bonus) }
}

const NONE: usize = usize::MAX;

/// Invariant: a row's column is one of its best by `gain[row, column] + bonus[column]`; the bonus is minus the column's dual.
/// Gains are f32 and everything added to them is f64.
struct Solver<'a> {
    gain: &'a [f32],
    n: usize,
    bonus: Vec<f64>,
    /// Bonuses of an earlier search, or none.
    before: Vec<f64>,
    column_of: Vec<usize>,
    row_of: Vec<usize>,
}

/// What rows do in turn as one inlined call, so that all of it is compiled for those vectors.
struct InTurn<'s, 'a>(&'s mut Solver<'a>);

impl pulp::NullaryFnOnce for InTurn<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.0.reduce();
        self.0.augment_all();
    }
}

/// The best columns of some neighbouring rows, likewise.
struct Best<'s, 'a> {
    solver: &'s Solver<'a>,
    first: usize,
    columns: &'s mut [usize],
}

impl pulp::NullaryFnOnce for Best<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let priced = self.solver.bonus.iter().any(|&bonus| bonus != 0.0);
        for (row, column) in self.columns.iter_mut().enumerate() {
            *column = match priced {
                false => self.solver.best(self.first + row),
                true => self.solver.best_two(self.first + row).0,
            };
        }
    }
}

/// Elements of rows that one thread looks at together.
const TOGETHER: usize = 1 << 16;

/// Columns that are looked at side by side.
const LANES: usize = 16;

/// Free rows that a search begins from at once, at most.
const SOURCES: usize = 64;

impl<'a> Solver<'a> {
    fn new(gain: &'a [f32], n: usize) -> Self {
        let (column_of, row_of) = (vec![NONE; n], vec![NONE; n]);
        Self { gain, n, bonus: vec![0.0; n], before: Vec::new(), column_of, row_of }
    }

    /// Solves, compiled for the vectors that this machine has; tells whether each row got its best column.
    fn run(&mut self) -> bool {
        self.greedy();
        // All bonuses are 0: optimal if all rows get theirs.
        if self.column_of.iter().all(|&column| column != NONE) {
            return true;
        }
        if self.before.len() == self.n {
            self.bonus = std::mem::take(&mut self.before);
            self.column_of.fill(NONE);
            self.row_of.fill(NONE);
            self.greedy();
        }
        pulp::Arch::new().dispatch(InTurn(self));
        false
    }

    /// Each row takes its best column while that is free.
    fn greedy(&mut self) {
        let mut best = vec![0; self.n];
        let rows = (TOGETHER / self.n.max(1)).max(1);
        let solver = &*self;
        best.par_chunks_mut(rows).enumerate().for_each(|(part, columns)| {
            pulp::Arch::new().dispatch(Best { solver, first: part * rows, columns });
        });
        for (row, column) in best.into_iter().enumerate() {
            if self.row_of[column] == NONE {
                self.set(row, column);
            }
        }
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &'a [f32] {
        &self.gain[row * self.n..(row + 1) * self.n]
    }

    /// What a column is worth to a row: its gain and its bonus.
    #[inline(always)]
    fn worth(&self, row: usize, column: usize) -> f64 {
        f64::from(self.gain[row * self.n + column]) + self.bonus[column]
    }

    /// The column of a row's largest gain, the lowest among equals.
    #[inline(always)]
    fn best(&self, row: usize) -> usize {
        let gains = self.row(row);
        let (chunks, rest) = gains.as_chunks::<LANES>();
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for chunk in chunks {
            for (lane, &gain) in lanes.iter_mut().zip(chunk) {
                *lane = if gain > *lane { gain } else { *lane };
            }
        }
        let best = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |best, &gain| best.max(gain));
        let chunk = chunks.iter().position(|chunk| any(chunk, |&gain| gain == best)).unwrap_or(chunks.len());
        let begin = chunk * LANES;
        begin + gains[begin..].iter().position(|&gain| gain == best).unwrap_or(0)
    }

    #[inline(always)]
    fn set(&mut self, row: usize, column: usize) {
        self.row_of[column] = row;
        self.column_of[row] = column;
    }

    /// Augmenting row reduction: a free row takes its best column, whose bonus falls by the lead over the second best;
    /// who held it goes back to the queue. Bounded passes: ties could go on for ever.
    #[inline(always)]
    fn reduce(&mut self) {
        let mut free: VecDeque<usize> = (0..self.n).filter(|&row| self.column_of[row] == NONE).collect();
        let mut budget = 24 * free.len();
        while let Some(row) = free.pop_front() {
            if budget == 0 {
                return;
            }
            budget -= 1;
            let (best, lead) = self.best_two(row);
            let displaced = self.row_of[best];
            if displaced != NONE && lead <= 0.0 {
                continue;
            }
            self.bonus[best] -= lead;
            if displaced != NONE {
                self.column_of[displaced] = NONE;
                free.push_back(displaced);
            }
            self.set(row, best);
        }
    }

    /// The column that is worth most to a row, the lowest among equals, and by how much the next one is worth less.
    #[inline(always)]
    fn best_two(&self, row: usize) -> (usize, f64) {
        let gains = self.row(row);
        let (chunks, rest) = gains.as_chunks::<LANES>();
        let (bonuses, bonus_rest) = self.bonus.as_chunks::<LANES>();
        let mut first = [f64::NEG_INFINITY; LANES];
        let mut second = [f64::NEG_INFINITY; LANES];
        for (gains, bonuses) in chunks.iter().zip(bonuses) {
            for lane in 0..LANES {
                let worth = f64::from(gains[lane]) + bonuses[lane];
                let lesser = if worth < first[lane] { worth } else { first[lane] };
                second[lane] = if lesser > second[lane] { lesser } else { second[lane] };
                first[lane] = if worth > first[lane] { worth } else { first[lane] };
            }
        }
        let (mut best, mut next) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
        let rest = rest.iter().zip(bonus_rest).map(|(&gain, bonus)| f64::from(gain) + bonus);
        for worth in first.into_iter().chain(second).chain(rest) {
            next = next.max(worth.min(best));
            best = best.max(worth);
        }
        let is_best = |(gains, bonuses): (&[f32; LANES], &[f64; LANES])| {
            let mut found = false;
            for lane in 0..LANES {
                found |= f64::from(gains[lane]) + bonuses[lane] == best;
            }
            found
        };
        let begin = LANES * chunks.iter().zip(bonuses).position(is_best).unwrap_or(chunks.len());
        let mut tail = gains[begin..].iter().zip(&self.bonus[begin..]);
        let column = begin + tail.position(|(&gain, bonus)| f64::from(gain) + bonus == best).unwrap_or(0);
        (column, if next.is_finite() { best - next } else { 0.0 })
    }

    #[inline(always)]
    fn augment_all(&mut self) {
        let mut search = Search {
            distance: vec![0.0; self.n],
            via: vec![0; self.n],
            bonus: vec![0.0; self.n],
            done: Vec::with_capacity(self.n),
        };
        let mut free: Vec<usize> = (0..self.n).filter(|&row| self.column_of[row] == NONE).collect();
        while !free.is_empty() {
            let served = self.augment(&free[..free.len().min(SOURCES)], &mut search);
            free.retain(|&row| row != served);
        }
    }

    /// Dijkstra over columns from several free rows at once to the free column that is nearest to any of them, then a change of
    /// bonuses and assignments. Gives the row that got a column. From several the way is much shorter than from a given one.
    #[inline(always)]
    fn augment(&mut self, sources: &[usize], search: &mut Search) -> usize {
        search.distance.fill(f64::INFINITY);
        search.bonus.copy_from_slice(&self.bonus);
        search.done.clear();
        let mut reached = f64::INFINITY;
        for &row in sources {
            let best = self.worth(row, self.best_two(row).0);
            reached = search.relax(self.row(row), row as u64, best);
        }
        let sink = loop {
            let column = search.at(reached, &self.row_of);
            let row = self.row_of[column];
            if row == NONE {
                break column;
            }
            search.done.push((column, reached));
            search.distance[column] = f64::INFINITY;
            // No later row can come nearer: its worth there is minus infinity.
            search.bonus[column] = f64::NEG_INFINITY;
            let from = reached + self.worth(row, column);
            reached = search.relax(self.row(row), row as u64, from);
        };
        for &(column, distance) in &search.done {
            self.bonus[column] += distance - reached;
        }
        let mut column = sink;
        loop {
            let row = usize::try_from(search.via[column]).unwrap_or(NONE);
            let next = self.column_of[row];
            self.set(row, column);
            if next == NONE {
                return row;
            }
            column = next;
        }
    }

    fn permutation(&self) -> Permutation {
        let columns =
            self.column_of.iter().map(|&column| u32::try_from(column).unwrap_or(u32::MAX)).collect();
        Permutation::new(columns).expect("every row was given a column of its own")
    }
}

/// A search for a shortest augmenting path.
struct Search {
    /// To each column that is not done; infinite for those that are.
    distance: Vec<f64>,
    /// The row that each column was reached from. As wide as a distance, so that both move in one vector.
    via: Vec<u64>,
    /// The bonuses; minus infinity for columns that are done.
    bonus: Vec<f64>,
    /// Columns that are done, with their distances.
    done: Vec<(usize, f64)>,
}

impl Search {
    /// Goes on from a row at the distance `from` (its own worth added); gives the nearest distance to a column that is not
    /// done, from any row.
    #[inline(always)]
    fn relax(&mut self, gains: &[f32], row: u64, from: f64) -> f64 {
        let (gains, gains_rest) = gains.as_chunks::<LANES>();
        let (bonuses, bonuses_rest) = self.bonus.as_chunks::<LANES>();
        let (distances, distances_rest) = self.distance.as_chunks_mut::<LANES>();
        let (vias, vias_rest) = self.via.as_chunks_mut::<LANES>();
        let mut nearest = [f64::INFINITY; LANES];
        for (((gains, bonuses), distances), vias) in gains.iter().zip(bonuses).zip(distances).zip(vias) {
            for lane in 0..LANES {
                let through = from - (f64::from(gains[lane]) + bonuses[lane]);
                let nearer = through < distances[lane];
                vias[lane] = if nearer { row } else { vias[lane] };
                let distance = if nearer { through } else { distances[lane] };
                distances[lane] = distance;
                nearest[lane] = if distance < nearest[lane] { distance } else { nearest[lane] };
            }
        }
        let mut least = nearest.into_iter().fold(f64::INFINITY, f64::min);
        let rest = gains_rest.iter().zip(bonuses_rest).zip(distances_rest).zip(vias_rest);
        for (((&gain, bonus), distance), via) in rest {
            let through = from - (f64::from(gain) + bonus);
            if through < *distance {
                *distance = through;
                *via = row;
            }
            least = least.min(*distance);
        }
        least
    }

    /// The column at a distance: a free one before others, then the lowest.
    #[inline(always)]
    fn at(&self, nearest: f64, row_of: &[usize]) -> usize {
        let mut found = NONE;
        for (chunk, distances) in self.distance.chunks(LANES).enumerate() {
            if !any(distances, |&distance| distance == nearest) {
                continue;
            }
            for (lane, &distance) in distances.iter().enumerate() {
                let column = chunk * LANES + lane;
                if distance == nearest && row_of[column] == NONE {
                    return column;
                }
                if distance == nearest && found == NONE {
                    found = column;
                }
            }
        }
        found
    }
}

/// Whether something holds of any element, without stopping early: one vector's worth.
#[inline(always)]
fn any<T>(values: &[T], holds: impl Fn(&T) -> bool) -> bool {
    let mut found = false;
    for value in values {
        found |= holds(value);
    }
    found
}

#[cfg(test)]
mod tests;
