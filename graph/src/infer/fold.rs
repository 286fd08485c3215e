//! Values that follow from shapes and constants: what exporters compute shapes with.
//!
//! A folded value is what every runtime computes, to the last bit, or it is not folded: whole numbers of 32 and 64 bits without
//! overflow, 32-bit floats rounded as such after each step, 64-bit ones likewise. Narrower numbers are only moved about. What is
//! not folded pins, which is always right.

use std::cmp::Ordering;

use super::Inputs;
use crate::{
    graph::Known,
    onnx::{Attribute, dtype},
    rules,
};

/// The first output's elements, where all it needs is known.
pub(super) fn output(inputs: &Inputs<'_>, shape: &[usize], dtype: i64) -> Option<Known> {
    let elements: usize = shape.iter().product();
    let folded = match inputs.op.op.as_str() {
        "Shape" => {
            let dims = inputs.shape(0)?;
            let (start, end) = rules::shape_range(inputs, dims.len());
            lengths(dims.get(start..end)?)?
        }
        "Size" => {
            let size = inputs.shape(0)?.iter().try_fold(1_usize, |size, &axis| size.checked_mul(axis))?;
            lengths(&[size])?
        }
        "ConstantOfShape" => match inputs.op.attributes.get("value") {
            Some(Attribute::Tensor(tensor)) => super::known(tensor)?.pick(&vec![0; elements])?,
            _ => Known::Floats(vec![0.0; elements]),
        },
        "Range" => range(inputs, elements, dtype)?,
        "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" => known(inputs, 0)?.clone(),
        "Cast" | "CastLike" => cast(known(inputs, 0)?, inputs.value(0)?.dtype, dtype)?,
        "Transpose" | "Gather" | "Slice" | "Expand" => {
            let source = known(inputs, 0)?;
            source.pick(&places(inputs, shape)?)?
        }
        "Concat" => concat(inputs, shape)?,
        "ReduceProd" if elements == 1 => product(known(inputs, 0)?, dtype)?,
        "Where" => choice(inputs, shape)?,
        op => match inputs.op.inputs.len() {
            1 => unary(op, known(inputs, 0)?, dtype)?,
            2 => {
                let same = inputs.value(0)?.dtype == inputs.value(1)?.dtype;
                let operand = |index| known(inputs, index)?.pick(&broadcast(inputs.shape(index)?, shape)?);
                let truncated = inputs.op.int("fmod").unwrap_or(0) != 0;
                let step = Step { op, dtype: inputs.value(0)?.dtype, truncated };
                step.both(&operand(0).filter(|_| same)?, &operand(1)?)?
            }
            _ => return None,
        },
    };
    (folded.len() == elements).then_some(folded)
}

fn known<'a>(inputs: &Inputs<'a>, index: usize) -> Option<&'a Known> {
    inputs.value(index)?.known.as_ref()
}

fn lengths(values: &[usize]) -> Option<Known> {
    values.iter().map(|&value| i64::try_from(value).ok()).collect::<Option<_>>().map(Known::Ints)
}

#[expect(clippy::cast_precision_loss, reason = "a range of floats is below 2^24")]
fn range(inputs: &Inputs<'_>, elements: usize, dtype: i64) -> Option<Known> {
    let (start, _, delta) = rules::range(inputs)?;
    let mut out = Vec::new();
    for index in 0..i64::try_from(elements).ok()? {
        out.push(fitting(start.checked_add(delta.checked_mul(index)?)?, dtype)?);
    }
    Some(if dtype::is_float(dtype) {
        Known::Floats(out.into_iter().map(|value| value as f64).collect())
    } else {
        Known::Ints(out)
    })
}

/// A whole number that its type can hold; of floats, those that are exact.
fn fitting(value: i64, dtype: i64) -> Option<i64> {
    let fits = match dtype {
        dtype::I64 => true,
        dtype::I32 => i32::try_from(value).is_ok(),
        dtype::I16 => i16::try_from(value).is_ok(),
        dtype::I8 => i8::try_from(value).is_ok(),
        dtype::U8 => u8::try_from(value).is_ok(),
        dtype::U16 => u16::try_from(value).is_ok(),
        dtype::U32 => u32::try_from(value).is_ok(),
        dtype::U64 => value >= 0,
        dtype::BOOL => value == 0 || value == 1,
        dtype::F32 | dtype::F64 => value.unsigned_abs() <= 1 << 24,
        _ => false,
    };
    fits.then_some(value)
}

