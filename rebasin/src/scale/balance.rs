//! The factors that balance a network.
//!
//! The squared norm is convex in the logarithms of the factors, so there is one balanced network; going over the units in turn finds
//! it, as Osborne's method (Journal of the ACM 7, 1960) balances a matrix.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::{Scaled, Side, sides};
use crate::{CheckedSpec, Checkpoint, Scale, Tensor, codec};

/// Most passes; far more than needed, a pass brings the factors nearer by a fixed part.
const MAX_PASSES: u32 = 200;
/// A factor nearer to 1 than this is rounding.
const TOLERANCE: f64 = 1e-9;

/// What brings a checkpoint to its canonical scale.
pub(crate) struct Balance {
    /// For each of the spec's scales and each unit of its group.
    pub(crate) factors: Vec<Vec<f64>>,
    /// Units that no factor balances: all that comes in, or all that goes out, is 0.
    pub(crate) idle: usize,
    /// Passes over all units.
    pub(crate) passes: u32,
}

/// Finds the factors at which the norms of what comes into a unit and of what goes out are the same. The checkpoint is of the spec's layout.
/// Weights from or to a unit that is idle count for no other unit: they are free, and its neighbours' scale is not theirs to choose.
///
/// `observe` is asked before each pass.
///
/// # Errors
/// What `observe` gives.
pub(crate) fn balance<E>(
    spec: &CheckedSpec,
    checkpoint: &Checkpoint,
    mut observe: impl FnMut(u32) -> Result<(), E>,
) -> Result<Balance, E> {
    let (mut squares, places) = Squares::of_all(spec, checkpoint);
    let ones = |scale: &Scale| vec![1.0; spec.groups()[scale.group].units];
    let mut factors: Vec<Vec<f64>> = spec.scales().iter().map(ones).collect();
    let mut idle: Vec<Vec<bool>> = factors.iter().map(|units| vec![false; units.len()]).collect();
    let mut passes = 0;
    let mut change = f64::INFINITY;
    while change > TOLERANCE && passes < MAX_PASSES {
        observe(passes)?;
        change = 0.0;
        for (scale, units) in places.iter().enumerate() {
            let known: Vec<[Option<Vec<f64>>; 2]> =
                squares.iter().map(|square| square.sums_of(scale)).collect();
            for (unit, places) in units.iter().enumerate() {
                if idle[scale][unit] {
                    continue;
                }
                let [up, down] = sums(&squares, &known, places);
                let factor = (down / up).sqrt().sqrt();
                if !(factor.is_finite() && factor > 0.0) {
                    idle[scale][unit] = true;
                    for &(tensor, side, slot, _) in places {
                        squares[tensor].multipliers[side][slot] = 0.0;
                    }
                    // Others may be idle without it.
                    change = f64::INFINITY;
                    continue;
                }
                factors[scale][unit] *= factor;
                for &(tensor, side, slot, scaled) in places {
                    let multiplier = &mut squares[tensor].multipliers[side][slot];
                    *multiplier *= if scaled.up { factor * factor } else { 1.0 / (factor * factor) };
                }
                change = change.max(factor.ln().abs());
            }
        }
        passes += 1;
    }
    // What a unit took until it was found to be idle is no scale of its own.
    for (factor, idle) in factors.iter_mut().flatten().zip(idle.iter().flatten()) {
        *factor = if *idle { 1.0 } else { *factor };
    }
    let idle = idle.iter().flatten().filter(|idle| **idle).count();
    Ok(Balance { factors, idle, passes })
}

/// A tensor's squares, summed over all that no scale distinguishes.
struct Squares {
    /// For each of two sides, what scales its slots: positions that scale alike are one slot.
    slots: [Vec<Vec<Scaled>>; 2],
    /// For each of two sides and its slots: what the squares are multiplied by at the factors so far.
    multipliers: [Vec<f64>; 2],
    /// `[slots of the first side, slots of the second]`
    sums: Vec<f64>,
}

/// Where a unit's weights are: squares, side and slot; and what happens to it there.
type Place = (usize, usize, usize, Scaled);

/// Elements that are decoded at a time, if not more of them lie together.
const PART: usize = 1 << 15;

/// Rows that are summed as one: the same for any number of threads.
const ROWS: usize = 64;

impl Squares {
    /// Of every tensor that scales stand on; and for each scale and unit, where.
    fn of_all(spec: &CheckedSpec, checkpoint: &Checkpoint) -> (Vec<Self>, Vec<Vec<Vec<Place>>>) {
        let scaled: Vec<(&Tensor, Vec<Side>)> = checkpoint
            .tensors()
            .iter()
            .enumerate()
            .map(|(index, tensor)| (tensor, sides(spec, index)))
            .filter(|(_, sides)| !sides.is_empty())
            .collect();
        let all: Vec<Self> = scaled.par_iter().map(|(tensor, sides)| Self::of(tensor, sides)).collect();
        let units = |scale: &Scale| vec![Vec::new(); spec.groups()[scale.group].units];
        let mut places: Vec<Vec<Vec<Place>>> = spec.scales().iter().map(units).collect();
        for (tensor, squares) in all.iter().enumerate() {
            for (side, slots) in squares.slots.iter().enumerate() {
                for (slot, scaled) in slots.iter().enumerate() {
                    for scaled in scaled {
                        places[scaled.scale][scaled.unit].push((tensor, side, slot, *scaled));
                    }
                }
            }
        }
        (all, places)
    }

