//! Values that follow from shapes and constants: what exporters compute shapes with.

use super::Inputs;
use crate::{
    graph::Known,
    onnx::{Attribute, dtype},
    rules,
};

/// The first output's elements, where all it needs is known.
pub(super) fn output(inputs: &Inputs<'_>, shape: &[usize], dtype: i64) -> Option<Known> {
    let op = inputs.op.op.as_str();
    let known =
        |index: usize| inputs.value(index).and_then(|value| value.known.as_ref()).map(|known| &known.0);
    let elements: usize = shape.iter().product();
    let values = match op {
        "Shape" => {
            let dims = inputs.shape(0)?;
            let (start, end) = rules::shape_range(inputs, dims.len());
            as_floats(dims.get(start..end)?)
        }
        "Size" => as_floats(&[inputs.shape(0)?.iter().product()]),
        "ConstantOfShape" => {
            let fill = match inputs.op.attributes.get("value") {
                Some(Attribute::Tensor(tensor)) => super::known(tensor)?.0.first().copied()?,
                _ => 0.0,
            };
            vec![fill; elements]
        }
        "Range" => {
            let (start, delta) = (*known(0)?.first()?, *known(2)?.first()?);
            (0..elements).map(|index| start + delta * as_float(index)).collect()
        }
        "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" => known(0)?.clone(),
        "Cast" | "CastLike" => known(0)?.iter().map(|&value| cast(value, dtype)).collect(),
        "Transpose" => {
            let order = rules::permutation(inputs, shape.len()).ok()?;
            gather(known(0)?, inputs.shape(0)?, shape, |at, from| {
                for (axis, &source) in order.iter().enumerate() {
                    from[source] = at[axis];
                }
            })?
        }
        "Gather" => {
            let axis = inputs.axis(inputs.op.int("axis").unwrap_or(0), inputs.shape(0)?.len()).ok()?;
            let (indices, index_shape) = (inputs.ints(1)?, inputs.shape(1)?);
            let rank = index_shape.len();
            let length = inputs.shape(0)?[axis];
            gather(known(0)?, inputs.shape(0)?, shape, |at, from| {
                let flat =
                    at[axis..axis + rank].iter().zip(index_shape).fold(0, |sum, (at, size)| sum * size + at);
                from[..axis].copy_from_slice(&at[..axis]);
                from[axis] = wrap(indices.get(flat).copied().unwrap_or(0), length);
                from[axis + 1..].copy_from_slice(&at[axis + rank..]);
            })?
        }
        "Slice" => {
            let slices = rules::slices(inputs, inputs.shape(0)?).ok()??;
            gather(known(0)?, inputs.shape(0)?, shape, |at, from| {
                for (axis, slice) in slices.iter().enumerate() {
                    from[axis] = slice.at(at[axis]);
                }
            })?
        }
        "Expand" => broadcast(known(0)?, inputs.shape(0)?, shape)?,
        "Concat" => concat(inputs, shape)?,
        "ReduceProd" if elements == 1 => vec![known(0)?.iter().product()],
        "Where" => {
            let [c, x, y] = three(inputs, shape)?;
            c.iter().zip(x.iter().zip(&y)).map(|(&c, (&x, &y))| if c == 0.0 { y } else { x }).collect()
        }
        _ => {
            let a = broadcast(known(0)?, inputs.shape(0)?, shape)?;
            match inputs.op.inputs.len() {
                1 => a.into_iter().map(|a| unary(op, a)).collect::<Option<_>>()?,
                2 => {
                    let b = broadcast(known(1)?, inputs.shape(1)?, shape)?;
                    let integer = !dtype::is_float(inputs.value(0)?.dtype);
                    a.into_iter().zip(b).map(|(a, b)| binary(op, a, b, integer)).collect::<Option<_>>()?
                }
                _ => return None,
            }
        }
    };
    (values.len() == elements).then_some(Known(values))
}

#[expect(clippy::cast_precision_loss, reason = "lengths of axes are far below 2^53")]
fn as_float(value: usize) -> f64 {
    value as f64
}

