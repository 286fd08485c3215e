//! How well matched units agree, after an alignment.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{AlignError, Axis, CheckedSpec, Checkpoint, alignment::digit_of};

/// How much the units of a group have in common with their partners in the reference, over all weights that move with them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupAgreement {
    /// The group.
    pub name: String,
    /// Units that have weights on both sides; the others do not count.
    pub units: usize,
    /// Mean cosine of matched units, -1 to 1; 1: the same up to scale.
    pub cosine_mean: f64,
    /// The cosine that 5 % of the units lie below.
    pub cosine_p5: f64,
}

/// Measures each group's agreement between the reference and an update as aligned to it. Groups whose axes depend on another axis (the inputs of a grouped convolution) are left out
/// there. Two unrelated models, trained or not, agree little; what is little depends on the widths.
///
/// # Errors
/// [`AlignError`] if a checkpoint is not of the spec's layout.
pub fn agreement(
    spec: &CheckedSpec,
    reference: &Checkpoint,
    aligned: &Checkpoint,
) -> Result<Vec<GroupAgreement>, AlignError> {
    crate::scanner::compare(spec.layout(), reference.layout())?;
    crate::scanner::compare(spec.layout(), aligned.layout())?;
    let sums = sums(spec, reference, aligned);
    Ok(spec.groups().iter().zip(sums).map(|(group, sums)| summary(&group.name, &sums)).collect())
}

/// For each group and unit: the sum of the squares of all weights that move with it. Groups as in [`agreement`].
pub(crate) fn squares_of_units(spec: &CheckedSpec, checkpoint: &Checkpoint) -> Vec<Vec<f64>> {
    let sums = sums(spec, checkpoint, checkpoint);
    sums.into_iter().map(|sums| sums.into_iter().map(|[_, squares, _]| squares).collect()).collect()
}

/// For each group and unit: a·b, a·a, b·b.
fn sums(spec: &CheckedSpec, reference: &Checkpoint, aligned: &Checkpoint) -> Vec<Vec<[f64; 3]>> {
    let mut sums: Vec<Vec<[f64; 3]>> =
        spec.groups().iter().map(|group| vec![[0.0; 3]; group.units]).collect();
    let tensors: Vec<usize> = (0..spec.layout().tensors().len())
        .filter(|&index| reference.tensor(index).info().dtype.is_float())
        .collect();
    let parts: Vec<Vec<(usize, Vec<[f64; 3]>)>> = tensors
        .into_par_iter()
        .map(|index| {
            let shape = &reference.tensor(index).info().shape;
            let (a, b) = (reference.tensor(index).to_f32(), aligned.tensor(index).to_f32());
            let mut parts = Vec::new();
            for (place, axis) in spec.axes(index).iter().enumerate() {
                let Some(axis) = axis else { continue };
                let mut groups: Vec<usize> = axis.groups().collect();
                groups.sort_unstable();
                groups.dedup();
                let inner: usize = shape[place + 1..].iter().product();
                for group in groups {
                    let units = units(spec, axis, group);
                    let mut sums = vec![[0.0; 3]; spec.groups()[group].units];
                    for (row, (a, b)) in a.chunks(inner.max(1)).zip(b.chunks(inner.max(1))).enumerate() {
                        let Some(unit) = units[row % shape[place]] else { continue };
                        for (&a, &b) in a.iter().zip(b) {
                            let (a, b) = (f64::from(a), f64::from(b));
                            sums[unit][0] += a * b;
                            sums[unit][1] += a * a;
                            sums[unit][2] += b * b;
                        }
                    }
                    parts.push((group, sums));
                }
            }
            parts
        })
        .collect();
    for (group, part) in parts.into_iter().flatten() {
        for (sum, part) in sums[group].iter_mut().zip(part) {
            for (sum, part) in sum.iter_mut().zip(part) {
                *sum += part;
            }
        }
    }
    sums
}

/// For each position of an axis: the unit of a group that stands there.
pub(crate) fn units(spec: &CheckedSpec, axis: &Axis, group: usize) -> Vec<Option<usize>> {
    let mut units = Vec::new();
    let (parent, size) = (spec.groups()[group].within, spec.groups()[group].size);
    for segment in &axis.segments {
        for position in 0..segment.length {
            let own = digit_of(segment, group, position);
            units.push(match parent {
                None => own,
                // Without a block here it stands on another axis, and the unit is not known.
                Some(parent) => {
                    own.zip(digit_of(segment, parent, position)).map(|(own, block)| block * size + own)
                }
            });
        }
    }
    units
}

#[expect(clippy::cast_precision_loss, reason = "counts of units are far below 2^52")]
fn summary(name: &str, sums: &[[f64; 3]]) -> GroupAgreement {
    let mut cosines: Vec<f64> = sums
        .iter()
        .filter(|sum| sum[1] > 0.0 && sum[2] > 0.0)
        .map(|[ab, aa, bb]| ab / (aa * bb).sqrt())
        .collect();
    cosines.sort_by(f64::total_cmp);
    let units = cosines.len();
    let (mean, p5) = match units {
        0 => (0.0, 0.0),
        _ => (cosines.iter().sum::<f64>() / units as f64, cosines[units / 20]),
    };
    GroupAgreement { name: name.to_owned(), units, cosine_mean: mean, cosine_p5: p5 }
}
