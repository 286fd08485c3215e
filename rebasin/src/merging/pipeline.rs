//! Blocks computed side by side, and handed out in order while the next ones are computed.

use rayon::prelude::*;

use super::{
    Input, MergeError,
    block::{BLOCK_BYTES, Block, blocks},
};
use crate::{Alignment, CheckedSpec, Header, Layout, Source, TensorInfo, codec};

/// Bytes of an input that are computed side by side: enough to keep a few threads busy, few enough to stay in cache.
const TOGETHER_BYTES: usize = 8 * BLOCK_BYTES;

/// Small blocks of a batch, at most.
const TOGETHER: usize = 16;

/// Bytes of an input that are added at a time where nothing moves: they and their sums in f64 stay in a core's own cache.
const TILE_BYTES: usize = 64 << 10;

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

    /// Hands all merged bytes to `sink`, in the order of a file.
    pub(super) fn each(&self, sink: Sink<'_>) -> Result<(), MergeError> {
        let layout = self.layout();
        let order = Header::canonical(layout).0.file_order();
        let mut all =
            order.into_iter().flat_map(|index| blocks(index, &layout.tensors()[index], self.spec)).peekable();
        let (mut ready, mut next): (Vec<Slot>, Vec<Slot>) = (Vec::new(), Vec::new());
        let mut waiting = 0;
        loop {
            let batch = batch(&mut all);
            next.resize_with(next.len().max(batch.len()), Slot::default);
            let (written, computed) = rayon::join(
                || ready[..waiting].iter().try_for_each(|slot| sink(slot.index, &slot.out)),
                || {
                    let slots = batch.par_iter().zip(&mut next);
                    slots.map(|(block, slot)| self.compute(block, slot)).collect::<Vec<_>>()
                },
            );
            // What comes first in the file is said first.
            written?;
            computed.into_iter().collect::<Result<(), _>>()?;
            waiting = batch.len();
            if waiting == 0 {
                return Ok(());
            }
            ready.iter_mut().for_each(Slot::let_go);
            std::mem::swap(&mut ready, &mut next);
        }
    }

    fn compute(&self, block: &Block<'_>, slot: &mut Slot) -> Result<(), MergeError> {
        let info = &self.layout().tensors()[block.index];
        slot.index = block.index;
        slot.out.clear();
        if !info.dtype.is_float() {
            slot.out = block.read(self.reference, self.of_reference)?;
            return Ok(());
        }
        if block.moves() {
            slot.sum.clear();
            slot.sum.resize(block.num_bytes() / info.dtype.size(), 0.0);
            for input in self.inputs {
                let bytes = block.read(input.source, input.alignment)?;
                codec::add_scaled(info.dtype, &bytes, input.share, &mut slot.sum);
            }
            return round(block, info, 0, slot);
        }
        for offset in (0..block.num_bytes()).step_by(TILE_BYTES) {
            let size = TILE_BYTES.min(block.num_bytes() - offset);
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
        }
        Ok(())
    }
}

/// Rounds the sums of the elements from `offset` on to the tensor's dtype.
fn round(block: &Block<'_>, info: &TensorInfo, offset: usize, slot: &mut Slot) -> Result<(), MergeError> {
    codec::from_f64(info.dtype, &slot.sum, &mut slot.out).map_err(|index| MergeError::NotFinite {
        name: info.name.clone(),
        index: block.first_element() + offset / info.dtype.size() + index,
    })
}
