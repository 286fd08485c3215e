//! The protobuf wire format: a strict reader over borrowed bytes, and the writer that verification needs.
//!
//! By hand instead of derived, so that counts are checked while they grow and nothing is copied before it is wanted: a
//! derived decoder turns two bytes of input into a structure of hundreds.

use crate::GraphError;

/// A field's value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Field<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64(u64),
    Bytes(&'a [u8]),
}

/// Reads one message's fields in order.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn wrong<T>(&self, what: &'static str) -> Result<T, GraphError> {
        Err(GraphError::Wire { what, at: self.at })
    }

    pub(crate) fn varint(&mut self) -> Result<u64, GraphError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.bytes.get(self.at) else { return self.wrong("a number ends early") };
            self.at += 1;
            if shift == 63 && byte > 1 {
                return self.wrong("a number is beyond 64 bits");
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        self.wrong("a number has more than ten bytes")
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], GraphError> {
        let Some(taken) = self.bytes[self.at..].get(..length) else {
            return self.wrong("a field ends early");
        };
        self.at += length;
        Ok(taken)
    }

    /// The next field's number and value.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, GraphError> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(fixed(self.take(8)?))),
            2 => {
                let length = self.varint()?;
                let Ok(length) = usize::try_from(length) else { return self.wrong("a field ends early") };
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(fixed(self.take(4)?))),
            _ => return self.wrong("an unknown wire type"),
        };
        if tag >> 3 == 0 || tag >> 3 > 0x1fff_ffff {
            return self.wrong("a field number out of range");
        }
        Ok(Some((tag >> 3, value)))
    }

    /// Whether all is read.
    pub(crate) fn is_done(&self) -> bool {
        self.at == self.bytes.len()
    }
}

fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

impl<'a> Field<'a> {
    fn wrong<T>() -> Result<T, GraphError> {
        Err(GraphError::Wire { what: "a field of another type than its number says", at: 0 })
    }

    pub(crate) fn bytes(self) -> Result<&'a [u8], GraphError> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Self::wrong() }
    }

    pub(crate) fn text(self) -> Result<&'a str, GraphError> {
        std::str::from_utf8(self.bytes()?)
            .map_err(|_| GraphError::Wire { what: "a text that is not UTF-8", at: 0 })
    }

    pub(crate) fn int(self) -> Result<i64, GraphError> {
        if let Self::Varint(value) = self { Ok(value.cast_signed()) } else { Self::wrong() }
    }

    pub(crate) fn float(self) -> Result<f32, GraphError> {
        if let Self::Fixed32(bits) = self { Ok(f32::from_bits(bits)) } else { Self::wrong() }
    }

    /// A repeated number: packed, or one by one.
    pub(crate) fn ints_into(self, out: &mut Vec<i64>) -> Result<(), GraphError> {
        match self {
            Self::Varint(value) => out.push(value.cast_signed()),
            Self::Bytes(bytes) => {
                let mut reader = Reader::new(bytes);
                while !reader.is_done() {
                    out.push(reader.varint()?.cast_signed());
                }
            }
            _ => return Self::wrong(),
        }
        Ok(())
    }

    /// The same for fixed 32-bit fields, as bytes.
    pub(crate) fn fixed32_into(self, out: &mut Vec<u8>) -> Result<(), GraphError> {
        match self {
            Self::Fixed32(bits) => out.extend_from_slice(&bits.to_le_bytes()),
            Self::Bytes(bytes) if bytes.len() % 4 == 0 => out.extend_from_slice(bytes),
            _ => return Self::wrong(),
        }
        Ok(())
    }

    /// The same for fixed 64-bit fields.
    pub(crate) fn fixed64_into(self, out: &mut Vec<u8>) -> Result<(), GraphError> {
        match self {
            Self::Fixed64(bits) => out.extend_from_slice(&bits.to_le_bytes()),
            Self::Bytes(bytes) if bytes.len() % 8 == 0 => out.extend_from_slice(bytes),
            _ => return Self::wrong(),
        }
        Ok(())
    }
}

/// Writes a message's fields.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
            value >>= 7;
        }
        self.0.push(u8::try_from(value).unwrap_or(0));
    }

    pub(crate) fn int(&mut self, number: u64, value: i64) {
        self.raw_varint(number << 3);
        self.raw_varint(value.cast_unsigned());
    }

    pub(crate) fn float(&mut self, number: u64, value: f32) {
        self.raw_varint(number << 3 | 5);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, number: u64, value: &[u8]) {
        self.raw_varint(number << 3 | 2);
        self.raw_varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    pub(crate) fn message(&mut self, number: u64, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(number, &inner.0);
    }

    /// A field as it was read.
    pub(crate) fn copy(&mut self, number: u64, field: Field<'_>) {
        match field {
            Field::Varint(value) => self.int(number, value.cast_signed()),
            Field::Bytes(value) => self.bytes(number, value),
            Field::Fixed32(bits) => self.float(number, f32::from_bits(bits)),
            Field::Fixed64(bits) => {
                self.raw_varint(number << 3 | 1);
                self.0.extend_from_slice(&bits.to_le_bytes());
            }
        }
    }
}
