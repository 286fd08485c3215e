//! The two networks that are compared, in candle, with PyTorch's names and shapes.

use std::{collections::BTreeMap, fmt};

use anyhow::Context as _;
use candle_core::{DType, Device, Tensor, Var};
use rand::RngExt as _;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rebasin::{CheckedSpec, Checkpoint, Dtype, Layout, Spec, TensorInfo};

use crate::{
    idx::{CLASSES, PIXELS},
    trainer::Network,
};

/// Side of an image.
const SIDE: usize = 28;
/// Side after the image is halved, and after the first convolution is.
const SIDES: [usize; 2] = [SIDE / 2, SIDE / 4];
/// As in PyTorch.
const EPSILON: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;

/// What a network looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// 784, two hidden layers, 10; ReLU.
    Mlp {
        /// Units of each hidden layer.
        hidden: usize,
    },
    /// The image halved; two 3×3 convolutions, each with BatchNorm and ReLU, a halving between them; flatten; two linear layers.
    Conv {
        /// Channels of the first convolution; the second has twice as many.
        channels: usize,
        /// Units of the hidden linear layer.
        hidden: usize,
    },
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mlp { hidden } => write!(f, "MLP {PIXELS}-{hidden}-{hidden}-{CLASSES}"),
            Self::Conv { channels, hidden } => {
                write!(f, "conv net {channels}-{}-{hidden}-{CLASSES} with BatchNorm", 2 * channels)
            }
        }
    }
}

/// A layer whose output a spec may permute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    /// 3×3, without bias, then a norm of the second name.
    Conv { name: &'static str, norm: &'static str },
    /// Linear with bias.
    Linear { name: &'static str },
}

impl Architecture {
    /// Whether running statistics are part of the network.
    #[must_use]
    pub fn has_batch_norm(self) -> bool {
        matches!(self, Self::Conv { .. })
    }

    fn layers(self) -> Vec<Layer> {
        match self {
            Self::Mlp { .. } => ["fc1", "fc2", "fc3"].map(|name| Layer::Linear { name }).to_vec(),
            Self::Conv { .. } => vec![
                Layer::Conv { name: "features.0", norm: "features.1" },
                Layer::Conv { name: "features.3", norm: "features.4" },
                Layer::Linear { name: "head.1" },
                Layer::Linear { name: "head.3" },
            ],
        }
    }

    /// Inputs and outputs of each layer.
    fn widths(self) -> Vec<(usize, usize)> {
        match self {
            Self::Mlp { hidden } => vec![(PIXELS, hidden), (hidden, hidden), (hidden, CLASSES)],
            Self::Conv { channels, hidden } => {
                let flat = 2 * channels * SIDES[1] * SIDES[1];
                vec![(1, channels), (channels, 2 * channels), (flat, hidden), (hidden, CLASSES)]
            }
        }
    }

    /// Names, dtypes and shapes of the parameters and running statistics.
    ///
    /// # Errors
    /// Never, for these names.
    pub fn layout(self) -> anyhow::Result<Layout> {
        let mut tensors = Vec::new();
        let mut add = |name: String, dtype, shape: &[usize]| {
            tensors.push(TensorInfo { name, dtype, shape: shape.to_vec() });
        };
        for (layer, (inputs, outputs)) in self.layers().into_iter().zip(self.widths()) {
            match layer {
                Layer::Linear { name } => {
                    add(format!("{name}.weight"), Dtype::F32, &[outputs, inputs]);
                    add(format!("{name}.bias"), Dtype::F32, &[outputs]);
                }
                Layer::Conv { name, norm } => {
                    add(format!("{name}.weight"), Dtype::F32, &[outputs, inputs, 3, 3]);
                    for part in ["weight", "bias", "running_mean", "running_var"] {
                        add(format!("{norm}.{part}"), Dtype::F32, &[outputs]);
                    }
                    add(format!("{norm}.num_batches_tracked"), Dtype::I64, &[]);
                }
            }
        }
        Ok(Layout::new(tensors)?)
    }

    /// Which axes move together.
    ///
    /// # Errors
    /// Never, for these networks.
    pub fn spec(self) -> anyhow::Result<CheckedSpec> {
        let layout = self.layout()?;
        let spec = match self {
            Self::Mlp { .. } => Spec::mlp(&layout)?,
            Self::Conv { .. } => Spec::conv_net(&layout)?,
        };
        Ok(spec.check(&layout)?)
    }
}

/// What BatchNorm normalises by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Statistics {
    /// Its running statistics.
    Running,
    /// The batch's own.
    Batch,
    /// The batch's own, which also enter the running ones with this weight.
    Update(f64),
}

