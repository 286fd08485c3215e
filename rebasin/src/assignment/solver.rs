//! Jonker and Volgenant's way, over short lists of columns.

use std::collections::VecDeque;

use rayon::prelude::*;

use super::{
    search::{Rows, Search},
    shortlist::{Best, Shortlist, best_column},
};
use crate::Permutation;

/// No row, or no column.
pub(super) const NONE: usize = usize::MAX;

/// Elements of rows that one thread looks at together.
const TOGETHER: usize = 1 << 16;

/// Columns that are looked at side by side.
const LANES: usize = 16;

/// Free rows that a search begins from at once, at most.
const SOURCES: usize = 64;

/// Bids a free row, at most.
const BIDS: usize = 24;

/// Invariant: a row's column is one of its best by `gain[row, column] + bonus[column]`; the bonus is minus the column's dual.
/// Gains are f32 and everything added to them is f64. Bonuses only fall.
pub(super) struct Solver<'a> {
    gain: &'a [f32],
    n: usize,
    pub(super) bonus: Vec<f64>,
    pub(super) column_of: Vec<usize>,
    row_of: Vec<usize>,
    /// For each row; none while no row needs one.
    lists: Vec<Shortlist>,
}

/// What rows do in turn as one inlined call, so that all of it is compiled for the machine's vectors.
struct InTurn<'s, 'a>(&'s mut Solver<'a>);

impl pulp::NullaryFnOnce for InTurn<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.0.reduce();
        self.0.augment_all();
    }
}

/// The columns of the largest gains of some neighbouring rows, likewise.
struct Largest<'s> {
    gain: &'s [f32],
    n: usize,
    columns: &'s mut [usize],
}

impl pulp::NullaryFnOnce for Largest<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (column, gains) in self.columns.iter_mut().zip(self.gain.chunks(self.n)) {
            *column = largest(gains);
        }
    }
}

/// The columns that are worth most, likewise.
struct Worthiest<'s> {
    gain: &'s [f32],
    bonus: &'s [f64],
    columns: &'s mut [usize],
}

impl pulp::NullaryFnOnce for Worthiest<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (column, gains) in self.columns.iter_mut().zip(self.gain.chunks(self.bonus.len())) {
            *column = best_column(gains, self.bonus);
        }
    }
}

/// The lists and the best columns of some neighbouring rows, likewise.
struct Lists<'s> {
    gain: &'s [f32],
    bonus: &'s [f64],
    lists: &'s mut [Shortlist],
    columns: &'s mut [usize],
}

impl pulp::NullaryFnOnce for Lists<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let rows = self.gain.chunks(self.bonus.len()).zip(self.lists).zip(self.columns);
        for ((gains, list), column) in rows {
            *column = list.fill(gains, self.bonus).column;
        }
    }
}

impl<'a> Solver<'a> {
    /// Begins with no bonuses.
    pub(super) fn new(gain: &'a [f32], n: usize) -> Self {
        let (column_of, row_of) = (vec![NONE; n], vec![NONE; n]);
        Self { gain, n, bonus: vec![0.0; n], column_of, row_of, lists: Vec::new() }
    }

    /// Solves, begun from an earlier search's bonuses if they are of this size; tells whether each row got its best column.
    pub(super) fn run(&mut self, before: Vec<f64>) -> bool {
        if self.all_get_their_largest() {
            return true;
        }
        if before.len() == self.n {
            self.bonus = before;
            self.begin_warm();
        } else {
            self.begin_cold();
        }
        pulp::Arch::new().dispatch(InTurn(self));
        false
    }

    /// Of random rows a third find their best column taken, and all are looked at again: each needs its list.
    fn begin_cold(&mut self) {
        let mut best = vec![0; self.n];
        let (together, elements) = self.together();
        self.lists = vec![Shortlist::unknown(); self.n];
        let rows = best.par_chunks_mut(together).zip(self.lists.par_chunks_mut(together));
        rows.zip(self.gain.par_chunks(elements)).for_each(|((columns, lists), gain)| {
            pulp::Arch::new().dispatch(Lists { gain, bonus: &self.bonus, lists, columns });
        });
        self.take_free(&best);
    }

    /// Most rows keep the column that they had: lists only for those that do not find their best one free.
    fn begin_warm(&mut self) {
        let mut best = vec![0; self.n];
        let (together, elements) = self.together();
        best.par_chunks_mut(together).zip(self.gain.par_chunks(elements)).for_each(|(columns, gain)| {
            pulp::Arch::new().dispatch(Worthiest { gain, bonus: &self.bonus, columns });
        });
        self.take_free(&best);
        self.lists = vec![Shortlist::unknown(); self.n];
        let free = self.lists.par_iter_mut().zip(self.gain.par_chunks(self.n)).zip(&self.column_of);
        free.filter(|(_, column)| **column == NONE).for_each(|((list, gain), _)| {
            pulp::Arch::new().dispatch(Lists {
                gain,
                bonus: &self.bonus,
                lists: std::slice::from_mut(list),
                columns: &mut [0],
            });
        });
    }

