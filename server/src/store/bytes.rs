//! Bytes in the object store: immutable, named by digest.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use ::bytes::Bytes;
use fedbasin_cipher::{FileCipher, FileKey};
use futures::{StreamExt as _, stream::BoxStream};
use object_store::{
    GetOptions, GetRange, GetResultPayload, MultipartUpload, ObjectMeta, ObjectStore as _,
    ObjectStoreExt as _, PutPayload, path::Path as Key,
};
use rebasin::{CheckpointError, Digest, Hasher};
use sqlx::Row as _;

use super::{
    Sealed, Store,
    encryption::turn,
    objects::check_folder,
    source::{StoredSource, decrypted, plain},
    staging::synced_or_removed,
};
use crate::error::{Error, Result};

/// Size of the parts that a file is stored in.
const PART_BYTES: usize = 8 << 20;

/// A stored checkpoint's bytes, or a part of them.
pub struct Object {
    /// Size of the whole, in bytes.
    pub size: u64,
    /// The bytes asked for.
    pub stream: BoxStream<'static, Result<Bytes>>,
}

/// So old, bytes without a row will get none: between storing and committing lie seconds.
const ORPHAN_LIFE: Duration = Duration::from_secs(3600);

/// A time in the future is that of a clock that was set back: not old.
fn is_older(object: &ObjectMeta, than: Duration) -> bool {
    SystemTime::from(object.last_modified).elapsed().is_ok_and(|age| age > than)
}

fn key(object: &str) -> Key {
    folder().join(object)
}

const CHECKPOINTS: &str = "checkpoints";

/// Where all checkpoints lie.
pub(super) fn folder() -> Key {
    Key::from(CHECKPOINTS)
}

/// The name of an object of that folder, and the digest that it begins with; nothing if it has another name.
pub(super) fn named(object: &ObjectMeta) -> Option<(&str, Digest)> {
    let name = object.location.filename()?;
    let digest = name.split_once('.').map_or(name, |(digest, _)| digest);
    Some((name, digest.parse().ok()?))
}

/// Where a checkpoint's bytes lie, and what they are encrypted with.
#[derive(Debug)]
pub(super) struct Place {
    /// Their name.
    pub(super) object: String,
    key: Option<FileKey>,
}

impl Place {
    fn cipher(&self) -> Option<&FileCipher> {
        self.key.as_ref().map(|key| &key.cipher)
    }

    /// Their key, as a row holds it.
    pub(super) fn wrapped_key(&self) -> Option<&str> {
        self.key.as_ref().map(|key| key.wrapped.as_str())
    }
}

/// Bytes that are durable, for a row that is yet to be committed.
#[derive(Debug)]
pub(super) struct Stored {
    /// Where they lie.
    pub(super) place: Place,
    /// Whether a row told of them already: whoever relies on them makes sure that it still does.
    pub(super) found: bool,
    /// When they began to be stored.
    since: Instant,
}

impl Stored {
    /// Whether [`Store::sweep_objects`] may have taken them for litter.
    pub(super) fn may_be_swept(&self) -> bool {
        !self.found && self.since.elapsed() > ORPHAN_LIFE / 2
    }
}