    fn of(tensor: &Tensor, sides: &[Side]) -> Self {
        let mut slots = [vec![], vec![]];
        // For each side: the slot of each position.
        let mut of = [vec![0], vec![0]];
        for (side, (slots, of)) in sides.iter().zip(slots.iter_mut().zip(&mut of)) {
            let mut known: BTreeMap<&[Scaled], usize> = BTreeMap::new();
            of.clear();
            for scaled in &side.positions {
                of.push(*known.entry(scaled).or_insert_with(|| {
                    slots.push(scaled.clone());
                    slots.len() - 1
                }));
            }
        }
        if sides.len() == 1 {
            slots[1].push(Vec::new());
        }
        let width = slots[1].len();
        let mut sums = vec![0.0; slots[0].len() * width];
        let inner = [sides[0].inner, sides.get(1).map_or(1, |side| side.inner)];
        let slot_at = |side: usize, element: usize| of[side][element / inner[side].max(1) % of[side].len()];
        let dtype = tensor.info().dtype;
        // What lies together on both sides is summed first.
        let run = inner[sides.len() - 1].max(1);
        let mut element = 0;
        for bytes in tensor.bytes().chunks((PART / run).max(1) * run * dtype.size()) {
            for values in codec::to_f64(dtype, bytes).chunks(run) {
                let own: f64 = values.iter().map(|value| value * value).sum();
                sums[slot_at(0, element) * width + slot_at(1, element)] += own;
                element += run;
            }
        }
        let multipliers = [vec![1.0; slots[0].len()], vec![1.0; width]];
        Self { slots, multipliers, sums }
    }

    /// For each side on which a scale stands and its slots: the sum of the squares there, multiplied as the other side is. `None` where the
    /// scale stands on the other side too: there its units depend on one another.
    fn sums_of(&self, scale: usize) -> [Option<Vec<f64>>; 2] {
        let stands = |side: usize| self.slots[side].iter().flatten().any(|scaled| scaled.scale == scale);
        let [first, second] = [stands(0), stands(1)];
        let width = self.slots[1].len();
        let dot = |row: &[f64]| row.iter().zip(&self.multipliers[1]).map(|(sum, by)| sum * by).sum::<f64>();
        match (first, second) {
            (true, false) => [Some(self.sums.par_chunks(width).map(dot).collect()), None],
            (false, true) => {
                let rows = self.sums.par_chunks(width * ROWS).zip(self.multipliers[0].par_chunks(ROWS));
                let columns = rows.map(|(rows, multipliers)| {
                    let mut sums = vec![0.0; width];
                    for (row, by) in rows.chunks(width).zip(multipliers) {
                        add(&mut sums, row, *by);
                    }
                    sums
                });
                let columns: Vec<Vec<f64>> = columns.collect();
                let mut sums = vec![0.0; width];
                columns.iter().for_each(|part| add(&mut sums, part, 1.0));
                [None, Some(sums)]
            }
            _ => [None, None],
        }
    }

    /// The same for one unit's slot, without the weights from the unit to itself: no factor changes those.
    fn sum_without(&self, side: usize, slot: usize, own: Scaled) -> f64 {
        let width = self.slots[1].len();
        let at = |opposite: usize| if side == 0 { slot * width + opposite } else { opposite * width + slot };
        let others = self.slots[1 - side].iter().zip(&self.multipliers[1 - side]).enumerate();
        let others = others.filter(|(_, (scaled, _))| !scaled.iter().any(|scaled| scaled.is_of(own)));
        others.map(|(opposite, (_, by))| self.sums[at(opposite)] * by).sum()
    }
}

fn add(sums: &mut [f64], row: &[f64], by: f64) {
    for (sum, own) in sums.iter_mut().zip(row) {
        *sum += own * by;
    }
}

/// The squared norms of what comes into a unit and of what goes out, at the factors so far.
fn sums(squares: &[Squares], known: &[[Option<Vec<f64>>; 2]], places: &[Place]) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for &(tensor, side, slot, own) in places {
        let square = &squares[tensor];
        let sum = match &known[tensor][side] {
            Some(sums) => sums[slot],
            None => square.sum_without(side, slot, own),
        };
        sums[usize::from(!own.up)] += sum * square.multipliers[side][slot];
    }
    sums
}
