//! MergeMany: Git Re-Basin, Alg. 3.

use std::ops::ControlFlow;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::{
    Alignment, CheckedSpec, Checkpoint, CheckpointError, MatchOptions, MergeError, Permutation, Progress,
    Tensor, align,
};

/// Where MergeMany ended.
#[derive(Debug, Clone, PartialEq)]
pub struct MergeMany {
    /// For each checkpoint, in order.
    pub alignments: Vec<Alignment>,
    /// Passes over all checkpoints.
    pub iterations: u32,
    /// Steps that brought a checkpoint nearer to the mean of the others.
    pub improvements: u32,
}

/// Most passes; each ends earlier once no checkpoint comes nearer to the others.
const MAX_ITERATIONS: u32 = 100;

/// A step must bring a checkpoint nearer by more than this fraction of its distance.
const RELATIVE_TOLERANCE: f64 = 1e-6;

/// Aligns each of `n` checkpoints to the share-weighted mean of the others, in random order, until none comes nearer
/// (Alg. 3). `load` gives a checkpoint by its index, always the same one; it is called once at the beginning and once a
/// step for each, so that memory holds the running sum and one model, whatever `n` is.
///
/// # Errors
/// [`MergeError`], or what `load` gives.
pub fn merge_many<E: From<MergeError>>(
    spec: &CheckedSpec,
    n: usize,
    load: &mut dyn FnMut(usize) -> Result<Checkpoint, E>,
    shares: &[f64],
    options: &MatchOptions,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<MergeMany, E> {
    if n == 0 {
        return Err(MergeError::Empty.into());
    }
    if shares.len() != n {
        return Err(MergeError::Count { inputs: n, others: shares.len(), what: "shares" }.into());
    }
    if let Some(index) = shares.iter().position(|share| !(share.is_finite() && *share > 0.0)) {
        return Err(MergeError::Share { index, why: "it is not above 0" }.into());
    }
    let mut many =
        MergeMany { alignments: vec![Alignment::identity(spec); n], iterations: 0, improvements: 0 };
    if n == 1 {
        return Ok(many);
    }
    let mut sum = Sum::default();
    for (index, &share) in shares.iter().enumerate() {
        let model = load(index)?;
        crate::scanner::compare(spec.layout(), model.layout()).map_err(MergeError::from)?;
        sum.add(&model, share);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    loop {
        let mut improved = false;
        for &index in Permutation::random(n, &mut rng).as_slice() {
            let index = index as usize;
            let (share, raw) = (shares[index], load(index)?);
            let held = many.alignments[index].apply(spec, &raw).map_err(MergeError::from)?;
            sum.add(&held, -share);
            let others = sum.mean(spec, 1.0 - share).map_err(MergeError::from)?;
            let options = MatchOptions { seed: rng.random(), ..*options };
            let step = align(spec, &others, &held, &options, observe).map_err(MergeError::from)?;
            let (before, after) = (step.report.l2_before, step.report.l2_after);
            if after < before * (1.0 - RELATIVE_TOLERANCE) {
                improved = true;
                many.improvements += 1;
                many.alignments[index] = step.alignment.compose(&many.alignments[index]);
                let moved = step.alignment.apply(spec, &held).map_err(MergeError::from)?;
                sum.add(&moved, share);
            } else {
                sum.add(&held, share);
            }
        }
        many.iterations += 1;
        if !improved || many.iterations == MAX_ITERATIONS {
            return Ok(many);
        }
    }
}

/// The running share-weighted sum of all checkpoints as aligned so far, in f64.
#[derive(Default)]
struct Sum {
    tensors: Vec<Vec<f64>>,
    integers: Vec<Option<Tensor>>,
}

impl Sum {
    fn add(&mut self, model: &Checkpoint, share: f64) {
        if self.tensors.is_empty() {
            self.tensors =
                model.tensors().iter().map(|tensor| vec![0.0; tensor.info().num_elements()]).collect();
            self.integers =
                model.tensors().iter().map(|t| (!t.dtype().is_float()).then(|| t.clone())).collect();
        }
        for (sum, tensor) in self.tensors.iter_mut().zip(model.tensors()) {
            if tensor.dtype().is_float() {
                for (sum, value) in sum.iter_mut().zip(tensor.to_f64()) {
                    *sum += share * value;
                }
            }
        }
    }

    fn mean(&self, spec: &CheckedSpec, total: f64) -> Result<Checkpoint, CheckpointError> {
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for ((info, sum), integer) in spec.layout().tensors().iter().zip(&self.tensors).zip(&self.integers) {
            tensors.push(match integer {
                Some(tensor) => tensor.clone(),
                None => Tensor::from_f64(info, &sum.iter().map(|value| value / total).collect::<Vec<_>>())?,
            });
        }
        Checkpoint::new(spec.layout().clone(), tensors)
    }
}
