//! An upload under way: a file that grows, hashed and scanned as its bytes arrive.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::PoisonError,
    time::{Duration, SystemTime},
};

use fedbasin_cipher::FileKey;
use rebasin::{Bounds, Digest, Hasher, Layout, Magnitudes, Scanner};

use super::{Store, encryption::turn};
use crate::{
    error::{Code, Error, Result},
    model::Update,
};

/// Bytes that one [`Staging`] may hold unsynced before it must be asked to [`Staging::sync`].
const SYNC_BYTES: u64 = 8 << 20;

/// An upload's bytes so far. Blocking: call it from a thread that may block.
pub struct Staging {
    path: PathBuf,
    file: File,
    /// What its bytes are encrypted with.
    key: Option<FileKey>,
    hasher: Hasher,
    scanner: Scanner,
    size: u64,
    written: u64,
    /// So much is being made durable.
    syncing: u64,
    durable: u64,
}

impl Store {
    /// Opens or goes on with the upload `name` of `size` bytes, which must have `layout` if that is known. What was
    /// received before is read once, to hash and scan it.
    ///
    /// # Errors
    /// [`Code::InvalidCheckpoint`] if what is there already shows that it is none; [`Code::Unavailable`] for the disk.
    pub fn staging(&self, name: &str, size: u64, layout: Option<Layout>) -> Result<Staging> {
        self.stage(name, Scanner::new(layout, size, self.header_limits), size, None)
    }

    /// The same for an update, which lies encrypted with its key ([`Store::key_of_update`]), and whose values have bounds where its
    /// round's reference is known.
    ///
    /// # Errors
    /// As [`Store::staging`].
    pub fn staging_within(
        &self,
        update: &Update,
        key: Option<FileKey>,
        layout: Option<Layout>,
        bounds: Option<Bounds>,
    ) -> Result<Staging> {
        let scanner = Scanner::new(layout, update.size, self.header_limits).within(bounds);
        self.stage(&update.id, scanner, update.size, key)
    }

    /// The same for what may be a reference: it is measured as it passes.
    ///
    /// # Errors
    /// As [`Store::staging`].
    pub fn staging_measured(&self, scratch: &str, size: u64, layout: Option<Layout>) -> Result<Staging> {
        self.stage(scratch, Scanner::new(layout, size, self.header_limits).measuring(), size, None)
    }

    fn stage(&self, name: &str, scanner: Scanner, size: u64, key: Option<FileKey>) -> Result<Staging> {
        Staging::open(self.staging_dir.join(name), size, scanner, key)
    }

    /// Adds bytes to an upload's file, as they are to lie there.
    pub(super) fn extend_staging(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(self.staging_dir.join(name))?;
        file.write_all(bytes)?;
        Ok(())
    }

    /// How many bytes of an upload are there.
    pub fn staged_bytes(&self, name: &str) -> u64 {
        std::fs::metadata(self.staging_dir.join(name)).map_or(0, |metadata| metadata.len())
    }

    /// Removes an upload's bytes, if any.
    pub fn discard_staging(&self, name: &str) {
        if let Err(error) = std::fs::remove_file(self.staging_dir.join(name))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(error.message = %error, staging.name = name, "an upload's bytes could not be removed");
        }
    }

    /// The files of the staging folder.
    pub(crate) fn staged_names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.staging_dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// A new name in the staging folder for what is no site's upload; `kind` says what.
    #[must_use]
    pub fn scratch(&self, kind: Kind) -> Scratch {
        let name = format!("{}{}", kind.prefix(), uuid::Uuid::now_v7());
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        Scratch { path: self.staging_dir.join(&name), store: self.clone(), name }
    }

    /// Removes a scratch file that a process left which was killed: none of this process's, and old enough to be of no
    /// other living process that shares the folder.
    pub(super) fn sweep_scratch(&self, name: &str) -> Result<()> {
        if self.scratch.lock().unwrap_or_else(PoisonError::into_inner).contains(name) {
            return Ok(());
        }
        let modified = match std::fs::metadata(self.staging_dir.join(name)) {
            Ok(metadata) => metadata.modified()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // A time in the future is that of a clock that was set back: not old.
        if modified.elapsed().is_ok_and(|age| age > SCRATCH_LIFE) {
            self.discard_staging(name);
        }
        Ok(())
    }
}

/// After so long without a write a scratch file of another process is dead: no write waits an hour for the next.
const SCRATCH_LIFE: Duration = Duration::from_secs(3600);

/// What a [`Scratch`] file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A seed that arrives.
    Seed,
    /// A model that is being merged.
    Merge,
    /// A graph that arrives.
    Graph,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Seed, Self::Merge, Self::Graph];

    fn prefix(self) -> &'static str {
        match self {
            Self::Seed => "seed-",
            Self::Merge => "merge-",
            Self::Graph => "graph-",
        }
    }

    /// Whether a file of the staging folder is a scratch file.
    pub(super) fn names(name: &str) -> bool {
        Self::ALL.iter().any(|kind| name.starts_with(kind.prefix()))
    }
}

/// A file in the staging folder that goes with this value, whatever happens on the way.
pub struct Scratch {
    store: Store,
    name: String,
    path: PathBuf,
}

