//! The canonical scale: one representative of all networks that differ by positive factors on their units only.
//!
//! A unit between linear layers with a positively homogeneous function behind it (ReLU and its kind) can be multiplied by any
//! number above 0 on its way in and divided by it on its way out. The canonical network is the one of least Euclidean norm: there
//! each unit's incoming and outgoing weights have the same norm (Neyshabur, Salakhutdinov, Srebro, Path-SGD, NeurIPS 2015,
//! Sec. 2, describe the symmetry). The squared norm is convex in the logarithms of the factors, so there is one such network;
//! going over the units in turn finds it, as Osborne's method (Journal of the ACM 7, 1960) balances a matrix.

use std::collections::BTreeMap;

use crate::{AlignError, CheckedSpec, Checkpoint, Tensor, agreement::units};

/// A checkpoint at its canonical scale.
#[derive(Debug, Clone, PartialEq)]
pub struct Canonical {
    /// The same function, balanced.
    pub checkpoint: Checkpoint,
    /// For each of the spec's scales and each unit of its group: what the unit was multiplied by on its way in.
    pub factors: Vec<Vec<f64>>,
    /// Units that were left as they are: all that comes in, or all that goes out, is 0.
    pub idle: usize,
    /// Passes over all units.
    pub passes: u32,
}

/// Most passes; far more than needed, a pass brings the factors nearer by a fixed part.
const MAX_PASSES: u32 = 200;
/// A factor nearer to 1 than this is rounding.
const TOLERANCE: f64 = 1e-9;

/// Brings each unit that has a [scale symmetry](crate::ScaleForm) in the spec to the factor at which the norms of what comes in
/// and of what goes out are the same. Computed in f64, written in the checkpoint's dtypes; nothing changes if the spec has no
/// scales.
///
/// # Errors
/// [`AlignError::Checkpoint`] if the checkpoint is not of the spec's layout, or a dtype cannot hold a balanced weight.
pub fn canonical_scale(spec: &CheckedSpec, checkpoint: &Checkpoint) -> Result<Canonical, AlignError> {
    crate::scanner::compare(spec.layout(), checkpoint.layout())?;
    let (squares, places) = Squares::of_all(spec, checkpoint);
    let mut factors: Vec<Vec<f64>> =
        spec.scales().iter().map(|scale| vec![1.0; spec.groups()[scale.group].units]).collect();
    let mut idle = 0;
    let mut passes = 0;
    let mut change = f64::INFINITY;
    while change > TOLERANCE && passes < MAX_PASSES {
        (change, idle) = (0.0, 0);
        for index in 0..factors.len() {
            for unit in 0..factors[index].len() {
                let [up, down] = sums(&squares, &places[index][unit], &factors);
                let factor = (down / up).sqrt().sqrt();
                if !(factor.is_finite() && factor > 0.0) {
                    idle += 1;
                    continue;
                }
                factors[index][unit] *= factor;
                change = change.max(factor.ln().abs());
            }
        }
        passes += 1;
    }
    Ok(Canonical { checkpoint: rescale(spec, checkpoint, &factors)?, factors, idle, passes })
}

impl Canonical {
    /// The least and the greatest of the factors; 1 if there are none.
    #[must_use]
    pub fn range(&self) -> (f64, f64) {
        let all = || self.factors.iter().flatten().copied();
        (all().reduce(f64::min).unwrap_or(1.0), all().reduce(f64::max).unwrap_or(1.0))
    }
}

/// Multiplies each unit of each of the spec's scales by a factor of its own, on its way in, and divides it on its way out: an
/// element of the scale symmetry. `factors`: for each scale, one number above 0 for each unit of its group.
///
/// # Errors
/// [`AlignError::Checkpoint`] if the checkpoint is not of the spec's layout, or a dtype cannot hold a weight.
///
/// # Panics
/// If there are not as many factors as units.
pub fn rescale(
    spec: &CheckedSpec,
    checkpoint: &Checkpoint,
    factors: &[Vec<f64>],
) -> Result<Checkpoint, AlignError> {
    crate::scanner::compare(spec.layout(), checkpoint.layout())?;
    assert_eq!(factors.len(), spec.scales().len(), "one list of factors a scale");
    let mut tensors = Vec::with_capacity(checkpoint.tensors().len());
    for (index, tensor) in checkpoint.tensors().iter().enumerate() {
        let sides = sides(spec, index);
        if sides.is_empty() {
            tensors.push(tensor.clone());
            continue;
        }
        let mut values = tensor.to_f64();
        for (element, value) in values.iter_mut().enumerate() {
            for side in &sides {
                *value *= factor(&side.positions[side.at(element)], factors);
            }
        }
        tensors.push(Tensor::from_f64(tensor.info(), &values)?);
    }
    Ok(Checkpoint::new(checkpoint.layout().clone(), tensors)?)
}

/// What one scale does to a position of an axis.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Scaled {
    scale: usize,
    unit: usize,
    /// Multiplied, not divided.
    up: bool,
}