impl Store {
    pub(crate) async fn objects_ready(&self) -> Result<()> {
        if let Some(folder) = &self.objects.folder {
            check_folder(folder)?;
        }
        match self.objects.store.head(&Key::from("ready")).await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores the bytes of a sealed upload, durable when this returns: by a second name for their file where that can be, else as a
    /// copy that is hashed on its way. What is stored under a digest has it, whatever became of the file since it was sealed. Does
    /// nothing when a row tells of them.
    ///
    /// Each time under a name of its own, the digest and a suffix: so whoever removes bytes can never meet those of somebody who
    /// stores the same ones at that moment.
    pub(super) async fn put_object(&self, sealed: &Sealed) -> Result<Stored> {
        let since = Instant::now();
        if let Some(place) = self.place(&sealed.digest).await? {
            match self.objects.store.head(&key(&place.object)).await {
                Ok(found) if found.size == sealed.size => return Ok(Stored { place, found: true, since }),
                Ok(found) => tracing::error!(
                    checkpoint.digest = %sealed.digest,
                    checkpoint.bytes = sealed.size,
                    object.bytes = found.size,
                    "a stored checkpoint has another size than it came with; it is stored anew"
                ),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            // A row tells of bytes that are not there: they take their place.
            self.copy_object(sealed, &place).await?;
            return Ok(Stored { place, found: true, since });
        }
        let object = format!("{}.{}", sealed.digest, uuid::Uuid::now_v7().simple());
        let place = Place { object, key: sealed.key.clone() };
        self.copy_object(sealed, &place).await?;
        Ok(Stored { place, found: false, since })
    }

    async fn copy_object(&self, sealed: &Sealed, to: &Place) -> Result<()> {
        // A second name has the first one's time: what lay here for long would be swept before its row is committed.
        let is_fresh = sealed.written_at.elapsed().is_ok_and(|age| age < ORPHAN_LIFE / 2);
        let is_same = sealed.key.as_ref().map(|key| key.wrapped.as_str()) == to.wrapped_key();
        if let (Some(folder), true) = (&self.objects.folder, is_fresh && is_same) {
            let (file, place) = (sealed.path.clone(), folder.join(CHECKPOINTS).join(&to.object));
            let (written_at, size) = (sealed.written_at, sealed.size);
            let linked = tokio::task::spawn_blocking(move || link(&file, &place, written_at, size));
            if linked.await.map_err(Error::internal)?? {
                failpoint!("upload.linked");
                return Ok(());
            }
        }
        let file = File::open(&sealed.path)?;
        let mut upload = self.objects.store.put_multipart(&key(&to.object)).await?;
        let copied = copy_parts(file, sealed, to.cipher(), upload.as_mut()).await;
        if copied.is_err()
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(error.message = %error, "a broken-off copy could not be removed");
        }
        copied
    }

    /// The name of a checkpoint's bytes; nothing if none are kept.
    pub(super) async fn object_name(&self, digest: &Digest) -> Result<Option<String>> {
        let row = sqlx::query(
            "SELECT COALESCE(object, digest) AS object FROM checkpoints WHERE digest = $1 AND removed_at_ms IS NULL",
        )
        .bind(digest.to_string())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| Ok(row.try_get("object")?)).transpose()
    }

    /// Where a checkpoint's bytes are; nothing if none are kept.
    pub(super) async fn place(&self, digest: &Digest) -> Result<Option<Place>> {
        let row = sqlx::query(
            "SELECT COALESCE(object, digest) AS object, wrapped_key FROM checkpoints
             WHERE digest = $1 AND removed_at_ms IS NULL",
        )
        .bind(digest.to_string())
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let key = self.open_key(digest, row.try_get("wrapped_key")?)?;
        Ok(Some(Place { object: row.try_get("object")?, key }))
    }

    async fn kept(&self, digest: &Digest) -> Result<Place> {
        let place = self.place(digest).await?;
        place.ok_or_else(|| Error::not_found(format!("checkpoint {digest} is not kept, or no longer")))
    }

