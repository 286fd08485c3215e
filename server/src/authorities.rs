//! The authorities that vouch for whom the server itself calls, where its settings name them.

use std::path::Path;

use reqwest::Certificate;

/// Reads them, one at the least.
///
/// # Errors
/// A sentence that begins with the file's name; the setting's goes before it.
pub(crate) fn read(path: &Path) -> Result<Vec<Certificate>, String> {
    let unusable = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let pem = std::fs::read(path).map_err(|error| unusable(&error))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(found) if found.is_empty() => Err(unusable(&"holds no certificate (PEM)")),
        Ok(found) => Ok(found),
        Err(error) => Err(unusable(&error)),
    }
}
