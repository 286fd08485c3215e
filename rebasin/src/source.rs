//! Random access to a stored checkpoint, so that none need be held whole.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use rayon::prelude::*;

use crate::{Checkpoint, CheckpointError, Header, Tensor, TensorInfo};

/// A stored checkpoint's header, and its bytes by position.
pub trait Source: Sync {
    /// The checked header.
    fn header(&self) -> &Header;

    /// Fills `buffer` with the file's bytes from `offset` on.
    ///
    /// # Errors
    /// Those of reading, and [`io::ErrorKind::UnexpectedEof`] where the file is shorter.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// So many of the file's bytes from `offset` on, where they are in memory anyway.
    fn held(&self, offset: u64, length: usize) -> Option<&[u8]> {
        let _ = (offset, length);
        None
    }
}

/// A checkpoint in a file.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    header: Header,
}

impl FileSource {
    /// From a file and its header (see [`Header::read`]).
    #[must_use]
    pub fn new(file: File, header: Header) -> Self {
        Self { file, header }
    }

    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn open(path: &std::path::Path) -> Result<Self, CheckpointError> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let header = Header::read(&mut file, size)?;
        Ok(Self { file, header })
    }
}

impl Source for FileSource {
    fn header(&self) -> &Header {
        &self.header
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

/// A checkpoint file's bytes in memory.
#[derive(Debug)]
pub struct BytesSource {
    bytes: Vec<u8>,
    header: Header,
}

impl BytesSource {
    /// From a whole file's bytes and its header.
    #[must_use]
    pub fn new(bytes: Vec<u8>, header: Header) -> Self {
        Self { bytes, header }
    }
}

impl Source for BytesSource {
    fn header(&self) -> &Header {
        &self.header
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        copy(self.held(offset, buffer.len()), buffer)
    }

    fn held(&self, offset: u64, length: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        self.bytes.get(start..start.checked_add(length)?)
    }
}

/// A checkpoint in memory as the file that [`Checkpoint::to_bytes`] would write; nothing is copied.
pub(crate) struct InMemory<'a> {
    checkpoint: &'a Checkpoint,
    header: Header,
    /// Canonical positions in the order of the file.
    order: Vec<usize>,
}

impl<'a> InMemory<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint) -> Self {
        let header = Header::canonical(checkpoint.layout()).0;
        let order = header.file_order();
        Self { checkpoint, header, order }
    }
}

impl Source for InMemory<'_> {
    fn header(&self) -> &Header {
        &self.header
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        copy(self.held(offset, buffer.len()), buffer)
    }

    /// Within one tensor's bytes only.
    fn held(&self, offset: u64, length: usize) -> Option<&[u8]> {
        let after = self.order.partition_point(|&index| self.header.range(index).end <= offset);
        let index = *self.order.get(after)?;
        let start = usize::try_from(offset.checked_sub(self.header.range(index).start)?).ok()?;
        self.checkpoint.tensor(index).bytes().get(start..start.checked_add(length)?)
    }
}

fn copy(from: Option<&[u8]>, to: &mut [u8]) -> io::Result<()> {
    to.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
    Ok(())
}

/// Reads a whole checkpoint into memory, on rayon's threads.
///
/// # Errors
/// Those of reading. Values are not scanned again: [`crate::Scanner`] does that where bytes come in.
pub fn read_checkpoint(source: &dyn Source) -> Result<Checkpoint, CheckpointError> {
    let header = source.header();
    let read = |(index, info): (usize, &TensorInfo)| {
        let mut bytes = vec![0; info.num_bytes()];
        let start = header.range(index).start;
        bytes
            .par_chunks_mut(READ_BYTES)
            .enumerate()
            .try_for_each(|(part, bytes)| source.read_at(start + (part * READ_BYTES) as u64, bytes))?;
        Tensor::from_bytes(info, bytes)
    };
    let tensors = header.layout().tensors().par_iter().enumerate().map(read).collect::<Result<_, _>>()?;
    Checkpoint::new(header.layout().clone(), tensors)
}

/// Bytes that one thread reads at a time.
const READ_BYTES: usize = 4 << 20;
