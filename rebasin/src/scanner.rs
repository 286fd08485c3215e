//! A checkpoint checked while its bytes arrive.

use half::f16;

use crate::{
    Bounds, CheckpointError, Dtype, Header, Layout, Limits, Magnitudes, codec, header::header_length,
};

/// Checks a checkpoint file that comes in parts of any size: header, layout, and that every float is finite, and within its bound
/// where there is one.
///
/// Nothing of the data is kept: memory is the header's size.
#[derive(Debug)]
pub struct Scanner {
    expected: Option<Layout>,
    bounds: Option<Bounds>,
    /// Sums of squares by canonical position, where they are asked for; empty until the header is whole.
    squares: Option<Vec<f64>>,
    size: u64,
    limits: Limits,
    taken: u64,
    /// The beginning of the file, until the header is whole.
    beginning: Vec<u8>,
    header: Option<Header>,
    /// Canonical positions in the order of the file, and where in it the scan stands.
    order: Vec<usize>,
    at: usize,
    /// The first bytes of an element that the last part cut.
    cut: Vec<u8>,
}

impl Scanner {
    /// For a file of `size` bytes that must have the `expected` layout, if one is known.
    #[must_use]
    pub fn new(expected: Option<Layout>, size: u64, limits: Limits) -> Self {
        Self {
            expected,
            bounds: None,
            squares: None,
            size,
            limits,
            taken: 0,
            beginning: Vec::new(),
            header: None,
            order: Vec::new(),
            at: 0,
            cut: Vec::new(),
        }
    }

    /// The same, values beyond bounds refused too. They count where a layout is expected: it says which tensor is meant.
    #[must_use]
    pub fn within(self, bounds: Option<Bounds>) -> Self {
        Self { bounds: bounds.filter(|_| self.expected.is_some()), ..self }
    }

    /// The same, and measures what passes, from the first byte on: see [`Scanner::magnitudes`].
    #[must_use]
    pub fn measuring(self) -> Self {
        Self { squares: Some(Vec::new()), ..self }
    }

    /// How large the values are, where that was asked for and all bytes are there.
    #[must_use]
    pub fn magnitudes(&self) -> Option<Magnitudes> {
        let header = self.header.as_ref().filter(|_| self.taken == self.size)?;
        Some(Magnitudes::from_squares(header.layout(), self.squares.as_ref()?))
    }

    /// The file's layout, once its header is whole.
    #[must_use]
    pub fn layout(&self) -> Option<&Layout> {
        self.header.as_ref().map(Header::layout)
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`CheckpointError`] as soon as the bytes show that this is no checkpoint, not of the expected layout, not finite, or
    /// beyond a bound. The scanner must not be used after that.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), CheckpointError> {
        if bytes.len() as u64 > self.size - self.taken {
            return Err(CheckpointError::Length { header: self.size, file: self.taken + bytes.len() as u64 });
        }
        self.taken += bytes.len() as u64;
        if self.header.is_none() {
            bytes = self.take_beginning(bytes)?;
        }
        self.scan(bytes)
    }

    /// Ends the scan.
    ///
    /// # Errors
    /// [`CheckpointError::TooShort`] if bytes are missing.
    pub fn finish(self) -> Result<Header, CheckpointError> {
        match self.header {
            Some(header) if self.taken == self.size => Ok(header),
            _ => Err(CheckpointError::TooShort { size: self.taken }),
        }
    }

    /// Collects the header; gives what of `bytes` lies behind it.
    fn take_beginning<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], CheckpointError> {
        let (need, bytes) = self.fill(8, bytes);
        if need {
            return Ok(bytes);
        }
        let mut prefix = [0; 8];
        prefix.copy_from_slice(&self.beginning[..8]);
        let limits = self.expected.as_ref().map_or(self.limits, |expected| self.limits.within(expected));
        let length = header_length(prefix, self.size, &limits)?;
        let (need, bytes) = self.fill(8 + length, bytes);
        if need {
            return Ok(bytes);
        }
        let header = Header::parse(&self.beginning[8..], self.size - 8 - length as u64, &self.limits)?;
        if let Some(expected) = &self.expected {
            compare(expected, header.layout())?;
        }
        self.order = header.file_order();
        if let Some(squares) = &mut self.squares {
            *squares = vec![0.0; self.order.len()];
        }
        self.header = Some(header);
        self.beginning = Vec::new();
        Ok(bytes)
    }

    /// Fills the beginning up to `length`; tells whether more is needed, and what of `bytes` is left.
    fn fill<'a>(&mut self, length: usize, bytes: &'a [u8]) -> (bool, &'a [u8]) {
        let missing = length.saturating_sub(self.beginning.len());
        let (now, rest) = bytes.split_at(missing.min(bytes.len()));
        self.beginning.extend_from_slice(now);
        (self.beginning.len() < length, rest)
    }

    fn scan(&mut self, mut bytes: &[u8]) -> Result<(), CheckpointError> {
        let Some(header) = &self.header else { return Ok(()) };
        let mut position = self.taken - bytes.len() as u64;
        while !bytes.is_empty() {
            let Some(&index) = self.order.get(self.at) else { return Ok(()) };
            let range = header.range(index);
            if position >= range.end {
                self.at += 1;
                continue;
            }
            let info = &header.layout().tensors()[index];
            let left = usize::try_from(range.end - position).unwrap_or(usize::MAX);
            let (mine, rest) = bytes.split_at(left.min(bytes.len()));
            let most = self.bounds.as_ref().map_or(f64::INFINITY, |bounds| bounds.of(index));
            let bad = |offset: u64, element: &[u8]| {
                let name = info.name.clone();
                let index = (offset - range.start) / info.dtype.size() as u64;
                match codec::to_f64(info.dtype, element).first() {
                    Some(&value) if info.dtype.is_float() && value.is_finite() => {
                        CheckpointError::Magnitude { name, index, value, most }
                    }
                    _ => CheckpointError::NotFinite { name, index },
                }
            };
            let mut add = |elements: &[u8]| {
                if let Some(squares) = &mut self.squares {
                    squares[index] += codec::sum_of_squares(info.dtype, elements);
                }
            };
            let mut whole = mine;
            if !self.cut.is_empty() {
                let missing = info.dtype.size() - self.cut.len();
                let (now, after) = mine.split_at(missing.min(mine.len()));
                self.cut.extend_from_slice(now);
                whole = after;
                if self.cut.len() == info.dtype.size() {
                    if first_bad(info.dtype, &self.cut, most).is_some() {
                        return Err(bad(position, &self.cut));
                    }
                    add(&self.cut);
                    self.cut.clear();
                }
            }
            let tail = whole.len() % info.dtype.size();
            let (elements, cut) = whole.split_at(whole.len() - tail);
            if let Some(offset) = first_bad(info.dtype, elements, most) {
                let before = (mine.len() - whole.len()) as u64;
                return Err(bad(position + before + offset as u64, &elements[offset..][..info.dtype.size()]));
            }
            add(elements);
            self.cut.extend_from_slice(cut);
            position += mine.len() as u64;
            bytes = rest;
        }
        Ok(())
    }
}

