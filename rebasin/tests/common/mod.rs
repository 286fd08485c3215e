//! Forward passes, plain and slow, so that tests can see what a network computes.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this")]

pub mod forms;

use rebasin::{CheckedSpec, Checkpoint, Dtype, Layout, MatchOptions, Spec, Tensor, TensorInfo};

pub fn layout(tensors: &[(&str, &[usize])]) -> Layout {
    let info = |&(name, shape): &(&str, &[usize])| TensorInfo {
        name: name.into(),
        dtype: if name.ends_with("num_batches_tracked") { Dtype::I64 } else { Dtype::F32 },
        shape: shape.to_vec(),
    };
    Layout::new(tensors.iter().map(info).collect()).expect("a layout")
}

/// Values from a small generator: the same for the same seed. Running variances are positive.
pub fn checkpoint(layout: &Layout, seed: u64) -> Checkpoint {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        // Sum of uniform numbers: near enough to normal.
        let mut sum = 0.0;
        for _ in 0..4 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            sum += f64::from(u32::try_from(state >> 33).expect("31 bits")) / f64::from(1_u32 << 31) - 0.5;
        }
        sum
    };
    let tensors = layout.tensors().iter().map(|info| {
        if !info.dtype.is_float() {
            return Tensor::from_bytes(info, vec![7; info.num_bytes()]).expect("fits");
        }
        let positive = info.name.ends_with("running_var");
        let values: Vec<f64> =
            (0..info.num_elements()).map(|_| if positive { 0.5 + next().abs() } else { next() }).collect();
        Tensor::from_f64(info, &values).expect("finite")
    });
    Checkpoint::new(layout.clone(), tensors.collect()).expect("fits")
}

pub fn values(model: &Checkpoint, name: &str) -> Vec<f32> {
    model.get(name).unwrap_or_else(|| panic!("no tensor {name}")).to_f32()
}

pub fn linear(model: &Checkpoint, name: &str, input: &[f32]) -> Vec<f32> {
    let weight = values(model, &format!("{name}.weight"));
    let bias = values(model, &format!("{name}.bias"));
    bias.iter()
        .zip(weight.chunks_exact(input.len()))
        .map(|(bias, row)| bias + row.iter().zip(input).map(|(w, x)| w * x).sum::<f32>())
        .collect()
}

pub fn relu(mut values: Vec<f32>) -> Vec<f32> {
    for value in &mut values {
        *value = value.max(0.0);
    }
    values
}

pub fn mlp(model: &Checkpoint, layers: &[&str], input: &[f32]) -> Vec<f32> {
    let mut signal = input.to_vec();
    for (place, layer) in layers.iter().enumerate() {
        signal = linear(model, layer, &signal);
        if place + 1 < layers.len() {
            signal = relu(signal);
        }
    }
    signal
}

/// 3 x 3 convolution, padding 1, on `channels x side x side`.
pub fn conv3(model: &Checkpoint, name: &str, input: &[f32], channels: usize, side: usize) -> Vec<f32> {
    let weight = values(model, &format!("{name}.weight"));
    let outputs = weight.len() / (channels * 9);
    let mut out = vec![0.0; outputs * side * side];
    for o in 0..outputs {
        for y in 0..side {
            for x in 0..side {
                let mut sum = 0.0;
                for c in 0..channels {
                    for ky in 0..3 {
                        for kx in 0..3 {
                            let (iy, ix) = (y + ky, x + kx);
                            if (1..=side).contains(&iy) && (1..=side).contains(&ix) {
                                sum += weight[((o * channels + c) * 3 + ky) * 3 + kx]
                                    * input[(c * side + iy - 1) * side + ix - 1];
                            }
                        }
                    }
                }
                out[(o * side + y) * side + x] = sum;
            }
        }
    }
    out
}

pub fn batch_norm(model: &Checkpoint, name: &str, input: &[f32]) -> Vec<f32> {
    let part = |part: &str| values(model, &format!("{name}.{part}"));
    let (weight, bias, mean, var) = (part("weight"), part("bias"), part("running_mean"), part("running_var"));
    let area = input.len() / weight.len();
    input
        .iter()
        .enumerate()
        .map(|(index, x)| {
            let c = index / area;
            (x - mean[c]) / (var[c] + 1e-5).sqrt() * weight[c] + bias[c]
        })
        .collect()
}

pub fn assert_close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    let scale = a.iter().fold(1.0_f32, |most, x| most.max(x.abs()));
    for (x, y) in a.iter().zip(b) {
        assert!((x - y).abs() <= 1e-4 * scale, "{x} is not {y}");
    }
}

/// A perceptron of three layers.
pub fn mlp_layout(inputs: usize, hidden: usize, outputs: usize) -> Layout {
    layout(&[
        ("fc1.weight", &[hidden, inputs]),
        ("fc1.bias", &[hidden]),
        ("fc2.weight", &[hidden, hidden]),
        ("fc2.bias", &[hidden]),
        ("fc10.weight", &[outputs, hidden]),
        ("fc10.bias", &[outputs]),
    ])
}

/// Two convolutions with a norm each, flattened, and two linear layers.
pub fn conv_layout(channels: usize, side: usize) -> Layout {
    let flat = channels * side * side;
    layout(&[
        ("features.0.weight", &[channels, 2, 3, 3]),
        ("features.1.weight", &[channels]),
        ("features.1.bias", &[channels]),
        ("features.1.running_mean", &[channels]),
        ("features.1.running_var", &[channels]),
        ("features.1.num_batches_tracked", &[]),
        ("features.3.weight", &[channels, channels, 3, 3]),
        ("features.4.weight", &[channels]),
        ("features.4.bias", &[channels]),
        ("features.4.running_mean", &[channels]),
        ("features.4.running_var", &[channels]),
        ("features.4.num_batches_tracked", &[]),
        ("head.1.weight", &[5, flat]),
        ("head.1.bias", &[5]),
        ("head.3.weight", &[3, 5]),
        ("head.3.bias", &[3]),
    ])
}

pub fn options(seed: u64) -> MatchOptions {
    MatchOptions { seed, ..MatchOptions::default() }
}

/// Three convolutional networks, and their spec.
pub fn conv_pair() -> (CheckedSpec, Vec<Checkpoint>) {
    let layout = conv_layout(4, 3);
    let spec = Spec::conv_net(&layout).expect("a chain").check(&layout).expect("fits");
    let models = (0..3).map(|seed| checkpoint(&layout, seed + 1)).collect();
    (spec, models)
}
