//! Element types and tensors.

use super::{MAX_RANK, f32_of, name, short};
use crate::{GraphError, wire::Reader};

/// Element types by their ONNX number.
pub(crate) mod dtype {
    pub(crate) const F32: i64 = 1;
    pub(crate) const U8: i64 = 2;
    pub(crate) const I8: i64 = 3;
    pub(crate) const U16: i64 = 4;
    pub(crate) const I16: i64 = 5;
    pub(crate) const I32: i64 = 6;
    pub(crate) const I64: i64 = 7;
    pub(crate) const BOOL: i64 = 9;
    pub(crate) const F16: i64 = 10;
    pub(crate) const F64: i64 = 11;
    pub(crate) const U32: i64 = 12;
    pub(crate) const U64: i64 = 13;
    pub(crate) const BF16: i64 = 16;

    /// Bytes of an element.
    pub(crate) fn size(dtype: i64) -> Option<usize> {
        Some(match dtype {
            U8 | I8 | BOOL => 1,
            U16 | I16 | F16 | BF16 => 2,
            F32 | I32 | U32 => 4,
            I64 | F64 | U64 => 8,
            _ => return None,
        })
    }

    pub(crate) fn is_float(dtype: i64) -> bool {
        matches!(dtype, F32 | F16 | F64 | BF16)
    }
}

/// A tensor: bytes little-endian, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: i64,
    pub(crate) dims: Vec<usize>,
    pub(crate) data: Vec<u8>,
}

pub(super) fn tensor(bytes: &[u8]) -> Result<Tensor, GraphError> {
    let mut tensor = Tensor { name: String::new(), dtype: 0, dims: Vec::new(), data: Vec::new() };
    let mut dims = Vec::new();
    let mut ints = Vec::new();
    let mut reader = Reader::new(bytes);
    let mut external = false;
    while let Some((number, field)) = reader.next()? {
        match number {
            1 => field.ints_into(&mut dims)?,
            2 => tensor.dtype = field.int()?,
            3 | 6 => return Err(wrong(&tensor, "it is in segments or holds texts, which is not supported")),
            4 => field.fixed32_into(&mut tensor.data)?,
            5 | 7 | 11 => field.ints_into(&mut ints)?,
            8 => tensor.name = name(field)?,
            9 => tensor.data.extend_from_slice(field.bytes()?),
            10 => field.fixed64_into(&mut tensor.data)?,
            13 => external = true,
            14 => external |= field.int()? != 0,
            _ => {}
        }
        if dims.len() > MAX_RANK {
            return Err(GraphError::Limit { what: "axes of one tensor", found: dims.len(), most: MAX_RANK });
        }
    }
    if external {
        let why = "its data is in another file, which is never opened; export the model into one file \
                   (torch.onnx.export with external_data=False, or onnx.save_model with save_as_external_data=False)";
        return Err(wrong(&tensor, why));
    }
    finish(tensor, &dims, &ints)
}

fn wrong(tensor: &Tensor, why: &str) -> GraphError {
    GraphError::Tensor { name: short(&tensor.name), why: why.into() }
}

fn finish(mut tensor: Tensor, dims: &[i64], ints: &[i64]) -> Result<Tensor, GraphError> {
    let Some(size) = dtype::size(tensor.dtype) else {
        return Err(wrong(
            &tensor,
            &format!("its element type, number {} in ONNX, is not supported", tensor.dtype),
        ));
    };
    let mut bytes = size;
    for &dim in dims {
        let dim = usize::try_from(dim).map_err(|_| wrong(&tensor, "it has a negative dimension"))?;
        bytes = bytes.checked_mul(dim).ok_or_else(|| wrong(&tensor, "its size overflows"))?;
        tensor.dims.push(dim);
    }
    if !ints.is_empty() && !tensor.data.is_empty() {
        return Err(wrong(&tensor, "it holds its data twice"));
    }
    for value in ints {
        tensor.data.extend_from_slice(&value.to_le_bytes()[..size]);
    }
    if tensor.data.len() != bytes {
        let why = format!("it has {} bytes where its shape and type need {bytes}", tensor.data.len());
        return Err(wrong(&tensor, &why));
    }
    Ok(tensor)
}

impl Tensor {
    /// Integers (or truths) as i64, if it holds such, and they fit.
    pub(crate) fn ints(&self) -> Option<Vec<i64>> {
        let size = dtype::size(self.dtype)?;
        if self.dtype == dtype::U64 && self.data.chunks_exact(8).any(|bytes| bytes[7] >= 0x80) {
            return None;
        }
        let signed = matches!(self.dtype, dtype::I8 | dtype::I16 | dtype::I32 | dtype::I64);
        if dtype::is_float(self.dtype) {
            return None;
        }
        let read = |bytes: &[u8]| {
            let negative = signed && bytes[size - 1] >= 0x80;
            let mut eight = [if negative { 0xff } else { 0 }; 8];
            eight[..size].copy_from_slice(bytes);
            i64::from_le_bytes(eight)
        };
        let ints: Vec<i64> = self.data.chunks_exact(size).map(read).collect();
        let truths = self.dtype != dtype::BOOL || ints.iter().all(|&value| value == 0 || value == 1);
        truths.then_some(ints)
    }

    /// 32- or 64-bit floats, if it holds such: exact in either case.
    pub(crate) fn floats(&self) -> Option<Vec<f64>> {
        match self.dtype {
            dtype::F32 => Some(self.data.chunks_exact(4).map(|bytes| f64::from(f32_of(bytes))).collect()),
            dtype::F64 => {
                let read = |bytes: &[u8]| {
                    let mut eight = [0; 8];
                    eight.copy_from_slice(bytes);
                    f64::from_le_bytes(eight)
                };
                Some(self.data.chunks_exact(8).map(read).collect())
            }
            _ => None,
        }
    }

    /// Whether all positions along an axis hold the same.
    pub(crate) fn is_uniform(&self, axis: usize) -> bool {
        let size = dtype::size(self.dtype).unwrap_or(1);
        let inner: usize = self.dims[axis + 1..].iter().product::<usize>() * size;
        let length = self.dims[axis];
        if inner == 0 || length == 0 {
            return true;
        }
        self.data.chunks_exact(inner * length).all(|block| {
            let (first, rest) = block.split_at(inner);
            rest.chunks_exact(inner).all(|other| other == first)
        })
    }
}
