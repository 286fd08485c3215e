//! Parts of a tensor that are merged at a time.

use std::io;

use super::MergeError;
use crate::{
    AlignError, Alignment, CheckedSpec, Source, TensorInfo,
    alignment::{Moves, gather},
    scale::Multipliers,
};

/// Bytes of one input that are held at a time for one block (a single row may be larger).
pub(super) const BLOCK_BYTES: usize = 512 << 10;

/// Some rows (positions along the first axis) of one tensor.
pub(super) struct Block<'a> {
    pub(super) index: usize,
    shape: Vec<usize>,
    /// How the axes move; `None` if none does.
    spec: Option<&'a CheckedSpec>,
    begin: usize,
    end: usize,
    row_bytes: usize,
    element_bytes: usize,
}

/// Cuts a tensor into blocks: into elements if nothing of it moves, else into rows. Small tensors stay whole. (A single
/// row whose other axes move is held whole, however long.)
pub(super) fn blocks<'a>(
    index: usize,
    info: &TensorInfo,
    spec: Option<&'a CheckedSpec>,
) -> impl Iterator<Item = Block<'a>> + use<'a> {
    let spec = spec.filter(|spec| spec.axes(index).iter().any(Option::is_some));
    let shape = if spec.is_some() { info.shape.clone() } else { vec![info.num_elements()] };
    let (rows, element_bytes) = (shape[0], info.dtype.size());
    let row_bytes = shape[1..].iter().product::<usize>() * element_bytes;
    let rows_a_block = (BLOCK_BYTES / row_bytes.max(1)).max(1);
    let rows = if row_bytes == 0 { 0 } else { rows };
    (0..rows).step_by(rows_a_block).map(move |begin| {
        let end = rows.min(begin + rows_a_block);
        Block { index, shape: shape.clone(), spec, begin, end, row_bytes, element_bytes }
    })
}

impl Block<'_> {
    pub(super) fn num_bytes(&self) -> usize {
        (self.end - self.begin) * self.row_bytes
    }

    /// The first element of the block, within its tensor.
    pub(super) fn first_element(&self) -> usize {
        self.begin * (self.row_bytes / self.element_bytes)
    }

    /// Where the block begins in a file.
    fn start(&self, source: &dyn Source) -> u64 {
        source.header().range(self.index).start + (self.begin * self.row_bytes) as u64
    }

    /// Whether an alignment puts the block's elements elsewhere.
    pub(super) fn moves(&self) -> bool {
        self.spec.is_some()
    }

    /// So many of the block's bytes from `offset` on, as they lie in the file; where they are not in memory anyway, they are read into
    /// `buffer`.
    pub(super) fn part<'s>(
        &self,
        source: &'s dyn Source,
        offset: usize,
        length: usize,
        buffer: &'s mut Vec<u8>,
    ) -> io::Result<&'s [u8]> {
        let start = self.start(source) + offset as u64;
        if let Some(bytes) = source.held(start, length) {
            return Ok(bytes);
        }
        buffer.resize(length, 0);
        source.read_at(start, buffer)?;
        Ok(buffer)
    }

    /// The rows' bytes as the alignment puts them. A tensor that is one block is read in one piece; otherwise
    /// neighbouring rows are read together. Then the other axes are gathered, and what is scaled is scaled: by the alignment's
    /// [`Multipliers`] of this tensor.
    pub(super) fn read(
        &self,
        source: &dyn Source,
        alignment: Option<&Alignment>,
        multipliers: Option<&Multipliers>,
    ) -> Result<Vec<u8>, MergeError> {
        let (Some(spec), Some(alignment)) = (self.spec, alignment) else {
            let mut bytes = vec![0; self.num_bytes()];
            source.read_at(self.start(source), &mut bytes)?;
            return Ok(bytes);
        };
        let mut bytes = self.gathered(source, spec, alignment)?;
        if let Some(multipliers) = multipliers {
            let info = &source.header().layout().tensors()[self.index];
            multipliers.apply(info, self.first_element(), &mut bytes).map_err(AlignError::from)?;
        }
        Ok(bytes)
    }

    fn gathered(
        &self,
        source: &dyn Source,
        spec: &CheckedSpec,
        alignment: &Alignment,
    ) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.num_bytes()];
        let start = source.header().range(self.index).start;
        let mut moves = alignment.moves(spec, &self.shape, spec.axes(self.index));
        let mut shape = self.shape.clone();
        if self.end - self.begin == shape[0] {
            source.read_at(start, &mut bytes)?;
        } else {
            let rows = std::mem::replace(&mut moves[0], Moves::Stay);
            self.read_rows(source, start, &rows, &mut bytes)?;
            shape[0] = self.end - self.begin;
            for moves in &mut moves[1..] {
                moves.only(0, self.begin..self.end);
            }
        }
        Ok(gather(&bytes, &shape, self.element_bytes, &moves))
    }

    fn read_rows(&self, source: &dyn Source, start: u64, rows: &Moves, bytes: &mut [u8]) -> io::Result<()> {
        let from = |row: usize| rows.from(row, &[]);
        let mut row = self.begin;
        while row < self.end {
            let mut last = row + 1;
            while last < self.end && from(last) == from(row) + (last - row) {
                last += 1;
            }
            let place = (row - self.begin) * self.row_bytes..(last - self.begin) * self.row_bytes;
            source.read_at(start + (from(row) * self.row_bytes) as u64, &mut bytes[place])?;
            row = last;
        }
        Ok(())
    }
}
