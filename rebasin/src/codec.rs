//! Numbers to bytes and back: little-endian, as safetensors stores them.

use half::{bf16, f16};

use crate::Dtype;

/// Decodes float elements as f32. Integers are decoded by value: callers average floats only.
pub(crate) fn to_f32(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F32 => {
            let (elements, _) = bytes.as_chunks::<4>();
            elements.iter().map(|&element| f32::from_le_bytes(element)).collect()
        }
        #[expect(clippy::cast_possible_truncation, reason = "alignment computes in f32")]
        _ => to_f64(dtype, bytes).into_iter().map(|value| value as f32).collect(),
    }
}

/// Decodes elements as f64.
pub(crate) fn to_f64(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    fn each<const N: usize>(bytes: &[u8], decode: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        let (elements, _) = bytes.as_chunks::<N>();
        elements.iter().map(|&element| decode(element)).collect()
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "integers are never averaged; this is for looking at them"
    )]
    match dtype {
        Dtype::F64 => each(bytes, f64::from_le_bytes),
        Dtype::F32 => each(bytes, |b| f64::from(f32::from_le_bytes(b))),
        Dtype::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f64()),
        Dtype::BF16 => each(bytes, |b| bf16::from_le_bytes(b).to_f64()),
        Dtype::I64 => each(bytes, |b| i64::from_le_bytes(b) as f64),
        Dtype::U64 => each(bytes, |b| u64::from_le_bytes(b) as f64),
        Dtype::I32 => each(bytes, |b| f64::from(i32::from_le_bytes(b))),
        Dtype::U32 => each(bytes, |b| f64::from(u32::from_le_bytes(b))),
        Dtype::I16 => each(bytes, |b| f64::from(i16::from_le_bytes(b))),
        Dtype::U16 => each(bytes, |b| f64::from(u16::from_le_bytes(b))),
        Dtype::I8 => each(bytes, |b| f64::from(i8::from_le_bytes(b))),
        Dtype::U8 | Dtype::Bool => each(bytes, |[b]| f64::from(b)),
    }
}

/// Adds `share` times each float element to the sums, in f64; nothing of other dtypes.
pub(crate) fn add_scaled(dtype: Dtype, bytes: &[u8], share: f64, sum: &mut [f64]) {
    let arch = pulp::Arch::new();
    match dtype {
        Dtype::F64 => arch.dispatch(AddScaled { bytes, share, sum, decode: f64::from_le_bytes }),
        Dtype::F32 => {
            arch.dispatch(AddScaled { bytes, share, sum, decode: |b| f64::from(f32::from_le_bytes(b)) });
        }
        Dtype::F16 => {
            arch.dispatch(AddScaled { bytes, share, sum, decode: |b| f16::from_le_bytes(b).to_f64() });
        }
        Dtype::BF16 => {
            arch.dispatch(AddScaled { bytes, share, sum, decode: |b| bf16::from_le_bytes(b).to_f64() });
        }
        _ => {}
    }
}

/// How many inputs [`add_all_scaled`] takes at once, so that sums are read and written once for all of them.
pub(crate) const AT_ONCE: usize = 4;

/// Adds each input's elements times its share to the sums, in f64, one input after the other: to the bit what [`add_scaled`] does
/// in turn.
pub(crate) fn add_all_scaled(dtype: Dtype, inputs: &[(&[u8], f64)], sum: &mut [f64]) {
    match (dtype, inputs) {
        (Dtype::F32, &[a, b, c, d]) => pulp::Arch::new().dispatch(AddFour { inputs: [a, b, c, d], sum }),
        _ => inputs.iter().for_each(|&(bytes, share)| add_scaled(dtype, bytes, share, sum)),
    }
}

/// One plain loop over four inputs of f32.
struct AddFour<'a> {
    inputs: [(&'a [u8], f64); AT_ONCE],
    sum: &'a mut [f64],
}

impl pulp::NullaryFnOnce for AddFour<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let [(a, of_a), (b, of_b), (c, of_c), (d, of_d)] = self.inputs;
        let [a, b, c, d] = [a, b, c, d].map(|bytes| bytes.as_chunks::<4>().0);
        let number = |bytes: [u8; 4]| f64::from(f32::from_le_bytes(bytes));
        for ((((sum, &a), &b), &c), &d) in self.sum.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *sum = *sum + of_a * number(a) + of_b * number(b) + of_c * number(c) + of_d * number(d);
        }
    }
}

