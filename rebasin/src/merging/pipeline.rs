//! Blocks computed side by side, and handed out in order while the next ones are computed.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::{
    Differences, Input, MergeError,
    block::{BLOCK_BYTES, Block, blocks},
};
use crate::{Alignment, CheckedSpec, Header, Layout, Source, TensorInfo, codec, scale::Multipliers};

/// Bytes of an input that are computed side by side: enough to keep a few threads busy, few enough to stay in cache.
const TOGETHER_BYTES: usize = 8 * BLOCK_BYTES;

/// Small blocks of a batch, at most.
const TOGETHER: usize = 16;

/// Bytes of an input that are added at a time where nothing moves: they and their sums in f64 stay in a core's own cache.
const TILE_BYTES: usize = 64 << 10;

/// The same where inputs are measured: some of them, the reference and the sums stay there until they are read again.
const MEASURED_TILE_BYTES: usize = 16 << 10;

/// Whoever takes the merged bytes: the tensor's index, and the next of its bytes.
pub(super) type Sink<'s> = &'s mut (dyn FnMut(usize, &[u8]) -> Result<(), MergeError> + Send);

/// Inputs that are checked, and what their mean is made by.
pub(super) struct Blocks<'a> {
    pub(super) spec: Option<&'a CheckedSpec>,
    pub(super) inputs: &'a [Input<'a>],
    /// Whose tensors that are no floats count, and how they are aligned.
    pub(super) reference: &'a dyn Source,
    pub(super) of_reference: Option<&'a Alignment>,
}

/// One block's place in a batch; its buffers are used again.
#[derive(Default)]
struct Slot {
    index: usize,
    /// Of inputs.
    bytes: [Vec<u8>; codec::AT_ONCE],
    sum: Vec<f64>,
    /// The block, merged.
    out: Vec<u8>,
    /// What is measured beside; empty where nothing is.
    measured: Measured,
}

/// One block's part of [`Differences`].
#[derive(Default)]
struct Measured {
    inputs: Vec<[f64; 2]>,
    mean: f64,
}

impl Slot {
    /// Keeps no buffers that are larger than a block needs: a single long row may be.
    fn let_go(&mut self) {
        if self.out.capacity() > 2 * BLOCK_BYTES {
            *self = Self::default();
        }
    }
}

/// The next blocks to be computed side by side: at least one, if there is one.
fn batch<'b>(all: &mut std::iter::Peekable<impl Iterator<Item = Block<'b>>>) -> Vec<Block<'b>> {
    let mut batch: Vec<Block<'b>> = Vec::new();
    let mut bytes = 0;
    while let Some(block) = all.next_if(|block| {
        batch.is_empty() || (bytes + block.num_bytes() <= TOGETHER_BYTES && batch.len() < TOGETHER)
    }) {
        bytes += block.num_bytes();
        batch.push(block);
    }
    batch
}

