//! MergeMany: Git Re-Basin, Alg. 3.

use std::ops::ControlFlow;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{
    AlignError, Aligned, Alignment, CheckedSpec, Checkpoint, CheckpointError, MatchOptions, MergeError,
    Permutation, Progress, Tensor, align, align_from,
};

/// Where MergeMany ended.
#[derive(Debug, Clone, PartialEq)]
pub struct MergeMany {
    /// For each checkpoint, in order.
    pub alignments: Vec<Alignment>,
    /// The squared Euclidean norm of the mean of the checkpoints as they came, over the float tensors: what MergeMany raises.
    /// The checkpoints' own norms do not change, so the nearer they are to one another, the longer is their mean.
    pub objective_before: f64,
    /// Each pass over all checkpoints, in order; empty for a single checkpoint.
    pub iterations: Vec<Iteration>,
}

impl MergeMany {
    /// The objective where it ended.
    #[must_use]
    pub fn objective(&self) -> f64 {
        self.iterations.last().map_or(self.objective_before, |iteration| iteration.objective)
    }

    /// Steps that brought a checkpoint nearer to the mean of the others.
    #[must_use]
    pub fn improvements(&self) -> u32 {
        self.iterations.iter().map(|iteration| iteration.improvements).sum()
    }
}

/// One pass over all checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Iteration {
    /// The squared norm of the mean afterwards. Never below that of the pass before.
    pub objective: f64,
    /// Checkpoints that came nearer to the mean of the others.
    pub improvements: u32,
    /// Units that these moved, as a fraction of the units of all checkpoints.
    pub moved: f64,
}

/// How MergeMany goes on.
#[derive(Debug, Clone, PartialEq)]
pub enum MergeProgress<'a> {
    /// A checkpoint's turn begins.
    Turn {
        /// The pass, from 1.
        iteration: u32,
        /// Which checkpoint, by its index.
        index: usize,
        /// Turns of this pass that are over.
        done: usize,
    },
    /// How that checkpoint's search goes on.
    Search(Progress),
    /// A pass ended.
    Iteration {
        /// Which, from 1.
        iteration: u32,
        /// What it did.
        outcome: &'a Iteration,
    },
}

/// Most passes; each ends earlier once no checkpoint comes nearer to the others.
const MAX_ITERATIONS: u32 = 100;

/// A step must bring a checkpoint nearer by more than this fraction of its distance.
const RELATIVE_TOLERANCE: f64 = 1e-6;

/// Aligns each of `n` checkpoints to the share-weighted mean of the others, in random order, until none comes nearer
/// (Alg. 3). The first pass searches from several starts, later ones go on from the permutations held; a step that would take a
/// checkpoint away from the others is not taken. `load` gives a checkpoint by its index, always the same one; it is called once
/// at the beginning and once a step for each, so that memory holds the running sum and one model, whatever `n` is.
///
/// `observe` is told of every turn and pass, and ends it all by [`ControlFlow::Break`].
///
/// # Errors
/// [`MergeError`], [`AlignError::Cancelled`] within it if `observe` ended it, or what `load` gives.
pub fn merge_many<E: From<MergeError>>(
    spec: &CheckedSpec,
    n: usize,
    load: &mut dyn FnMut(usize) -> Result<Checkpoint, E>,
    shares: &[f64],
    options: &MatchOptions,
    observe: &mut dyn FnMut(MergeProgress<'_>) -> ControlFlow<()>,
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
    let mut alignments = vec![Alignment::identity(spec); n];
    let mut sum = Sum::default();
    for (index, &share) in shares.iter().enumerate() {
        let model = load(index)?;
        crate::scanner::compare(spec.layout(), model.layout()).map_err(MergeError::from)?;
        sum.add(&model, share);
    }
    let objective_before = sum.square();
    let mut iterations = Vec::new();
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    for iteration in (1..=MAX_ITERATIONS).take_while(|_| n > 1) {
        let mut outcome = Iteration { objective: 0.0, improvements: 0, moved: 0.0 };
        for (done, &index) in Permutation::random(n, &mut rng).as_slice().iter().enumerate() {
            let index = index as usize;
            tell(observe, MergeProgress::Turn { iteration, index, done })?;
            let (share, raw) = (shares[index], load(index)?);
            let held = alignments[index].apply(spec, &raw).map_err(MergeError::from)?;
            sum.add(&held, -share);
            let others = sum.mean(spec, 1.0 - share).map_err(MergeError::from)?;
            let options = MatchOptions { seed: rng.random(), ..*options };
            let mut search = |event| observe(MergeProgress::Search(event));
            let step = match iteration {
                1 => align(spec, &others, &held, &options, &mut search),
                _ => align_from(spec, &others, &held, &Alignment::identity(spec), &options, &mut search),
            };
            let step: Aligned = step.map_err(MergeError::from)?;
            let (before, after) = (step.report.l2_before, step.report.l2_after);
            if after < before * (1.0 - RELATIVE_TOLERANCE) {
                outcome.improvements += 1;
                outcome.moved += step.report.moved / n as f64;
                alignments[index] = step.alignment.compose(spec, &alignments[index]);
                let moved = step.alignment.apply(spec, &held).map_err(MergeError::from)?;
                sum.add(&moved, share);
            } else {
                sum.add(&held, share);
            }
        }
        outcome.objective = sum.square();
        tell(observe, MergeProgress::Iteration { iteration, outcome: &outcome })?;
        let improved = outcome.improvements > 0;
        iterations.push(outcome);
        if !improved {
            break;
        }
    }
    Ok(MergeMany { alignments, objective_before, iterations })
}

fn tell(
    observe: &mut dyn FnMut(MergeProgress<'_>) -> ControlFlow<()>,
    event: MergeProgress<'_>,
) -> Result<(), MergeError> {
    match observe(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(AlignError::Cancelled.into()),
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

    /// The squared norm over the float tensors.
    fn square(&self) -> f64 {
        self.tensors.iter().flatten().map(|value| value * value).sum()
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
