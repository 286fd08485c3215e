//! Gain matrices: what each assignment of a group's units is worth, the other groups held.

use ndarray::{Array2, ArrayView2};

use crate::{Alignment, CheckedSpec, Checkpoint, alignment::axis_map};

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

impl Pair {
    pub(crate) fn new(spec: &CheckedSpec, reference: &Checkpoint, update: &Checkpoint) -> Self {
        let mut uses = vec![Vec::new(); spec.groups().len()];
        let mut tensors = Vec::new();
        for (index, info) in spec.layout().tensors().iter().enumerate() {
            if !info.dtype.is_float() {
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
    /// permuted by `alignment` on every other axis. `[size, size]`: row = unit of the reference, column = unit of the
    /// update. Tensors with a group that is not `known` are left out.
    pub(crate) fn gain(
        &self,
        spec: &CheckedSpec,
        group: usize,
        alignment: &Alignment,
        known: &[bool],
    ) -> Array2<f32> {
        let size = spec.groups()[group].size;
        let mut gain = Array2::<f32>::zeros((size, size));
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
            add_product(&mut gain, reference.view(), update.view());
        }
        gain
    }
}

fn add_product(gain: &mut Array2<f32>, reference: ArrayView2<'_, f32>, update: ArrayView2<'_, f32>) {
    ndarray::linalg::general_mat_mul(1.0, &reference, &update.t(), 1.0, gain);
}

/// `[size, rest]`: the axis's units as rows; a block's elements and all other axes, mapped, as columns.
fn unfold(
    values: &[f32],
    shape: &[usize],
    axis: usize,
    size: usize,
    maps: &[Option<Vec<usize>>],
) -> Array2<f32> {
    let inner: usize = shape[axis + 1..].iter().product();
    let outer: usize = shape[..axis].iter().product();
    let length = shape[axis];
    let columns = if size == 0 { 0 } else { values.len() / size };
    let mut out = Array2::zeros((size, columns));
    let sources_outer = positions(&shape[..axis], &maps[..axis]);
    let sources_inner = positions(&shape[axis + 1..], &maps[axis + 1..]);
    let block = if size == 0 { 1 } else { length / size };
    for (unit, mut row) in out.rows_mut().into_iter().enumerate() {
        let mut column = 0;
        for &source_outer in sources_outer.iter().take(outer) {
            for element in 0..block {
                let base = (source_outer * length + unit * block + element) * inner;
                for &source in &sources_inner {
                    row[column] = values[base + source];
                    column += 1;
                }
            }
        }
    }
    out
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
