//! What fuzzing tries of this room's readers that are not public otherwise. Compiled in under the feature `fuzzing` only. Each ends for
//! any bytes, without a panic, and tells whether there was something to read.

use http::HeaderValue;

use crate::{auth, tls::Peer};
pub use crate::{
    auth::oidc::fuzzed::*, connections::fuzzed::*, graphs::fuzzed::*, grpc::fuzzed::*, http::fuzzed::*,
    pki::fuzzed::*, store::fuzzed::*,
};

/// A folder for one process's files: in memory where the system offers that, so that nothing waits for a disk.
pub(crate) fn folder() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a folder")
}

/// A certificate, as TLS hands it over once its authority is known.
///
/// # Panics
/// Where it is read differently a second time.
#[must_use]
pub fn certificate(bytes: &[u8]) -> bool {
    let Ok(peer) = Peer::of(bytes) else { return false };
    assert_eq!(peer.fingerprint.len(), 64);
    assert_eq!(Peer::of(bytes).ok().as_ref(), Some(&peer));
    true
}

/// The values of `authorization`, or of `cookie`, one a line.
///
/// # Panics
/// Where something is taken for a token that cannot be one.
#[must_use]
pub fn authorization(bytes: &[u8]) -> bool {
    let mut headers = http::HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(value) = HeaderValue::from_bytes(line) else { return false };
        headers.append(http::header::COOKIE, value.clone());
        headers.append(http::header::AUTHORIZATION, value);
    }
    if let Some(token) = crate::http::fuzzed::cookie(&headers) {
        assert!(!token.is_empty(), "a cookie without a token signs nobody in");
        return true;
    }
    let Some(token) = auth::bearer(&headers) else { return false };
    assert!((1..=512).contains(&token.len()) && token.trim() == token, "{token:?}");
    let whole = [auth::SITE_PREFIX, auth::ADMIN_PREFIX].map(|prefix| auth::is_whole(token, prefix));
    assert!(whole != [true, true], "one token, one kind");
    whole.contains(&true)
}
