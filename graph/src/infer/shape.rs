//! Output shapes.

use super::{Inferred, Inputs};
use crate::{
    GraphError,
    graph::{Known, Parts},
    onnx::dtype,
    rules::{self, einsum_terms},
};

type Shape = Vec<usize>;

fn one(dtype: i64, shape: Shape) -> Vec<Inferred> {
    vec![Inferred { dtype, shape: Some(shape), ..Inferred::default() }]
}

fn many(dtype: i64, shapes: Vec<Shape>) -> Vec<Inferred> {
    shapes.into_iter().flat_map(|shape| one(dtype, shape)).collect()
}

/// Shapes of the outputs; empty for an operator that is not known, or whose shape depends on data.
pub(super) fn outputs(inputs: &Inputs<'_>) -> Result<Vec<Inferred>, GraphError> {
    let op = inputs.op.op.as_str();
    let dtype = inputs.value(0).map_or(0, |value| value.dtype);
    if rules::is_elementwise(op) {
        return elementwise(inputs, op);
    }
    if matches!(op, "Shape" | "Size" | "ConstantOfShape" | "Range" | "EyeLike") {
        return sources(inputs, op);
    }
    let Some(x) = inputs.shape(0) else { return Ok(Vec::new()) };
    Ok(match op {
        "Softmax"
        | "LogSoftmax"
        | "Hardmax"
        | "InstanceNormalization"
        | "GroupNormalization"
        | "LpNormalization"
        | "MeanVarianceNormalization"
        | "LRN"
        | "CumSum"
        | "Trilu"
        | "ScatterElements"
        | "ScatterND"
        | "RMSNormalization" => one(dtype, x.to_vec()),
        "BatchNormalization" => {
            let stats = x.get(1).copied().unwrap_or(1);
            many(dtype, vec![x.to_vec(), vec![stats], vec![stats]])
        }
        "LayerNormalization" => {
            let axis = inputs.axis(inputs.op.int("axis").unwrap_or(-1), x.len())?;
            let mut stats = x.to_vec();
            stats[axis..].fill(1);
            many(dtype, vec![x.to_vec(), stats.clone(), stats])
        }
        "Dropout" => {
            let mut out = many(dtype, vec![x.to_vec(), x.to_vec()]);
            out[1].dtype = dtype::BOOL;
            out
        }
        "MatMul" => one(dtype, matmul(inputs, x)?),
        "Gemm" => one(dtype, gemm(inputs, x)?),
        "Einsum" => match einsum_terms(inputs) {
            Some((operands, output)) => one(dtype, einsum(inputs, &operands, &output)?),
            None => Vec::new(),
        },
        "Conv" => one(dtype, conv(inputs, x)?),
        "ConvTranspose" => one(dtype, conv_transpose(inputs, x)?),
        "MaxPool" | "AveragePool" | "LpPool" => {
            let shape = pool(inputs, x)?;
            let mut out = many(dtype, vec![shape.clone(), shape]);
            out[1].dtype = dtype::I64;
            out
        }
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => {
            let mut shape = x.to_vec();
            shape.iter_mut().skip(2).for_each(|axis| *axis = 1);
            one(dtype, shape)
        }
        "LSTM" | "GRU" | "RNN" => recurrent(inputs, x, dtype)?,
        "Transpose" => one(dtype, rules::permutation(inputs, x.len())?.iter().map(|&axis| x[axis]).collect()),
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Expand" | "Tile" | "Pad" | "Slice"
        | "DepthToSpace" | "SpaceToDepth" | "Resize" | "Upsample" => match moved(inputs, op, x)? {
            Some(shape) => one(dtype, shape),
            None => Vec::new(),
        },
        "Concat" => one(dtype, concat(inputs)?),
        "Split" => many(dtype, split(inputs, x)?),
        "SplitToSequence" => sequence(inputs, x, dtype)?,
        "GatherND" => gather_nd(inputs, x)?.map(|shape| one(dtype, shape)).unwrap_or_default(),
        "Gather" => {
            let axis = inputs.axis(inputs.op.int("axis").unwrap_or(0), x.len())?;
            let indices = inputs.shape(1).unwrap_or_default();
            one(dtype, [&x[..axis], indices, &x[axis + 1..]].concat())
        }
        "GatherElements" => one(dtype, inputs.shape(1).unwrap_or_default().to_vec()),
        "ArgMax" | "ArgMin" => {
            let axis = inputs.axis(inputs.op.int("axis").unwrap_or(0), x.len())?;
            one(dtype::I64, reduced(x, &[axis], inputs.op.int("keepdims") != Some(0)))
        }
        _ if op.starts_with("Reduce") => match rules::reduced_axes(inputs, x.len())? {
            Some(axes) => one(dtype, reduced(x, &axes, inputs.op.int("keepdims") != Some(0))),
            None => Vec::new(),
        },
        _ => Vec::new(),
    })
}

