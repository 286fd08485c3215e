//! The header of a safetensors file, read strictly: what a client sends is not trusted.
//!
//! Format: 8 bytes little-endian length, then that many bytes of JSON padded with spaces, then the data. Stricter than
//! the format asks: names are limited to `A-Z a-z 0-9 _ . -`, keys must differ, fields must be known, ranks, counts and
//! sizes are bounded, offsets must cover the data without gap or overlap, and nothing but spaces may pad.

mod json;

use std::{io::Read, ops::Range};

use self::json::RawTensor;
use crate::{CheckpointError, Layout};

/// What a header may hold at the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of JSON, padding included.
    pub max_header_bytes: u64,
    /// Tensors.
    pub max_tensors: usize,
    /// Axes of a tensor; never more than [`crate::MAX_RANK`].
    pub max_rank: usize,
    /// Bytes of a tensor's name; never more than [`crate::MAX_NAME_BYTES`].
    pub max_name_bytes: usize,
    /// Entries of `__metadata__`.
    pub max_metadata_entries: usize,
    /// Bytes of a key or value in `__metadata__`.
    pub max_metadata_bytes: usize,
}

impl Limits {
    /// The header of a file that must have `layout` cannot be larger than this, whatever metadata it carries.
    pub(crate) fn within(self, layout: &Layout) -> Self {
        let names: usize = layout.tensors().iter().map(|tensor| tensor.name.len() + 256).sum();
        let metadata = self.max_metadata_entries * (2 * self.max_metadata_bytes + 8);
        let most = (4096 + names + metadata) as u64;
        Self { max_header_bytes: self.max_header_bytes.min(most), ..self }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_header_bytes: 1 << 20,
            max_tensors: 16_384,
            max_rank: crate::MAX_RANK,
            max_name_bytes: crate::MAX_NAME_BYTES,
            max_metadata_entries: 64,
            max_metadata_bytes: 1024,
        }
    }
}

/// A checked header: the layout, and where each tensor's bytes lie in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    layout: Layout,
    data_start: u64,
    ranges: Vec<Range<u64>>,
}

impl Header {
    /// Parses the JSON part of a file whose data part has `data_len` bytes.
    ///
    /// # Errors
    /// [`CheckpointError`] for whatever is not as the module says.
    pub fn parse(json: &[u8], data_len: u64, limits: &Limits) -> Result<Self, CheckpointError> {
        if json.first() != Some(&b'{') {
            return Err(CheckpointError::Header("does not begin with '{'".into()));
        }
        let end = json.iter().rposition(|&byte| byte != b' ').map_or(0, |last| last + 1);
        let json_text = &json[..end];
        if json_text.last() != Some(&b'}') {
            return Err(CheckpointError::Header(
                "is padded with something else than spaces, or cut off".into(),
            ));
        }
        let raw = json::read(json_text, limits)?;
        let data_start = 8 + json.len() as u64;
        Self::check(raw, data_len, data_start)
    }

    fn check(mut raw: Vec<RawTensor>, data_len: u64, data_start: u64) -> Result<Self, CheckpointError> {
        raw.sort_by_key(|tensor| (tensor.begin, tensor.end));
        let mut expected = 0;
        for tensor in &raw {
            let name = || tensor.info.name.clone();
            if tensor.begin != expected {
                return Err(CheckpointError::Offsets { name: name(), why: "leave a gap or overlap" });
            }
            if tensor.end > data_len {
                return Err(CheckpointError::Length {
                    header: data_start.saturating_add(tensor.end),
                    file: data_start + data_len,
                });
            }
            let size = tensor.end.checked_sub(tensor.begin);
            if size != u64::try_from(tensor.info.num_bytes()).ok() {
                return Err(CheckpointError::Offsets { name: name(), why: "do not fit dtype and shape" });
            }
            expected = tensor.end;
        }
        if expected != data_len {
            return Err(CheckpointError::Length {
                header: data_start + expected,
                file: data_start + data_len,
            });
        }
        raw.sort_by(|a, b| a.info.name.cmp(&b.info.name));
        let ranges = raw.iter().map(|tensor| data_start + tensor.begin..data_start + tensor.end).collect();
        let layout = Layout::new(raw.into_iter().map(|tensor| tensor.info).collect())?;
        Ok(Self { layout, data_start, ranges })
    }

