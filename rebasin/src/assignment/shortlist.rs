//! The few columns that are worth most to a row, and a bound for all others.
//!
//! While an assignment is sought, bonuses only fall: what a column outside the list is worth stays below the bound that held
//! when the list was made. So most questions about a row of thousands of columns are answered, exactly, by a few dozen.

/// Columns of a list, at most; rows that are no longer than this are listed whole.
const KEPT: usize = 64;

/// Columns are looked at side by side in so many lanes; a lane's best is one of its own columns.
const LANES: usize = 32;

/// So many lanes have a column in the list: about 44 columns of random gains, or 15.
const WIDE: usize = 24;
const NARROW: usize = 12;

/// Fewer useful columns than this, and a list had better be made anew.
const FEW: usize = 8;

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    column: u32,
    gain: f32,
}

/// A row's list.
#[derive(Debug, Clone)]
pub(super) struct Shortlist {
    entries: [Entry; KEPT],
    length: usize,
    /// No column outside is worth as much; minus infinity if there is none outside, plus infinity if nothing is known.
    bound: f64,
}

/// A row's best column, and by how much the next one is worth less.
#[derive(Debug, Clone, Copy)]
pub(super) struct Best {
    pub(super) column: usize,
    pub(super) worth: f64,
    pub(super) lead: f64,
}

impl Shortlist {
    /// A list of which nothing is known.
    pub(super) fn unknown() -> Self {
        Self { entries: [Entry::default(); KEPT], length: 0, bound: f64::INFINITY }
    }

    /// No column that is not among [`Self::columns`] is worth as much.
    pub(super) fn bound(&self) -> f64 {
        self.bound
    }

    /// The columns, ascending, and their gains.
    #[inline(always)]
    pub(super) fn columns(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        self.entries[..self.length].iter().map(|entry| (entry.column as usize, f64::from(entry.gain)))
    }

    /// The best column by the list alone, the lowest among equals; `None` if one outside could be as good as the second best.
    #[inline(always)]
    pub(super) fn best(&self, bonus: &[f64]) -> Option<Best> {
        let mut worths = [f64::NEG_INFINITY; KEPT];
        for (worth, (column, gain)) in worths.iter_mut().zip(self.columns()) {
            *worth = gain + bonus[column];
        }
        let worth = most(worths);
        let place = worths.iter().position(|&other| other == worth)?;
        worths[place] = f64::NEG_INFINITY;
        let next = most(worths);
        let column = self.entries[place].column as usize;
        (next >= self.bound).then(|| Best { column, worth, lead: lead(worth, next) })
    }

    /// Whether so many columns fell below the bound that the list says little.
    #[inline(always)]
    pub(super) fn is_stale(&self, bonus: &[f64]) -> bool {
        let useful = self.columns().filter(|&(column, gain)| gain + bonus[column] >= self.bound).count();
        useful < FEW && self.bound.is_finite()
    }

    /// Lists the best columns of a row; gives the best one.
    #[inline(always)]
    pub(super) fn fill(&mut self, gains: &[f32], bonus: &[f64]) -> Best {
        if gains.len() <= KEPT {
            self.length = gains.len();
            self.bound = f64::NEG_INFINITY;
            for ((entry, &gain), column) in self.entries.iter_mut().zip(gains).zip(0..) {
                *entry = Entry { column, gain };
            }
        } else {
            let mut lanes = best_of_lanes(gains, bonus);
            let mut bound_of =
                |lanes_above: usize| *lanes.select_nth_unstable_by(LANES - lanes_above, f64::total_cmp).1;
            // Among many equals there is no short list.
            if !self.collect(gains, bonus, bound_of(WIDE)) && !self.collect(gains, bonus, bound_of(NARROW)) {
                *self = Self::unknown();
            }
        }
        self.best(bonus).unwrap_or_else(|| best_of_all(gains, bonus))
    }

