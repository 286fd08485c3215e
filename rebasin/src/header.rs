//! The header of a safetensors file, read strictly: what a client sends is not trusted.
//!
//! Format: 8 bytes little-endian length, then that many bytes of JSON padded with spaces, then the data. Stricter than
//! the format asks: names are limited to `A-Z a-z 0-9 _ . -`, keys must differ, fields must be known, ranks, counts and
//! sizes are bounded, offsets must cover the data without gap or overlap, and nothing but spaces may pad.

use std::{collections::HashSet, fmt, io::Read, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

use crate::{CheckpointError, Dtype, Layout, TensorInfo};

/// What a header may hold at the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of JSON, padding included.
    pub max_header_bytes: u64,
    /// Tensors.
    pub max_tensors: usize,
    /// Entries of `__metadata__`.
    pub max_metadata_entries: usize,
    /// Bytes of a key or value in `__metadata__`.
    pub max_metadata_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_header_bytes: 8 << 20,
            max_tensors: 32_768,
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
        let raw = read_json(json_text, limits)?;
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

    /// The header that [`Header::write`] makes for a layout: data in canonical order, without gaps.
    pub(crate) fn canonical(layout: &Layout) -> (Self, Vec<u8>) {
        let mut json = String::from("{");
        let mut offset = 0;
        for (index, tensor) in layout.tensors().iter().enumerate() {
            let end = offset + tensor.num_bytes();
            let comma = if index == 0 { "" } else { "," };
            // Names need no escapes: a layout allows none that would.
            json.push_str(&format!(
                "{comma}\"{}\":{{\"dtype\":\"{}\",\"shape\":{:?},\"data_offsets\":[{offset},{end}]}}",
                tensor.name, tensor.dtype, tensor.shape
            ));
            offset = end;
        }
        json.push('}');
        while !json.len().is_multiple_of(8) {
            json.push(' ');
        }
        let data_start = 8 + json.len() as u64;
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        let mut ranges = Vec::with_capacity(layout.tensors().len());
        let mut at = data_start;
        for tensor in layout.tensors() {
            let end = at + tensor.num_bytes() as u64;
            ranges.push(at..end);
            at = end;
        }
        (Self { layout: layout.clone(), data_start, ranges }, bytes)
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

struct RawTensor {
    info: TensorInfo,
    begin: u64,
    end: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

fn read_json(json: &[u8], limits: &Limits) -> Result<Vec<RawTensor>, CheckpointError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let tensors = deserializer.deserialize_map(Entries { limits }).and_then(|tensors| {
        deserializer.end()?;
        Ok(tensors)
    });
    tensors.map_err(|error| CheckpointError::Header(format!("is not what it must be: {error}")))
}

struct Entries<'a> {
    limits: &'a Limits,
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = Vec<RawTensor>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<RawTensor>, A::Error> {
        let mut tensors = Vec::new();
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            let shown = || name.chars().take(80).collect::<String>();
            if name == "__metadata__" {
                let metadata = map.next_value::<Metadata>()?;
                metadata.check(self.limits).map_err(A::Error::custom)?;
            } else {
                if !crate::layout::is_valid_name(&name) {
                    return Err(A::Error::custom(format_args!(
                        "tensor name {:?} is not 1 to 256 of A-Z, a-z, 0-9, '_', '.' and '-'",
                        shown()
                    )));
                }
                let entry: RawEntry = map.next_value()?;
                if entry.shape.len() > crate::layout::MAX_RANK {
                    return Err(A::Error::custom(format_args!(
                        "tensor {name} has {} axes",
                        entry.shape.len()
                    )));
                }
                if tensors.len() == self.limits.max_tensors {
                    return Err(A::Error::custom(format_args!(
                        "more than {} tensors",
                        self.limits.max_tensors
                    )));
                }
                let bytes =
                    entry.shape.iter().try_fold(entry.dtype.size(), |bytes, &axis| bytes.checked_mul(axis));
                if bytes.is_none() {
                    return Err(A::Error::custom(format_args!("tensor {name}: its size overflows")));
                }
                let (begin, end) = entry.data_offsets;
                let info = TensorInfo { name: name.clone(), dtype: entry.dtype, shape: entry.shape };
                tensors.push(RawTensor { info, begin, end });
            }
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format_args!("key {:?} stands twice", shown())));
            }
        }
        Ok(tensors)
    }
}

/// `__metadata__`: bounded, and otherwise ignored.
struct Metadata(Vec<(String, String)>);

impl Metadata {
    fn check(&self, limits: &Limits) -> Result<(), String> {
        if self.0.len() > limits.max_metadata_entries {
            return Err(format!("__metadata__ has more than {} entries", limits.max_metadata_entries));
        }
        let mut keys = HashSet::new();
        for (key, value) in &self.0 {
            if key.len().max(value.len()) > limits.max_metadata_bytes {
                return Err(format!(
                    "__metadata__ holds a text of more than {} bytes",
                    limits.max_metadata_bytes
                ));
            }
            if !keys.insert(key) {
                return Err(format!(
                    "__metadata__ holds a key twice: {:?}",
                    key.chars().take(80).collect::<String>()
                ));
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Metadata(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}