impl Scaled {
    fn is_of(self, other: Self) -> bool {
        (self.scale, self.unit) == (other.scale, other.unit)
    }
}

/// What all scales of a position make of it: several stand on an axis that is a product of groups.
fn factor(scaled: &[Scaled], factors: &[Vec<f64>]) -> f64 {
    let one = |scaled: &Scaled| {
        let factor = factors[scaled.scale][scaled.unit];
        if scaled.up { factor } else { 1.0 / factor }
    };
    scaled.iter().map(one).product()
}

/// An axis of a tensor on which scales stand.
struct Side {
    /// For each position: what scales it.
    positions: Vec<Vec<Scaled>>,
    /// Elements behind a position.
    inner: usize,
}

impl Side {
    fn at(&self, element: usize) -> usize {
        element / self.inner % self.positions.len()
    }
}

/// The scaled axes of a tensor: none, one or two.
fn sides(spec: &CheckedSpec, tensor: usize) -> Vec<Side> {
    let shape = &spec.layout().tensors()[tensor].shape;
    let mut sides: BTreeMap<usize, Side> = BTreeMap::new();
    for (index, scale) in spec.scales().iter().enumerate() {
        for (up, on) in [(true, &scale.up), (false, &scale.down)] {
            for &(_, axis) in on.iter().filter(|(on, _)| *on == tensor) {
                let form = spec.axes(tensor)[axis].as_ref().expect("a scale stands where its group does");
                let side = sides.entry(axis).or_insert_with(|| Side {
                    positions: vec![Vec::new(); shape[axis]],
                    inner: shape[axis + 1..].iter().product(),
                });
                for (position, unit) in side.positions.iter_mut().zip(units(spec, form, scale.group)) {
                    position.extend(unit.map(|unit| Scaled { scale: index, unit, up }));
                }
            }
        }
    }
    sides.into_values().collect()
}

/// A tensor's squares, summed over all that no scale distinguishes.
struct Squares {
    /// For each of two sides, what scales its slots: positions that scale alike are one slot.
    slots: [Vec<Vec<Scaled>>; 2],
    /// `[slots of the first side, slots of the second]`
    sums: Vec<f64>,
}

/// Where a unit's weights are: squares, side and slot; and what happens to it there.
type Place = (usize, usize, usize, Scaled);

impl Squares {
    /// Of every tensor that scales stand on; and for each scale and unit, where.
    fn of_all(spec: &CheckedSpec, checkpoint: &Checkpoint) -> (Vec<Self>, Vec<Vec<Vec<Place>>>) {
        let units = |scale: &crate::Scale| vec![Vec::new(); spec.groups()[scale.group].units];
        let mut places: Vec<Vec<Vec<Place>>> = spec.scales().iter().map(units).collect();
        let mut all = Vec::new();
        for (index, tensor) in checkpoint.tensors().iter().enumerate() {
            let sides = sides(spec, index);
            if sides.is_empty() {
                continue;
            }
            let mut slots = [vec![], vec![]];
            // For each side: the slot of each position.
            let mut of = [vec![], vec![]];
            for (number, (slots, of)) in slots.iter_mut().zip(&mut of).enumerate() {
                let Some(side) = sides.get(number) else {
                    slots.push(Vec::new());
                    continue;
                };
                let mut known: BTreeMap<&[Scaled], usize> = BTreeMap::new();
                for scaled in &side.positions {
                    of.push(*known.entry(scaled).or_insert_with(|| {
                        for scaled in scaled {
                            places[scaled.scale][scaled.unit].push((all.len(), number, slots.len(), *scaled));
                        }
                        slots.push(scaled.clone());
                        slots.len() - 1
                    }));
                }
            }
            let mut sums = vec![0.0; slots[0].len() * slots[1].len()];
            for (element, value) in tensor.to_f64().into_iter().enumerate() {
                let slot = |side: usize| sides.get(side).map_or(0, |found| of[side][found.at(element)]);
                sums[slot(0) * slots[1].len() + slot(1)] += value * value;
            }
            all.push(Self { slots, sums });
        }
        (all, places)
    }

    fn sum(&self, side: usize, slot: usize, opposite: usize) -> f64 {
        let width = self.slots[1].len();
        if side == 0 { self.sums[slot * width + opposite] } else { self.sums[opposite * width + slot] }
    }
}

/// The squared norms of what comes into a unit and of what goes out, at the factors held. A weight from a unit to itself counts
/// for neither: no factor changes it.
fn sums(squares: &[Squares], places: &[Place], factors: &[Vec<f64>]) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for &(tensor, side, slot, own) in places {
        let square = &squares[tensor];
        let mut sum = 0.0;
        for (opposite, scaled) in square.slots[1 - side].iter().enumerate() {
            if !scaled.iter().any(|scaled| scaled.is_of(own)) {
                sum += square.sum(side, slot, opposite) * factor(scaled, factors).powi(2);
            }
        }
        sums[usize::from(!own.up)] += sum * factor(&square.slots[side][slot], factors).powi(2);
    }
    sums
}

#[cfg(test)]
mod tests;
