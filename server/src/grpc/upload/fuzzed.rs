//! An upload's chunks, for fuzzing: the file, the hash and the scan agree, whatever comes in whatever order.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use fedbasin_proto::v1;
use prost::Message as _;
use rebasin::{Digest, Limits, Scanner};

use super::file::append_blocking;
use crate::{error::Code, store::Staging};

/// Bytes of the announced size, in front of the chunks.
const SIZE_BYTES: usize = 2;

/// A stream of chunks: two bytes of announced size, then messages as gRPC frames them. A checksum of 0 stands for the right one.
/// Answers whether a whole checkpoint came together.
///
/// # Panics
/// Where what was written is not what was taken, or a whole, scanned file cannot be sealed.
#[must_use]
pub fn chunks(bytes: &[u8]) -> bool {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let Some((size, mut rest)) = bytes.split_first_chunk::<SIZE_BYTES>() else { return false };
    // No smaller one is ever announced.
    let size = u64::from(u16::from_le_bytes(*size)).max(9);
    let folder = FOLDER.get_or_init(crate::fuzzed::folder);
    let path = folder.path().join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    let open = || Staging::open(path.clone(), size, Scanner::new(None, size, Limits::default()), None);
    let mut staging = open().expect("an empty upload");
    let mut taken = Vec::new();
    while let Some((chunk, after)) = next(rest) {
        rest = after;
        match append_blocking(&mut staging, &chunk) {
            Ok(()) => taken.extend_from_slice(&chunk.data),
            // The stream ends; a newer one goes on.
            Err(error) if error.code() == Code::OffsetMismatch => {}
            // The upload is rejected, or its file is closed and read again: here that is one.
            Err(_) => break,
        }
        assert_eq!(staging.written(), taken.len() as u64);
        assert_eq!(staging.is_whole(), taken.len() as u64 == size);
    }
    let (whole, written) = (staging.is_whole(), std::fs::read(&path).expect("its file"));
    assert!(written == taken, "on the disk is what was taken");
    drop(staging);
    // A server that starts again finds the same.
    let again = open();
    let sealed = again.and_then(|staging| {
        assert_eq!(staging.written(), taken.len() as u64);
        staging.seal(Some(Digest::of(&taken)))
    });
    std::fs::remove_file(&path).expect("its file");
    assert_eq!(sealed.is_ok(), whole, "{sealed:?}");
    whole
}

/// The first of the messages, its checksum mended where it says 0; nothing where there is none.
fn next(bytes: &[u8]) -> Option<(v1::UpdateChunk, &[u8])> {
    let (prefix, rest) = bytes.split_first_chunk::<5>()?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    let (message, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    let mut chunk = v1::UpdateChunk::decode(message).ok()?;
    if chunk.crc32c == 0 {
        chunk.crc32c = crc32c::crc32c(&chunk.data);
    }
    Some((chunk, rest))
}
