//! Local training: stochastic gradient descent with momentum and weight decay on one site's images.

use candle_core::{Device, Tensor, Var, backprop::GradStore};
use rand::seq::SliceRandom;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::{dataset::Dataset, idx::PIXELS};

#[cfg(test)]
mod tests;

/// Images in a step.
const BATCH: usize = 100;
const MOMENTUM: f64 = 0.9;
/// Weight decay matters for the merge, not only for the fit: without it, directions that the data never touch keep their random
/// initialisation and a barrier stays between aligned networks.
const WEIGHT_DECAY: f64 = 2e-3;

/// How long and how fast to train.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Passes over the images.
    pub epochs: u32,
    /// Learning rate of the first step.
    pub learning_rate: f64,
    /// Learning rate of the last step; it falls along half a cosine from one to the other.
    pub last_learning_rate: f64,
    /// Seeds the order of the images.
    pub seed: u64,
}

impl Schedule {
    /// The learning rate at step `step` of `steps`.
    fn rate(&self, step: usize, steps: usize) -> f64 {
        let done = step as f64 / steps.max(1) as f64;
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
        self.last_learning_rate + (self.learning_rate - self.last_learning_rate) * cosine
    }
}

/// What can be trained.
pub trait Network {
    /// Every parameter that a step may change.
    fn parameters(&self) -> Vec<Var>;

    /// Logits, `[n, CLASSES]`, of images `[n, PIXELS]`, as in training.
    ///
    /// # Errors
    /// If the images have another shape.
    fn training_logits(&self, images: &Tensor) -> candle_core::Result<Tensor>;
}

/// Gradient descent with momentum as PyTorch's `SGD` does it: `g += decay * w; v = momentum * v + g; w -= rate * v`.
struct Sgd {
    parameters: Vec<Var>,
    velocities: Vec<Option<Tensor>>,
}

impl Sgd {
    fn new(parameters: Vec<Var>) -> Self {
        let velocities = vec![None; parameters.len()];
        Self { parameters, velocities }
    }

    fn step(&mut self, gradients: &GradStore, rate: f64) -> candle_core::Result<()> {
        for (parameter, slot) in self.parameters.iter().zip(&mut self.velocities) {
            let Some(gradient) = gradients.get(parameter) else { continue };
            // Detached: the update is no part of the function that is differentiated.
            let mut velocity = (gradient + (parameter.as_detached_tensor() * WEIGHT_DECAY)?)?;
            if let Some(before) = slot.take() {
                velocity = (velocity + (before * MOMENTUM)?)?;
            }
            parameter.set(&(parameter.as_detached_tensor() - (&velocity * rate)?)?)?;
            *slot = Some(velocity.detach());
        }
        Ok(())
    }
}

/// Trains `model` in place. After each epoch `observe(epoch, mean loss of its steps)` is called, epochs counted from 1; if it
/// returns false, training stops there. Returns the last epoch's mean loss. Deterministic for one number of threads.
///
/// # Errors
/// If there are no images, or candle fails.
pub fn train(
    model: &impl Network,
    data: &Dataset,
    schedule: &Schedule,
    observe: &mut dyn FnMut(u32, f64) -> bool,
) -> anyhow::Result<f64> {
    anyhow::ensure!(!data.is_empty(), "no images to train on");
    let mut rng = ChaCha8Rng::seed_from_u64(schedule.seed);
    let mut order: Vec<usize> = (0..data.len()).collect();
    let mut sgd = Sgd::new(model.parameters());
    let steps_per_epoch = data.len().div_ceil(BATCH);
    let steps = steps_per_epoch * schedule.epochs as usize;
    let (mut step, mut mean) = (0, f64::NAN);
    for epoch in 1..=schedule.epochs {
        order.shuffle(&mut rng);
        let mut sum = 0.0;
        for batch in order.chunks(BATCH) {
            let (images, labels) = tensors(&data.select(batch))?;
            let loss = candle_nn::loss::cross_entropy(&model.training_logits(&images)?, &labels)?;
            sgd.step(&loss.backward()?, schedule.rate(step, steps))?;
            sum += f64::from(loss.to_scalar::<f32>()?) * batch.len() as f64;
            step += 1;
        }
        mean = sum / data.len() as f64;
        if !observe(epoch, mean) {
            break;
        }
    }
    Ok(mean)
}

/// Images `[n, PIXELS]` and labels `[n]` for candle.
///
/// # Errors
/// Only if candle cannot hold the tensors.
pub fn tensors(data: &Dataset) -> candle_core::Result<(Tensor, Tensor)> {
    let labels: Vec<u32> = data.labels.iter().map(|&label| u32::from(label)).collect();
    let images = Tensor::from_slice(&data.images, (data.len(), PIXELS), &Device::Cpu)?;
    Ok((images, Tensor::from_vec(labels, data.len(), &Device::Cpu)?))
}
