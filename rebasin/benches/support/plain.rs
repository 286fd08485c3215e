//! The plain algorithm, to compare with: Git Re-Basin, Alg. 1, as its code does it. Every gain is made anew at each visit,
//! every assignment is solved cold, groups come in random order, from the identity until no group improves.

use ndarray::{Array2, ArrayView2, linalg::general_mat_mul};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rebasin::{Alignment, CheckedSpec, Checkpoint, Permutation, assign};

/// Where it ended, and what it took.
pub struct Outcome {
    pub alignment: Alignment,
    pub sweeps: u32,
    pub multiply_adds: u64,
}

/// Both models as plain arrays.
pub struct Plain<'a> {
    spec: &'a CheckedSpec,
    tensors: Vec<PlainTensor>,
}

struct PlainTensor {
    shape: Vec<usize>,
    /// The group of each axis.
    axes: Vec<Option<usize>>,
    reference: Vec<f32>,
    update: Vec<f32>,
}

impl<'a> Plain<'a> {
    pub fn new(spec: &'a CheckedSpec, reference: &Checkpoint, update: &Checkpoint) -> Self {
        let tensor = |(index, info): (usize, &rebasin::TensorInfo)| {
            let axes =
                spec.axes(index).iter().map(|axis| axis.as_ref().and_then(|axis| axis.groups().next()));
            PlainTensor {
                shape: info.shape.clone(),
                axes: axes.collect(),
                reference: reference.tensor(index).to_f32(),
                update: update.tensor(index).to_f32(),
            }
        };
        Self { spec, tensors: spec.layout().tensors().iter().enumerate().map(tensor).collect() }
    }

    pub fn align(&self, seed: u64) -> Outcome {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let groups = self.spec.groups().len();
        let mut outcome = Outcome { alignment: Alignment::identity(self.spec), sweeps: 0, multiply_adds: 0 };
        loop {
            let mut improved = false;
            for &group in Permutation::random(groups, &mut rng).as_slice() {
                let group = group as usize;
                let gain = self.gain(group, &mut outcome);
                let solved = assign(gain.view()).permutation;
                let value = |permutation: &Permutation| -> f64 {
                    (0..permutation.len()).map(|unit| f64::from(gain[[unit, permutation.map(unit)]])).sum()
                };
                let (before, after) = (value(&outcome.alignment.permutations[group]), value(&solved));
                // The paper's code asks for 1e-12, absolute, of f32 sums, and stops by luck; the same tolerance as the
                // engine's is kinder to it.
                if after > before + 1e-6 * before.abs().max(after.abs()) {
                    outcome.alignment.permutations[group] = solved;
                    improved = true;
                }
            }
            outcome.sweeps += 1;
            if !improved {
                return outcome;
            }
        }
    }

    fn gain(&self, group: usize, outcome: &mut Outcome) -> Array2<f32> {
        let n = self.spec.groups()[group].size;
        let mut gain = Array2::zeros((n, n));
        for PlainTensor { shape, axes, reference, update } in &self.tensors {
            for axis in (0..axes.len()).filter(|&axis| axes[axis] == Some(group)) {
                let identity: Vec<Option<&Permutation>> = vec![None; shape.len()];
                let permuted: Vec<Option<&Permutation>> = (0..shape.len())
                    .map(|other| {
                        axes[other]
                            .filter(|_| other != axis)
                            .map(|group| &outcome.alignment.permutations[group])
                    })
                    .collect();
                let a = unfold(reference, shape, axis, &identity);
                let b = unfold(update, shape, axis, &permuted);
                general_mat_mul(1.0, &a, &ArrayView2::from(&b).t(), 1.0, &mut gain);
                outcome.multiply_adds += (n * a.len()) as u64;
            }
        }
        gain
    }
}

/// `[units, rest]`, the rest permuted.
fn unfold(values: &[f32], shape: &[usize], axis: usize, maps: &[Option<&Permutation>]) -> Array2<f32> {
    let rest = values.len() / shape[axis];
    let mut sources = vec![0_usize];
    for (other, &length) in shape.iter().enumerate() {
        if other == axis {
            for source in &mut sources {
                *source *= length;
            }
            continue;
        }
        let position = |index: usize| maps[other].map_or(index, |map| map.map(index));
        sources = sources
            .iter()
            .flat_map(|&base| (0..length).map(move |index| base * length + position(index)))
            .collect();
    }
    let stride: usize = shape[axis + 1..].iter().product();
    let mut out = Vec::with_capacity(values.len());
    for unit in 0..shape[axis] {
        out.extend(sources.iter().map(|&source| values[source + unit * stride]));
    }
    Array2::from_shape_vec((shape[axis], rest), out).expect("whole rows")
}
