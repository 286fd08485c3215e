//! The mean of aligned checkpoints, block by block: memory does not grow with their number.

mod block;
mod differences;
mod pipeline;

use std::io::{self, Write};

pub use self::differences::{Differences, Standing};
use self::pipeline::Blocks;
use crate::{
    AlignError, Alignment, CheckedSpec, Checkpoint, CheckpointError, Header, Source, Tensor, source::InMemory,
};

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

/// Merges into `out`, a safetensors file as [`Checkpoint::to_bytes`] writes it, of [`Header::canonical_file_size`] bytes. `sum_k share_k *
/// aligned_k`, added in f64 in the order of the inputs and rounded once to the dtype. Tensors that are no floats come from
/// `reference` as they are (by default from the first input, aligned as it is). Each input is read once; memory is some megabytes,
/// whatever the number of inputs and their size (but for a single row that is larger).
///
/// Blocks are computed on rayon's threads while those before them are written. `observe` is told bytes done and bytes in all.
///
/// # Errors
/// [`MergeError`].
pub fn merge_to(
    spec: Option<&CheckedSpec>,
    inputs: &[Input<'_>],
    reference: Option<&dyn Source>,
    out: &mut (dyn Write + Send),
    observe: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<(), MergeError> {
    write(&blocks(spec, inputs, reference)?, None, out, observe)
}

/// The same, to the byte, and how each input stands beside the `reference` and the others. The reference is read too, and the
/// inputs a second time while they are warm: about twice the work of a mean, in no more memory. The sums are made in f64 in an
/// order that neither the number of threads nor the machine changes.
///
/// # Errors
/// As [`merge_to`].
pub fn merge_measured(
    spec: Option<&CheckedSpec>,
    inputs: &[Input<'_>],
    reference: &dyn Source,
    out: &mut (dyn Write + Send),
    observe: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Differences, MergeError> {
    let blocks = blocks(spec, inputs, Some(reference))?;
    let mut differences = Differences::new(inputs.iter().map(|input| input.share).collect());
    write(&blocks, Some(&mut differences), out, observe)?;
    Ok(differences)
}

fn write(
    blocks: &Blocks<'_>,
    differences: Option<&mut Differences>,
    out: &mut (dyn Write + Send),
    observe: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<(), MergeError> {
    let (_, beginning) = Header::canonical(blocks.layout());
    let total = blocks.layout().num_bytes() as u64;
    out.write_all(&beginning)?;
    let mut done = 0;
    let mut sink = |_: usize, bytes: &[u8]| {
        out.write_all(bytes)?;
        done += bytes.len() as u64;
        observe(done, total);
        Ok(())
    };
    blocks.each(differences, &mut sink)?;
    Ok(out.flush()?)
}

fn blocks<'a>(
    spec: Option<&'a CheckedSpec>,
    inputs: &'a [Input<'a>],
    reference: Option<&'a dyn Source>,
) -> Result<Blocks<'a>, MergeError> {
    let first = inputs.first().ok_or(MergeError::Empty)?;
    let (reference, of_reference) = match reference {
        Some(reference) => (reference, None),
        None => (first.source, first.alignment),
    };
    check(spec, inputs, reference)?;
    // Where no input moves, no tensor does.
    let spec = spec.filter(|_| inputs.iter().any(|input| input.alignment.is_some()));
    Ok(Blocks { spec, inputs, reference, of_reference })
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
    let sources: Vec<InMemory<'_>> = checkpoints.iter().map(|checkpoint| InMemory::new(checkpoint)).collect();
    let inputs: Vec<Input<'_>> = sources
        .iter()
        .enumerate()
        .map(|(index, source)| Input {
            source,
            alignment: alignments.map(|alignments| &alignments[index]),
            share: shares[index],
        })
        .collect();
    let blocks = blocks(spec, &inputs, None)?;
    let layout = blocks.layout();
    let mut tensors: Vec<Vec<u8>> =
        layout.tensors().iter().map(|info| Vec::with_capacity(info.num_bytes())).collect();
    blocks.each(None, &mut |index, bytes| {
        tensors[index].extend_from_slice(bytes);
        Ok(())
    })?;
    let tensors = layout.tensors().iter().zip(tensors).map(|(info, bytes)| Tensor::from_bytes(info, bytes));
    Ok(Checkpoint::new(layout.clone(), tensors.collect::<Result<_, _>>()?)?)
}

#[cfg(test)]
mod tests;
