//! The exact linear assignment problem, with a proof.

mod search;
mod shortlist;
mod solver;

use ndarray::ArrayView2;

use self::solver::Solver;
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
/// maximum is free; each path is the shortest from any of several rows. Rows are read through short lists of their best columns,
/// and whole only where these do not decide. Deterministic: nothing depends on the machine or on the number of threads.
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
    solver.run(Vec::new());
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
    let all_best = solver.run(prices.0);
    let permutation = solver.permutation();
    let most = solver.bonus.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // Searches only lower them: without this they would fall for ever.
    solver.bonus.iter_mut().for_each(|bonus| *bonus -= most);
    Solved { permutation, all_best, prices: Prices(solver.bonus) }
}

#[cfg(test)]
mod tests;
