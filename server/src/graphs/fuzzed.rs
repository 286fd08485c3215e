//! What the process says that derives and verifies, for fuzzing.

use rebasin::{Digest, Spec};

use super::read_answer;

/// An answer about an empty file.
///
/// # Panics
/// Where a spec is taken that is not read again as it was written, or one of another file.
#[must_use]
pub fn verdict(bytes: &[u8]) -> bool {
    let digest = Digest::of(b"");
    let Ok(verified) = read_answer(bytes, &digest) else { return false };
    assert_eq!(verified.digest, digest);
    let text = verified.spec.to_json();
    assert_eq!(Spec::from_json(&text).as_ref(), Ok(&verified.spec), "{text}");
    true
}
