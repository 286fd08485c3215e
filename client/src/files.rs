//! Files that are either whole or not there: written beside their place, synced, then renamed.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use rebasin::{CheckpointError, Digest, FileSource, Hasher, Header, Layout, Limits, Scanner};
use serde::Serialize;

use crate::error::{Error, Result};

/// How much is read at once.
const BLOCK_BYTES: usize = 1 << 20;

/// Writes `path` by `fill`, atomically: a reader sees the old file or the whole new one, also after a power cut. Its mode is
/// that of the file it replaces, otherwise what the umask leaves.
///
/// # Errors
/// What `fill` returns, or a failure to create, sync or rename; then the temporary file is removed and `path` is as it was.
pub fn write_atomically<T>(
    path: &Path,
    fill: impl FnOnce(&mut (dyn Write + Send)) -> Result<T>,
) -> Result<T> {
    write_for(Readers::AsBefore, path, fill)
}

/// Writes bytes atomically, for their owner alone (0600), whatever the file was before.
///
/// # Errors
/// A failure to write; `path` is then as it was.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    write_for(Readers::Owner, path, |out| out.write_all(bytes).map_err(|error| write_error(path, &error)))
}

/// Who may read what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readers {
    /// Those who could read the file that it replaces, otherwise those whom the umask leaves.
    AsBefore,
    /// Its owner.
    Owner,
}

fn write_for<T>(
    readers: Readers,
    path: &Path,
    fill: impl FnOnce(&mut (dyn Write + Send)) -> Result<T>,
) -> Result<T> {
    let folder = folder_of(path);
    let trouble = |error: io::Error| write_error(path, &error);
    let old = fs::metadata(path).ok().map(|old| old.permissions());
    let old = old.filter(|_| readers == Readers::AsBefore);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".fedbasin-").suffix(".part");
    // A new file gets the mode of any file made here. What replaces a private file is private from its first byte.
    #[cfg(unix)]
    if old.is_none() && readers == Readers::AsBefore {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let temporary = builder.tempfile_in(folder).map_err(trouble)?;
    let mut writer = BufWriter::with_capacity(BLOCK_BYTES, temporary);
    let value = fill(&mut writer)?;
    let temporary = writer.into_inner().map_err(|error| trouble(error.into_error()))?;
    temporary.as_file().sync_all().map_err(trouble)?;
    failpoint!("site.written");
    if cfg!(unix)
        && let Some(old) = old
    {
        temporary.as_file().set_permissions(old).map_err(trouble)?;
    }
    temporary.persist(path).map_err(|error| trouble(error.error))?;
    sync_folder(folder).map_err(trouble)?;
    Ok(value)
}

/// Creates a folder that only its owner may enter: what a site trained tells of the data it trained on. A folder that is
/// there stays as it is.
pub(crate) fn create_private(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(path)
}

/// Makes a rename in `folder` last.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// The folder that holds `path`.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes bytes atomically.
///
/// # Errors
/// A failure to write; `path` is then as it was.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |out| out.write_all(bytes).map_err(|error| write_error(path, &error)))
}

/// Writes pretty JSON with a newline at its end, atomically.
///
/// # Errors
/// A value that JSON cannot hold, or a failure to write.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::failed(error, path.display(), "this is a defect, report it"))?;
    text.push('\n');
    write_bytes(path, text.as_bytes())
}

/// A failure to write `path`, for a person.
pub(crate) fn write_error(path: &Path, error: &io::Error) -> Error {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "create its folder first",
        io::ErrorKind::PermissionDenied => "choose a place where you may write",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room",
        _ => "check the path and the disk",
    };
    Error::failed(format_args!("cannot write: {error}"), path.display(), remedy)
}

/// A failure to read `path`, for a person.
pub(crate) fn read_error(path: &Path, error: &io::Error) -> Error {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "make it readable",
        _ => "check the file and the disk",
    };
    Error::failed(format_args!("cannot read: {error}"), path.display(), remedy)
}

/// Reads a small text file of at most `limit` bytes.
///
/// # Errors
/// Not there, not readable, larger than that, or not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    let file = File::open(path).map_err(|error| read_error(path, &error))?;
    let mut text = String::new();
    file.take(limit + 1).read_to_string(&mut text).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Error::failed("is no text", path.display(), "is this the right file?"),
        _ => read_error(path, &error),
    })?;
    if text.len() as u64 > limit {
        return Err(Error::failed(
            format_args!("larger than {limit} bytes"),
            path.display(),
            "is this the right file?",
        ));
    }
    Ok(text)
}

/// A spec larger than this is none.
pub(crate) const MAX_SPEC_BYTES: u64 = 16 << 20;