/// A network's parameters and running statistics.
#[derive(Debug, Clone)]
pub struct Net {
    architecture: Architecture,
    tensors: BTreeMap<String, Var>,
}

impl Net {
    /// Random parameters as PyTorch draws them: uniform in ±1/sqrt(inputs of a unit), norms 1 and 0.
    ///
    /// # Errors
    /// Only if candle cannot hold the tensors.
    pub fn random(architecture: Architecture, seed: u64) -> anyhow::Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut tensors = BTreeMap::new();
        let mut add = |name: String, values: Vec<f32>, shape: &[usize]| -> anyhow::Result<()> {
            tensors.insert(name, Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?);
            Ok(())
        };
        for (layer, (inputs, outputs)) in architecture.layers().into_iter().zip(architecture.widths()) {
            let fan_in = if matches!(layer, Layer::Conv { .. }) { inputs * 9 } else { inputs };
            let bound = 1.0 / (fan_in as f32).sqrt();
            let mut draw =
                |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(-bound..bound)).collect() };
            match layer {
                Layer::Linear { name } => {
                    add(format!("{name}.weight"), draw(outputs * inputs), &[outputs, inputs])?;
                    add(format!("{name}.bias"), draw(outputs), &[outputs])?;
                }
                Layer::Conv { name, norm } => {
                    add(format!("{name}.weight"), draw(outputs * fan_in), &[outputs, inputs, 3, 3])?;
                    for (part, value) in
                        [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)]
                    {
                        add(format!("{norm}.{part}"), vec![value; outputs], &[outputs])?;
                    }
                }
            }
        }
        Ok(Self { architecture, tensors })
    }

    /// The network that a checkpoint holds.
    ///
    /// # Errors
    /// If it is not of the architecture's layout.
    pub fn from_checkpoint(architecture: Architecture, checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        let mut tensors = BTreeMap::new();
        for info in architecture.layout()?.tensors().iter().filter(|info| info.dtype.is_float()) {
            let found = checkpoint.get(&info.name).with_context(|| format!("no tensor {}", info.name))?;
            let tensor = Tensor::from_vec(found.to_f32(), info.shape.as_slice(), &Device::Cpu)?;
            tensors.insert(info.name.clone(), Var::from_tensor(&tensor)?);
        }
        Ok(Self { architecture, tensors })
    }

    /// The network as a checkpoint; counters of batches are 0.
    ///
    /// # Errors
    /// If a number is not finite.
    pub fn to_checkpoint(&self) -> anyhow::Result<Checkpoint> {
        let layout = self.architecture.layout()?;
        let mut tensors = Vec::new();
        for info in layout.tensors() {
            tensors.push(match self.tensors.get(&info.name) {
                Some(tensor) => {
                    rebasin::Tensor::from_f32(info, &tensor.as_tensor().flatten_all()?.to_vec1::<f32>()?)?
                }
                None => rebasin::Tensor::from_bytes(info, vec![0; info.num_bytes()])?,
            });
        }
        Ok(Checkpoint::new(layout, tensors)?)
    }

    /// The parameter of a name.
    pub(super) fn parameter(&self, name: &str) -> Option<&Var> {
        self.tensors.get(name).filter(|_| !name.contains("running_"))
    }

    fn tensor(&self, name: &str, part: &str) -> candle_core::Result<&Var> {
        let name = format!("{name}.{part}");
        self.tensors.get(&name).ok_or_else(|| candle_core::Error::Msg(format!("no tensor {name}")))
    }

    /// Logits, `[n, CLASSES]`, of images `[n, PIXELS]`. `tap` is shown what each hidden layer says, `[examples, units]`, with the
    /// name of the layer's weight; each position of an image counts as an example.
    pub(super) fn forward(
        &self,
        images: &Tensor,
        statistics: Statistics,
        tap: &mut dyn FnMut(&str, &Tensor) -> candle_core::Result<()>,
    ) -> candle_core::Result<Tensor> {
        let n = images.dim(0)?;
        let layers = self.architecture.layers();
        let mut signal = match self.architecture {
            Architecture::Mlp { .. } => images.clone(),
            // Channels first: then what belongs to one lies together, and sums over it are fast.
            Architecture::Conv { .. } => images.reshape((1, n, SIDE, SIDE))?.avg_pool2d(2)?,
        };
        for (index, layer) in layers.iter().enumerate() {
            match *layer {
                Layer::Linear { name } => {
                    if signal.rank() > 2 {
                        signal = signal.transpose(0, 1)?.flatten_from(1)?;
                    }
                    let (weight, bias) = (self.tensor(name, "weight")?, self.tensor(name, "bias")?);
                    signal = signal.matmul(&weight.t()?)?.broadcast_add(bias)?;
                    if index + 1 < layers.len() {
                        signal = signal.relu()?;
                        tap(&format!("{name}.weight"), &signal)?;
                    }
                }
                Layer::Conv { name, norm } => {
                    if index > 0 {
                        signal = signal.avg_pool2d(2)?;
                    }
                    let (_, _, height, width) = signal.dims4()?;
                    let convolved = convolved(&signal, self.tensor(name, "weight")?)?;
                    let positions = self.normalised(norm, &convolved, statistics)?.relu()?;
                    tap(&format!("{name}.weight"), &positions.t()?)?;
                    signal = positions.reshape(((), n, height, width))?;
                }
            }
        }
        Ok(signal)
    }

    /// BatchNorm of `[channels, positions]`.
    fn normalised(&self, norm: &str, x: &Tensor, statistics: Statistics) -> candle_core::Result<Tensor> {
        let (running_mean, running_var) =
            (self.tensor(norm, "running_mean")?, self.tensor(norm, "running_var")?);
        let (mean, var) = if statistics == Statistics::Running {
            (running_mean.unsqueeze(1)?, running_var.unsqueeze(1)?)
        } else {
            let mean = x.mean_keepdim(1)?;
            let var = x.broadcast_sub(&mean)?.sqr()?.mean_keepdim(1)?;
            if let Statistics::Update(weight) = statistics {
                let count = x.dim(1)? as f64;
                // The running variance is the unbiased one, as PyTorch keeps it.
                let unbiased = (var.squeeze(1)?.detach() * (count / (count - 1.0).max(1.0)))?;
                let blend = |running: &Var, new: &Tensor| -> candle_core::Result<()> {
                    running.set(&((running.as_detached_tensor() * (1.0 - weight))? + (new * weight)?)?)
                };
                blend(running_mean, &mean.squeeze(1)?.detach())?;
                blend(running_var, &unbiased)?;
            }
            (mean, var)
        };
        let scaled = x.broadcast_sub(&mean)?.broadcast_div(&(var + EPSILON)?.sqrt()?)?;
        let part = |part: &str| self.tensor(norm, part)?.unsqueeze(1);
        scaled.broadcast_mul(&part("weight")?)?.broadcast_add(&part("bias")?)
    }

    /// Computes all running statistics anew, from these images alone.
    ///
    /// # Errors
    /// If candle fails.
    pub(super) fn reset_statistics(&self, images: &Tensor) -> candle_core::Result<()> {
        self.forward(images, Statistics::Update(1.0), &mut |_, _| Ok(())).map(|_| ())
    }
}

