//! The IDX format of the MNIST family, gzip-compressed: a strict, bounded reader.
//!
//! Format: two zero bytes, a type byte (`0x08`: unsigned byte), the number of dimensions, then each dimension as a big-endian
//! 32-bit word, then the items. The reader accepts exactly what the data sets hold and nothing else.

use std::io::Read;

use flate2::bufread::MultiGzDecoder;

#[cfg(test)]
mod tests;

/// Pixels of one image: 28 rows of 28 bytes.
pub const PIXELS: usize = 28 * 28;
/// Classes: labels are `0..CLASSES`.
pub const CLASSES: usize = 10;
/// The most items that a file may hold (the original data set has 60,000). Bounds memory to 55 MB a file.
pub const MAX_ITEMS: usize = 70_000;

/// Why an IDX file was refused.
#[derive(Debug, PartialEq, Eq)]
pub enum IdxError {
    /// The gzip stream is damaged or cut.
    Gzip(String),
    /// The file ends before its header does.
    HeaderCut,
    /// The first four bytes are not the magic of the expected kind.
    Magic {
        /// What stands there.
        found: u32,
        /// What should.
        expected: u32,
    },
    /// Images that are not 28 by 28.
    Shape {
        /// Rows that the header names.
        rows: u32,
        /// Columns that the header names.
        columns: u32,
    },
    /// No items, or more than [`MAX_ITEMS`].
    Count(u32),
    /// Fewer or more bytes than the header promises.
    Length {
        /// Bytes that the header promises.
        expected: usize,
        /// Bytes that were there; one more than expected if there were more.
        found: usize,
    },
    /// A label that is not `0..CLASSES`.
    Label {
        /// Index of the item.
        item: usize,
        /// What stands there.
        label: u8,
    },
}

impl std::fmt::Display for IdxError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gzip(reason) => write!(f, "not a whole gzip stream ({reason}); fetch the file again"),
            Self::HeaderCut => write!(f, "the IDX header is cut short; fetch the file again"),
            Self::Magic { found, expected } => {
                write!(f, "not this kind of IDX file: magic {found:#010x}, expected {expected:#010x}")
            }
            Self::Shape { rows, columns } => write!(f, "images of {rows} x {columns}, expected 28 x 28"),
            Self::Count(count) => write!(f, "{count} items, expected 1 to {MAX_ITEMS}"),
            Self::Length { expected, found } if found > expected => {
                write!(f, "more than the {expected} bytes of items that the header promises")
            }
            Self::Length { expected, found } => {
                write!(f, "{found} bytes of items, but the header promises {expected}; fetch the file again")
            }
            Self::Label { item, label } => write!(f, "label {label} at item {item}, expected 0 to 9"),
        }
    }
}

impl std::error::Error for IdxError {}

/// Reads a gzip-compressed file of images: `count * PIXELS` bytes, row by row.
///
/// # Errors
/// Anything that is not exactly such a file.
pub fn read_images(gzip: &[u8]) -> Result<Vec<u8>, IdxError> {
    let mut stream = MultiGzDecoder::new(gzip);
    let count = read_count(&mut stream, 0x0000_0803)?;
    let (rows, columns) = (read_word(&mut stream)?, read_word(&mut stream)?);
    if (rows, columns) != (28, 28) {
        return Err(IdxError::Shape { rows, columns });
    }
    read_items(&mut stream, count * PIXELS)
}

/// Reads a gzip-compressed file of labels, each below [`CLASSES`].
///
/// # Errors
/// Anything that is not exactly such a file.
pub fn read_labels(gzip: &[u8]) -> Result<Vec<u8>, IdxError> {
    let mut stream = MultiGzDecoder::new(gzip);
    let count = read_count(&mut stream, 0x0000_0801)?;
    let labels = read_items(&mut stream, count)?;
    match labels.iter().position(|&label| usize::from(label) >= CLASSES) {
        Some(item) => Err(IdxError::Label { item, label: labels[item] }),
        None => Ok(labels),
    }
}

/// The magic, then the first dimension, which is the number of items.
fn read_count(stream: &mut impl Read, expected: u32) -> Result<usize, IdxError> {
    let found = read_word(stream)?;
    if found != expected {
        return Err(IdxError::Magic { found, expected });
    }
    let count = read_word(stream)?;
    match usize::try_from(count) {
        Ok(items) if (1..=MAX_ITEMS).contains(&items) => Ok(items),
        _ => Err(IdxError::Count(count)),
    }
}

fn read_word(stream: &mut impl Read) -> Result<u32, IdxError> {
    let mut word = [0; 4];
    stream.read_exact(&mut word).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => IdxError::HeaderCut,
        _ => IdxError::Gzip(error.to_string()),
    })?;
    Ok(u32::from_be_bytes(word))
}

/// Reads at most one byte more than `expected`, so that a bomb is noticed, not swallowed.
fn read_items(stream: &mut impl Read, expected: usize) -> Result<Vec<u8>, IdxError> {
    let mut items = Vec::new();
    let limit = expected as u64 + 1;
    let outcome = stream.take(limit).read_to_end(&mut items);
    match outcome {
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
            Err(IdxError::Gzip(error.to_string()))
        }
        _ if items.len() != expected => Err(IdxError::Length { expected, found: items.len() }),
        Err(error) => Err(IdxError::Gzip(error.to_string())),
        Ok(_) => Ok(items),
    }
}
