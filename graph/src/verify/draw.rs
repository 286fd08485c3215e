//! Random parameters and inputs.

use std::collections::BTreeSet;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rebasin::{Checkpoint, Tensor};

use super::VerifyOptions;
use crate::{
    GraphError,
    graph::{Graph, Value},
    onnx::dtype,
    runtime::Data,
};

/// Each parameter a little other than it was, and other than its neighbour: by a factor, and zeros by an addend.
pub(super) fn disturbed(weights: &Checkpoint, rng: &mut ChaCha8Rng) -> Result<Checkpoint, GraphError> {
    let mut tensors = Vec::new();
    for tensor in weights.tensors() {
        let values = tensor.to_f32();
        let zero = values.iter().all(|&value| value == 0.0);
        let bytes = values.into_iter().flat_map(|value| {
            let by: f32 = rng.random_range(-0.2..0.2);
            (if zero { by } else { value * (1.0 + by) }).to_le_bytes()
        });
        tensors.push(Tensor::from_bytes(tensor.info(), bytes.collect())?);
    }
    Ok(Checkpoint::new(weights.layout().clone(), tensors)?)
}

/// Each parameter with its last bit flipped, or not: what rounding alone does.
pub(super) fn nudged(weights: &Checkpoint, rng: &mut ChaCha8Rng) -> Result<Checkpoint, GraphError> {
    let mut tensors = Vec::new();
    for tensor in weights.tensors() {
        let flipped = |value: f32| (value.to_bits() ^ rng.random_range(0..2)).to_le_bytes();
        let bytes = tensor.to_f32().into_iter().flat_map(flipped).collect();
        tensors.push(Tensor::from_bytes(tensor.info(), bytes)?);
    }
    Ok(Checkpoint::new(weights.layout().clone(), tensors)?)
}

/// One tensor with each element multiplied by a factor of its own: what its elements are shows, if any output depends on them.
pub(super) fn changed(
    weights: &Checkpoint,
    index: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Checkpoint, GraphError> {
    let mut tensors = weights.tensors().to_vec();
    let bytes = tensors[index].to_f32().into_iter().flat_map(|value| {
        let by: f32 = rng.random_range(-1.0..1.0);
        (value * by.exp2()).to_le_bytes()
    });
    let bytes = bytes.collect();
    tensors[index] = Tensor::from_bytes(tensors[index].info(), bytes)?;
    Ok(Checkpoint::new(weights.layout().clone(), tensors)?)
}

/// A random input. Whole numbers are drawn from what the embedding that they index has, unless the options say otherwise.
pub(super) fn input(
    graph: &Graph,
    id: usize,
    options: &VerifyOptions,
    rng: &mut ChaCha8Rng,
) -> Result<Data, GraphError> {
    let value = &graph.values[id];
    let shape = value.shape.clone().unwrap_or_default();
    let count: usize = shape.iter().product();
    let range = options.ranges.get(&value.name).copied();
    #[expect(clippy::cast_possible_truncation, reason = "ranges of inputs are small numbers")]
    let whole = |rng: &mut ChaCha8Rng| {
        let (low, high) = range.unwrap_or((0.0, limit(graph, id)));
        rng.random_range(low as i32..(high as i32).max(low as i32 + 1))
    };
    Ok(match value.dtype {
        dtype::F32 => {
            let (low, high) = range.unwrap_or((-1.0, 1.0));
            Data::Floats(shape, (0..count).map(|_| number(rng, low, high)).collect())
        }
        dtype::I64 | dtype::I32 => Data::Ints(shape, (0..count).map(|_| whole(rng)).collect()),
        dtype::BOOL => Data::Ints(shape, (0..count).map(|_| rng.random_range(0..2)).collect()),
        dtype::U8 => Data::Bytes(shape, (0..count).map(|_| rng.random_range(0..=255)).collect()),
        _ => return Err(unsupported(value)),
    })
}

fn unsupported(value: &Value) -> GraphError {
    GraphError::Runtime(format!(
        "input {} has element type {}, which is not supported",
        value.name, value.dtype
    ))
}

#[expect(clippy::cast_possible_truncation, reason = "an input's range is given in few digits")]
fn number(rng: &mut ChaCha8Rng, low: f64, high: f64) -> f32 {
    (low + (high - low) * rng.random_range(0.0..1.0)) as f32
}

/// One more than the largest index that every `Gather` of this input allows; 2 where none reads it.
#[expect(clippy::cast_precision_loss, reason = "a vocabulary's size")]
fn limit(graph: &Graph, id: usize) -> f64 {
    let mut same: BTreeSet<usize> = [id].into_iter().collect();
    let mut least: Option<usize> = None;
    for op in &graph.ops {
        let reads =
            |index: usize| op.inputs.get(index).copied().flatten().is_some_and(|id| same.contains(&id));
        if op.op == "Gather" && reads(1) {
            let axis = usize::try_from(op.int("axis").unwrap_or(0)).unwrap_or(0);
            let data = op.inputs[0].and_then(|id| graph.values[id].shape.as_ref());
            if let Some(&size) = data.and_then(|shape| shape.get(axis)) {
                least = Some(least.map_or(size, |least| least.min(size)));
            }
        } else if matches!(
            op.op.as_str(),
            "Cast" | "Identity" | "Reshape" | "Unsqueeze" | "Squeeze" | "Flatten"
        ) && reads(0)
        {
            same.extend(op.outputs.iter().flatten());
        }
    }
    least.unwrap_or(2) as f64
}
