//! Output shapes.

mod moved;
mod opaque;
mod window;

use self::{
    moved::moved,
    opaque::opaque,
    window::{conv, conv_transpose, pool},
};
use super::{Inferred, Inputs};
use crate::{
    GraphError,
    graph::Parts,
    onnx::dtype,
    rules::{self, einsum_terms},
};

type Shape = Vec<usize>;

/// Most parts that `SplitToSequence` makes: each is written down.
const MAX_PARTS: usize = 1 << 16;

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
        op if keeps_shape(op) => one(dtype, x.to_vec()),
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
        _ => opaque(inputs, op, x)?,
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
            let dtype = inputs.value(0).map_or(0, |value| value.dtype);
            match rules::range(inputs) {
                Some((start, limit, delta)) => {
                    let span = i128::from(limit) - i128::from(start);
                    let (span, step) = if delta > 0 { (span, delta) } else { (-span, -delta) };
                    let length = if span <= 0 { 0 } else { (span - 1) / i128::from(step) + 1 };
                    match usize::try_from(length) {
                        Ok(length) if length <= 1_000_000_000 => one(dtype, vec![length]),
                        _ => return inputs.wrong("a range of more than 10^9"),
                    }
                }
                None => Vec::new(),
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
    let count = |parts: usize| match parts {
        0..=MAX_PARTS => Ok(parts),
        _ => Err(GraphError::Limit { what: "parts of one sequence", found: parts, most: MAX_PARTS }),
    };
    let lengths = match (given, inputs.ints(1), inputs.shape(1).map(<[usize]>::len)) {
        (false, ..) => vec![1; count(x[axis])?],
        (true, Some(lengths), Some(1)) => sizes(inputs, &lengths)?,
        (true, Some(each), Some(0)) => {
            let each = sizes(inputs, &each)?.first().copied().unwrap_or(0);
            if each == 0 {
                return inputs.wrong("parts of length 0");
            }
            (0..count(x[axis].div_ceil(each))?).map(|part| each.min(x[axis] - part * each)).collect()
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

/// Whether an operator that is not element-wise has one output, of its first input's shape.
pub(crate) fn keeps_shape(op: &str) -> bool {
    matches!(
        op,
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
            | "RMSNormalization"
    )
}
