//! What fuzzing tries of this room's readers that are not public otherwise. Compiled in under the feature `fuzzing` only. Each ends for
//! any bytes, without a panic, and tells whether there was something to read.

use fedbasin_proto::v1;
use prost::Message as _;
use tonic::{Code, Status};

use crate::{
    admin, connect,
    error::Error,
    retry::verdict,
    site::{alignment_line, fuzzed::status},
    trust,
};
pub use crate::{download::fuzzed::download, site::fuzzed::workdir};

/// A folder for one process's files: in memory where the system offers that, so that nothing waits for a disk.
///
/// # Panics
/// Where there is none to be had.
#[must_use]
pub fn folder() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a folder")
}

/// Something that a server says: the first byte says what.
///
/// # Panics
/// Where something is believed that nobody signed, or a person would be shown more than a line.
#[must_use]
pub fn answer(bytes: &[u8]) -> bool {
    let Some((which, bytes)) = bytes.split_first() else { return false };
    match which % 8 {
        0 => v1::ProveLogResponse::decode(bytes).is_ok_and(|proof| trust::fuzzed::log(&proof)),
        1 => v1::Receipt::decode(bytes).is_ok_and(|receipt| trust::fuzzed::receipt(&receipt)),
        2 => v1::RunStatus::decode(bytes).is_ok_and(|run| status(&run)),
        3 => v1::Alignment::decode(bytes).is_ok_and(|alignment| !alignment_line(&alignment).is_empty()),
        4 => refusal(bytes),
        5 => admin::fuzzed::document(bytes),
        6 => std::str::from_utf8(bytes).is_ok_and(address),
        _ => admin::fuzzed::problem(bytes),
    }
}

/// A failed call: a byte for its code, then its message.
fn refusal(bytes: &[u8]) -> bool {
    let Some((code, text)) = bytes.split_first() else { return false };
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let status = Status::new(Code::from(i32::from(*code)), text);
    let _ = verdict(&status);
    one_line(&Error::from_status(&status, "a call"));
    true
}

/// What a person is shown is one line, and moves no cursor.
pub(crate) fn one_line(error: &Error) {
    let text = error.to_string();
    assert!(!text.contains(char::is_control), "{text:?}");
}

/// A server's address, as a kit or a person says it.
fn address(url: &str) -> bool {
    let of = |insecure| connect::Address { url: url.to_owned(), ca: None, insecure, identity: None };
    let Ok(uri) = of(false).check() else { return false };
    let host = uri.host().unwrap_or_default();
    assert!(!host.is_empty() && of(true).check().is_ok());
    if uri.scheme_str() != Some("https") {
        let host = host.trim_matches(['[', ']']);
        let here = host.eq_ignore_ascii_case("localhost")
            || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        assert!(here, "{url:?} would show a token on the way");
    }
    true
}
