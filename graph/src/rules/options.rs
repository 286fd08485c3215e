//! What attributes and constant inputs say, for shapes and rules alike.

use crate::{
    GraphError,
    graph::{Known, Op},
    infer::Inputs,
};

/// Operators that compute each position of their output from the same position of their inputs, all alike.
pub(crate) fn is_elementwise(op: &str) -> bool {
    const OPERATORS: [&str; 66] = [
        "Abs",
        "Acos",
        "Acosh",
        "Add",
        "And",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "BitShift",
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
        "BitwiseXor",
        "Cast",
        "CastLike",
        "Ceil",
        "Celu",
        "Clip",
        "Cos",
        "Cosh",
        "Div",
        "Elu",
        "Equal",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "Greater",
        "GreaterOrEqual",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "IsInf",
        "IsNaN",
        "LeakyRelu",
        "Less",
        "LessOrEqual",
        "Log",
        "Max",
        "Mean",
        "Min",
        "Mish",
        "Mod",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "PRelu",
        "Pow",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Shrink",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Sub",
        "Sum",
        "Tan",
        "Tanh",
    ];
    OPERATORS.contains(&op) || matches!(op, "ThresholdedRelu" | "Where" | "Xor" | "Swish")
}

pub(crate) fn groups(op: &Op) -> usize {
    usize::try_from(op.int("group").unwrap_or(1)).unwrap_or(0)
}

/// `Transpose`'s order of axes.
pub(crate) fn permutation(inputs: &Inputs<'_>, rank: usize) -> Result<Vec<usize>, GraphError> {
    let Some(order) = inputs.op.ints("perm") else { return Ok((0..rank).rev().collect()) };
    if order.len() != rank {
        return inputs.wrong(format!("an order of {} axes for {rank}", order.len()));
    }
    inputs.axes(order, rank)?;
    order.iter().map(|&axis| inputs.axis(axis, rank)).collect()
}

/// The axes that a reduction removes; `None` where they are not constant.
pub(crate) fn reduced_axes(inputs: &Inputs<'_>, rank: usize) -> Result<Option<Vec<usize>>, GraphError> {
    match inputs.ints_or_attribute(1, "axes") {
        Some(axes) if axes.is_empty() && inputs.op.int("noop_with_empty_axes").unwrap_or(0) != 0 => {
            Ok(Some(Vec::new()))
        }
        Some(axes) if axes.is_empty() => Ok(Some((0..rank).collect())),
        Some(axes) => Ok(Some(inputs.axes(&axes, rank)?)),
        None if inputs.has(1) => Ok(None),
        None if inputs.op.int("noop_with_empty_axes").unwrap_or(0) != 0 => Ok(Some(Vec::new())),
        None => Ok(Some((0..rank).collect())),
    }
}

/// Which axes `Shape` tells.
pub(crate) fn shape_range(inputs: &Inputs<'_>, rank: usize) -> (usize, usize) {
    let signed = i64::try_from(rank).unwrap_or(0);
    let clamp = |value: i64| {
        let value = if value < 0 { value.saturating_add(signed) } else { value };
        usize::try_from(value.clamp(0, signed)).unwrap_or(0)
    };
    let start = clamp(inputs.op.int("start").unwrap_or(0));
    let end = inputs.op.int("end").map_or(rank, clamp);
    (start, end.max(start))
}

/// First number, limit and step of a `Range` of whole numbers; `None` where they are not constant, or not whole. Floats are
/// taken where every sum of them is exact.
pub(crate) fn range(inputs: &Inputs<'_>) -> Option<(i64, i64, i64)> {
    let whole = |index: usize| match inputs.value(index)?.known.as_ref()? {
        Known::Ints(values) => values.first().copied(),
        #[expect(clippy::cast_possible_truncation, reason = "a whole number below 2^24")]
        Known::Floats(values) => values
            .first()
            .filter(|value| value.abs() < f64::from(1 << 24) && value.fract() == 0.0)
            .map(|&value| value as i64),
    };
    let (start, limit, delta) = (whole(0)?, whole(1)?, whole(2)?);
    (delta != 0 && delta != i64::MIN).then_some((start, limit, delta))
}

/// Padding before and after each axis; `None` where it is not constant.
pub(crate) fn pads(inputs: &Inputs<'_>, rank: usize) -> Result<Option<Vec<(i64, i64)>>, GraphError> {
    let Some(values) = inputs.ints_or_attribute(1, "pads") else { return Ok(None) };
    let axes = match inputs.ints(3) {
        Some(axes) => axes.iter().map(|&axis| inputs.axis(axis, rank)).collect::<Result<Vec<_>, _>>()?,
        None if inputs.has(3) => return Ok(None),
        None => (0..rank).collect(),
    };
    if values.len() != 2 * axes.len() {
        return inputs.wrong(format!("{} paddings for {} axes", values.len(), axes.len()));
    }
    let mut out = vec![(0, 0); rank];
    for (index, &axis) in axes.iter().enumerate() {
        out[axis] = (values[index], values[index + axes.len()]);
    }
    Ok(Some(out))
}

