//! Convolutions, pools and what else is about space.

use super::{Attr, Lower, MAX_UNROLLED};
use crate::graph::Op;

/// The attributes whose defaults follow from the input's axes, which the runtime does not see when it reads them.
pub(super) fn defaults(lower: &mut Lower<'_>) -> Option<()> {
    let space = lower.shape(0)?.len() - 2;
    let convolution = lower.op.op.starts_with("Conv");
    let wanted = [
        ("strides", space, 1, true),
        ("pads", 2 * space, 0, convolution),
        ("dilations", space, 1, convolution),
    ];
    let lacking = |&(name, _, _, wanted): &(&str, usize, i64, bool)| wanted && lower.op.ints(name).is_none();
    let attributes = wanted.into_iter().filter(lacking);
    let attributes: Vec<Attr<'_>> =
        attributes.map(|(name, count, value, _)| Attr::Ints(name, vec![value; count])).collect();
    lower.with(&attributes);
    Some(())
}

/// A reshape, a transpose, a reshape.
pub(super) fn space_to_depth(lower: &mut Lower<'_>) -> Option<()> {
    let (&[n, c, h, w], output) = (lower.shape(0)?, lower.output(0)?) else { return None };
    let block = usize::try_from(lower.op.int("blocksize")?).ok().filter(|&block| block > 0)?;
    let split = lower.reshape(&lower.input(0)?.name, &[n, c, h / block, block, w / block, block]);
    let order = Attr::Ints("perm", vec![0, 3, 5, 1, 2, 4]);
    let turned = lower.made("Transpose", &[&split], &[order]);
    lower.reshape_to(&turned, &[n, c * block * block, h / block, w / block], &output.name);
    Some(())
}

/// One convolution over two axes for each position of the first, with that axis's window among the channels.
pub(super) fn conv3(lower: &mut Lower<'_>) -> Option<()> {
    let (x, w, output) = (lower.shape(0)?, lower.shape(1)?, lower.output(0)?);
    let (&[n, c, depth, h, width], &[m, per, kd, kh, kw]) = (x, w) else { return None };
    let &[_, _, out_depth, out_h, out_w] = output.shape.as_deref()? else { return None };
    if !matches!(lower.op.text("auto_pad").unwrap_or("NOTSET"), "NOTSET" | "") || out_depth > MAX_UNROLLED {
        return None;
    }
    let (pads, strides) = (lower.list("pads", 6, 0), lower.list("strides", 3, 1));
    let dilations = lower.list("dilations", 3, 1);
    let around = lower.ints(&[0, 0, pads[0], 0, 0, 0, 0, pads[3], 0, 0]);
    let padded = lower.made("Pad", &[&lower.input(0)?.name, &around], &[]);
    let weight = lower.reshape(&lower.input(1)?.name, &[m, per * kd, kh, kw]);
    let stride = usize::try_from(strides[0]).ok()?;
    let dilation = usize::try_from(dilations[0]).ok()?;
    let _ = depth;
    let mut parts = Vec::new();
    for place in 0..out_depth {
        let start = place * stride;
        let window = lower.slice(&padded, 2, start, start + (kd - 1) * dilation + 1, dilation);
        let flat = lower.reshape(&window, &[n, c * kd, h, width]);
        let mut inputs = vec![flat.as_str(), weight.as_str()];
        if let Some(bias) = lower.input(2) {
            inputs.push(&bias.name);
        }
        let attributes = [
            Attr::Int("group", lower.op.int("group").unwrap_or(1)),
            Attr::Ints("pads", vec![pads[1], pads[2], pads[4], pads[5]]),
            Attr::Ints("strides", strides[1..].to_vec()),
            Attr::Ints("dilations", dilations[1..].to_vec()),
        ];
        let plane = lower.made("Conv", &inputs, &attributes);
        parts.push(lower.reshape(&plane, &[n, m, 1, out_h, out_w]));
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    lower.write("Concat", &parts, &output.name, &[Attr::Int("axis", 2)]);
    Some(())
}

/// A pool over the first axis, then one over the other two: averages and maxima allow that.
pub(super) fn pool3(lower: &mut Lower<'_>) -> Option<()> {
    let (x, output) = (lower.shape(0)?, lower.output(0)?);
    let &[n, c, depth, h, w] = x else { return None };
    let out = output.shape.clone()?;
    let plain = matches!(lower.op.text("auto_pad").unwrap_or("NOTSET"), "NOTSET" | "");
    if !plain || lower.op.arity != 1 {
        return None;
    }
    let (pads, strides) = (lower.list("pads", 6, 0), lower.list("strides", 3, 1));
    let (kernel, dilations) = (lower.list("kernel_shape", 3, 1), lower.list("dilations", 3, 1));
    let common = |kernel: Vec<i64>, strides: Vec<i64>, pads: Vec<i64>, dilations: Vec<i64>, op: &Op| {
        let mut attributes = vec![
            Attr::Ints("kernel_shape", kernel),
            Attr::Ints("strides", strides),
            Attr::Ints("pads", pads),
            Attr::Int("ceil_mode", op.int("ceil_mode").unwrap_or(0)),
        ];
        if op.op == "AveragePool" {
            attributes.push(Attr::Int("count_include_pad", op.int("count_include_pad").unwrap_or(0)));
        }
        if dilations.iter().any(|&dilation| dilation != 1) {
            attributes.push(Attr::Ints("dilations", dilations));
        }
        attributes
    };
    let op = lower.op;
    let flat = lower.reshape(&lower.input(0)?.name, &[n * c, 1, depth, h * w]);
    let first = common(
        vec![kernel[0], 1],
        vec![strides[0], 1],
        vec![pads[0], 0, pads[3], 0],
        vec![dilations[0], 1],
        op,
    );
    let deep = lower.made(&op.op, &[&flat], &first);
    let planes = lower.reshape(&deep, &[n * c * out[2], 1, h, w]);
    let second = common(
        kernel[1..].to_vec(),
        strides[1..].to_vec(),
        vec![pads[1], pads[2], pads[4], pads[5]],
        dilations[1..].to_vec(),
        op,
    );
    let pooled = lower.made(&op.op, &[&planes], &second);
    lower.reshape_to(&pooled, &out, &output.name);
    Some(())
}
