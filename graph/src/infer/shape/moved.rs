//! Shapes of what moves positions about.

use super::{Shape, broadcast, reduced, sizes};
use crate::{GraphError, infer::Inputs, rules};

/// Operators that move positions about.
pub(super) fn moved(inputs: &Inputs<'_>, op: &str, x: &[usize]) -> Result<Option<Shape>, GraphError> {
    Ok(match op {
        "Reshape" => inputs.ints(1).map(|target| reshape(inputs, x, &target)).transpose()?,
        "Flatten" => {
            let axis = inputs.op.int("axis").unwrap_or(1);
            let axis =
                if usize::try_from(axis) == Ok(x.len()) { x.len() } else { inputs.axis(axis, x.len())? };
            Some(vec![x[..axis].iter().product(), x[axis..].iter().product()])
        }
        "Squeeze" => {
            let axes = match inputs.ints_or_attribute(1, "axes") {
                Some(axes) => inputs.axes(&axes, x.len())?,
                None => (0..x.len()).filter(|&axis| x[axis] == 1).collect(),
            };
            if axes.iter().any(|&axis| x[axis] != 1) {
                return inputs.wrong("squeezes an axis that is not 1 long");
            }
            Some(reduced(x, &axes, false))
        }
        "Unsqueeze" => match inputs.ints_or_attribute(1, "axes") {
            Some(axes) => {
                let rank = x.len() + axes.len();
                let axes = inputs.axes(&axes, rank)?;
                let mut rest = x.iter();
                Some(
                    (0..rank)
                        .map(|at| if axes.contains(&at) { 1 } else { rest.next().copied().unwrap_or(1) })
                        .collect(),
                )
            }
            None => None,
        },
        "Expand" => match inputs.ints(1) {
            Some(target) => Some(broadcast(inputs, x, &sizes(inputs, &target)?)?),
            None => None,
        },
        "Tile" => match inputs.ints(1) {
            Some(repeats) if repeats.len() == x.len() => {
                let repeats = sizes(inputs, &repeats)?;
                Some(scaled(inputs, x, &repeats)?)
            }
            _ => None,
        },
        "Pad" => rules::pads(inputs, x.len())?.map(|pads| padded(inputs, x, &pads)).transpose()?,
        "Slice" => rules::slices(inputs, x)?.map(|slices| slices.iter().map(|slice| slice.length).collect()),
        "DepthToSpace" | "SpaceToDepth" => {
            let block = usize::try_from(inputs.op.int("blocksize").unwrap_or(0)).unwrap_or(0);
            let &[n, c, h, w] = x else { return inputs.wrong("an image of another rank") };
            let square = block.checked_mul(block).filter(|&square| square > 0);
            match (square, op) {
                (Some(square), "DepthToSpace") if c % square == 0 => {
                    Some(vec![n, c / square, h * block, w * block])
                }
                (Some(square), "SpaceToDepth") if h % block == 0 && w % block == 0 => {
                    Some(vec![n, c * square, h / block, w / block])
                }
                _ => return inputs.wrong("a block size that does not divide"),
            }
        }
        _ => resized(inputs, op, x)?,
    })
}

fn scaled(inputs: &Inputs<'_>, x: &[usize], by: &[usize]) -> Result<Shape, GraphError> {
    let product = |(&size, &by): (&usize, &usize)| {
        size.checked_mul(by).map_or_else(|| inputs.wrong("a shape that overflows"), Ok)
    };
    x.iter().zip(by).map(product).collect()
}

fn padded(inputs: &Inputs<'_>, x: &[usize], pads: &[(i64, i64)]) -> Result<Shape, GraphError> {
    let pad = |(&size, &(before, after)): (&usize, &(i64, i64))| {
        let sum = i64::try_from(size).ok().and_then(|size| size.checked_add(before)?.checked_add(after));
        match sum.map(usize::try_from) {
            Some(Ok(size)) => Ok(size),
            _ => inputs.wrong("padding that leaves less than nothing"),
        }
    };
    x.iter().zip(pads).map(pad).collect()
}

fn reshape(inputs: &Inputs<'_>, x: &[usize], target: &[i64]) -> Result<Shape, GraphError> {
    let zero = inputs.op.int("allowzero").unwrap_or(0) != 0;
    let total: usize = x.iter().product();
    let mut out = Shape::new();
    let mut free = None;
    for (index, &dim) in target.iter().enumerate() {
        out.push(match dim {
            -1 if free.is_none() => {
                free = Some(index);
                1
            }
            0 if !zero => {
                x.get(index).copied().map_or_else(|| inputs.wrong("copies an axis that is not there"), Ok)?
            }
            dim => usize::try_from(dim).or_else(|_| inputs.wrong(format!("a dimension of {dim}")))?,
        });
    }
    let product = out.iter().try_fold(1_usize, |product, &axis| product.checked_mul(axis));
    let product = product.map_or_else(|| inputs.wrong("a shape that overflows"), Ok)?;
    match free {
        Some(index) if product > 0 && total.is_multiple_of(product) => out[index] = total / product,
        None if product == total => {}
        _ => return inputs.wrong(format!("{x:?} cannot become {target:?}")),
    }
    Ok(out)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "lengths of axes, checked to be below 10^9"
)]
fn resized(inputs: &Inputs<'_>, op: &str, x: &[usize]) -> Result<Option<Shape>, GraphError> {
    if inputs.op.ints("axes").is_some()
        || inputs.op.text("keep_aspect_ratio_policy").is_some_and(|p| p != "stretch")
    {
        return Ok(None);
    }
    if op == "Resize" && inputs.has(3) {
        return Ok(match inputs.ints(3) {
            Some(lengths) if lengths.len() == x.len() => Some(sizes(inputs, &lengths)?),
            _ => None,
        });
    }
    let index = if op == "Resize" && inputs.graph.opset > 10 { 2 } else { 1 };
    let scales = inputs.value(index).and_then(|value| value.known.as_ref()?.floats());
    let Some(scales) = scales.filter(|scales| scales.len() == x.len()) else { return Ok(None) };
    let mut lengths = Shape::new();
    for (&size, &scale) in x.iter().zip(scales) {
        let length = (size as f64 * scale).floor();
        if !(0.0..1e9).contains(&length) {
            return inputs.wrong("scales that are out of range");
        }
        // Runtimes multiply in 32-bit floats, others in 64-bit ones: where that is another length, it is not known.
        if f64::from((size as f32 * scale as f32).floor()) != length {
            return Ok(None);
        }
        lengths.push(length as usize);
    }
    Ok(Some(lengths))
}
