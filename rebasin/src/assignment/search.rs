//! A shortest augmenting path.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{
    shortlist::{Shortlist, for_each_above},
    solver::NONE,
};

/// What the search comes to next; compared in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    /// Bits of a distance that is not negative: they are in its order.
    distance: u64,
    what: What,
    /// A column, or a row.
    index: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// A column that no row has: the end.
    Free,
    /// A column that a row has.
    Taken,
    /// A row, columns outside whose list may now be as near.
    Row,
}

/// Where a search stands. Kept from one to the next: only what was touched is cleared.
pub(super) struct Search {
    /// To each column: infinite if it was not reached, minus infinity if it is done.
    distance: Vec<f64>,
    /// The row that each column was reached from.
    via: Vec<usize>,
    /// For each row gone on from: its distance and its own worth.
    from: Vec<f64>,
    /// Columns reached.
    reached: Vec<usize>,
    /// Columns that are done, with their distances.
    done: Vec<(usize, f64)>,
    events: BinaryHeap<Reverse<Event>>,
    /// Distance of the nearest free column known: nothing beyond it matters.
    limit: f64,
}

/// The problem, as far as a search reads it.
pub(super) struct Rows<'s> {
    pub(super) gain: &'s [f32],
    pub(super) bonus: &'s [f64],
    pub(super) row_of: &'s [usize],
}

impl Rows<'_> {
    #[inline(always)]
    fn gains(&self, row: usize) -> &[f32] {
        let n = self.bonus.len();
        &self.gain[row * n..(row + 1) * n]
    }
}

/// What a search found.
pub(super) struct Path<'s> {
    /// The free column it ends at.
    pub(super) sink: usize,
    pub(super) length: f64,
    /// Columns nearer than that, with their distances.
    pub(super) done: &'s [(usize, f64)],
    /// The row that each column on the path was reached from.
    pub(super) via: &'s [usize],
}

impl Search {
    pub(super) fn new(n: usize) -> Self {
        Self {
            distance: vec![f64::INFINITY; n],
            via: vec![NONE; n],
            from: vec![0.0; n],
            reached: Vec::new(),
            done: Vec::new(),
            events: BinaryHeap::new(),
            limit: f64::INFINITY,
        }
    }

    /// Dijkstra over columns from several free rows at once, to the free column that is nearest to any of them. From several the
    /// way is much shorter than from a given one.
    #[inline(always)]
    pub(super) fn shortest(
        &mut self,
        rows: &Rows<'_>,
        lists: &mut [Shortlist],
        sources: &[usize],
    ) -> Path<'_> {
        self.clear();
        for &row in sources {
            let list = &mut lists[row];
            let best = list.best(rows.bonus).unwrap_or_else(|| list.fill(rows.gains(row), rows.bonus));
            self.go_on(rows, list, row, 0.0, best.worth);
            if self.limit <= 0.0 {
                break;
            }
        }
        loop {
            let Reverse(event) = self.events.pop().expect("a free row reaches a free column");
            let distance = f64::from_bits(event.distance);
            match event.what {
                What::Free => {
                    return Path { sink: event.index, length: distance, done: &self.done, via: &self.via };
                }
                What::Taken => {
                    let column = event.index;
                    // Reached again from nearer, or done.
                    if self.distance[column] != distance {
                        continue;
                    }
                    self.distance[column] = f64::NEG_INFINITY;
                    self.done.push((column, distance));
                    let row = rows.row_of[column];
                    let worth = f64::from(rows.gains(row)[column]) + rows.bonus[column];
                    self.go_on(rows, &mut lists[row], row, distance, distance + worth);
                }
                What::Row => self.go_on_to_all(rows, event.index, distance),
            }
        }
    }

    fn clear(&mut self) {
        for column in self.reached.drain(..) {
            self.distance[column] = f64::INFINITY;
        }
        self.done.clear();
        self.events.clear();
        self.limit = f64::INFINITY;
    }

    /// Goes on from a row, at a distance, to the columns of its list; `from` is the distance and the row's own worth.
    #[inline(always)]
    fn go_on(&mut self, rows: &Rows<'_>, list: &mut Shortlist, row: usize, distance: f64, from: f64) {
        if list.is_stale(rows.bonus) {
            list.fill(rows.gains(row), rows.bonus);
        }
        for (column, gain) in list.columns() {
            self.reach(rows, column, row, (from - (gain + rows.bonus[column])).max(distance));
        }
        let others = (from - list.bound()).max(distance);
        if others < self.limit {
            self.from[row] = from;
            self.events.push(Reverse(Event { distance: others.to_bits(), what: What::Row, index: row }));
        }
    }

    /// Goes on from a row to all columns.
    #[inline(always)]
    fn go_on_to_all(&mut self, rows: &Rows<'_>, row: usize, distance: f64) {
        let from = self.from[row];
        for_each_above(rows.gains(row), rows.bonus, from - self.limit, |column, worth| {
            self.reach(rows, column, row, (from - worth).max(distance));
        });
    }

    /// Reaches a column, if that is nearer than before, and of any use.
    #[inline(always)]
    fn reach(&mut self, rows: &Rows<'_>, column: usize, row: usize, through: f64) {
        let before = self.distance[column];
        if through >= before || through >= self.limit {
            return;
        }
        if before == f64::INFINITY {
            self.reached.push(column);
        }
        self.distance[column] = through;
        self.via[column] = row;
        let what = if rows.row_of[column] == NONE {
            self.limit = through;
            What::Free
        } else {
            What::Taken
        };
        self.events.push(Reverse(Event { distance: through.to_bits(), what, index: column }));
    }
}