/// One axis of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) start: usize,
    pub(crate) step: i64,
    pub(crate) length: usize,
}

impl Slice {
    /// Where position `index` of the slice comes from.
    pub(crate) fn at(&self, index: usize) -> usize {
        let offset = i64::try_from(index).unwrap_or(i64::MAX).saturating_mul(self.step);
        let place = i64::try_from(self.start).unwrap_or(i64::MAX).saturating_add(offset);
        usize::try_from(place).unwrap_or(usize::MAX)
    }
}

/// What `Slice` takes of each axis; `None` where it is not constant.
pub(crate) fn slices(inputs: &Inputs<'_>, shape: &[usize]) -> Result<Option<Vec<Slice>>, GraphError> {
    let list = |index: usize, name: &str| inputs.ints_or_attribute(index, name);
    let (Some(starts), Some(ends)) = (list(1, "starts"), list(2, "ends")) else { return Ok(None) };
    let axes = match list(3, "axes") {
        Some(axes) => {
            axes.iter().map(|&axis| inputs.axis(axis, shape.len())).collect::<Result<Vec<_>, _>>()?
        }
        None if inputs.has(3) => return Ok(None),
        None => (0..starts.len()).collect(),
    };
    let steps = match inputs.ints(4) {
        Some(steps) => steps,
        None if inputs.has(4) => return Ok(None),
        None => vec![1; starts.len()],
    };
    let counts = [starts.len(), ends.len(), axes.len(), steps.len()];
    if counts.iter().any(|&count| count != starts.len() || count > shape.len()) {
        return inputs.wrong("lists of different lengths");
    }
    let mut out: Vec<Slice> = shape.iter().map(|&length| Slice { start: 0, step: 1, length }).collect();
    for (index, &axis) in axes.iter().enumerate() {
        let size = i64::try_from(shape[axis]).unwrap_or(i64::MAX);
        let step = steps[index];
        if step == 0 || step == i64::MIN {
            return inputs.wrong("a step of 0");
        }
        let wrap = |value: i64| if value < 0 { value.saturating_add(size) } else { value };
        let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
        let start = wrap(starts[index]).clamp(low.max(0).min(high.max(0)), high.max(0));
        let end = wrap(ends[index]).clamp(low, high.max(low));
        let span = if step > 0 { end - start } else { start - end };
        let length = if span <= 0 { 0 } else { (span - 1) / step.abs() + 1 };
        let convert = |value: i64| usize::try_from(value).unwrap_or(0);
        out[axis] = Slice { start: convert(start), step, length: convert(length) };
    }
    Ok(Some(out))
}

/// The letter of the last axis that an ellipsis stands for; those before it follow.
const ELLIPSIS: u32 = 1 << 16;

/// A term's letters, the ellipsis standing for so many axes, which are aligned from the right.
fn einsum_letters(term: &str, ellipsis: usize) -> Option<Vec<u32>> {
    let plain = |text: &str| -> Option<Vec<u32>> {
        text.chars().map(|c| c.is_ascii_alphabetic().then_some(u32::from(c))).collect()
    };
    match term.split_once("...") {
        None => plain(term),
        Some((before, after)) => {
            let count = u32::try_from(ellipsis).ok()?;
            let middle = (0..count).rev().map(|place| ELLIPSIS + place);
            Some(plain(before)?.into_iter().chain(middle).chain(plain(after)?).collect())
        }
    }
}

/// Letters of an einsum's operands and of its output; `None` for an equation that does not fit.
pub(crate) fn einsum_terms(inputs: &Inputs<'_>) -> Option<(Vec<Vec<u32>>, Vec<u32>)> {
    let equation: String = inputs.op.text("equation")?.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (equation.as_str(), None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != inputs.op.inputs.len() {
        return None;
    }
    let mut operands = Vec::new();
    let mut widest = 0;
    for (index, term) in terms.iter().enumerate() {
        let rank = inputs.shape(index)?.len();
        let mut letters = einsum_letters(term, 0)?;
        if term.contains("...") {
            let ellipsis = rank.checked_sub(letters.len())?;
            widest = widest.max(ellipsis);
            letters = einsum_letters(term, ellipsis)?;
        }
        if letters.len() != rank {
            return None;
        }
        operands.push(letters);
    }
    let output = match right {
        Some(right) if widest > 0 && !right.contains("...") => return None,
        Some(right) => einsum_letters(right, widest)?,
        None => {
            let all: Vec<u32> =
                operands.iter().flatten().copied().filter(|&letter| letter < ELLIPSIS).collect();
            let mut once: Vec<u32> = all
                .iter()
                .copied()
                .filter(|letter| all.iter().filter(|other| *other == letter).count() == 1)
                .collect();
            once.sort_unstable();
            [einsum_letters("...", widest)?, once].concat()
        }
    };
    Some((operands, output))
}
