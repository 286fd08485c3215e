//! The chunks of a download, for fuzzing.

use std::{
    fs,
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use fedbasin_proto::v1::DownloadChunk;
use prost::Message as _;
use rebasin::Digest;

use super::Part;
use crate::files::part_path;

/// A checkpoint in chunks as gRPC frames them, behind a byte: whether they have the digest that was asked for, and after how many the
/// program is started anew.
///
/// # Panics
/// Where a file gets the name that is not the checkpoint, or what was taken is not kept.
#[must_use]
pub fn download(bytes: &[u8]) -> bool {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let Some((&how, bytes)) = bytes.split_first() else { return false };
    let folder = FOLDER.get_or_init(crate::fuzzed::folder);
    let target = folder.path().join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    let chunks = chunks(bytes);
    let whole: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.data.to_vec()).collect();
    let digest = if how % 2 == 0 { Digest::of(&whole) } else { Digest::of(b"another one") };
    let well = fetched(&target, digest, &chunks, usize::from(how / 2));
    for path in [part_path(&target, &digest), target] {
        // Either may be there.
        let _ = fs::remove_file(path);
    }
    well
}

fn chunks(mut bytes: &[u8]) -> Vec<DownloadChunk> {
    let mut chunks = Vec::new();
    while let Some((&[_, length @ ..], rest)) = bytes.split_first_chunk::<5>() {
        let message =
            usize::try_from(u32::from_be_bytes(length)).ok().and_then(|length| rest.split_at_checked(length));
        let Some((message, rest)) = message else { break };
        let Ok(chunk) = DownloadChunk::decode(message) else { break };
        chunks.push(chunk);
        bytes = rest;
    }
    chunks
}

/// Whether the chunks came to a checkpoint.
fn fetched(target: &Path, digest: Digest, chunks: &[DownloadChunk], anew: usize) -> bool {
    let mut part = Part::open(target, digest).expect("a file");
    let mut taken = Vec::new();
    for (number, chunk) in chunks.iter().enumerate() {
        if number > 0 && number == anew {
            part.leave();
            part = Part::open(target, digest).expect("its file");
        }
        if part.push(chunk).is_ok() {
            taken.extend_from_slice(&chunk.data);
            assert!(taken.len() as u64 <= chunk.total_size);
        }
        assert_eq!(part.offset, taken.len() as u64);
    }
    assert!(!target.exists(), "it has no name before it is whole");
    assert!(fs::read(part_path(target, &digest)).expect("its file") == taken);
    let right = Digest::of(&taken) == digest;
    let refused = part.complete().expect("the disk takes it");
    assert_eq!(refused.is_none(), right, "{refused:?}");
    assert_eq!(fs::read(target).ok(), right.then_some(taken));
    right
}