impl Scratch {
    /// What [`Store::staging`] knows it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.store.discard_staging(&self.name);
        self.store.scratch.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

impl Staging {
    /// As [`Store::staging`], of a file.
    pub(crate) fn open(path: PathBuf, size: u64, scanner: Scanner, key: Option<FileKey>) -> Result<Self> {
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&path)?;
        let mut staging = Self {
            path,
            key,
            hasher: Hasher::default(),
            scanner,
            size,
            written: 0,
            syncing: 0,
            durable: 0,
            file: file.try_clone()?,
        };
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            turn(staging.key.as_ref().map(|key| &key.cipher), staging.written, &mut buffer[..count]);
            staging.take(&buffer[..count])?;
        }
        staging.sync()?;
        Ok(staging)
    }

    /// How many bytes are there.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// How many bytes are known to be on the disk.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Whether so much is unsynced that [`Staging::sync`] or [`Staging::begin_sync`] is due.
    #[must_use]
    pub fn sync_is_due(&self) -> bool {
        let begun = self.durable.max(self.syncing);
        self.written - begun >= SYNC_BYTES || self.written == self.size
    }

    /// Whether all bytes are there.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.written == self.size
    }

    /// The layout, once the header is here.
    #[must_use]
    pub fn layout(&self) -> Option<&Layout> {
        self.scanner.layout()
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`Code::InvalidCheckpoint`] as soon as they show that this is not a checkpoint of the layout.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 > self.size - self.written {
            return Err(Error::new(
                Code::InvalidCheckpoint,
                format!("more bytes than the {} that were announced", self.size),
            ));
        }
        let offset = self.written;
        self.take(bytes)?;
        let encrypted = self.key.as_ref().map(|key| {
            let mut bytes = bytes.to_vec();
            key.cipher.apply(offset, &mut bytes);
            bytes
        });
        let bytes = encrypted.as_deref().unwrap_or(bytes);
        if let Err(full) = disk!("write", &self.path) {
            // As disks do: a part is there.
            self.file.write_all(&bytes[..bytes.len() / 2])?;
            return Err(full.into());
        }
        self.file.write_all(bytes)?;
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.scanner.push(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Makes what is there durable. Costs nothing where nothing was written since the last time.
    ///
    /// # Errors
    /// [`Code::Unavailable`] when the disk does not.
    pub fn sync(&mut self) -> Result<()> {
        if self.durable == self.written {
            return Ok(());
        }
        synced_or_removed(&self.path, || self.file.sync_data())?;
        self.durable = self.written;
        Ok(())
    }

    /// Begins to make what is there durable, beside what goes on: the work for a thread that may block, and how many bytes are durable
    /// once it is done.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn begin_sync(&mut self) -> Result<(impl FnOnce() -> Result<()> + Send + 'static, u64)> {
        let (file, path) = (self.file.try_clone()?, self.path.clone());
        self.syncing = self.written;
        Ok((move || synced_or_removed(&path, || file.sync_data()), self.written))
    }

    /// Whether what [`Staging::begin_sync`] began is not known to be done.
    #[must_use]
    pub fn is_syncing(&self) -> bool {
        self.syncing > self.durable
    }

    /// What [`Staging::begin_sync`] began is done.
    pub fn synced(&mut self, durable: u64) {
        self.durable = self.durable.max(durable.min(self.written));
    }

    /// What was written and is not durable yet: where it begins, and the bytes as they lie there. Nothing if there is none.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn unsynced(&self) -> Result<Option<(u64, Vec<u8>)>> {
        if self.durable == self.written {
            return Ok(None);
        }
        let count = usize::try_from(self.written - self.durable).map_err(Error::internal)?;
        let mut bytes = vec![0; count];
        self.file.read_exact_at(&mut bytes, self.durable)?;
        Ok(Some((self.durable, bytes)))
    }

    /// What was written is durable elsewhere.
    pub fn stored_elsewhere(&mut self) {
        self.durable = self.written;
    }

    /// Ends the upload: all bytes are there, they are a checkpoint, and they have `digest` (if one was announced).
    ///
    /// # Errors
    /// [`Code::Incomplete`] when bytes are missing (the upload can go on), [`Code::InvalidCheckpoint`] otherwise.
    pub fn seal(mut self, digest: Option<Digest>) -> Result<Sealed> {
        if self.written < self.size {
            return Err(Error::new(
                Code::Incomplete,
                format!("{} of {} bytes are here; send the rest, then finish", self.written, self.size),
            ));
        }
        self.sync()?;
        let on_disk = self.file.metadata()?;
        if on_disk.len() != self.size {
            return Err(Error::internal(format_args!(
                "an upload's file has {} bytes where {} were hashed",
                on_disk.len(),
                self.size
            )));
        }
        let found = self.hasher.finish();
        if let Some(announced) = digest
            && announced != found
        {
            return Err(Error::new(
                Code::InvalidCheckpoint,
                format!(
                    "digest mismatch: {announced} was announced, the bytes have {found}; send the file again"
                ),
            ));
        }
        let magnitudes = self.scanner.magnitudes();
        let header = self.scanner.finish()?;
        let (path, layout) = (self.path, header.layout().clone());
        let written_at = on_disk.modified()?;
        Ok(Sealed { path, key: self.key, written_at, digest: found, size: self.size, layout, magnitudes })
    }
}

/// Syncs a file, and removes it where that fails: a disk tells of an error once, and what is read afterwards is what the system holds, which may
/// never have reached the disk. Who comes next begins anew.
pub(super) fn synced_or_removed(path: &Path, sync: impl FnOnce() -> io::Result<()>) -> Result<()> {
    let Err(error) = disk!("sync", path).and_then(|()| sync()) else { return Ok(()) };
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(error.message = %error, path = %path.display(), "a file that is not on the disk could not be removed");
    }
    Err(error.into())
}

/// A whole, verified upload that is not stored yet.
#[derive(Debug)]
pub struct Sealed {
    /// Where its bytes are.
    pub(super) path: PathBuf,
    /// What they are encrypted with.
    pub(super) key: Option<FileKey>,
    /// When they were written last: a file with another time is not what was sealed.
    pub(super) written_at: SystemTime,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its layout.
    pub layout: Layout,
    /// How large its values are, where that was measured.
    pub(super) magnitudes: Option<Magnitudes>,
}
