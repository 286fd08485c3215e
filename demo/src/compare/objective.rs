//! The loss that the straight-through estimator descends: cross-entropy on batches of the sites' training images.

use anyhow::Context as _;
use candle_core::Tensor;
use rand::seq::SliceRandom as _;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rebasin::{Checkpoint, Objective};

use super::network::{Architecture, Net, Statistics};
use crate::{dataset::Dataset, trainer};

/// Images a step.
const BATCH: usize = 250;

/// Batches of all sites' images, in random order, over and over.
pub(super) struct Batches<'a> {
    architecture: Architecture,
    data: &'a Dataset,
    order: Vec<usize>,
    at: usize,
    rng: ChaCha8Rng,
}

impl<'a> Batches<'a> {
    pub(super) fn new(architecture: Architecture, data: &'a Dataset, seed: u64) -> Self {
        let order = (0..data.len()).collect();
        Self { architecture, data, order, at: usize::MAX, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    fn next(&mut self) -> candle_core::Result<(Tensor, Tensor)> {
        if self.at >= self.order.len() {
            self.order.shuffle(&mut self.rng);
            self.at = 0;
        }
        let to = (self.at + BATCH).min(self.order.len());
        let batch = self.data.select(&self.order[self.at..to]);
        self.at = to;
        trainer::tensors(&batch)
    }
}

impl Objective for Batches<'_> {
    type Error = anyhow::Error;

    fn loss_and_gradient(&mut self, model: &Checkpoint) -> anyhow::Result<(f64, Vec<Vec<f32>>)> {
        let net = Net::from_checkpoint(self.architecture, model)?;
        let (images, labels) = self.next()?;
        // A midpoint's running statistics are nobody's: the batch's own are those that would be computed anew.
        let logits = net.forward(&images, Statistics::Batch, &mut |_, _| Ok(()))?;
        let loss = candle_nn::loss::cross_entropy(&logits, &labels)?;
        let gradients = loss.backward()?;
        let mut all = Vec::new();
        for info in model.layout().tensors() {
            all.push(match net.parameter(&info.name) {
                None => Vec::new(),
                Some(parameter) => {
                    let gradient =
                        gradients.get(parameter).with_context(|| format!("no gradient of {}", info.name))?;
                    gradient.flatten_all()?.to_vec1::<f32>()?
                }
            });
        }
        Ok((f64::from(loss.to_scalar::<f32>()?), all))
    }
}