    /// Reads the header at the beginning of a file of `size` bytes, with default limits.
    ///
    /// # Errors
    /// [`CheckpointError`] as for [`Header::parse`], and for reading.
    pub fn read(file: &mut impl Read, size: u64) -> Result<Self, CheckpointError> {
        let limits = Limits::default();
        let mut prefix = [0; 8];
        if size < 8 {
            return Err(CheckpointError::TooShort { size });
        }
        file.read_exact(&mut prefix)?;
        let length = header_length(prefix, size, &limits)?;
        let mut json = vec![0; length];
        file.read_exact(&mut json)?;
        Self::parse(&json, size - 8 - length as u64, &limits)
    }

    /// Bytes of the file that [`Checkpoint::to_bytes`](crate::Checkpoint::to_bytes) and [`merge_to`](crate::merge_to) write for a
    /// layout.
    #[must_use]
    pub fn canonical_file_size(layout: &Layout) -> u64 {
        (Self::canonical(layout).1.len() + layout.num_bytes()) as u64
    }

    /// The header that our files have for a layout, and its bytes. The data lies without gaps, larger elements first and
    /// then by name, as the safetensors library writes: so every tensor is aligned, which PyTorch's reader needs.
    pub(crate) fn canonical(layout: &Layout) -> (Self, Vec<u8>) {
        let tensors = layout.tensors();
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(tensors[index].dtype.size()));
        let mut ranges = vec![0..0; tensors.len()];
        let mut json = String::from("{");
        let mut offset = 0_u64;
        for index in order {
            let tensor = &tensors[index];
            let end = offset + tensor.num_bytes() as u64;
            let comma = if offset == 0 && json.len() == 1 { "" } else { "," };
            // Names need no escapes: a layout allows none that would.
            json.push_str(&format!(
                "{comma}\"{}\":{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{offset},{end}]}}",
                tensor.name,
                tensor.dtype,
                json::numbers(&tensor.shape)
            ));
            ranges[index] = offset..end;
            offset = end;
        }
        json.push('}');
        while !json.len().is_multiple_of(8) {
            json.push(' ');
        }
        let data_start = 8 + json.len() as u64;
        for range in &mut ranges {
            *range = data_start + range.start..data_start + range.end;
        }
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        (Self { layout: layout.clone(), data_start, ranges }, bytes)
    }

    /// Canonical positions in the order in which the file has them.
    pub(crate) fn file_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.ranges.len()).collect();
        order.sort_by_key(|&index| (self.ranges[index].start, self.ranges[index].end));
        order
    }

    /// The tensors' names, dtypes and shapes.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where the data begins, in bytes from the file's beginning.
    #[must_use]
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// Where the bytes of the tensor at canonical position `index` lie in the file.
    ///
    /// # Panics
    /// If the layout has no such tensor.
    #[must_use]
    pub fn range(&self, index: usize) -> Range<u64> {
        self.ranges[index].clone()
    }

    /// Size of the whole file in bytes.
    #[must_use]
    pub fn file_size(&self) -> u64 {
        self.ranges.iter().map(|range| range.end).max().unwrap_or(self.data_start)
    }
}

/// The header's length from the first 8 bytes of a file of `size` bytes.
pub(crate) fn header_length(prefix: [u8; 8], size: u64, limits: &Limits) -> Result<usize, CheckpointError> {
    let length = u64::from_le_bytes(prefix);
    if length > limits.max_header_bytes {
        return Err(CheckpointError::HeaderTooLarge { length, most: limits.max_header_bytes });
    }
    if length < 2 || length > size - 8 {
        return Err(CheckpointError::Header(format!("is said to have {length} bytes in a file of {size}")));
    }
    // At most a few megabytes, by the limit.
    usize::try_from(length)
        .map_err(|_| CheckpointError::HeaderTooLarge { length, most: limits.max_header_bytes })
}

#[cfg(test)]
mod tests;