    /// Lists all columns worth `bound` or more; tells whether there was room for them.
    #[inline(always)]
    fn collect(&mut self, gains: &[f32], bonus: &[f64], bound: f64) -> bool {
        self.length = 0;
        self.bound = bound;
        for_each_above(gains, bonus, bound, |column, _| {
            if let Some(entry) = self.entries.get_mut(self.length) {
                *entry = Entry { column: u32::try_from(column).unwrap_or(u32::MAX), gain: gains[column] };
            }
            self.length += 1;
        });
        self.length <= KEPT
    }
}

/// The largest of some numbers, a power of two of them: of halves, side by side.
#[inline(always)]
fn most<const N: usize>(mut numbers: [f64; N]) -> f64 {
    let mut half = N / 2;
    while half > 0 {
        let (some, others) = numbers.split_at_mut(half);
        for (some, &other) in some.iter_mut().zip(&others[..half]) {
            *some = if other > *some { other } else { *some };
        }
        half /= 2;
    }
    numbers[0]
}

/// The largest worth in each lane.
#[inline(always)]
fn best_of_lanes(gains: &[f32], bonus: &[f64]) -> [f64; LANES] {
    let (gains, _) = gains.as_chunks::<LANES>();
    let (bonus, _) = bonus.as_chunks::<LANES>();
    let mut lanes = [f64::NEG_INFINITY; LANES];
    for (gains, bonus) in gains.iter().zip(bonus) {
        for lane in 0..LANES {
            let worth = f64::from(gains[lane]) + bonus[lane];
            lanes[lane] = if worth > lanes[lane] { worth } else { lanes[lane] };
        }
    }
    lanes
}

/// Calls `take` with each column, ascending, that is worth `bound` or more, and with what it is worth.
#[inline(always)]
pub(super) fn for_each_above(gains: &[f32], bonus: &[f64], bound: f64, mut take: impl FnMut(usize, f64)) {
    const TOGETHER: usize = 16;
    let (chunks, _) = gains.as_chunks::<TOGETHER>();
    let (bonuses, _) = bonus.as_chunks::<TOGETHER>();
    for (place, (gains, bonus)) in chunks.iter().zip(bonuses).enumerate() {
        let mut above = 0_u32;
        for lane in 0..TOGETHER {
            above |= u32::from(f64::from(gains[lane]) + bonus[lane] >= bound) << lane;
        }
        while above != 0 {
            let lane = above.trailing_zeros() as usize % TOGETHER;
            above &= above - 1;
            take(place * TOGETHER + lane, f64::from(gains[lane]) + bonus[lane]);
        }
    }
    for column in chunks.len() * TOGETHER..gains.len() {
        let worth = f64::from(gains[column]) + bonus[column];
        if worth >= bound {
            take(column, worth);
        }
    }
}

/// The column of a whole row that is worth most, the lowest among equals: first how much that is, then where.
#[inline(always)]
pub(super) fn best_column(gains: &[f32], bonus: &[f64]) -> usize {
    let whole = gains.len() / LANES * LANES;
    let rest = gains[whole..].iter().zip(&bonus[whole..]).map(|(&gain, bonus)| f64::from(gain) + bonus);
    let most = rest.fold(most(best_of_lanes(gains, bonus)), f64::max);
    let mut best = None;
    for_each_above(gains, bonus, most, |column, _| best = best.or(Some(column)));
    best.unwrap_or(0)
}

/// The best column of a whole row, the lowest among equals.
#[inline(always)]
fn best_of_all(gains: &[f32], bonus: &[f64]) -> Best {
    let (mut column, mut worth, mut next) = (0, f64::NEG_INFINITY, f64::NEG_INFINITY);
    for (candidate, (&gain, bonus)) in gains.iter().zip(bonus).enumerate() {
        let value = f64::from(gain) + bonus;
        if value > worth {
            (column, worth, next) = (candidate, value, worth);
        } else if value > next {
            next = value;
        }
    }
    Best { column, worth, lead: lead(worth, next) }
}

/// By how much the best is worth more than the next one; nothing if there is none.
#[inline(always)]
fn lead(worth: f64, next: f64) -> f64 {
    if next.is_finite() { worth - next } else { 0.0 }
}
