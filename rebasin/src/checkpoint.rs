//! Checkpoints in memory.

use std::borrow::Cow;

use crate::{Dtype, Header, Layout, LayoutError, Limits, Scanner, TensorInfo, codec};

/// Bytes that are no checkpoint, or not the one wanted. Each message says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Fewer bytes than a checkpoint has.
    #[error(
        "the file ends after {size} bytes, before the checkpoint does; it was cut off, write or send it again"
    )]
    TooShort {
        /// Bytes there are.
        size: u64,
    },
    /// The header and the file disagree on the length.
    #[error(
        "the header describes {header} bytes, the file has {file}; it was cut off or has something appended"
    )]
    Length {
        /// Bytes by the header.
        header: u64,
        /// Bytes of the file.
        file: u64,
    },
    /// A header beyond the limit.
    #[error(
        "the header is said to have {length} bytes, at most {most} are taken; this is no safetensors file"
    )]
    HeaderTooLarge {
        /// Its length by the first 8 bytes.
        length: u64,
        /// The limit.
        most: u64,
    },
    /// A header that is not as the format asks.
    #[error("the header {0}; write the file with a safetensors library")]
    Header(String),
    /// Offsets that do not describe the tensors.
    #[error("tensor {name}: its data_offsets {why}; write the file with a safetensors library")]
    Offsets {
        /// The tensor.
        name: String,
        /// What is wrong with them.
        why: &'static str,
    },
    /// Tensors that make no layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A tensor of the expected layout is absent.
    #[error("tensor {name} is missing; send exactly the tensors of the run's layout")]
    Missing {
        /// The tensor.
        name: String,
    },
    /// A tensor that the expected layout does not have.
    #[error("tensor {name} is not part of the run's layout; send exactly the tensors of the run's layout")]
    Extra {
        /// The tensor.
        name: String,
    },
    /// A tensor of another dtype or shape.
    #[error("tensor {name} is {found}, the run's layout has {expected}")]
    Differs {
        /// The tensor.
        name: String,
        /// Dtype and shape in the layout.
        expected: String,
        /// Dtype and shape found.
        found: String,
    },
    /// NaN or infinity (or a boolean that is neither 0 nor 1).
    #[error(
        "tensor {name}: element {index} is NaN, infinite or no boolean; the training diverged or the file is damaged"
    )]
    NotFinite {
        /// The tensor.
        name: String,
        /// The first such element, counted from 0 in row-major order.
        index: u64,
    },
    /// A value beyond its bound.
    #[error(
        "tensor {name}: element {index} is {value:?}, and the reference's values let it be {most:?} at the most \
         (max_magnitude_factor of the run's policy); the training diverged or the file is damaged"
    )]
    Magnitude {
        /// The tensor.
        name: String,
        /// The first such element, counted from 0 in row-major order.
        index: u64,
        /// Its value.
        value: f64,
        /// The largest magnitude that is taken.
        most: f64,
    },
    /// Reading failed.
    #[error("reading the checkpoint: {0}")]
    Io(#[from] std::io::Error),
}

/// One tensor: its description and its bytes, little-endian, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    info: TensorInfo,
    bytes: Vec<u8>,
}

impl Tensor {
    /// From bytes.
    ///
    /// # Errors
    /// [`CheckpointError::Offsets`] if there are not as many as dtype and shape say.
    pub fn from_bytes(info: &TensorInfo, bytes: Vec<u8>) -> Result<Self, CheckpointError> {
        if bytes.len() != info.num_bytes() {
            return Err(CheckpointError::Offsets {
                name: info.name.clone(),
                why: "do not fit dtype and shape",
            });
        }
        Ok(Self { info: info.clone(), bytes })
    }

    /// From values, rounded to the tensor's float dtype.
    ///
    /// # Errors
    /// As [`Tensor::from_f64`].
    pub fn from_f32(info: &TensorInfo, values: &[f32]) -> Result<Self, CheckpointError> {
        Self::from_f64(info, &values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>())
    }