fn as_floats(values: &[usize]) -> Vec<f64> {
    values.iter().map(|&value| as_float(value)).collect()
}

fn cast(value: f64, to: i64) -> f64 {
    match to {
        dtype::BOOL => f64::from(u8::from(value != 0.0)),
        _ if dtype::is_float(to) => value,
        _ => value.trunc(),
    }
}

fn wrap(index: i64, length: usize) -> usize {
    let place = if index < 0 { index.saturating_add(i64::try_from(length).unwrap_or(0)) } else { index };
    usize::try_from(place).unwrap_or(usize::MAX)
}

fn unary(op: &str, a: f64) -> Option<f64> {
    Some(match op {
        "Neg" => -a,
        "Floor" => a.floor(),
        "Ceil" => a.ceil(),
        "Sqrt" => a.sqrt(),
        "Abs" => a.abs(),
        "Not" => f64::from(u8::from(a == 0.0)),
        _ => return None,
    })
}

fn binary(op: &str, a: f64, b: f64, integer: bool) -> Option<f64> {
    let truth = |value: bool| Some(f64::from(u8::from(value)));
    match op {
        "Add" => Some(a + b),
        "Sub" => Some(a - b),
        "Mul" => Some(a * b),
        "Div" if integer && b == 0.0 => None,
        "Div" => Some(if integer { (a / b).trunc() } else { a / b }),
        "Mod" if integer && b != 0.0 => Some(a - b * (a / b).floor()),
        "Min" => Some(a.min(b)),
        "Max" => Some(a.max(b)),
        "Equal" => truth(a == b),
        "Greater" => truth(a > b),
        "GreaterOrEqual" => truth(a >= b),
        "Less" => truth(a < b),
        "LessOrEqual" => truth(a <= b),
        "And" => truth(a != 0.0 && b != 0.0),
        "Or" => truth(a != 0.0 || b != 0.0),
        _ => None,
    }
}

/// Reads elements of `from` in the order of `shape`; `place` turns a position of the one into a position of the other.
fn gather(
    values: &[f64],
    from: &[usize],
    shape: &[usize],
    mut place: impl FnMut(&[usize], &mut [usize]),
) -> Option<Vec<f64>> {
    let mut out = Vec::new();
    let mut at = vec![0; shape.len()];
    let mut source = vec![0; from.len()];
    for _ in 0..shape.iter().product() {
        place(&at, &mut source);
        if source.iter().zip(from).any(|(at, size)| at >= size) {
            return None;
        }
        let flat = source.iter().zip(from).fold(0, |sum, (at, size)| sum * size + at);
        out.push(*values.get(flat)?);
        for axis in (0..shape.len()).rev() {
            at[axis] += 1;
            if at[axis] < shape[axis] {
                break;
            }
            at[axis] = 0;
        }
    }
    Some(out)
}

fn broadcast(values: &[f64], from: &[usize], shape: &[usize]) -> Option<Vec<f64>> {
    let skip = shape.len().checked_sub(from.len())?;
    gather(values, from, shape, |at, source| {
        for (axis, place) in source.iter_mut().enumerate() {
            *place = if from[axis] == 1 { 0 } else { at[axis + skip] };
        }
    })
}

fn three(inputs: &Inputs<'_>, shape: &[usize]) -> Option<[Vec<f64>; 3]> {
    let one = |index: usize| broadcast(&inputs.value(index)?.known.as_ref()?.0, inputs.shape(index)?, shape);
    Some([one(0)?, one(1)?, one(2)?])
}

fn concat(inputs: &Inputs<'_>, shape: &[usize]) -> Option<Vec<f64>> {
    let axis = inputs.axis(inputs.op.int("axis").unwrap_or(0), shape.len()).ok()?;
    let outer: usize = shape[..axis].iter().product();
    let mut out = Vec::new();
    for block in 0..outer {
        for index in 0..inputs.op.inputs.len() {
            let values = &inputs.value(index)?.known.as_ref()?.0;
            let piece = values.len() / outer.max(1);
            out.extend_from_slice(values.get(block * piece..(block + 1) * piece)?);
        }
    }
    Some(out)
}