/// One plain loop, compiled for each width of the machine's vectors.
struct AddScaled<'a, const N: usize, F> {
    bytes: &'a [u8],
    share: f64,
    sum: &'a mut [f64],
    decode: F,
}

impl<const N: usize, F: Fn([u8; N]) -> f64> pulp::NullaryFnOnce for AddScaled<'_, N, F> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (elements, _) = self.bytes.as_chunks::<N>();
        for (sum, &element) in self.sum.iter_mut().zip(elements) {
            *sum += self.share * (self.decode)(element);
        }
    }
}

/// Sums that are kept side by side, in an order that no machine's vectors change. So many that a loop over them is compiled as one, and
/// to vector instructions: a shorter one is unrolled into single numbers.
const LANES: usize = 64;

/// The sum of the squares of float elements, in f64; 0 of other dtypes.
pub(crate) fn sum_of_squares(dtype: Dtype, bytes: &[u8]) -> f64 {
    let arch = pulp::Arch::new();
    match dtype {
        Dtype::F64 => arch.dispatch(Squares { bytes, decode: f64::from_le_bytes }),
        Dtype::F32 => arch.dispatch(Squares { bytes, decode: |b| f64::from(f32::from_le_bytes(b)) }),
        Dtype::F16 => arch.dispatch(Squares { bytes, decode: |b| f16::from_le_bytes(b).to_f64() }),
        Dtype::BF16 => arch.dispatch(Squares { bytes, decode: |b| bf16::from_le_bytes(b).to_f64() }),
        _ => 0.0,
    }
}

/// One plain loop, compiled for each width of the machine's vectors.
struct Squares<'a, const N: usize, F> {
    bytes: &'a [u8],
    decode: F,
}

impl<const N: usize, F: Fn([u8; N]) -> f64> pulp::NullaryFnOnce for Squares<'_, N, F> {
    type Output = f64;

    #[inline(always)]
    fn call(self) -> f64 {
        let (elements, _) = self.bytes.as_chunks::<N>();
        let (parts, rest) = elements.as_chunks::<LANES>();
        let mut sums = [0.0; LANES];
        for part in parts {
            for (sum, &element) in sums.iter_mut().zip(part) {
                let value = (self.decode)(element);
                *sum += value * value;
            }
        }
        let rest = rest.iter().map(|&element| (self.decode)(element)).map(|value| value * value);
        sums.iter().sum::<f64>() + rest.sum::<f64>()
    }
}

/// Subtracts `scale` times each value from the sums; gives the sum of the squares of what is left.
pub(crate) fn subtract_scaled(values: &[f64], scale: f64, sums: &mut [f64]) -> f64 {
    pulp::Arch::new().dispatch(SubtractScaled { values, scale, sums })
}

/// The same for each width of the machine's vectors.
struct SubtractScaled<'a> {
    values: &'a [f64],
    scale: f64,
    sums: &'a mut [f64],
}

impl pulp::NullaryFnOnce for SubtractScaled<'_> {
    type Output = f64;

    #[inline(always)]
    fn call(self) -> f64 {
        let (sums, rest_sums) = self.sums.as_chunks_mut::<LANES>();
        let (values, rest_values) = self.values.as_chunks::<LANES>();
        let mut squares = [0.0; LANES];
        for (sums, values) in sums.iter_mut().zip(values) {
            for lane in 0..LANES {
                sums[lane] -= self.scale * values[lane];
                squares[lane] += sums[lane] * sums[lane];
            }
        }
        let mut square: f64 = squares.iter().sum();
        for (sum, &value) in rest_sums.iter_mut().zip(rest_values) {
            *sum -= self.scale * value;
            square += *sum * *sum;
        }
        square
    }
}

/// For float elements `x`: the squared distance to the `reference`, and the inner product of `x - reference` with `other`, both in
/// f64; zeros of other dtypes.
pub(crate) fn differences(dtype: Dtype, bytes: &[u8], reference: &[f64], other: &[f64]) -> [f64; 2] {
    let arch = pulp::Arch::new();
    match dtype {
        Dtype::F64 => arch.dispatch(Differences { bytes, reference, other, decode: f64::from_le_bytes }),
        Dtype::F32 => {
            let decode = |b| f64::from(f32::from_le_bytes(b));
            arch.dispatch(Differences { bytes, reference, other, decode })
        }
        Dtype::F16 => {
            let decode = |b| f16::from_le_bytes(b).to_f64();
            arch.dispatch(Differences { bytes, reference, other, decode })
        }
        Dtype::BF16 => {
            let decode = |b| bf16::from_le_bytes(b).to_f64();
            arch.dispatch(Differences { bytes, reference, other, decode })
        }
        _ => [0.0; 2],
    }
}

