//! The exact linear assignment problem, with a proof.

use std::collections::VecDeque;

use ndarray::ArrayView2;

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
/// maximum is free. Ties go to the lower index, so that the outcome is the same on every machine.
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
    let gain = gain.as_slice().unwrap_or_default();
    let mut solver = Solver::new(gain, n);
    solver.greedy();
    solver.reduce();
    solver.augment_all();
    solver.finish()
}

const NONE: usize = usize::MAX;

/// Minimises `cost = -gain`. Invariant: `cost[i, j] - u[i] - v[j] >= 0`, and 0 where assigned.
struct Solver<'a> {
    gain: &'a [f32],
    n: usize,
    v: Vec<f64>,
    column_of: Vec<usize>,
    row_of: Vec<usize>,
}

impl<'a> Solver<'a> {
    fn new(gain: &'a [f32], n: usize) -> Self {
        Self { gain, n, v: vec![0.0; n], column_of: vec![NONE; n], row_of: vec![NONE; n] }
    }

    fn row(&self, row: usize) -> &'a [f32] {
        &self.gain[row * self.n..(row + 1) * self.n]
    }

    fn cost(&self, row: usize, column: usize) -> f64 {
        -f64::from(self.gain[row * self.n + column])
    }

    /// Each row takes its best column while that is free. All duals `v` are 0: optimal if all rows get theirs.
    fn greedy(&mut self) {
        for row in 0..self.n {
            let mut best = 0;
            let gains = self.row(row);
            for (column, &gain) in gains.iter().enumerate() {
                if gain > gains[best] {
                    best = column;
                }
            }
            if self.row_of[best] == NONE {
                self.set(row, best);
            }
        }
    }

    fn set(&mut self, row: usize, column: usize) {
        self.row_of[column] = row;
        self.column_of[row] = column;
    }

    /// Augmenting row reduction: a free row takes its best column, whose dual falls by the lead over the second best;
    /// who held it goes back to the queue. Bounded passes: ties could go on for ever.
    fn reduce(&mut self) {
        let mut free: VecDeque<usize> = (0..self.n).filter(|&row| self.column_of[row] == NONE).collect();
        let mut budget = 8 * free.len();
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
            self.v[best] -= lead;
            if displaced != NONE {
                self.column_of[displaced] = NONE;
                free.push_back(displaced);
            }
            self.set(row, best);
        }
    }

    /// The column of least reduced cost, and by how much the next one costs more.
    fn best_two(&self, row: usize) -> (usize, f64) {
        let (mut best, mut first, mut second) = (0, f64::INFINITY, f64::INFINITY);
        for (column, (&gain, &v)) in self.row(row).iter().zip(&self.v).enumerate() {
            let reduced = -f64::from(gain) - v;
            if reduced < first {
                (second, first, best) = (first, reduced, column);
            } else if reduced < second {
                second = reduced;
            }
        }
        (best, if second.is_finite() { second - first } else { 0.0 })
    }

    fn augment_all(&mut self) {
        let mut distance = vec![0.0; self.n];
        let mut via = vec![NONE; self.n];
        for row in 0..self.n {
            if self.column_of[row] == NONE {
                self.augment(row, &mut distance, &mut via);
            }
        }
    }

    /// Dijkstra over columns from one free row to the nearest free column, then a change of duals and assignments.
    fn augment(&mut self, start: usize, distance: &mut [f64], via: &mut [usize]) {
        let mut open: Vec<usize> = (0..self.n).collect();
        let mut done: Vec<usize> = Vec::new();
        distance.fill(f64::INFINITY);
        via.fill(start);
        let (mut row, mut reached) = (start, 0.0);
        let sink = loop {
            let base = if row == start { 0.0 } else { self.row_reduced(row) };
            let gains = self.row(row);
            let (mut nearest, mut at) = (f64::INFINITY, 0);
            for (slot, &column) in open.iter().enumerate() {
                let through = reached + (-f64::from(gains[column]) - self.v[column] - base);
                if through < distance[column] {
                    distance[column] = through;
                    via[column] = row;
                }
                let free_first = distance[column] == nearest
                    && self.row_of[column] == NONE
                    && self.row_of[open[at]] != NONE;
                if distance[column] < nearest || free_first {
                    nearest = distance[column];
                    at = slot;
                }
            }
            let column = open.swap_remove(at);
            reached = nearest;
            if self.row_of[column] == NONE {
                break column;
            }
            done.push(column);
            row = self.row_of[column];
        };
        for &column in &done {
            self.v[column] += distance[column] - reached;
        }
        let mut column = sink;
        loop {
            let row = via[column];
            let next = self.column_of[row];
            self.set(row, column);
            if row == start {
                return;
            }
            column = next;
        }
    }

    /// The dual of an assigned row follows from its column's: `u = cost - v`.
    fn row_reduced(&self, row: usize) -> f64 {
        let column = self.column_of[row];
        self.cost(row, column) - self.v[column]
    }

    fn finish(self) -> Assignment {
        let row_dual = (0..self.n).map(|row| -self.row_reduced(row)).collect();
        let value = (0..self.n).map(|row| -self.cost(row, self.column_of[row])).sum();
        let columns =
            self.column_of.iter().map(|&column| u32::try_from(column).unwrap_or(u32::MAX)).collect();
        Assignment {
            permutation: Permutation::new(columns).expect("every row was given a column of its own"),
            row_dual,
            col_dual: self.v.iter().map(|v| -v).collect(),
            value,
        }
    }
}

/// What the matcher needs of an assignment.
pub(crate) struct Solved {
    pub(crate) permutation: Permutation,
    /// Whether each row got its best column: the sum of row maxima bounds every assignment.
    pub(crate) all_best: bool,
}

/// As [`assign`], of a row-major matrix that is known to be finite.
pub(crate) fn solve(gain: &[f32], n: usize) -> Solved {
    let mut solver = Solver::new(gain, n);
    solver.greedy();
    let all_best = solver.column_of.iter().all(|&column| column != NONE);
    solver.reduce();
    solver.augment_all();
    Solved { permutation: solver.finish().permutation, all_best }
}
