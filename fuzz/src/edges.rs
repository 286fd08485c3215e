//! Of the server's edges, its settings, and what a site reads: what is tried with bytes that nobody should trust.

use std::{fs, sync::OnceLock};

pub use fedbasin_client::fuzzed::{answer, download, workdir};
use fedbasin_client::kit::Kit;
use fedbasin_server::config::Config;
pub use fedbasin_server::fuzzed::{
    authorization, body, certificate, chunks, frames, key_set, query, range, request, signing_request,
    staging, token, verdict,
};

/// The server's settings, a TOML text.
///
/// # Panics
/// If they show the database's password to whoever prints them.
#[must_use]
pub fn config(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(config) = Config::from_toml(text) else { return false };
    if let Some(url) = &config.database_url {
        let shown = format!("{config:?}");
        // A short one may stand in another setting, too.
        assert!(url.expose().len() < 16 || !shown.contains(url.expose()), "{shown}");
    }
    true
}

/// A kit's `kit.toml`, beside the files of a whole kit.
///
/// # Panics
/// If the kit then trusts or shows other files than its own.
#[must_use]
pub fn kit(bytes: &[u8]) -> bool {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = fedbasin_client::fuzzed::folder();
        for name in ["authority.pem", "site.pem", "site.key"] {
            fs::write(folder.path().join(name), "").expect("a file");
        }
        folder
    });
    fs::write(folder.path().join("kit.toml"), bytes).expect("a file");
    let Ok(kit) = Kit::read(folder.path()) else { return false };
    let (cert, key) = kit.address.identity.expect("a kit shows a certificate");
    for path in [kit.address.ca.expect("a kit trusts its authority alone"), cert, key] {
        assert_eq!(path.parent(), Some(folder.path()));
    }
    assert!(!kit.address.insecure);
    true
}