/// Numbers of another type. Not to 16-bit floats: runtimes differ in whether they round.
fn cast(values: &Known, from: i64, to: i64) -> Option<Known> {
    let all = from == to || matches!(to, dtype::BOOL | dtype::F64);
    Some(match values {
        _ if !matches!(from, dtype::F32 | dtype::F64) && dtype::is_float(from) => return None,
        Known::Ints(ints) if to == dtype::BOOL => {
            Known::Ints(ints.iter().map(|&value| i64::from(value != 0)).collect())
        }
        Known::Floats(floats) if to == dtype::BOOL => {
            Known::Ints(floats.iter().map(|&value| i64::from(value != 0.0)).collect())
        }
        Known::Floats(floats) if all => Known::Floats(floats.clone()),
        Known::Floats(floats) if to == dtype::F32 => {
            Known::Floats(floats.iter().map(|&value| single(value)).collect())
        }
        #[expect(clippy::cast_precision_loss, reason = "rounded to the nearest, as every runtime does")]
        Known::Ints(ints) if to == dtype::F32 => {
            Known::Floats(ints.iter().map(|&value| f64::from(value as f32)).collect())
        }
        #[expect(clippy::cast_precision_loss, reason = "rounded to the nearest, as every runtime does")]
        Known::Ints(ints) if to == dtype::F64 => {
            Known::Floats(ints.iter().map(|&value| value as f64).collect())
        }
        _ if dtype::is_float(to) => return None,
        Known::Ints(ints) => {
            Known::Ints(ints.iter().map(|&value| fitting(value, to)).collect::<Option<_>>()?)
        }
        Known::Floats(floats) => {
            // Beyond 2^53 a float is no longer told from its neighbour, and beyond the type's range runtimes differ.
            let whole = |&value: &f64| {
                #[expect(clippy::cast_possible_truncation, reason = "below 2^53")]
                (value.abs() < 9e15).then_some(value.trunc() as i64).and_then(|value| fitting(value, to))
            };
            Known::Ints(floats.iter().map(whole).collect::<Option<_>>()?)
        }
    })
}

/// Rounded to 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
fn single(value: f64) -> f64 {
    f64::from(value as f32)
}

/// A product of whole numbers: of floats, the order would show.
fn product(values: &Known, dtype: i64) -> Option<Known> {
    let product = values.ints()?.iter().try_fold(1_i64, |product, &value| product.checked_mul(value))?;
    Some(Known::Ints(vec![fitting(product, wide(dtype)?)?]))
}

/// The type, if it is one that is computed with.
fn wide(dtype: i64) -> Option<i64> {
    matches!(dtype, dtype::I32 | dtype::I64).then_some(dtype)
}

fn unary(op: &str, values: &Known, dtype: i64) -> Option<Known> {
    Some(match values {
        Known::Ints(ints) => {
            let one = |&value: &i64| match op {
                "Neg" => fitting(value.checked_neg()?, wide(dtype)?),
                "Abs" => fitting(value.checked_abs()?, wide(dtype)?),
                "Not" => Some(i64::from(value == 0)),
                _ => None,
            };
            Known::Ints(ints.iter().map(one).collect::<Option<_>>()?)
        }
        Known::Floats(floats) => {
            let one = |&value: &f64| match op {
                "Neg" => Some(-value),
                "Abs" => Some(value.abs()),
                "Floor" => Some(value.floor()),
                "Ceil" => Some(value.ceil()),
                // Rounded twice it is the same: a root of 32 bits needs no more than 50.
                "Sqrt" => Some(rounded(value.sqrt(), dtype)),
                _ => None,
            };
            Known::Floats(floats.iter().map(one).collect::<Option<_>>()?)
        }
    })
}

