//! The reader of frames, for fuzzing.

use super::frames::{Frames, Passed};

/// One direction of a connection: a byte says whose, two how it is cut into parts, then what passes.
///
/// # Panics
/// Where it counts otherwise in parts than at once, or otherwise than RFC 9113 has it.
#[must_use]
pub fn frames(bytes: &[u8]) -> bool {
    let Some((&[side, first, later], bytes)) = bytes.split_first_chunk::<3>() else { return false };
    let begin = if side % 2 == 0 { Frames::Begin(0) } else { Frames::FRAMES };
    let (mut at_once, mut in_parts) = (begin.clone(), begin.clone());
    let whole = at_once.pass(bytes);
    let mut sum = Passed::default();
    let (head, tail) = bytes.split_at(usize::from(first).min(bytes.len()));
    for part in std::iter::once(head).chain(tail.chunks(usize::from(later) + 1)) {
        let passed = in_parts.pass(part);
        sum.data += passed.data;
        sum.others += passed.others;
    }
    assert_eq!((sum, &in_parts), (whole, &at_once), "in parts as at once");
    let (expected, well) = counted(begin == Frames::FRAMES, bytes);
    assert_eq!(whole, expected);
    well
}

/// The same of bytes that are all at hand, and whether a frame is whole among them.
fn counted(frames: bool, bytes: &[u8]) -> (Passed, bool) {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut rest = bytes;
    if !frames {
        let Some(after) = bytes.strip_prefix(PREFACE) else {
            // What differs, and all behind it, is content of another protocol; a beginning of the preface says nothing yet.
            let same = bytes.iter().zip(PREFACE).take_while(|(left, right)| left == right).count();
            return (Passed { data: (bytes.len() - same) as u64, others: 0 }, false);
        };
        rest = after;
    }
    let (mut passed, mut well) = (Passed::default(), false);
    while let Some((&[a, b, c, kind, ..], after)) = rest.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, a, b, c]);
        let here = after.len().min(length as usize);
        if kind == 0 {
            passed.data += here as u64;
            passed.others += u32::from(length < 256);
        } else {
            passed.others += 1 + length / 1024;
        }
        well |= here == length as usize;
        rest = &after[here..];
    }
    (passed, well)
}
