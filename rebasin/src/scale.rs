//! The canonical scale: one representative of all networks that differ by positive factors on their units only.
//!
//! A unit between linear layers with a positively homogeneous function behind it (ReLU and its kind) can be multiplied by any
//! number above 0 on its way in and divided by it on its way out. The canonical network is the one of least Euclidean norm: there
//! each unit's incoming and outgoing weights have the same norm (Neyshabur, Salakhutdinov, Srebro, Path-SGD, NeurIPS 2015,
//! Sec. 2, describe the symmetry). [`balance`] finds it.

mod balance;
mod multipliers;

use std::{collections::BTreeMap, convert::Infallible};

pub(crate) use self::{
    balance::{Balance, balance},
    multipliers::Multipliers,
};
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

/// Brings each unit that has a [scale symmetry](crate::ScaleForm) in the spec to the factor at which the norms of what comes in
/// and of what goes out are the same. Computed in f64, written in the checkpoint's dtypes; nothing changes if the spec has no
/// scales.
///
/// # Errors
/// [`AlignError::Checkpoint`] if the checkpoint is not of the spec's layout, or a dtype cannot hold a balanced weight.
pub fn canonical_scale(spec: &CheckedSpec, checkpoint: &Checkpoint) -> Result<Canonical, AlignError> {
    crate::scanner::compare(spec.layout(), checkpoint.layout())?;
    let Ok(Balance { factors, idle, passes }) = balance(spec, checkpoint, |_| Ok::<_, Infallible>(()));
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
        let Some(multipliers) = Multipliers::of(spec, index, factors) else {
            tensors.push(tensor.clone());
            continue;
        };
        let mut bytes = tensor.bytes().to_vec();
        multipliers.apply(tensor.info(), 0, &mut bytes)?;
        tensors.push(Tensor::from_bytes(tensor.info(), bytes)?);
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
fn factor<F: Copy + Into<f64>>(scaled: &[Scaled], factors: &[Vec<F>]) -> f64 {
    let one = |scaled: &Scaled| {
        let factor: f64 = factors[scaled.scale][scaled.unit].into();
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

/// The scaled axes of a tensor, in their order: none, one or two.
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

#[cfg(test)]
mod tests;