/// A result of one step in 64 bits as the type has it. For `+ - * /` and roots of 32-bit floats, 64 bits are enough that rounding
/// twice gives the same as rounding once.
fn rounded(value: f64, dtype: i64) -> f64 {
    if dtype == dtype::F32 { single(value) } else { value }
}

/// One step with two operands of one type.
struct Step<'a> {
    op: &'a str,
    dtype: i64,
    /// Of `Mod`: with the sign of the dividend.
    truncated: bool,
}

impl Step<'_> {
    fn both(&self, a: &Known, b: &Known) -> Option<Known> {
        match (a, b) {
            (Known::Ints(a), Known::Ints(b)) => {
                let pairs = a.iter().zip(b);
                if let Some(truths) = pairs.clone().map(|(a, b)| self.truth(a, b)).collect::<Option<_>>() {
                    return Some(Known::Ints(truths));
                }
                pairs.map(|(&a, &b)| self.int(a, b)).collect::<Option<_>>().map(Known::Ints)
            }
            (Known::Floats(a), Known::Floats(b)) => {
                let pairs = a.iter().zip(b);
                if let Some(truths) = pairs.clone().map(|(a, b)| self.truth(a, b)).collect::<Option<_>>() {
                    return Some(Known::Ints(truths));
                }
                pairs.map(|(&a, &b)| self.float(a, b)).collect::<Option<_>>().map(Known::Floats)
            }
            _ => None,
        }
    }

    /// Comparisons; `None` for any other operator.
    fn truth<T: PartialOrd>(&self, a: &T, b: &T) -> Option<i64> {
        Some(i64::from(match self.op {
            "Equal" => a == b,
            "Greater" => a > b,
            "GreaterOrEqual" => a >= b,
            "Less" => a < b,
            "LessOrEqual" => a <= b,
            _ => return None,
        }))
    }

    fn int(&self, a: i64, b: i64) -> Option<i64> {
        if self.dtype == dtype::BOOL {
            return match self.op {
                "And" => Some(a & b),
                "Or" => Some(a | b),
                _ => None,
            };
        }
        // Comparing far numbers is safe, computing with them is not: some runtimes have 32 bits for all whole numbers.
        if !matches!(self.op, "Min" | "Max") {
            let _both = (i32::try_from(a).ok()?, i32::try_from(b).ok()?);
        }
        let value = match self.op {
            "Add" => a.checked_add(b)?,
            "Sub" => a.checked_sub(b)?,
            "Mul" => a.checked_mul(b)?,
            "Div" => a.checked_div(b)?,
            "Mod" if self.truncated => a.checked_rem(b)?,
            "Mod" => {
                let rest = a.checked_rem(b)?;
                if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }
            }
            "Min" => a.min(b),
            "Max" => a.max(b),
            _ => return None,
        };
        let dtype = wide(self.dtype)?;
        fitting(value, if matches!(self.op, "Min" | "Max") { dtype } else { dtype::I32 })
    }

    fn float(&self, a: f64, b: f64) -> Option<f64> {
        let value = match self.op {
            "Add" => a + b,
            "Sub" => a - b,
            "Mul" => a * b,
            "Div" => a / b,
            "Mod" if self.truncated => a % b,
            // Which of two zeros, and what of a number that is none, runtimes do not agree on.
            "Min" | "Max" => match (self.op, a.partial_cmp(&b)?) {
                ("Min", Ordering::Less) | ("Max", Ordering::Greater) => a,
                (_, Ordering::Equal) if a.to_bits() != b.to_bits() => return None,
                _ => b,
            },
            _ => return None,
        };
        Some(rounded(value, self.dtype))
    }
}

