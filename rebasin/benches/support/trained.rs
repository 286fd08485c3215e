//! A pair of really trained perceptrons, from the demo's part of Fashion-MNIST: plain SGD on ndarray, so that the benchmark
//! needs no framework.

use std::{fs::File, io::Read as _, path::Path};

use ndarray::{Array1, Array2, Axis, s};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rebasin::{CheckedSpec, Checkpoint, Permutation, Tensor};

/// Images as rows, normalised, and labels.
pub struct Images {
    pixels: Array2<f32>,
    labels: Vec<usize>,
}

/// The part that the demo carries: `train` or `t10k`.
pub fn images(part: &str) -> Images {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/data");
    let read = |name: String, header: usize| {
        let mut bytes = Vec::new();
        let file = File::open(folder.join(name)).expect("the demo's data");
        flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).expect("gzip");
        bytes.split_off(header)
    };
    let pixels = read(format!("{part}-images-idx3-ubyte.gz"), 16);
    let labels = read(format!("{part}-labels-idx1-ubyte.gz"), 8);
    let pixels = pixels.iter().map(|&pixel| (f32::from(pixel) / 255.0 - 0.286) / 0.353).collect();
    Images {
        pixels: Array2::from_shape_vec((labels.len(), 784), pixels).expect("28 × 28 each"),
        labels: labels.into_iter().map(usize::from).collect(),
    }
}

struct Layer {
    weight: Array2<f32>,
    bias: Array1<f32>,
}

/// Trains a perceptron of the spec's layers from a random start: SGD with momentum 0.9, weight decay 0.002, batches of 100, the
/// rate falling linearly from 0.1 to 0.01.
pub fn train(spec: &CheckedSpec, widths: &[usize], data: &Images, seed: u64, epochs: usize) -> Checkpoint {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut layers: Vec<Layer> = widths
        .windows(2)
        .map(|ends| {
            let bound = (6.0 / ends[0] as f32).sqrt();
            let weight =
                Array2::from_shape_fn((ends[1], ends[0]), |_| bound * (2.0 * rng.random::<f32>() - 1.0));
            Layer { weight, bias: Array1::zeros(ends[1]) }
        })
        .collect();
    let mut velocity: Vec<Layer> = layers
        .iter()
        .map(|layer| Layer {
            weight: Array2::zeros(layer.weight.dim()),
            bias: Array1::zeros(layer.bias.len()),
        })
        .collect();
    let (batch, count) = (100, data.labels.len());
    let steps = epochs * (count / batch);
    let mut step = 0;
    for _ in 0..epochs {
        let order = Permutation::random(count, &mut rng);
        for some in order.as_slice().chunks_exact(batch) {
            let some: Vec<usize> = some.iter().map(|&index| index as usize).collect();
            let rate = 0.1 - 0.09 * step as f32 / steps as f32;
            let labels: Vec<usize> = some.iter().map(|&index| data.labels[index]).collect();
            let gradient = gradient(&layers, data.pixels.select(Axis(0), &some), &labels);
            for ((layer, velocity), gradient) in layers.iter_mut().zip(&mut velocity).zip(gradient) {
                velocity.weight = &velocity.weight * 0.9 + gradient.weight + &layer.weight * 0.002;
                velocity.bias = &velocity.bias * 0.9 + gradient.bias;
                layer.weight.scaled_add(-rate, &velocity.weight);
                layer.bias.scaled_add(-rate, &velocity.bias);
            }
            step += 1;
        }
    }
    let tensors = spec.layout().tensors().iter().map(|info| {
        let layer = &layers[info.name[2..3].parse::<usize>().expect("fcN")];
        let values: Vec<f64> = match info.shape.len() {
            1 => layer.bias.iter().copied().map(f64::from).collect(),
            _ => layer.weight.iter().copied().map(f64::from).collect(),
        };
        Tensor::from_f64(info, &values).expect("finite")
    });
    Checkpoint::new(spec.layout().clone(), tensors.collect()).expect("fits")
}

/// Softmax cross-entropy, back through ReLU layers.
fn gradient(layers: &[Layer], input: Array2<f32>, labels: &[usize]) -> Vec<Layer> {
    let mut signals = vec![input];
    for (index, layer) in layers.iter().enumerate() {
        let mut next = signals[index].dot(&layer.weight.t()) + &layer.bias;
        if index + 1 < layers.len() {
            next.mapv_inplace(|value| value.max(0.0));
        }
        signals.push(next);
    }
    let mut error = probabilities(signals.pop().expect("logits"));
    for (mut row, &label) in error.rows_mut().into_iter().zip(labels) {
        row[label] -= 1.0;
    }
    error /= labels.len() as f32;
    let mut gradients = Vec::new();
    for (layer, signal) in layers.iter().zip(&signals).rev() {
        gradients.push(Layer { weight: error.t().dot(signal), bias: error.sum_axis(Axis(0)) });
        error = error.dot(&layer.weight);
        error.zip_mut_with(signal, |error, &signal| {
            if signal <= 0.0 {
                *error = 0.0;
            }
        });
    }
    gradients.reverse();
    gradients
}

fn probabilities(mut logits: Array2<f32>) -> Array2<f32> {
    for mut row in logits.rows_mut() {
        let highest = row.fold(f32::NEG_INFINITY, |highest, &value| highest.max(value));
        row.mapv_inplace(|value| (value - highest).exp());
        let sum = row.sum();
        row /= sum;
    }
    logits
}

/// Mean cross-entropy of a model of `fcN` layers.
pub fn loss(model: &Checkpoint, layers: usize, data: &Images) -> f64 {
    let mut signal = data.pixels.slice(s![.., ..]).to_owned();
    for index in 0..layers {
        let tensor = |part: &str| model.get(&format!("fc{index}.{part}")).expect("a layer").to_f32();
        let bias = Array1::from(tensor("bias"));
        let weight = tensor("weight");
        let weight = Array2::from_shape_vec((bias.len(), weight.len() / bias.len()), weight).expect("fits");
        signal = signal.dot(&weight.t()) + &bias;
        if index + 1 < layers {
            signal.mapv_inplace(|value| value.max(0.0));
        }
    }
    let probabilities = probabilities(signal);
    let losses = probabilities
        .rows()
        .into_iter()
        .zip(&data.labels)
        .map(|(row, &label)| -f64::from(row[label].max(1e-30).ln()));
    losses.sum::<f64>() / data.labels.len() as f64
}