    /// Removes bytes that no row tells of any more.
    pub(super) async fn remove_object(&self, object: &str) -> Result<()> {
        match self.objects.store.delete(&key(object)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the bytes that no row tells of and that are old enough not to be about to get one: what was stored for
    /// updates that a round did not take, or by a process that was killed before it could commit, or before it could remove what
    /// a run's policy keeps no longer.
    ///
    /// # Errors
    /// Those of the database and the object store.
    pub async fn sweep_objects(&self) -> Result<()> {
        let mut found = self.objects.store.list(Some(&folder()));
        while let Some(object) = found.next().await {
            let object = object?;
            let Some((name, digest)) = named(&object) else { continue };
            if is_older(&object, ORPHAN_LIFE) && self.object_name(&digest).await?.as_deref() != Some(name) {
                failpoint!("sweep.object-found");
                // Another process may have been first.
                self.remove_object(name).await?;
                failpoint!("sweep.object-removed");
                tracing::info!(checkpoint.digest = %digest, "bytes that no row tells of were removed");
            }
        }
        Ok(())
    }

    /// How many bytes there are of a name; nothing if there are none.
    pub(super) async fn object_size(&self, object: &str) -> Result<Option<u64>> {
        match self.objects.store.head(&key(object)).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A range of a stored checkpoint's bytes.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::error::Code) when the object store does not answer.
    pub async fn object(&self, digest: &Digest, range: Range<u64>) -> Result<Object> {
        let place = self.kept(digest).await?;
        self.object_at(&place, digest, range).await
    }

    /// The same where its place is known.
    pub(super) async fn object_at(
        &self,
        place: &Place,
        digest: &Digest,
        range: Range<u64>,
    ) -> Result<Object> {
        let (cipher, place) = (place.cipher().cloned(), key(&place.object));
        let size = self.found(digest, self.objects.store.head(&place).await).await?.size;
        let range = range.start.min(size)..range.end.min(size);
        if range.is_empty() {
            return Ok(Object { size, stream: futures::stream::empty().boxed() });
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let got = self.found(digest, self.objects.store.get_opts(&place, options).await).await?;
        let range = got.range.clone();
        let stream = match got.payload {
            GetResultPayload::File(file, _) => read_parts(file, range, cipher),
            GetResultPayload::Stream(parts) => {
                decrypted(parts.map(|part| part.map_err(Error::from)), range.start, cipher)
            }
        };
        Ok(Object { size, stream })
    }

    /// Random access to a stored checkpoint, for aligning and merging: the file itself where the store is a folder,
    /// a copy that vanishes with the source elsewhere.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::error::Code), or [`Code::DataLoss`](crate::error::Code) where the bytes are gone, or not
    /// the checkpoint that they were when they came: of a copy every byte is looked at, of a file the header.
    pub async fn source(&self, digest: &Digest) -> Result<StoredSource> {
        let place = self.kept(digest).await?;
        let cipher = place.cipher().cloned();
        let got = self.found(digest, self.objects.store.get(&key(&place.object)).await).await?;
        let file = match got.payload {
            GetResultPayload::File(file, _) => file,
            GetResultPayload::Stream(mut stream) => {
                let (mut file, mut hasher, mut offset) = (self.scratch_file()?, Hasher::default(), 0);
                while let Some(part) = stream.next().await {
                    let part = part?;
                    file.write_all(&part)?;
                    let plain = plain(cipher.as_ref(), offset, part);
                    offset += plain.len() as u64;
                    hasher.update(&plain);
                }
                if hasher.finish() != *digest {
                    return Err(Error::data_loss(format_args!("checkpoint {digest} were altered")));
                }
                file
            }
        };
        let digest = *digest;
        tokio::task::spawn_blocking(move || {
            StoredSource::open(file, cipher).map_err(|error| match error {
                CheckpointError::Io(error) => error.into(),
                error => Error::data_loss(format_args!("checkpoint {digest} were altered: {error}")),
            })
        })
        .await
        .map_err(Error::internal)?
    }

    /// What the object store gave of a checkpoint. Bytes that are not where their row said just now are lost, unless a policy has let
    /// them go meanwhile.
    async fn found<T>(&self, digest: &Digest, outcome: object_store::Result<T>) -> Result<T> {
        if let Err(object_store::Error::NotFound { .. }) = outcome {
            self.kept(digest).await?;
            return Err(Error::data_loss(format_args!("checkpoint {digest} are gone")));
        }
        Ok(outcome?)
    }

    /// A file without a name in the staging folder.
    fn scratch_file(&self) -> Result<File> {
        let path = self.staging_dir.join(format!("scratch-{}", uuid::Uuid::now_v7()));
        let file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    }
}

/// Gives a whole file a second name among the checkpoints, durable when this returns: nothing is copied, nothing read again. False
/// where that cannot be (another file system), or where the file is not as it was sealed, by its size and the time of its last write;
/// the name is gone again then. (What another program writes within a tick of the file system's clock after the last write is not
/// seen here, but by `fsck`.)
fn link(file: &Path, place: &Path, written_at: SystemTime, size: u64) -> Result<bool> {
    let folder = place.parent().ok_or_else(|| Error::internal("an object without a folder"))?;
    std::fs::create_dir_all(folder)?;
    if std::fs::hard_link(file, place).is_err() {
        return Ok(false);
    }
    let stored = File::open(place)?;
    let found = stored.metadata()?;
    if found.len() != size || found.modified()? != written_at {
        std::fs::remove_file(place)?;
        return Ok(false);
    }
    if let Err(error) = synced_or_removed(place, || stored.sync_all()) {
        std::fs::remove_file(file)?;
        return Err(error);
    }
    File::open(folder)?.sync_all()?;
    Ok(true)
}

/// Parts of a file that are read while the one before them is sent.
const PARTS_AHEAD: usize = 2;

/// A file's bytes in parts as large as a chunk of a download. (The object store's own stream reads 8 KiB at a time, each on another
/// thread.)
fn read_parts(
    file: File,
    range: Range<u64>,
    cipher: Option<FileCipher>,
) -> BoxStream<'static, Result<Bytes>> {
    let (file, end) = (std::sync::Arc::new(file), range.end);
    let read = move |offset: u64| {
        let (file, cipher) = (std::sync::Arc::clone(&file), cipher.clone());
        let reading = move || {
            let size = (end - offset).min(fedbasin_proto::MAX_CHUNK_BYTES as u64);
            let mut part = vec![0; usize::try_from(size).map_err(Error::internal)?];
            file.read_exact_at(&mut part, offset)?;
            turn(cipher.as_ref(), offset, &mut part);
            Ok::<_, Error>(Bytes::from(part))
        };
        async move { tokio::task::spawn_blocking(reading).await.map_err(Error::internal)? }
    };
    let offsets = range.step_by(fedbasin_proto::MAX_CHUNK_BYTES);
    futures::stream::iter(offsets).map(read).buffered(PARTS_AHEAD).boxed()
}

/// Copies exactly the sealed bytes, encrypted as they are to lie there, and completes the copy only if they are the ones that were sealed.
async fn copy_parts(
    mut file: File,
    sealed: &Sealed,
    to: Option<&FileCipher>,
    upload: &mut dyn MultipartUpload,
) -> Result<()> {
    let mut hasher = Hasher::default();
    let (from, to) = (sealed.key.as_ref().map(|key| key.cipher.clone()), to.cloned());
    let mut left = sealed.size;
    while left > 0 {
        let (offset, size) = (sealed.size - left, left.min(PART_BYTES as u64));
        let (from, to) = (from.clone(), to.clone());
        let read = move || {
            let mut part = Vec::with_capacity(PART_BYTES);
            (&mut file).take(size).read_to_end(&mut part)?;
            turn(from.as_ref(), offset, &mut part);
            hasher.update(&part);
            turn(to.as_ref(), offset, &mut part);
            Ok::<_, Error>((file, hasher, part))
        };
        let part;
        (file, hasher, part) = tokio::task::spawn_blocking(read).await.map_err(Error::internal)??;
        if part.is_empty() {
            break;
        }
        left -= part.len() as u64;
        upload.put_part(PutPayload::from(part)).await?;
    }
    let found = hasher.finish();
    if left > 0 || found != sealed.digest {
        return Err(Error::internal(format_args!(
            "the file of checkpoint {} changed after it was sealed: {left} of {} bytes are missing, the rest has \
             digest {found}",
            sealed.digest, sealed.size
        )));
    }
    upload.complete().await?;
    Ok(())
}