fn elementwise(inputs: &Inputs<'_>, op: &str) -> Result<Vec<Inferred>, GraphError> {
    let mut shape = Shape::new();
    // The second operand of CastLike gives its type only.
    let operands = if op == "CastLike" { 1 } else { inputs.op.inputs.len() };
    for index in 0..operands {
        if let Some(other) = inputs.shape(index) {
            shape = broadcast(inputs, &shape, other)?;
        }
    }
    let of = |index| inputs.value(index).map_or(0, |value| value.dtype);
    let dtype = match op {
        "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "And" | "Or" | "Xor" | "Not"
        | "IsNaN" | "IsInf" => dtype::BOOL,
        "Cast" => inputs.op.int("to").unwrap_or(0),
        "Where" | "CastLike" => of(1),
        _ => of(0),
    };
    Ok(one(dtype, shape))
}

fn broadcast(inputs: &Inputs<'_>, a: &[usize], b: &[usize]) -> Result<Shape, GraphError> {
    let rank = a.len().max(b.len());
    let at =
        |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |place| shape[place]);
    (0..rank)
        .map(|axis| match (at(a, axis), at(b, axis)) {
            (x, y) if x == y || y == 1 => Ok(x),
            (1, y) => Ok(y),
            _ => inputs.wrong(format!("shapes {a:?} and {b:?} do not broadcast")),
        })
        .collect()
}

fn sources(inputs: &Inputs<'_>, op: &str) -> Result<Vec<Inferred>, GraphError> {
    Ok(match op {
        "Shape" => {
            let rank = inputs.shape(0).map_or(0, <[usize]>::len);
            let (start, end) = rules::shape_range(inputs, rank);
            one(dtype::I64, vec![end.saturating_sub(start)])
        }
        "Size" => one(dtype::I64, vec![]),
        "ConstantOfShape" => match inputs.ints(0) {
            Some(dims) => {
                let dtype = match inputs.op.attributes.get("value") {
                    Some(crate::onnx::Attribute::Tensor(tensor)) => tensor.dtype,
                    _ => dtype::F32,
                };
                one(dtype, sizes(inputs, &dims)?)
            }
            None => Vec::new(),
        },
        "EyeLike" => {
            one(inputs.op.int("dtype").unwrap_or(dtype::F32), inputs.shape(0).unwrap_or_default().to_vec())
        }
        _ => {
            let at = |index| inputs.value(index).and_then(|value| value.known.as_ref()?.0.first().copied());
            match (at(0), at(1), at(2)) {
                (Some(start), Some(limit), Some(delta)) if delta != 0.0 => {
                    let length = ((limit - start) / delta).ceil().max(0.0);
                    if length > 1e9 {
                        return inputs.wrong("a range of more than 10^9");
                    }
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10^9")]
                    one(inputs.value(0).map_or(0, |value| value.dtype), vec![length as usize])
                }
                _ => Vec::new(),
            }
        }
    })
}

fn sizes(inputs: &Inputs<'_>, dims: &[i64]) -> Result<Shape, GraphError> {
    dims.iter()
        .map(|&dim| usize::try_from(dim).or_else(|_| inputs.wrong(format!("a dimension of {dim}"))))
        .collect()
}

