//! Gain matrices: what each assignment of a group's units is worth, the other groups held.

use ndarray::{Array2, linalg::general_mat_mul};
use rayon::prelude::*;

use crate::{Alignment, CheckedSpec, Checkpoint, Permutation, alignment::axis_map};

/// Both models' averaged tensors in f32, with the spec's axes.
pub(crate) struct Pair {
    tensors: Vec<PairTensor>,
    /// For each group: the tensors it moves, and along which axis.
    uses: Vec<Vec<(usize, usize)>>,
}

struct PairTensor {
    /// Canonical position.
    index: usize,
    shape: Vec<usize>,
    reference: Vec<f32>,
    update: Vec<f32>,
}

/// One group's gain, and what it was made of.
pub(crate) struct Gain {
    /// `[size, size]`: row = unit of the reference, column = unit of the update. f32 sums.
    pub(crate) matrix: Array2<f32>,
    /// For each tensor that counts: the reference's units and the update's, as rows.
    unfolded: Vec<(Array2<f32>, Array2<f32>)>,
}

impl Gain {
    /// What a permutation of the group contributes to the true objective: its units' inner products, in f64. The order
    /// of addition does not depend on threads.
    pub(crate) fn value(&self, permutation: &Permutation) -> f64 {
        let mut value = 0.0;
        for (reference, update) in &self.unfolded {
            let of_units: Vec<f64> = (0..permutation.len())
                .into_par_iter()
                .with_min_len(16)
                .map(|unit| {
                    let pairs = reference.row(unit).into_iter().zip(update.row(permutation.map(unit)));
                    pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
                })
                .collect();
            value += of_units.iter().sum::<f64>();
        }
        value
    }
}

impl Pair {
    pub(crate) fn new(spec: &CheckedSpec, reference: &Checkpoint, update: &Checkpoint) -> Self {
        let mut uses = vec![Vec::new(); spec.groups().len()];
        let mut tensors = Vec::new();
        for (index, info) in spec.layout().tensors().iter().enumerate() {
            if !info.dtype.is_float() || info.num_elements() == 0 {
                continue;
            }
            for (axis, use_of) in spec.axes(index).iter().enumerate() {
                if let Some(use_of) = use_of {
                    uses[use_of.group].push((tensors.len(), axis));
                }
            }
            tensors.push(PairTensor {
                index,
                shape: info.shape.clone(),
                reference: reference.tensor(index).to_f32(),
                update: update.tensor(index).to_f32(),
            });
        }
        Self { tensors, uses }
    }

    /// Groups that share a tensor with `group`: its gain depends on them.
    pub(crate) fn neighbours(&self, spec: &CheckedSpec, group: usize) -> Vec<usize> {
        let mut found: Vec<usize> = self.uses[group]
            .iter()
            .flat_map(|&(tensor, _)| spec.axes(self.tensors[tensor].index).iter().flatten())
            .map(|axis| axis.group)
            .filter(|&other| other != group)
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Elements of the tensors that a group moves: all of them, and those whose other groups are all `known`.
    pub(crate) fn known_elements(&self, spec: &CheckedSpec, group: usize, known: &[bool]) -> (usize, usize) {
        let (mut all, mut usable) = (0, 0);
        for &(tensor, _) in &self.uses[group] {
            let elements = self.tensors[tensor].reference.len();
            all += elements;
            if self.is_known(spec, tensor, group, known) {
                usable += elements;
            }
        }
        (all, usable)
    }

    fn is_known(&self, spec: &CheckedSpec, tensor: usize, group: usize, known: &[bool]) -> bool {
        let axes = spec.axes(self.tensors[tensor].index).iter().flatten();
        axes.map(|axis| axis.group).all(|other| other == group || known[other])
    }

    /// Git Re-Basin, Sec. 3.2: the sum over the group's tensors of `unfold(reference) · unfold(update)ᵀ`, the update
    /// permuted by `alignment` on every other axis. Tensors with a group that is not `known` are left out.
    pub(crate) fn gain(
        &self,
        spec: &CheckedSpec,
        group: usize,
        alignment: &Alignment,
        known: &[bool],
    ) -> Gain {
        let size = spec.groups()[group].size;
        let mut gain = Gain { matrix: Array2::zeros((size, size)), unfolded: Vec::new() };
        for &(tensor, axis) in &self.uses[group] {
            if !self.is_known(spec, tensor, group, known) {
                continue;
            }
            let tensor = &self.tensors[tensor];
            let axes = spec.axes(tensor.index);
            let maps: Vec<Option<Vec<usize>>> = (0..tensor.shape.len())
                .map(|other| {
                    let use_of = if other == axis { None } else { axes[other].as_ref() };
                    axis_map(tensor.shape[other], use_of, alignment)
                })
                .collect();
            let reference = unfold(&tensor.reference, &tensor.shape, axis, size, &vec![None; maps.len()]);
            let update = unfold(&tensor.update, &tensor.shape, axis, size, &maps);
            general_mat_mul(1.0, &reference, &update.t(), 1.0, &mut gain.matrix);
            gain.unfolded.push((reference, update));
        }
        gain
    }
}

/// `[size, rest]`: the axis's units as rows; a block's elements and all other axes, mapped, as columns.
///
/// `size` divides the axis's length, and no axis is empty: a spec's check and [`Pair::new`] make sure.
fn unfold(
    values: &[f32],
    shape: &[usize],
    axis: usize,
    size: usize,
    maps: &[Option<Vec<usize>>],
) -> Array2<f32> {
    let inner: usize = shape[axis + 1..].iter().product();
    let length = shape[axis];
    let (block, columns) = (length / size, values.len() / size);
    let outer = positions(&shape[..axis], &maps[..axis]);
    let mapped = maps[axis + 1..].iter().any(Option::is_some);
    let inside = if mapped { positions(&shape[axis + 1..], &maps[axis + 1..]) } else { Vec::new() };
    let mut out = vec![0.0; values.len()];
    let rows_at_once = (1 << 14) / columns + 1;
    out.par_chunks_mut(columns * rows_at_once).enumerate().for_each(|(part, rows)| {
        for (row, out) in rows.chunks_mut(columns).enumerate() {
            let unit = part * rows_at_once + row;
            let mut pieces = out.chunks_mut(inner);
            for &source in &outer {
                for element in 0..block {
                    let Some(piece) = pieces.next() else { return };
                    let base = (source * length + unit * block + element) * inner;
                    let from = &values[base..base + inner];
                    if mapped {
                        for (out, &source) in piece.iter_mut().zip(&inside) {
                            *out = from[source];
                        }
                    } else {
                        piece.copy_from_slice(from);
                    }
                }
            }
        }
    });
    Array2::from_shape_vec((size, columns), out).expect("as many values as the tensor has, in whole rows")
}

/// For the axes of `shape`, flattened: where each position comes from.
fn positions(shape: &[usize], maps: &[Option<Vec<usize>>]) -> Vec<usize> {
    let mut positions = vec![0];
    for (&length, map) in shape.iter().zip(maps) {
        let mut next = Vec::with_capacity(positions.len() * length);
        for &base in &positions {
            for index in 0..length {
                next.push(base * length + map.as_ref().map_or(index, |map| map[index]));
            }
        }
        positions = next;
    }
    positions
}