    /// How many neighbouring rows one thread looks at together, and their elements.
    fn together(&self) -> (usize, usize) {
        let rows = (TOGETHER / self.n.max(1)).max(1);
        (rows, rows * self.n.max(1))
    }

    /// Gives each row the column of its largest gain, if no two want the same: the optimum, all bonuses being 0. Most often some
    /// of the first rows do, and the others need not be read: among 4√n rows of random columns, but for one time in 3,000.
    fn all_get_their_largest(&mut self) -> bool {
        let (together, elements) = self.together();
        let first = (4 * self.n.isqrt()).min(self.n);
        let mut columns = vec![0; self.n];
        let (some, others) = columns.split_at_mut(first);
        let (some_gains, other_gains) = self.gain.split_at(first * self.n);
        let mut taken = vec![false; self.n];
        for (columns, gain) in [(some, some_gains), (others, other_gains)] {
            columns.par_chunks_mut(together).zip(gain.par_chunks(elements)).for_each(|(columns, gain)| {
                pulp::Arch::new().dispatch(Largest { gain, n: self.n, columns });
            });
            if columns.iter().any(|&column| std::mem::replace(&mut taken[column], true)) {
                return false;
            }
        }
        self.take_free(&columns);
        true
    }

    /// Each row that has none takes its best column while that is free.
    fn take_free(&mut self, best: &[usize]) {
        for (row, &column) in best.iter().enumerate() {
            if self.column_of[row] == NONE && self.row_of[column] == NONE {
                self.set(row, column);
            }
        }
    }

    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &'a [f32] {
        &self.gain[row * self.n..(row + 1) * self.n]
    }

    /// What a column is worth to a row: its gain and its bonus.
    #[inline(always)]
    pub(super) fn worth(&self, row: usize, column: usize) -> f64 {
        f64::from(self.gain[row * self.n + column]) + self.bonus[column]
    }

    #[inline(always)]
    fn set(&mut self, row: usize, column: usize) {
        self.row_of[column] = row;
        self.column_of[row] = column;
    }

    fn free_rows(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.n).filter(|&row| self.column_of[row] == NONE)
    }

    /// Augmenting row reduction: a free row takes its best column, whose bonus falls by the lead over the second best;
    /// who held it goes back to the queue. Bounded passes: ties could go on for ever.
    #[inline(always)]
    fn reduce(&mut self) {
        let mut free: VecDeque<usize> = self.free_rows().collect();
        let mut budget = BIDS * free.len();
        while let Some(row) = free.pop_front() {
            if budget == 0 {
                return;
            }
            budget -= 1;
            let Best { column, lead, .. } = self.best(row);
            let displaced = self.row_of[column];
            if displaced != NONE && lead <= 0.0 {
                continue;
            }
            self.bonus[column] -= lead;
            if displaced != NONE {
                self.column_of[displaced] = NONE;
                free.push_back(displaced);
            }
            self.set(row, column);
        }
    }

    /// The best column of a row now.
    #[inline(always)]
    fn best(&mut self, row: usize) -> Best {
        let gains = self.row(row);
        let list = &mut self.lists[row];
        list.best(&self.bonus).unwrap_or_else(|| list.fill(gains, &self.bonus))
    }

    #[inline(always)]
    fn augment_all(&mut self) {
        let mut search = Search::new(self.n);
        let mut free: Vec<usize> = self.free_rows().collect();
        while !free.is_empty() {
            let served = self.augment(&free[..free.len().min(SOURCES)], &mut search);
            free.retain(|&row| row != served);
        }
    }

    /// Changes bonuses and assignments along the shortest path from any of some free rows. Gives the row that got a column.
    #[inline(always)]
    fn augment(&mut self, sources: &[usize], search: &mut Search) -> usize {
        let rows = Rows { gain: self.gain, bonus: &self.bonus, row_of: &self.row_of };
        let path = search.shortest(&rows, &mut self.lists, sources);
        for &(column, distance) in path.done {
            self.bonus[column] += distance - path.length;
        }
        let mut column = path.sink;
        loop {
            let row = path.via[column];
            let next = self.column_of[row];
            self.row_of[column] = row;
            self.column_of[row] = column;
            if next == NONE {
                return row;
            }
            column = next;
        }
    }

    pub(super) fn permutation(&self) -> Permutation {
        let columns =
            self.column_of.iter().map(|&column| u32::try_from(column).unwrap_or(u32::MAX)).collect();
        Permutation::new(columns).expect("every row was given a column of its own")
    }
}

/// The column of a row's largest gain, the lowest among equals.
#[inline(always)]
fn largest(gains: &[f32]) -> usize {
    let (chunks, rest) = gains.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &gain) in lanes.iter_mut().zip(chunk) {
            *lane = if gain > *lane { gain } else { *lane };
        }
    }
    let best = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |best, &gain| best.max(gain));
    let holds = |chunk: &[f32; LANES]| chunk.iter().fold(false, |found, &gain| found | (gain == best));
    let begin = LANES * chunks.iter().position(holds).unwrap_or(chunks.len());
    begin + gains[begin..].iter().position(|&gain| gain == best).unwrap_or(0)
}
