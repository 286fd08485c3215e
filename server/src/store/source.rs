//! Stored bytes as they came, whatever they are encrypted with.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use ::bytes::Bytes;
use fedbasin_cipher::FileCipher;
use futures::{Stream, StreamExt as _, stream::BoxStream};
use rebasin::{CheckpointError, FileSource, Header, Source};

use super::encryption::turn;
use crate::error::Result;

/// A stored checkpoint, to be read anywhere.
#[derive(Debug)]
pub struct StoredSource {
    file: FileSource,
    cipher: Option<FileCipher>,
}

impl StoredSource {
    pub(super) fn open(file: File, cipher: Option<FileCipher>) -> Result<Self, CheckpointError> {
        let size = file.metadata()?.len();
        let mut bytes = Sequential { file: &file, cipher: cipher.as_ref(), offset: 0 };
        let header = Header::read(&mut bytes, size)?;
        Ok(Self { file: FileSource::new(file, header), cipher })
    }
}

impl Source for StoredSource {
    fn header(&self) -> &Header {
        self.file.header()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buffer)?;
        turn(self.cipher.as_ref(), offset, buffer);
        Ok(())
    }
}

/// A file's bytes one after another.
struct Sequential<'a> {
    file: &'a File,
    cipher: Option<&'a FileCipher>,
    offset: u64,
}

impl io::Read for Sequential<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        turn(self.cipher, self.offset, &mut buffer[..count]);
        self.offset += count as u64;
        Ok(count)
    }
}

/// What lay at `offset`, as it came. Nothing is copied where it lay plain.
pub(super) fn plain(cipher: Option<&FileCipher>, offset: u64, bytes: Bytes) -> Bytes {
    if cipher.is_none() {
        return bytes;
    }
    let mut bytes = Vec::from(bytes);
    turn(cipher, offset, &mut bytes);
    bytes.into()
}

/// The same of parts that follow one another from `offset` on.
pub(super) fn decrypted(
    parts: impl Stream<Item = Result<Bytes>> + Send + 'static,
    mut offset: u64,
    cipher: Option<FileCipher>,
) -> BoxStream<'static, Result<Bytes>> {
    let decrypt = move |part: Result<Bytes>| {
        part.map(|part| {
            let at = offset;
            offset += part.len() as u64;
            plain(cipher.as_ref(), at, part)
        })
    };
    parts.map(decrypt).boxed()
}
