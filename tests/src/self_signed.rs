//! A certificate for both edges that nobody vouches for.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A certificate for this machine, and its key, as files.
#[derive(Debug)]
pub struct SelfSigned {
    /// The certificate's file.
    pub cert: PathBuf,
    /// Its key's.
    pub key: PathBuf,
    /// The certificate, PEM.
    pub pem: String,
}

impl SelfSigned {
    /// Makes one in a folder.
    ///
    /// # Panics
    /// Where it cannot be written.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        fs::write(&cert, made.cert.pem()).expect("a file");
        fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
        Self { cert, key, pem: made.cert.pem() }
    }

    /// What the harness takes as a server's TLS.
    #[must_use]
    pub fn files(&self) -> Option<(PathBuf, PathBuf)> {
        Some((self.cert.clone(), self.key.clone()))
    }
}
