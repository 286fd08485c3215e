//! The small files that this program makes for itself and for sites, secrets among them: each is whole and on the disk once it has its
//! name, and a secret is its owner's from its first byte.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Its owner alone: mode 0600.
    Owner,
    /// Whoever may look into its folder: mode 0644, less what the umask takes.
    All,
}

/// The text of a file that a setting or a flag names.
///
/// # Errors
/// It cannot be read; said with the setting, and what to do.
pub(crate) fn read_given(setting: &str, path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => "put it there, or correct the path",
            io::ErrorKind::PermissionDenied => "let the server's user read it",
            _ => "name a file of text",
        };
        Error::invalid(format!("{setting}: cannot read {}: {error}; {advice}", path.display()))
    })
}

/// Writes a file that is not there yet.
///
/// # Errors
/// One is there, which stays as it was, or the file cannot be written, and is not there then; said with its path.
pub(crate) fn write_new(path: &Path, text: &str, readers: Readers) -> Result<()> {
    named(path, make(path, text, readers))
}

/// Writes a file in the place of one that may be there: who reads it meanwhile finds the old one or the new one.
///
/// # Errors
/// It cannot be written, and is as it was then; said with its path.
pub(crate) fn replace(path: &Path, text: &str, readers: Readers) -> Result<()> {
    let written = Beside::write(path, text, readers).and_then(|beside| fs::rename(&beside.0, path));
    named(path, written.and_then(|()| sync_folder(path)))
}

fn named(path: &Path, written: io::Result<()>) -> Result<()> {
    written.map_err(|error| Error::invalid(format!("{}: cannot be written: {error}", path.display())))
}

fn make(path: &Path, text: &str, readers: Readers) -> io::Result<()> {
    let beside = Beside::write(path, text, readers)?;
    // A second name takes nobody's place, as a rename would.
    match fs::hard_link(&beside.0, path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
        // Not every file system has second names.
        Err(_) if path.try_exists()? => return Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(&beside.0, path)?,
    }
    sync_folder(path)
}

/// A file that waits for its name, and is gone with this unless it was renamed.
struct Beside(PathBuf);

impl Beside {
    fn write(path: &Path, text: &str, readers: Readers) -> io::Result<Self> {
        let mode = match readers {
            Readers::Owner => 0o600,
            Readers::All => 0o644,
        };
        let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_string_lossy();
        let beside = Self(path.with_file_name(format!("{name}.new-{}", uuid::Uuid::now_v7().simple())));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside.0)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(beside)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // After a rename there is none.
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes a new name last.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests;
