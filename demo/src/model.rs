//! The network that the sites train: a multilayer perceptron with ReLU, in candle, with PyTorch's names and shapes.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, bail};
use candle_core::{DType, Device, Tensor, Var};
use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::{
    idx::{CLASSES, PIXELS},
    trainer::Network,
};

#[cfg(test)]
mod tests;

/// Inputs, two hidden layers, classes.
pub const WIDTHS: [usize; 4] = [PIXELS, 256, 256, CLASSES];
const LAYERS: usize = WIDTHS.len() - 1;

/// A network's parameters. Tensors are named `fc1.weight` (`[256, 784]`, outputs first), `fc1.bias` (`[256]`), and so on.
#[derive(Debug, Clone)]
pub struct Mlp {
    /// Weight and bias of each layer, in order.
    layers: Vec<(Var, Var)>,
}

impl Mlp {
    /// Random parameters as PyTorch's `Linear` draws them: uniform in ±1/sqrt(inputs), weights and biases.
    ///
    /// # Errors
    /// Only if candle cannot hold the tensors.
    pub fn random(seed: u64) -> anyhow::Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut layers = Vec::with_capacity(LAYERS);
        for layer in 0..LAYERS {
            let (inputs, outputs) = (WIDTHS[layer], WIDTHS[layer + 1]);
            let bound = 1.0 / (inputs as f32).sqrt();
            let mut draw =
                |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(-bound..bound)).collect() };
            let weight = Var::from_vec(draw(outputs * inputs), (outputs, inputs), &Device::Cpu)?;
            let bias = Var::from_vec(draw(outputs), outputs, &Device::Cpu)?;
            layers.push((weight, bias));
        }
        Ok(Self { layers })
    }

    /// Reads a safetensors file's bytes.
    ///
    /// # Errors
    /// If they are not a checkpoint of exactly this network in f32.
    pub fn from_bytes(bytes: &[u8]) -> anyhow::Result<Self> {
        let mut tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)?;
        let mut take = |name: String, shape: &[usize]| -> anyhow::Result<Var> {
            let tensor =
                tensors.remove(&name).with_context(|| format!("the checkpoint has no tensor {name}"))?;
            if tensor.dims() != shape || tensor.dtype() != DType::F32 {
                bail!("{name} is {:?} {:?}, expected F32 {shape:?}", tensor.dtype(), tensor.dims());
            }
            Ok(Var::from_tensor(&tensor)?)
        };
        let mut layers = Vec::with_capacity(LAYERS);
        for layer in 0..LAYERS {
            let (inputs, outputs) = (WIDTHS[layer], WIDTHS[layer + 1]);
            let weight = take(format!("fc{}.weight", layer + 1), &[outputs, inputs])?;
            layers.push((weight, take(format!("fc{}.bias", layer + 1), &[outputs])?));
        }
        if let Some(name) = tensors.keys().next() {
            bail!("the checkpoint has a tensor too many: {name:?}");
        }
        Ok(Self { layers })
    }

    /// Writes a safetensors file; the same parameters give the same bytes.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let mut tensors: HashMap<String, Tensor> = HashMap::new();
        for (layer, (weight, bias)) in self.layers.iter().enumerate() {
            tensors.insert(format!("fc{}.weight", layer + 1), weight.as_tensor().clone());
            tensors.insert(format!("fc{}.bias", layer + 1), bias.as_tensor().clone());
        }
        candle_core::safetensors::save(&tensors, path)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The network on the straight line from this one to `other`: `t` parts of that one, the rest of this.
    ///
    /// # Errors
    /// If candle fails.
    pub fn towards(&self, other: &Self, t: f64) -> candle_core::Result<Self> {
        let mix = |from: &Var, to: &Var| {
            Var::from_tensor(&((from.as_tensor() * (1.0 - t))? + (to.as_tensor() * t)?)?)
        };
        let pairs = self.layers.iter().zip(&other.layers);
        let layers = pairs
            .map(|((weight, bias), (to_weight, to_bias))| Ok((mix(weight, to_weight)?, mix(bias, to_bias)?)));
        Ok(Self { layers: layers.collect::<candle_core::Result<_>>()? })
    }

    /// Logits, `[n, CLASSES]`, of images `[n, PIXELS]`.
    ///
    /// # Errors
    /// If the images have another shape.
    pub fn logits(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        let mut activations = images.clone();
        for (layer, (weight, bias)) in self.layers.iter().enumerate() {
            activations = activations.matmul(&weight.t()?)?.broadcast_add(bias)?;
            if layer + 1 < LAYERS {
                activations = activations.relu()?;
            }
        }
        Ok(activations)
    }
}

impl Network for Mlp {
    fn parameters(&self) -> Vec<Var> {
        self.layers.iter().flat_map(|(weight, bias)| [weight.clone(), bias.clone()]).collect()
    }

    fn training_logits(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        self.logits(images)
    }
}