    /// From values, rounded to the tensor's float dtype.
    ///
    /// # Errors
    /// [`CheckpointError::NotFinite`] where a value is not finite (in that dtype, or because the dtype is no float);
    /// [`CheckpointError::Offsets`] for another number of values than the shape has elements.
    pub fn from_f64(info: &TensorInfo, values: &[f64]) -> Result<Self, CheckpointError> {
        let mut bytes = Vec::new();
        codec::from_f64(info.dtype, values, &mut bytes)
            .map_err(|index| CheckpointError::NotFinite { name: info.name.clone(), index: index as u64 })?;
        Self::from_bytes(info, bytes)
    }

    /// Name, dtype and shape.
    #[must_use]
    pub fn info(&self) -> &TensorInfo {
        &self.info
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The elements as f32.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        codec::to_f32(self.info.dtype, &self.bytes)
    }

    /// The elements as f32, where they lie if they are f32 already.
    pub(crate) fn as_f32(&self) -> Cow<'_, [f32]> {
        if self.info.dtype == Dtype::F32 && cfg!(target_endian = "little") {
            // Bytes on the heap nearly always lie where an f32 may.
            if let Ok(values) = bytemuck::try_cast_slice(&self.bytes) {
                return Cow::Borrowed(values);
            }
        }
        Cow::Owned(self.to_f32())
    }

    /// The elements as f64.
    #[must_use]
    pub fn to_f64(&self) -> Vec<f64> {
        codec::to_f64(self.info.dtype, &self.bytes)
    }

    pub(crate) fn dtype(&self) -> Dtype {
        self.info.dtype
    }
}

/// A checkpoint in memory: its layout and one tensor for each of its entries, in canonical order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    layout: Layout,
    tensors: Vec<Tensor>,
}

impl Checkpoint {
    /// From tensors, in any order.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the tensor that is missing, too many, or of another dtype or shape.
    pub fn new(layout: Layout, mut tensors: Vec<Tensor>) -> Result<Self, CheckpointError> {
        tensors.sort_by(|a, b| a.info.name.cmp(&b.info.name));
        let found = Layout::new(tensors.iter().map(|tensor| tensor.info.clone()).collect())?;
        crate::scanner::compare(&layout, &found)?;
        Ok(Self { layout, tensors })
    }

    /// Reads a whole file's bytes, strictly; all floats must be finite.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CheckpointError> {
        Self::from_bytes_with(bytes, &Limits::default())
    }

    /// The same with limits of the caller's.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn from_bytes_with(bytes: &[u8], limits: &Limits) -> Result<Self, CheckpointError> {
        let mut scanner = Scanner::new(None, bytes.len() as u64, *limits);
        scanner.push(bytes)?;
        let header = scanner.finish()?;
        let mut tensors = Vec::with_capacity(header.layout().tensors().len());
        for (index, info) in header.layout().tensors().iter().enumerate() {
            tensors.push(Tensor::from_bytes(info, slice(bytes, &header.range(index)).to_vec())?);
        }
        Ok(Self { layout: header.layout().clone(), tensors })
    }

    /// Writes a file: larger elements first, then by name; no gaps, no metadata. The same checkpoint always gives the
    /// same bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (header, mut bytes) = Header::canonical(&self.layout);
        bytes.reserve(self.layout.num_bytes());
        for index in header.file_order() {
            bytes.extend_from_slice(&self.tensors[index].bytes);
        }
        bytes
    }

    /// Names, dtypes and shapes.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The tensor at a canonical position.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn tensor(&self, index: usize) -> &Tensor {
        &self.tensors[index]
    }

    /// The tensor of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.layout.position(name).map(|index| &self.tensors[index])
    }

    /// All tensors in canonical order.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }
}

/// The bytes of a checked range: within the file, so within memory.
fn slice<'a>(bytes: &'a [u8], range: &std::ops::Range<u64>) -> &'a [u8] {
    let place = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
    &bytes[place(range.start)..place(range.end)]
}
