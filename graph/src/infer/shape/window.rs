//! Shapes of what slides a window over space: convolutions and pools.

use super::{Shape, sizes};
use crate::{GraphError, infer::Inputs, rules};

/// Window, stride and dilation of each spatial axis, and padding before and after.
struct Window {
    kernel: usize,
    stride: usize,
    dilation: usize,
    pads: Option<(usize, usize)>,
}

fn windows(inputs: &Inputs<'_>, kernel: &[usize]) -> Result<Vec<Window>, GraphError> {
    let ints = |name: &str| inputs.op.ints(name).unwrap_or_default();
    let get = |name: &str, index: usize, default: i64| {
        let value = ints(name).get(index).copied().unwrap_or(default);
        usize::try_from(value).or_else(|_| inputs.wrong(format!("a negative value in {name}")))
    };
    let automatic = !matches!(inputs.op.text("auto_pad").unwrap_or("NOTSET"), "NOTSET" | "");
    let valid = inputs.op.text("auto_pad") == Some("VALID");
    let rank = kernel.len();
    let mut out = Vec::new();
    for (axis, &kernel) in kernel.iter().enumerate() {
        let (stride, dilation) = (get("strides", axis, 1)?, get("dilations", axis, 1)?);
        if stride == 0 || kernel == 0 {
            return inputs.wrong("a stride or kernel of 0");
        }
        let given = (get("pads", axis, 0)?, get("pads", axis + rank, 0)?);
        let pads = if valid {
            Some((0, 0))
        } else if automatic {
            None
        } else {
            Some(given)
        };
        out.push(Window { kernel, stride, dilation, pads });
    }
    Ok(out)
}

fn slide(inputs: &Inputs<'_>, length: usize, window: &Window, ceil: bool) -> Result<usize, GraphError> {
    let Some((before, after)) = window.pads else { return Ok(length.div_ceil(window.stride)) };
    let effective = window.dilation.checked_mul(window.kernel - 1).and_then(|reach| reach.checked_add(1));
    let padded = length.checked_add(before).and_then(|sum| sum.checked_add(after));
    match (effective, padded) {
        (Some(effective), Some(padded)) if padded >= effective => {
            let room = padded - effective;
            let mut out = room / window.stride + 1;
            // A last window may hang over, but must not begin in the padding behind.
            if ceil && room % window.stride != 0 && out * window.stride < length + before {
                out += 1;
            }
            Ok(out)
        }
        _ => inputs.wrong(format!("a window that is longer than an axis of {length} with its padding")),
    }
}

pub(super) fn conv(inputs: &Inputs<'_>, x: &[usize]) -> Result<Shape, GraphError> {
    let w = inputs.shape(1).unwrap_or_default();
    let groups = rules::groups(inputs.op);
    if x.len() < 3 || w.len() != x.len() || groups == 0 {
        return inputs.wrong(format!("a convolution of {x:?} with {w:?}"));
    }
    if w[1].checked_mul(groups) != Some(x[1]) || !w[0].is_multiple_of(groups) {
        return inputs.wrong(format!("{} channels, a weight of {w:?} and {groups} groups", x[1]));
    }
    let mut out = vec![x[0], w[0]];
    for (&length, window) in x[2..].iter().zip(&windows(inputs, &w[2..])?) {
        out.push(slide(inputs, length, window, false)?);
    }
    Ok(out)
}

pub(super) fn conv_transpose(inputs: &Inputs<'_>, x: &[usize]) -> Result<Shape, GraphError> {
    let w = inputs.shape(1).unwrap_or_default();
    let groups = rules::groups(inputs.op);
    if x.len() < 3 || w.len() != x.len() || groups == 0 || w[0] != x[1] || !w[0].is_multiple_of(groups) {
        return inputs.wrong(format!("a transposed convolution of {x:?} with {w:?} and {groups} groups"));
    }
    let channels = w[1].checked_mul(groups).map_or_else(|| inputs.wrong("too many channels"), Ok)?;
    let mut out = vec![x[0], channels];
    for (axis, window) in windows(inputs, &w[2..])?.iter().enumerate() {
        let extra = inputs.op.ints("output_padding").and_then(|pads| pads.get(axis).copied()).unwrap_or(0);
        let declared = inputs.op.ints("output_shape").and_then(|shape| shape.get(axis).copied());
        let length = match (declared, window.pads) {
            (Some(length), _) => length,
            (None, Some((before, after))) => {
                let long = |value: usize| i64::try_from(value).unwrap_or(i64::MAX / 8).min(1 << 32);
                long(window.stride) * (long(x[axis + 2]) - 1).min(1 << 20)
                    + extra
                    + (long(window.kernel) - 1).min(1 << 20) * long(window.dilation).min(1 << 20)
                    + 1
                    - long(before)
                    - long(after)
            }
            // Padded so that every position becomes a stride.
            (None, None) => {
                let length =
                    x[axis + 2].checked_mul(window.stride).and_then(|length| i64::try_from(length).ok());
                length.map_or_else(|| inputs.wrong("an output that is too long"), Ok)?
            }
        };
        out.push(usize::try_from(length).or_else(|_| inputs.wrong("an output of negative length"))?);
    }
    Ok(out)
}

pub(super) fn pool(inputs: &Inputs<'_>, x: &[usize]) -> Result<Shape, GraphError> {
    let kernel = sizes(inputs, inputs.op.ints("kernel_shape").unwrap_or_default())?;
    if x.len() != kernel.len() + 2 {
        return inputs.wrong(format!("a kernel {kernel:?} for {x:?}"));
    }
    let ceil = inputs.op.int("ceil_mode").unwrap_or(0) != 0;
    let mut out = x[..2].to_vec();
    for (&length, window) in x[2..].iter().zip(&windows(inputs, &kernel)?) {
        out.push(slide(inputs, length, window, ceil)?);
    }
    Ok(out)
}