impl Network for Net {
    fn parameters(&self) -> Vec<Var> {
        self.tensors.keys().filter_map(|name| self.parameter(name)).cloned().collect()
    }

    fn training_logits(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        self.forward(images, Statistics::Update(MOMENTUM), &mut |_, _| Ok(()))
    }
}

/// A 3×3 convolution of `[channels, n, height, width]`, padded to keep the size, as one matrix product: `[outputs, positions]`.
/// Candle's own has a slow gradient on processors.
pub(super) fn convolved(x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
    let (channels, n, height, width) = x.dims4()?;
    let (outputs, positions) = (weight.dim(0)?, n * height * width);
    let padded = x.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?;
    let mut shifted = Vec::with_capacity(9);
    for row in 0..3 {
        for column in 0..3 {
            let part = padded.narrow(2, row, height)?.narrow(3, column, width)?;
            shifted.push(part.reshape((channels, 1, positions))?);
        }
    }
    let patches = Tensor::cat(&shifted, 1)?.reshape((channels * 9, positions))?;
    weight.reshape((outputs, channels * 9))?.matmul(&patches)
}

/// Logits in evaluation, of images in parts that fit into memory.
pub(super) fn logits(net: &Net, images: &Tensor, statistics: Statistics) -> candle_core::Result<Tensor> {
    const PART: usize = 500;
    let n = images.dim(0)?;
    let mut parts = Vec::new();
    for from in (0..n).step_by(PART) {
        let part = images.narrow(0, from, PART.min(n - from))?;
        parts.push(net.forward(&part, statistics, &mut |_, _| Ok(()))?.detach());
    }
    Tensor::cat(&parts, 0)?.to_dtype(DType::F32)
}