fn matmul(inputs: &Inputs<'_>, a: &[usize]) -> Result<Shape, GraphError> {
    let b = inputs.shape(1).unwrap_or_default();
    if a.is_empty() || b.is_empty() {
        return inputs.wrong("a scalar in a matrix product");
    }
    let (a2, b2) = (
        if a.len() == 1 { vec![1, a[0]] } else { a.to_vec() },
        if b.len() == 1 { vec![b[0], 1] } else { b.to_vec() },
    );
    if a2[a2.len() - 1] != b2[b2.len() - 2] {
        return inputs.wrong(format!("a product of {a:?} and {b:?}"));
    }
    let mut out = broadcast(inputs, &a2[..a2.len() - 2], &b2[..b2.len() - 2])?;
    if a.len() > 1 {
        out.push(a2[a2.len() - 2]);
    }
    if b.len() > 1 {
        out.push(b2[b2.len() - 1]);
    }
    Ok(out)
}

fn gemm(inputs: &Inputs<'_>, a: &[usize]) -> Result<Shape, GraphError> {
    let b = inputs.shape(1).unwrap_or_default();
    let (&[a0, a1], &[b0, b1]) = (a, b) else { return inputs.wrong("operands that are no matrices") };
    let (m, k) = if inputs.op.int("transA").unwrap_or(0) == 0 { (a0, a1) } else { (a1, a0) };
    let (k2, n) = if inputs.op.int("transB").unwrap_or(0) == 0 { (b0, b1) } else { (b1, b0) };
    if k != k2 {
        return inputs.wrong(format!("a product over {k} and {k2}"));
    }
    if let Some(c) = inputs.shape(2)
        && broadcast(inputs, &[m, n], c)? != [m, n]
    {
        return inputs.wrong(format!("an addend of shape {c:?} for {m} x {n}"));
    }
    Ok(vec![m, n])
}

fn einsum(inputs: &Inputs<'_>, operands: &[Vec<u32>], output: &[u32]) -> Result<Shape, GraphError> {
    let mut sizes = std::collections::BTreeMap::new();
    for (index, letters) in operands.iter().enumerate() {
        for (&letter, &size) in letters.iter().zip(inputs.shape(index).unwrap_or_default()) {
            let known = sizes.entry(letter).or_insert(size);
            if *known == 1 {
                *known = size;
            }
            if *known != size && size != 1 {
                return inputs.wrong(format!("index {letter:?} is {known} and {size}"));
            }
        }
    }
    output
        .iter()
        .map(|letter| sizes.get(letter).copied().map_or_else(|| inputs.wrong("an unknown index"), Ok))
        .collect()
}

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

fn conv(inputs: &Inputs<'_>, x: &[usize]) -> Result<Shape, GraphError> {
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

fn conv_transpose(inputs: &Inputs<'_>, x: &[usize]) -> Result<Shape, GraphError> {
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
            (None, None) => return inputs.wrong("automatic padding"),
        };
        out.push(usize::try_from(length).or_else(|_| inputs.wrong("an output of negative length"))?);
    }
    Ok(out)
}

