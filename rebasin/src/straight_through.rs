//! The straight-through estimator: Git Re-Basin, Sec. 3.3, Alg. 2.

use std::ops::ControlFlow;

use crate::{
    AlignError, Alignment, CheckedSpec, Checkpoint, MatchOptions, MergeError, Tensor, align, align_from,
    mean, quietly,
};

/// A loss that can be differentiated: whoever holds data and a network.
pub trait Objective {
    /// What can go wrong there.
    type Error: From<MergeError>;

    /// The loss of a model on the next batch, and its gradient: one list a tensor, in the layout's canonical order, empty for
    /// tensors that have none.
    ///
    /// # Errors
    /// The caller's own.
    fn loss_and_gradient(&mut self, model: &Checkpoint) -> Result<(f64, Vec<Vec<f32>>), Self::Error>;
}

/// How to descend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StraightThroughOptions {
    /// Steps, one batch each.
    pub steps: u32,
    /// Step length of plain SGD.
    pub learning_rate: f64,
    /// Its momentum, 0 to below 1.
    pub momentum: f64,
    /// How the projection is found.
    pub matching: MatchOptions,
}

impl Default for StraightThroughOptions {
    /// Momentum and step length of the paper's code for perceptrons.
    fn default() -> Self {
        let matching = MatchOptions { starts: 1, ..MatchOptions::default() };
        Self { steps: 200, learning_rate: 1e-2, momentum: 0.9, matching }
    }
}

/// Where the descent ended.
#[derive(Debug, Clone, PartialEq)]
pub struct StraightThrough {
    /// The alignment whose midpoint had the lowest running loss.
    pub alignment: Alignment,
    /// That loss: a running mean over batches (0.9 of the past at each step).
    pub loss: f64,
    /// The step at which it was reached.
    pub step: u32,
    /// Each step's loss at the midpoint.
    pub losses: Vec<f64>,
}

/// Minimises the loss halfway between the reference and a permuted update, over permutations: a free copy `t` of the
/// parameters, begun at the reference, is projected to the permutation of the update that is nearest to it (Alg. 1, from the
/// last one), the loss is taken at the midpoint of the reference and that projection, and its gradient moves `t` as if there
/// had been no projection.
///
/// `observe` is told each step's loss and ends the descent by [`ControlFlow::Break`]; what was found so far is returned.
///
/// # Errors
/// [`MergeError`] from an alignment or a mean, or what the objective gives.
pub fn straight_through<O: Objective>(
    spec: &CheckedSpec,
    reference: &Checkpoint,
    update: &Checkpoint,
    objective: &mut O,
    options: &StraightThroughOptions,
    observe: &mut dyn FnMut(u32, f64) -> ControlFlow<()>,
) -> Result<StraightThrough, O::Error> {
    let wrong = |error: AlignError| O::Error::from(MergeError::from(error));
    let found = align(spec, reference, update, &options.matching, &mut quietly).map_err(wrong)?;
    let mut held = found.alignment;
    let mut free = Free::new(reference);
    let mut best =
        StraightThrough { alignment: held.clone(), loss: f64::INFINITY, step: 0, losses: Vec::new() };
    let mut running: Option<f64> = None;
    for step in 0..options.steps {
        if step > 0 {
            let target = free.checkpoint(reference).map_err(MergeError::from)?;
            held = align_from(spec, &target, update, &held, &options.matching, &mut quietly)
                .map_err(wrong)?
                .alignment;
        }
        let projected = held.apply(spec, update).map_err(wrong)?;
        let midpoint = mean(None, &[reference, &projected], None, &[0.5, 0.5])?;
        let (loss, gradient) = objective.loss_and_gradient(&midpoint)?;
        let mean_loss = running.map_or(loss, |running| 0.9 * running + 0.1 * loss);
        running = Some(mean_loss);
        best.losses.push(loss);
        if mean_loss < best.loss {
            best = StraightThrough { alignment: held.clone(), loss: mean_loss, step, ..best };
        }
        if observe(step, loss).is_break() {
            break;
        }
        // The midpoint holds half of the projection.
        free.descend(&gradient, 0.5 * options.learning_rate, options.momentum);
    }
    Ok(best)
}

/// The free parameters and their velocity.
struct Free {
    values: Vec<Vec<f64>>,
    velocity: Vec<Vec<f64>>,
}

impl Free {
    fn new(start: &Checkpoint) -> Self {
        let values: Vec<Vec<f64>> = start.tensors().iter().map(Tensor::to_f64).collect();
        let velocity = values.iter().map(|values| vec![0.0; values.len()]).collect();
        Self { values, velocity }
    }

    fn descend(&mut self, gradient: &[Vec<f32>], learning_rate: f64, momentum: f64) {
        for ((values, velocity), gradient) in self.values.iter_mut().zip(&mut self.velocity).zip(gradient) {
            for ((value, velocity), &gradient) in values.iter_mut().zip(velocity).zip(gradient) {
                *velocity = momentum * *velocity + f64::from(gradient);
                *value -= learning_rate * *velocity;
            }
        }
    }

    fn checkpoint(&self, like: &Checkpoint) -> Result<Checkpoint, crate::CheckpointError> {
        let tensors = like.tensors().iter().zip(&self.values).map(|(tensor, values)| {
            if tensor.info().dtype.is_float() {
                Tensor::from_f64(tensor.info(), values)
            } else {
                Ok(tensor.clone())
            }
        });
        Checkpoint::new(like.layout().clone(), tensors.collect::<Result<_, _>>()?)
    }
}