/// Byte offset of the first element that is no finite number (or no boolean), or whose magnitude is more than `most`. The bits of
/// floats of one sign are ordered as they are, those of infinity and NaN after all numbers: one comparison tells both.
fn first_bad(dtype: Dtype, bytes: &[u8], most: f64) -> Option<usize> {
    fn find<const N: usize>(bytes: &[u8], bad: impl Fn([u8; N]) -> bool + Copy) -> Option<usize> {
        let (elements, _) = bytes.as_chunks::<N>();
        // Most files are good: a scan without an exit runs at the memory's speed.
        const PART: usize = 4096;
        for (part, elements) in elements.chunks(PART).enumerate() {
            if pulp::Arch::new().dispatch(Any { elements, bad }) {
                return elements
                    .iter()
                    .position(|&element| bad(element))
                    .map(|index| (part * PART + index) * N);
            }
        }
        None
    }
    let single = f32_within(most);
    match dtype {
        Dtype::F64 => {
            let most = most.min(f64::MAX).to_bits();
            find(bytes, move |bytes| u64::from_le_bytes(bytes) & !(1 << 63) > most)
        }
        Dtype::F32 => {
            let most = single.to_bits();
            find(bytes, move |bytes| u32::from_le_bytes(bytes) & !(1 << 31) > most)
        }
        Dtype::BF16 => {
            // Its bits are the upper ones of an f32: the lower ones cut off, it is not larger.
            let [_, _, lower, upper] = single.to_le_bytes();
            let most = u16::from_le_bytes([lower, upper]);
            find(bytes, move |bytes| u16::from_le_bytes(bytes) & !(1 << 15) > most)
        }
        Dtype::F16 => {
            let most = f16_within(single).to_bits();
            find(bytes, move |bytes| u16::from_le_bytes(bytes) & !(1 << 15) > most)
        }
        Dtype::Bool => bytes.iter().position(|&byte| byte > 1),
        _ => None,
    }
}

/// The largest finite f32 that is not more than a bound, which is not negative.
#[expect(clippy::cast_possible_truncation, reason = "what rounding adds is taken away again")]
fn f32_within(most: f64) -> f32 {
    let near = (most as f32).min(f32::MAX);
    if f64::from(near) > most { near.next_down() } else { near }
}

/// The same of 16 bits.
fn f16_within(most: f32) -> f16 {
    let near = f16::from_f32(most.min(f16::MAX.to_f32()));
    if near.to_f32() > most { f16::from_bits(near.to_bits() - 1) } else { near }
}

/// Whether any of some elements is bad: one plain loop, compiled for each width of the machine's vectors.
struct Any<'e, const N: usize, F> {
    elements: &'e [[u8; N]],
    bad: F,
}

impl<const N: usize, F: Fn([u8; N]) -> bool> pulp::NullaryFnOnce for Any<'_, N, F> {
    type Output = bool;

    #[inline(always)]
    fn call(self) -> bool {
        self.elements.iter().fold(false, |any, &element| any | (self.bad)(element))
    }
}

/// Says in which tensor two layouts differ first.
pub(crate) fn compare(expected: &Layout, found: &Layout) -> Result<(), CheckpointError> {
    for tensor in expected.tensors() {
        match found.get(&tensor.name) {
            None => return Err(CheckpointError::Missing { name: tensor.name.clone() }),
            Some(other) if other != tensor => {
                return Err(CheckpointError::Differs {
                    name: tensor.name.clone(),
                    expected: format!("{} {:?}", tensor.dtype, tensor.shape),
                    found: format!("{} {:?}", other.dtype, other.shape),
                });
            }
            Some(_) => {}
        }
    }
    match found.tensors().iter().find(|tensor| expected.get(&tensor.name).is_none()) {
        Some(extra) => Err(CheckpointError::Extra { name: extra.name.clone() }),
        None => Ok(()),
    }
}
