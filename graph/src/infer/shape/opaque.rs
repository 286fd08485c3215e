//! Shapes of operators that have no rule: these pin all that they touch, but what comes after them need not be pinned too, as it
//! is where only the file says what shape they give.

use super::{Shape, many, one};
use crate::{
    GraphError,
    infer::{Inferred, Inputs},
    onnx::dtype,
};

/// Shapes of the outputs; empty for an operator that is not known.
pub(super) fn opaque(inputs: &Inputs<'_>, op: &str, x: &[usize]) -> Result<Vec<Inferred>, GraphError> {
    let of = |index: usize| inputs.value(index).map_or(0, |value| value.dtype);
    Ok(match op {
        "RotaryEmbedding" | "ReverseSequence" => one(of(0), x.to_vec()),
        "TopK" => top_k(inputs, x)?,
        "DFT" => dft(inputs, x).map(|shape| one(of(0), shape)).unwrap_or_default(),
        "GridSample" => grid_sample(inputs, x).map(|shape| one(of(0), shape)).unwrap_or_default(),
        "Attention" => attention(inputs, x).map(|shape| one(of(0), shape)).unwrap_or_default(),
        _ => Vec::new(),
    })
}

fn top_k(inputs: &Inputs<'_>, x: &[usize]) -> Result<Vec<Inferred>, GraphError> {
    let axis = inputs.axis(inputs.op.int("axis").unwrap_or(-1), x.len())?;
    let Some(count) = inputs.ints(1).and_then(|counts| counts.first().copied()) else {
        return Ok(Vec::new());
    };
    let mut shape = x.to_vec();
    shape[axis] = match usize::try_from(count) {
        Ok(count) if count <= x[axis] => count,
        _ => return inputs.wrong(format!("the {count} largest of {}", x[axis])),
    };
    let mut out = many(inputs.value(0).map_or(0, |value| value.dtype), vec![shape.clone(), shape]);
    out[1].dtype = dtype::I64;
    Ok(out)
}

/// Of the whole axis, all of its frequencies.
fn dft(inputs: &Inputs<'_>, x: &[usize]) -> Option<Shape> {
    if inputs.op.int("onesided").unwrap_or(0) != 0 || inputs.has(1) {
        return None;
    }
    let (&last, rest) = x.split_last()?;
    (last == 1 || last == 2).then(|| [rest, &[2]].concat())
}

fn grid_sample(inputs: &Inputs<'_>, x: &[usize]) -> Option<Shape> {
    let grid = inputs.shape(1)?;
    let space = grid.get(1..grid.len().checked_sub(1)?)?;
    (x.len() == grid.len() && x.len() > 2 && grid[0] == x[0]).then(|| [&x[..2], space].concat())
}

/// As many positions as queries, as wide as values.
fn attention(inputs: &Inputs<'_>, q: &[usize]) -> Option<Shape> {
    let v = inputs.shape(2)?;
    let heads = |name: &str| usize::try_from(inputs.op.int(name)?).ok().filter(|&heads| heads > 0);
    match (q, v) {
        (&[batch, heads, steps, _], &[_, _, _, width]) => Some(vec![batch, heads, steps, width]),
        (&[batch, steps, _], &[_, _, width]) => {
            let each = width / heads("kv_num_heads")?;
            Some(vec![batch, steps, heads("q_num_heads")?.checked_mul(each)?])
        }
        _ => None,
    }
}
