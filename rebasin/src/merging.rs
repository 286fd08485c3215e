//! The mean of aligned checkpoints, block by block: memory does not grow with their number.

use std::io::{self, Write};

use crate::{
    AlignError, Alignment, BytesSource, CheckedSpec, Checkpoint, CheckpointError, Digest, Hasher, Header,
    Source, TensorInfo,
    alignment::{Moves, gather},
    codec,
};

/// Bytes of one input that are held at a time (a single row may be larger).
const BLOCK_BYTES: usize = 4 << 20;

/// What cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// Nothing to merge.
    #[error("there is nothing to merge; give at least one checkpoint")]
    Empty,
    /// Inputs and shares of different number.
    #[error("{inputs} checkpoints were given, and {others} {what}")]
    Count {
        /// Checkpoints given.
        inputs: usize,
        /// The other number.
        others: usize,
        /// Of what.
        what: &'static str,
    },
    /// Shares that are none.
    #[error("share {index} cannot be used: {why}")]
    Share {
        /// Whose, from 0.
        index: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// Alignments without a spec to read them by.
    #[error("alignments were given without the spec that they belong to")]
    SpecMissing,
    /// A mean beyond the dtype's range.
    #[error("tensor {name}: the mean's element {index} is not finite in the tensor's dtype")]
    NotFinite {
        /// The tensor.
        name: String,
        /// The element, row-major.
        index: usize,
    },
    /// A checkpoint that does not fit.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An alignment that does not fit.
    #[error(transparent)]
    Align(#[from] AlignError),
    /// Reading or writing failed.
    #[error("reading or writing: {0}")]
    Io(#[from] io::Error),
}

/// One checkpoint to be merged.
pub struct Input<'a> {
    /// Its bytes.
    pub source: &'a dyn Source,
    /// How it is brought into the common frame; `None`: as it is.
    pub alignment: Option<&'a Alignment>,
    /// Its part of the mean.
    pub share: f64,
}

/// Shares from numbers of examples: `n_k / sum n`.
///
/// # Errors
/// [`MergeError::Empty`]; [`MergeError::Share`] for a 0 among them.
#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
pub fn shares(num_examples: &[u64]) -> Result<Vec<f64>, MergeError> {
    if num_examples.is_empty() {
        return Err(MergeError::Empty);
    }
    if let Some(index) = num_examples.iter().position(|&count| count == 0) {
        return Err(MergeError::Share { index, why: "its number of examples is 0" });
    }
    let total: u128 = num_examples.iter().map(|&count| u128::from(count)).sum();
    Ok(num_examples.iter().map(|&count| count as f64 / total as f64).collect())
}

/// Merges into `out`, a safetensors file as [`Checkpoint::to_bytes`] writes it; gives its digest. `sum_k share_k *
/// aligned_k`, added in f64 in the order of the inputs and rounded once to the dtype. Tensors that are no floats come from
/// `reference` as they are (by default from the first input, aligned as it is). Each input is read once; memory is a few
/// blocks of a few megabytes, whatever the number of inputs.
///
/// `observe` is told bytes done and bytes in all.
///
/// # Errors
/// [`MergeError`].
pub fn merge_to(
    spec: Option<&CheckedSpec>,
    inputs: &[Input<'_>],
    reference: Option<&dyn Source>,
    out: &mut dyn Write,
    observe: &mut dyn FnMut(u64, u64),
) -> Result<Digest, MergeError> {
    let first = inputs.first().ok_or(MergeError::Empty)?;
    let (reference, of_reference) = match reference {
        Some(reference) => (reference, None),
        None => (first.source, first.alignment),
    };
    check(spec, inputs, reference)?;
    let layout = first.source.header().layout();
    let (header, beginning) = Header::canonical(layout);
    let total = layout.num_bytes() as u64;
    let mut writer = HashingWriter { out, hasher: Hasher::default() };
    writer.write_all(&beginning)?;
    let mut done = 0;
    for index in header.file_order() {
        let info = &layout.tensors()[index];
        for block in blocks(index, info, spec) {
            let bytes = if info.dtype.is_float() {
                mean_of_block(inputs, &block, info)?
            } else {
                block.read(reference, of_reference)?
            };
            writer.write_all(&bytes)?;
            done += bytes.len() as u64;
            observe(done, total);
        }
    }
    writer.flush()?;
    Ok(writer.hasher.finish())
}

fn check(spec: Option<&CheckedSpec>, inputs: &[Input<'_>], reference: &dyn Source) -> Result<(), MergeError> {
    let layout = reference.header().layout();
    for (index, input) in inputs.iter().enumerate() {
        crate::scanner::compare(layout, input.source.header().layout())?;
        if !input.share.is_finite() || input.share < 0.0 {
            return Err(MergeError::Share { index, why: "it is negative or not finite" });
        }
        match (input.alignment, spec) {
            (Some(alignment), Some(spec)) => alignment.check(spec)?,
            (Some(_), None) => return Err(MergeError::SpecMissing),
            (None, _) => {}
        }
    }
    if let Some(spec) = spec {
        crate::scanner::compare(spec.layout(), layout)?;
    }
    Ok(())
}

fn mean_of_block(inputs: &[Input<'_>], block: &Block<'_>, info: &TensorInfo) -> Result<Vec<u8>, MergeError> {
    let mut sum = vec![0.0_f64; block.num_bytes() / info.dtype.size()];
    for input in inputs {
        let bytes = block.read(input.source, input.alignment)?;
        for (sum, value) in sum.iter_mut().zip(codec::to_f64(info.dtype, &bytes)) {
            *sum += input.share * value;
        }
    }
    let mut bytes = Vec::new();
    codec::from_f64(info.dtype, &sum, &mut bytes).map_err(|index| MergeError::NotFinite {
        name: info.name.clone(),
        index: block.begin * (block.row_bytes / info.dtype.size()) + index,
    })?;
    Ok(bytes)
}

/// Some rows (positions along the first axis) of one tensor.
struct Block<'a> {
    index: usize,
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
fn blocks<'a>(
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
    fn num_bytes(&self) -> usize {
        (self.end - self.begin) * self.row_bytes
    }

    /// The rows' bytes as the alignment puts them. A tensor that is one block is read in one piece; otherwise
    /// neighbouring rows are read together. Then the other axes are gathered.
    fn read(&self, source: &dyn Source, alignment: Option<&Alignment>) -> Result<Vec<u8>, MergeError> {
        let start = source.header().range(self.index).start;
        let mut bytes = vec![0; self.num_bytes()];
        let (Some(spec), Some(alignment)) = (self.spec, alignment) else {
            source.read_at(start + (self.begin * self.row_bytes) as u64, &mut bytes)?;
            return Ok(bytes);
        };
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

struct HashingWriter<'a> {
    out: &'a mut dyn Write,
    hasher: Hasher,
}

impl Write for HashingWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The mean in memory: [`merge_to`] of checkpoints that are held anyway.
///
/// # Errors
/// [`MergeError`].
pub fn mean(
    spec: Option<&CheckedSpec>,
    checkpoints: &[&Checkpoint],
    alignments: Option<&[Alignment]>,
    shares: &[f64],
) -> Result<Checkpoint, MergeError> {
    let count = |others, what| MergeError::Count { inputs: checkpoints.len(), others, what };
    if shares.len() != checkpoints.len() {
        return Err(count(shares.len(), "shares"));
    }
    if let Some(alignments) = alignments
        && alignments.len() != checkpoints.len()
    {
        return Err(count(alignments.len(), "alignments"));
    }
    let sources: Vec<BytesSource> = checkpoints
        .iter()
        .map(|checkpoint| BytesSource::new(checkpoint.to_bytes(), Header::canonical(checkpoint.layout()).0))
        .collect();
    let inputs: Vec<Input<'_>> = sources
        .iter()
        .enumerate()
        .map(|(index, source)| Input {
            source,
            alignment: alignments.map(|alignments| &alignments[index]),
            share: shares[index],
        })
        .collect();
    let mut bytes = Vec::new();
    merge_to(spec, &inputs, None, &mut bytes, &mut |_, _| {})?;
    Ok(Checkpoint::from_bytes(&bytes)?)
}

#[cfg(test)]
mod tests;