/// Where each element of the output comes from in the first input.
pub(crate) fn places(inputs: &Inputs<'_>, shape: &[usize]) -> Option<Vec<usize>> {
    let from = inputs.shape(0)?;
    match inputs.op.op.as_str() {
        "Transpose" => {
            let order = rules::permutation(inputs, shape.len()).ok()?;
            gather(from, shape, |at, from| {
                for (axis, &source) in order.iter().enumerate() {
                    from[source] = at[axis];
                }
            })
        }
        "Gather" => {
            let axis = inputs.axis(inputs.op.int("axis").unwrap_or(0), from.len()).ok()?;
            let (indices, index_shape) = (inputs.ints(1)?, inputs.shape(1)?);
            let rank = index_shape.len();
            let length = from[axis];
            gather(from, shape, |at, from| {
                let flat =
                    at[axis..axis + rank].iter().zip(index_shape).fold(0, |sum, (at, size)| sum * size + at);
                from[..axis].copy_from_slice(&at[..axis]);
                from[axis] = indices.get(flat).map_or(usize::MAX, |&index| wrap(index, length));
                from[axis + 1..].copy_from_slice(&at[axis + rank..]);
            })
        }
        "Slice" => {
            let slices = rules::slices(inputs, from).ok()??;
            gather(from, shape, |at, from| {
                for (axis, slice) in slices.iter().enumerate() {
                    from[axis] = slice.at(at[axis]);
                }
            })
        }
        _ => broadcast(from, shape),
    }
}

fn wrap(index: i64, length: usize) -> usize {
    let place = if index < 0 { index.saturating_add(i64::try_from(length).unwrap_or(0)) } else { index };
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// Places in `from` in the order of `shape`; `place` turns a position of the one into a position of the other.
fn gather(
    from: &[usize],
    shape: &[usize],
    mut place: impl FnMut(&[usize], &mut [usize]),
) -> Option<Vec<usize>> {
    let mut out = Vec::new();
    let mut at = vec![0; shape.len()];
    let mut source = vec![0; from.len()];
    for _ in 0..shape.iter().product() {
        place(&at, &mut source);
        if source.iter().zip(from).any(|(at, size)| at >= size) {
            return None;
        }
        out.push(source.iter().zip(from).fold(0, |sum, (at, size)| sum * size + at));
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

/// The same for an operand that broadcasts.
pub(crate) fn broadcast(from: &[usize], shape: &[usize]) -> Option<Vec<usize>> {
    let skip = shape.len().checked_sub(from.len())?;
    gather(from, shape, |at, source| {
        for (axis, place) in source.iter_mut().enumerate() {
            *place = if from[axis] == 1 { 0 } else { at[axis + skip] };
        }
    })
}

/// Inputs one after the other, if they are of one type.
fn joined<'a>(parts: impl Iterator<Item = Option<&'a Known>>) -> Option<Known> {
    let mut out: Option<Known> = None;
    for part in parts {
        match (&mut out, part?) {
            (None, part) => out = Some(part.clone()),
            (Some(Known::Ints(out)), Known::Ints(part)) => out.extend(part),
            (Some(Known::Floats(out)), Known::Floats(part)) => out.extend(part),
            _ => return None,
        }
    }
    out
}

fn concat(inputs: &Inputs<'_>, shape: &[usize]) -> Option<Known> {
    let axis = inputs.axis(inputs.op.int("axis").unwrap_or(0), shape.len()).ok()?;
    let outer: usize = shape[..axis].iter().product();
    let count = inputs.op.inputs.len();
    let all = joined((0..count).map(|index| known(inputs, index)))?;
    let mut places = Vec::new();
    for block in 0..outer {
        let mut start = 0;
        for index in 0..count {
            let length = known(inputs, index)?.len();
            let piece = length / outer;
            places.extend(start + block * piece..start + (block + 1) * piece);
            start += length;
        }
    }
    all.pick(&places)
}

fn choice(inputs: &Inputs<'_>, shape: &[usize]) -> Option<Known> {
    let at = |index: usize| broadcast(inputs.shape(index)?, shape);
    let condition = known(inputs, 0)?.pick(&at(0)?)?;
    let both = joined([known(inputs, 1), known(inputs, 2)].into_iter())?;
    let (x, y) = (at(1)?, at(2)?);
    let second = known(inputs, 1)?.len();
    let places = condition.ints()?.iter().zip(x.iter().zip(&y));
    let places = places.map(|(&c, (&x, &y))| if c == 0 { second + y } else { x });
    both.pick(&places.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests;
