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

/// Rounds to a float dtype once, to nearest even, and appends the bytes; gives the index of the first value that is
/// not finite there.
pub(crate) fn from_f64(dtype: Dtype, values: &[f64], out: &mut Vec<u8>) -> Result<(), usize> {
    out.reserve(values.len() * dtype.size());
    for (index, &value) in values.iter().enumerate() {
        #[expect(clippy::cast_possible_truncation, reason = "rounding to the output's dtype")]
        let finite = match dtype {
            Dtype::F64 => {
                out.extend_from_slice(&value.to_le_bytes());
                value.is_finite()
            }
            Dtype::F32 => {
                out.extend_from_slice(&(value as f32).to_le_bytes());
                (value as f32).is_finite()
            }
            Dtype::F16 => {
                out.extend_from_slice(&f16::from_f64(value).to_le_bytes());
                f16::from_f64(value).is_finite()
            }
            Dtype::BF16 => {
                out.extend_from_slice(&bf16::from_f64(value).to_le_bytes());
                bf16::from_f64(value).is_finite()
            }
            _ => false,
        };
        if !finite {
            return Err(index);
        }
    }
    Ok(())
}