/// The text of a spec's file. A checkpoint, which stands beside it on many command lines, is no text or too large.
///
/// # Errors
/// Not readable, or no spec.
pub(crate) fn read_spec_text(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(|error| read_error(path, &error))?;
    let mut bytes = Vec::new();
    Read::by_ref(&mut file)
        .take(MAX_SPEC_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| read_error(path, &error))?;
    if bytes.len() as u64 > MAX_SPEC_BYTES {
        return Err(no_spec(path, format_args!("larger than {MAX_SPEC_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| no_spec(path, "not text"))
}

/// A file that is no spec, and why.
pub(crate) fn no_spec(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::failed(
        format_args!("this is no spec: {why}"),
        path.display(),
        "derive one with `fedbasin spec derive`, or `spec mlp` or `spec conv`",
    )
}

/// A secret from a file: its content without the white space around it.
///
/// # Errors
/// Not readable, empty, or not printable ASCII.
pub fn read_token(path: &Path) -> Result<String> {
    let text = read_text(path, 4096)?;
    check_token(text.trim(), &path.display().to_string())
}

/// A new file for a secret that is still to come, readable by its owner alone. Gone again unless something is written.
#[derive(Debug)]
pub(crate) struct SecretFile {
    file: File,
    path: tempfile::TempPath,
}

impl SecretFile {
    /// Makes the file.
    ///
    /// # Errors
    /// It is there already, whatever it holds, or cannot be made.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let made = options
            .open(path)
            .and_then(|file| Ok(Self { file, path: tempfile::TempPath::try_from_path(path)? }));
        made.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::failed(
                "is there already, and the secret in it may be in use",
                path.display(),
                "name a new file, or move this one away",
            ),
            _ => write_error(path, &error),
        })
    }

    /// Keeps the secret, as a line.
    ///
    /// # Errors
    /// Not written; the file is removed.
    pub(crate) fn write(mut self, secret: &str) -> Result<()> {
        let written = writeln!(self.file, "{secret}")
            .and_then(|()| self.file.sync_all())
            .and_then(|()| sync_folder(folder_of(&self.path)));
        written.map_err(|error| write_error(&self.path, &error))?;
        self.path.keep().map_err(|error| write_error(&error.path, &error.error))?;
        Ok(())
    }
}

/// A token must be something that fits into a header.
pub(crate) fn check_token(token: &str, place: &str) -> Result<String> {
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::failed(
            "the token is empty or holds characters that no token has",
            place,
            "put the token as it was printed by `fedbasin admin enrol`",
        ));
    }
    Ok(token.to_owned())
}

/// What to do about a file that is no checkpoint.
pub(crate) const BAD_CHECKPOINT: &str = "give a well-formed, finite safetensors file";

/// What `torch.save` writes is a ZIP archive, which no safetensors file of any use begins like: its header would have 64 MiB
/// and more. It is the likeliest mistake, so it is named.
///
/// # Errors
/// It is such a file. One that cannot be read is left to whoever reads it in full.
pub(crate) fn refuse_torch_save(path: &Path) -> Result<()> {
    let mut beginning = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut beginning));
    if read.is_ok() && &beginning == b"PK\x03\x04" {
        return Err(Error::failed(
            "this looks like a file of torch.save",
            path.display(),
            "use safetensors.torch.save_file(model.state_dict(), PATH)",
        ));
    }
    Ok(())
}

/// Opens a checkpoint file and checks its header.
pub(crate) fn open_checkpoint(path: &Path) -> Result<FileSource> {
    let mut file = File::open(path).map_err(|error| read_error(path, &error))?;
    let metadata = file.metadata().map_err(|error| read_error(path, &error))?;
    if metadata.is_dir() {
        return Err(Error::failed("is a folder", path.display(), BAD_CHECKPOINT));
    }
    refuse_torch_save(path)?;
    let header = Header::read(&mut file, metadata.len())
        .map_err(|error| Error::failed(error, path.display(), BAD_CHECKPOINT))?;
    Ok(FileSource::new(file, header))
}

/// What a checkpoint file turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// SHA-256 of the file.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// Reads a checkpoint file once, in blocks: strict format, finite values, digest. With `expected`, also its layout.
///
/// # Errors
/// Not readable, not a safetensors file, another layout, or NaN or infinity in it.
pub fn check_checkpoint(path: &Path, expected: Option<&Layout>) -> Result<Checked> {
    let bad = |error: CheckpointError| {
        let remedy = match &error {
            CheckpointError::Missing { .. }
            | CheckpointError::Extra { .. }
            | CheckpointError::Differs { .. } => {
                "save the state_dict of the run's architecture, with the same names, shapes and dtypes"
            }
            CheckpointError::NotFinite { .. } => "give a checkpoint with finite values only",
            _ => "write it as a finite, well-formed safetensors file",
        };
        Error::failed(error, path.display(), remedy)
    };
    refuse_torch_save(path)?;
    let mut file = File::open(path).map_err(|error| read_error(path, &error))?;
    let size = file.metadata().map_err(|error| read_error(path, &error))?.len();
    let mut scanner = Scanner::new(expected.cloned(), size, Limits::default());
    let mut hasher = Hasher::new();
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let count = match file.read(&mut block) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(read_error(path, &error)),
        };
        hasher.update(&block[..count]);
        scanner.push(&block[..count]).map_err(bad)?;
    }
    scanner.finish().map_err(bad)?;
    Ok(Checked { digest: hasher.finish(), size })
}

/// SHA-256 of the first bytes of a file, up to its end.
pub(crate) fn hash_file(path: &Path) -> io::Result<(Hasher, u64)> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new();
    let mut block = vec![0; BLOCK_BYTES];
    let mut total = 0;
    loop {
        match file.read(&mut block) {
            Ok(0) => return Ok((hasher, total)),
            Ok(count) => {
                hasher.update(&block[..count]);
                total += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The partial file of a download of `digest` to `path`: beside it, and named so that no other download goes on from it.
pub(crate) fn part_path(path: &Path, digest: &Digest) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", &digest.to_string()[..16]));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests;
