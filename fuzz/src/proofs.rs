//! Of what proves something: what is tried with bytes that nobody should trust.

use fedbasin_proof::{PublicKeys, Record, SignedHead, export, model::ModelStatement};

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