fn pool(inputs: &Inputs<'_>, x: &[usize]) -> Result<Shape, GraphError> {
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

fn recurrent(inputs: &Inputs<'_>, x: &[usize], dtype: i64) -> Result<Vec<Inferred>, GraphError> {
    let r = inputs.shape(2).unwrap_or_default();
    let (&[steps, batch, _], &[directions, _, hidden]) = (x, r) else {
        return inputs.wrong("operands of another rank");
    };
    if inputs.op.int("layout").unwrap_or(0) != 0 {
        return Ok(Vec::new());
    }
    let last = vec![directions, batch, hidden];
    Ok(many(dtype, vec![vec![steps, directions, batch, hidden], last.clone(), last]))
}

fn concat(inputs: &Inputs<'_>) -> Result<Shape, GraphError> {
    let mut out = inputs.shape(0).unwrap_or_default().to_vec();
    let axis = inputs.axis(inputs.op.int("axis").unwrap_or(0), out.len())?;
    for index in 1..inputs.op.inputs.len() {
        let other = inputs.shape(index).unwrap_or_default();
        let fits = other.len() == out.len() && (0..out.len()).all(|at| at == axis || other[at] == out[at]);
        match (fits, out[axis].checked_add(other.get(axis).copied().unwrap_or(0))) {
            (true, Some(sum)) => out[axis] = sum,
            _ => return inputs.wrong(format!("parts of shapes {out:?} and {other:?}")),
        }
    }
    Ok(out)
}

fn split(inputs: &Inputs<'_>, x: &[usize]) -> Result<Vec<Shape>, GraphError> {
    let axis = inputs.axis(inputs.op.int("axis").unwrap_or(0), x.len())?;
    let parts = inputs.op.arity;
    let lengths = match inputs.ints_or_attribute(1, "split") {
        Some(lengths) => sizes(inputs, &lengths)?,
        None if inputs.has(1) => return Ok(Vec::new()),
        None => {
            let parts = parts.max(1);
            let each = x[axis].div_ceil(parts);
            (0..parts).map(|part| each.min(x[axis].saturating_sub(part * each))).collect()
        }
    };
    let total = lengths.iter().try_fold(0_usize, |sum, &length| sum.checked_add(length));
    if total != Some(x[axis]) {
        return inputs.wrong(format!("parts of {lengths:?} of an axis of {}", x[axis]));
    }
    let part = |length| {
        let mut shape = x.to_vec();
        shape[axis] = length;
        shape
    };
    Ok(lengths.into_iter().map(part).collect())
}

fn sequence(inputs: &Inputs<'_>, x: &[usize], dtype: i64) -> Result<Vec<Inferred>, GraphError> {
    let axis = inputs.axis(inputs.op.int("axis").unwrap_or(0), x.len())?;
    let given = inputs.has(1);
    let keep = given || inputs.op.int("keepdims") != Some(0);
    let lengths = match (given, inputs.ints(1), inputs.shape(1).map(<[usize]>::len)) {
        (false, ..) => vec![1; x[axis]],
        (true, Some(lengths), Some(1)) => sizes(inputs, &lengths)?,
        (true, Some(each), Some(0)) => {
            let each = sizes(inputs, &each)?.first().copied().unwrap_or(0);
            if each == 0 {
                return inputs.wrong("parts of length 0");
            }
            (0..x[axis].div_ceil(each)).map(|part| each.min(x[axis] - part * each)).collect()
        }
        _ => return Ok(Vec::new()),
    };
    if lengths.iter().try_fold(0_usize, |sum, &length| sum.checked_add(length)) != Some(x[axis]) {
        return inputs.wrong(format!("parts of {lengths:?} of an axis of {}", x[axis]));
    }
    let Some(of) = inputs.op.inputs[0] else { return Ok(Vec::new()) };
    let parts = Some(Parts { of, axis, lengths, keep });
    Ok(vec![Inferred { dtype, parts, ..Inferred::default() }])
}

fn gather_nd(inputs: &Inputs<'_>, x: &[usize]) -> Result<Option<Shape>, GraphError> {
    let Some((&depth, outer)) = inputs.shape(1).and_then(<[usize]>::split_last) else { return Ok(None) };
    if inputs.op.int("batch_dims").unwrap_or(0) != 0 {
        return Ok(None);
    }
    match x.get(depth..) {
        Some(rest) => Ok(Some([outer, rest].concat())),
        None => inputs.wrong("indices of more axes than there are"),
    }
}

fn reduced(x: &[usize], axes: &[usize], keep: bool) -> Shape {
    let mut out = Shape::new();
    for (axis, &size) in x.iter().enumerate() {
        match (axes.contains(&axis), keep) {
            (false, _) => out.push(size),
            (true, true) => out.push(1),
            (true, false) => {}
        }
    }
    out
}

/// Operators that move positions about.
fn moved(inputs: &Inputs<'_>, op: &str, x: &[usize]) -> Result<Option<Shape>, GraphError> {
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
    let scales = inputs.value(index).and_then(|value| value.known.as_ref());
    let Some(Known(scales)) = scales.filter(|scales| scales.0.len() == x.len()) else { return Ok(None) };
    let lengths = x.iter().zip(scales).map(|(&size, scale)| (size as f64 * scale).floor());
    let lengths: Vec<f64> = lengths.collect();
    if lengths.iter().any(|length| !(0.0..1e9).contains(length)) {
        return inputs.wrong("scales that are out of range");
    }
    Ok(Some(lengths.into_iter().map(|length| length as usize).collect()))
}
