//! Of what proves something: what is tried with bytes that nobody should trust.

use std::ops::Range;

use fedbasin_proof::{Frontier, Hash, PublicKeys, Record, SignedHead, export, merkle, model::ModelStatement};

/// What stands between keys and what they should have signed.
const LINE: &str = "\n====\n";

/// An exported audit log, by its own keys.
///
/// # Panics
/// If it is held for whole and is not as long as its head says, or is another one when it is read again.
#[must_use]
pub fn export(bytes: &[u8]) -> bool {
    let read = |mut bytes: &[u8]| export::verify(&mut bytes, None, None);
    let Ok(verified) = read(bytes) else { return false };
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    // A first and a last line, and nothing after the last line's end.
    assert_eq!(lines.len() as u64, verified.head.head.size + 3);
    for (place, line) in lines[1..lines.len() - 2].iter().enumerate() {
        let record = Record::from_line(std::str::from_utf8(line).expect("text")).expect("a record");
        assert_eq!(record.seq, place as u64);
    }
    assert_eq!(read(bytes).as_ref(), Ok(&verified));
    // Who saw this head takes the same log again.
    let mut again = bytes;
    assert!(export::verify(&mut again, Some(&verified.keys), Some(&verified.head)).is_ok());
    true
}

fn keys_and(bytes: &[u8]) -> Option<(PublicKeys, &str)> {
    let (keys, text) = std::str::from_utf8(bytes).ok()?.split_once(LINE)?;
    Some((PublicKeys::from_pem(keys).ok()?, text))
}

/// Public keys, and a tree head that they signed.
///
/// # Panics
/// If a head that counts has another one for its text.
#[must_use]
pub fn head(bytes: &[u8]) -> bool {
    let Some((keys, note)) = keys_and(bytes) else { return false };
    let Ok(head) = SignedHead::open(note, &keys) else { return false };
    assert_eq!(SignedHead::from_word(&head.to_word(), &keys).as_ref(), Ok(&head));
    assert_eq!(head.note(), note);
    true
}

/// Public keys, and a model's signature by them.
///
/// # Panics
/// If what is read is another statement the second time.
#[must_use]
pub fn signature(bytes: &[u8]) -> bool {
    let Some((keys, bundle)) = keys_and(bytes) else { return false };
    let Ok(statement) = ModelStatement::open(bundle, &keys) else { return false };
    assert_eq!(ModelStatement::open(bundle, &keys).as_ref(), Ok(&statement));
    true
}

/// Proofs of a log of a few records: three bytes say how many it has, how many were seen before, and which one is looked for. Behind them
/// the proof, roots of 32 bytes each; where none is given, the right one is.
///
/// # Panics
/// If a right proof is refused, or another one is taken.
#[must_use]
pub fn log_proof(bytes: &[u8]) -> bool {
    const MOST: u64 = 65;
    let Some((&[second, first, place], rest)) = bytes.split_first_chunk::<3>() else { return false };
    let [second, first, place] = [second, first, place].map(|byte| u64::from(byte) % MOST);
    let (roots, odd) = rest.as_chunks::<32>();
    let growth = merkle::consistency_ranges(first, second).map(|ranges| roots_of(&ranges));
    let inclusion = merkle::inclusion_ranges(place, second).map(|ranges| roots_of(&ranges));
    assert_eq!((growth.is_some(), inclusion.is_some()), (first <= second, place < second));
    let (older, newer) = (root(&(0..first)), root(&(0..second)));
    let grew = |proof: &[Hash]| merkle::verify_consistency((first, &older), (second, &newer), proof);
    let holds = |proof: &[Hash]| merkle::verify_inclusion(&leaf(place), place, second, &newer, proof);
    let (right, given) = (growth.is_some() || inclusion.is_some(), !roots.is_empty());
    for (proof, shown) in [(&growth, &grew as &dyn Fn(&[Hash]) -> bool), (&inclusion, &holds)] {
        assert!(proof.as_ref().is_none_or(|proof| shown(proof)));
        assert_eq!(shown(roots), proof.as_deref() == Some(roots));
    }
    // Sizes as no log has them, with what may be a root.
    if let (Some((sizes, _)), Some(hash)) = (odd.split_first_chunk::<16>(), roots.first()) {
        let [a, b] = [&sizes[..8], &sizes[8..]]
            .map(|half| half.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)));
        assert!(!merkle::verify_inclusion(&leaf(place), a, b, hash, roots));
        assert!(!merkle::verify_consistency((a, &older), (b, hash), roots));
    }
    if given { growth.as_deref() == Some(roots) || inclusion.as_deref() == Some(roots) } else { right }
}

fn leaf(place: u64) -> Hash {
    merkle::leaf_hash(&place.to_le_bytes())
}

fn roots_of(ranges: &[Range<u64>]) -> Vec<Hash> {
    ranges.iter().map(root).collect()
}

fn root(range: &Range<u64>) -> Hash {
    let mut frontier = Frontier::default();
    for place in range.clone() {
        frontier.append(leaf(place));
    }
    frontier.root()
}