impl Blocks<'_> {
    pub(super) fn layout(&self) -> &Layout {
        self.inputs[0].source.header().layout()
    }

    /// Hands all merged bytes to `sink`, in the order of a file, and measures the inputs where that is asked for.
    pub(super) fn each(
        &self,
        mut differences: Option<&mut Differences>,
        sink: Sink<'_>,
    ) -> Result<(), MergeError> {
        let layout = self.layout();
        let order = Header::canonical(layout).0.file_order();
        let mut all =
            order.into_iter().flat_map(|index| blocks(index, &layout.tensors()[index], self.spec)).peekable();
        let (mut ready, mut next): (Vec<Slot>, Vec<Slot>) = (Vec::new(), Vec::new());
        let mut waiting = 0;
        // Of the tensors of a batch.
        let mut scaled: BTreeMap<usize, Vec<Option<Multipliers>>> = BTreeMap::new();
        let measures = differences.is_some();
        loop {
            let batch = batch(&mut all);
            scaled.retain(|tensor, _| batch.iter().any(|block| block.index == *tensor));
            for block in &batch {
                scaled.entry(block.index).or_insert_with(|| self.multipliers(block.index));
            }
            next.resize_with(next.len().max(batch.len()), Slot::default);
            let (written, computed) = rayon::join(
                || ready[..waiting].iter().try_for_each(|slot| sink(slot.index, &slot.out)),
                || {
                    let slots = batch.par_iter().zip(&mut next);
                    slots
                        .map_init(Vec::new, |reference, (block, slot)| {
                            self.compute(block, &scaled[&block.index], slot, measures.then_some(reference))
                        })
                        .collect::<Vec<_>>()
                },
            );
            // What comes first in the file is said first.
            written?;
            computed.into_iter().collect::<Result<(), _>>()?;
            waiting = batch.len();
            if let Some(differences) = &mut differences {
                for slot in &next[..waiting] {
                    let is_statistic = layout.tensors()[slot.index].is_statistic();
                    differences.add(is_statistic, &slot.measured.inputs, slot.measured.mean);
                }
            }
            if waiting == 0 {
                return Ok(());
            }
            ready.iter_mut().for_each(Slot::let_go);
            std::mem::swap(&mut ready, &mut next);
        }
    }

    /// What each input's alignment multiplies a tensor by.
    fn multipliers(&self, tensor: usize) -> Vec<Option<Multipliers>> {
        let of = |input: &Input<'_>| {
            let (spec, alignment) = (self.spec?, input.alignment?);
            Multipliers::of(spec, tensor, &alignment.factors)
        };
        self.inputs.iter().map(of).collect()
    }

    /// Merges a block; measures it too where there is a place for the reference's values. `scaled`: of its tensor, of each input.
    fn compute(
        &self,
        block: &Block<'_>,
        scaled: &[Option<Multipliers>],
        slot: &mut Slot,
        mut reference: Option<&mut Vec<f64>>,
    ) -> Result<(), MergeError> {
        let info = &self.layout().tensors()[block.index];
        slot.index = block.index;
        slot.out.clear();
        slot.measured.begin(self.inputs.len());
        if !info.dtype.is_float() {
            slot.out = block.read(self.reference, self.of_reference, None)?;
            return Ok(());
        }
        if block.moves() {
            slot.sum.clear();
            slot.sum.resize(block.num_bytes() / info.dtype.size(), 0.0);
            for (input, scaled) in self.inputs.iter().zip(scaled) {
                let bytes = block.read(input.source, input.alignment, scaled.as_ref())?;
                codec::add_scaled(info.dtype, &bytes, input.share, &mut slot.sum);
            }
            round(block, info, 0, slot)?;
            if let Some(reference) = reference {
                self.refer(info, &block.read(self.reference, None, None)?, reference, slot);
                for (at, (input, scaled)) in self.inputs.iter().zip(scaled).enumerate() {
                    let bytes = block.read(input.source, input.alignment, scaled.as_ref())?;
                    slot.measured.add(at, codec::differences(info.dtype, &bytes, reference, &slot.sum));
                }
            }
            return Ok(());
        }
        let tile = if reference.is_some() { MEASURED_TILE_BYTES } else { TILE_BYTES };
        for offset in (0..block.num_bytes()).step_by(tile) {
            let size = tile.min(block.num_bytes() - offset);
            slot.sum.clear();
            slot.sum.resize(size / info.dtype.size(), 0.0);
            for some in self.inputs.chunks(codec::AT_ONCE) {
                let mut parts: [(&[u8], f64); codec::AT_ONCE] = Default::default();
                for ((part, input), buffer) in parts.iter_mut().zip(some).zip(&mut slot.bytes) {
                    *part = (block.part(input.source, offset, size, buffer)?, input.share);
                }
                codec::add_all_scaled(info.dtype, &parts[..some.len()], &mut slot.sum);
            }
            round(block, info, offset, slot)?;
            if let Some(reference) = &mut reference {
                let mut buffer = std::mem::take(&mut slot.bytes[0]);
                let bytes = block.part(self.reference, offset, size, &mut buffer)?;
                self.refer(info, bytes, reference, slot);
                for (at, input) in self.inputs.iter().enumerate() {
                    let bytes = block.part(input.source, offset, size, &mut buffer)?;
                    slot.measured.add(at, codec::differences(info.dtype, bytes, reference, &slot.sum));
                }
                slot.bytes[0] = buffer;
            }
        }
        Ok(())
    }

    /// Decodes the reference's values, and makes of the sums of the inputs those of their differences to it.
    fn refer(&self, info: &TensorInfo, bytes: &[u8], reference: &mut Vec<f64>, slot: &mut Slot) {
        reference.clear();
        reference.resize(slot.sum.len(), 0.0);
        codec::add_scaled(info.dtype, bytes, 1.0, reference);
        let shares: f64 = self.inputs.iter().map(|input| input.share).sum();
        slot.measured.mean += codec::subtract_scaled(reference, shares, &mut slot.sum);
    }
}

impl Measured {
    fn begin(&mut self, inputs: usize) {
        self.inputs.clear();
        self.inputs.resize(inputs, [0.0; 2]);
        self.mean = 0.0;
    }

    /// Adds an input's part.
    fn add(&mut self, at: usize, part: [f64; 2]) {
        self.inputs[at][0] += part[0];
        self.inputs[at][1] += part[1];
    }
}

/// Rounds the sums of the elements from `offset` on to the tensor's dtype.
fn round(block: &Block<'_>, info: &TensorInfo, offset: usize, slot: &mut Slot) -> Result<(), MergeError> {
    codec::from_f64(info.dtype, &slot.sum, &mut slot.out).map_err(|index| MergeError::NotFinite {
        name: info.name.clone(),
        index: block.first_element() + offset / info.dtype.size() + index,
    })
}