/// The same for each width of the machine's vectors.
struct Differences<'a, const N: usize, F> {
    bytes: &'a [u8],
    reference: &'a [f64],
    other: &'a [f64],
    decode: F,
}

impl<const N: usize, F: Fn([u8; N]) -> f64> pulp::NullaryFnOnce for Differences<'_, N, F> {
    type Output = [f64; 2];

    #[inline(always)]
    fn call(self) -> [f64; 2] {
        let (elements, _) = self.bytes.as_chunks::<N>();
        let (parts, rest) = elements.as_chunks::<LANES>();
        let (references, rest_references) = self.reference.as_chunks::<LANES>();
        let (others, rest_others) = self.other.as_chunks::<LANES>();
        let (mut squares, mut products) = ([0.0; LANES], [0.0; LANES]);
        for ((part, reference), other) in parts.iter().zip(references).zip(others) {
            for lane in 0..LANES {
                let difference = (self.decode)(part[lane]) - reference[lane];
                squares[lane] += difference * difference;
                products[lane] += difference * other[lane];
            }
        }
        let mut sums = [squares.iter().sum::<f64>(), products.iter().sum::<f64>()];
        for ((&element, &reference), &other) in rest.iter().zip(rest_references).zip(rest_others) {
            let difference = (self.decode)(element) - reference;
            sums[0] += difference * difference;
            sums[1] += difference * other;
        }
        sums
    }
}

/// Rounds to f32; tells whether all are finite.
struct ToF32<'a> {
    values: &'a [f64],
    out: &'a mut [[u8; 4]],
}

impl pulp::NullaryFnOnce for ToF32<'_> {
    type Output = bool;

    #[inline(always)]
    fn call(self) -> bool {
        const EXPONENT: u32 = 0x7f80_0000;
        let mut bad = false;
        for (out, &value) in self.out.iter_mut().zip(self.values) {
            #[expect(clippy::cast_possible_truncation, reason = "rounding to the output's dtype")]
            let rounded = value as f32;
            bad |= rounded.to_bits() & EXPONENT == EXPONENT;
            *out = rounded.to_le_bytes();
        }
        !bad
    }
}

/// Rounds to a float dtype once, to nearest even, and appends the bytes; gives the index of the first value that is
/// not finite there.
pub(crate) fn from_f64(dtype: Dtype, values: &[f64], out: &mut Vec<u8>) -> Result<(), usize> {
    if dtype == Dtype::F32 {
        let begin = out.len();
        out.resize(begin + 4 * values.len(), 0);
        let (out, _) = out[begin..].as_chunks_mut::<4>();
        if pulp::Arch::new().dispatch(ToF32 { values, out }) {
            return Ok(());
        }
        let bad = out.iter().position(|&element| !f32::from_le_bytes(element).is_finite());
        return bad.map_or(Ok(()), Err);
    }
    out.reserve(values.len() * dtype.size());
    for (index, &value) in values.iter().enumerate() {
        let finite = match dtype {
            Dtype::F64 => {
                out.extend_from_slice(&value.to_le_bytes());
                value.is_finite()
            }
            Dtype::F16 => {
                let rounded = f16::from_f32(to_odd(value));
                out.extend_from_slice(&rounded.to_le_bytes());
                rounded.is_finite()
            }
            Dtype::BF16 => {
                let rounded = bf16::from_f32(to_odd(value));
                out.extend_from_slice(&rounded.to_le_bytes());
                rounded.is_finite()
            }
            _ => false,
        };
        if !finite {
            return Err(index);
        }
    }
    Ok(())
}

/// Rounds to f32 so that rounding the outcome to 16 bits is as good as rounding the f64: toward zero, with the last bit
/// set where anything was lost ("round to odd", Boldo and Melquiond 2008). `half`'s own conversions from f64 drop the
/// lower half of the fraction, or round twice on machines with f16 instructions.
#[expect(clippy::cast_possible_truncation, reason = "the loss is what the last bit records")]
fn to_odd(value: f64) -> f32 {
    let near = value as f32;
    let exact = f64::from(near);
    if exact == value || value.is_nan() {
        return near;
    }
    // Bits of one sign are ordered as the magnitudes are, infinity after the largest number.
    let toward_zero = if exact.abs() > value.abs() { near.to_bits() - 1 } else { near.to_bits() };
    f32::from_bits(toward_zero | 1)
}

#[cfg(test)]
mod tests;
