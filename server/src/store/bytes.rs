//! Bytes in the object store: immutable, named by digest.

use std::{
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    ops::Range,
    time::{Duration, SystemTime},
};

use ::bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use object_store::{
    GetOptions, GetRange, GetResultPayload, MultipartUpload, ObjectMeta, ObjectStore as _,
    ObjectStoreExt as _, PutPayload, path::Path as Key,
};
use rebasin::{Digest, FileSource, Hasher, Header};

use super::{Sealed, Store};
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

fn key(digest: &Digest) -> Key {
    folder().join(digest.to_string())
}

/// Where all checkpoints lie.
pub(super) fn folder() -> Key {
    Key::from("checkpoints")
}

/// The digest that an object of that folder is named by; nothing if it has another name.
pub(super) fn digest_of(object: &ObjectMeta) -> Option<Digest> {
    object.location.filename()?.parse().ok()
}

impl Store {
    pub(super) async fn objects_ready(&self) -> Result<()> {
        match self.objects.store.head(&Key::from("ready")).await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores the bytes of a sealed upload under its digest, durable when this returns. They are hashed once more as
    /// they are copied: what is stored under a digest has it, whatever became of the file since it was sealed. Does
    /// nothing when they are there.
    pub(super) async fn put_object(&self, sealed: &Sealed) -> Result<()> {
        let key = key(&sealed.digest);
        match self.objects.store.head(&key).await {
            Ok(found) if found.size == sealed.size => {
                // One without a row may be about to be swept: stored anew, it is young.
                if !is_older(&found, ORPHAN_LIFE / 2) || self.checkpoint(&sealed.digest).await?.is_some() {
                    return Ok(());
                }
            }
            Ok(found) => tracing::error!(
                checkpoint.digest = %sealed.digest,
                checkpoint.bytes = sealed.size,
                object.bytes = found.size,
                "a stored checkpoint has another size than it came with; it is stored anew"
            ),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let file = std::fs::File::open(&sealed.path)?;
        let mut upload = self.objects.store.put_multipart(&key).await?;
        let copied = copy_parts(file, sealed, upload.as_mut()).await;
        if copied.is_err()
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(error.message = %error, "a broken-off copy could not be removed");
        }
        copied
    }

    /// Removes the bytes that no row tells of and that are old enough not to be about to get one: what was stored for
    /// updates that a round did not take, or by a process that was killed before it could commit.
    ///
    /// # Errors
    /// Those of the database and the object store.
    pub async fn sweep_objects(&self) -> Result<()> {
        let mut found = self.objects.store.list(Some(&folder()));
        while let Some(object) = found.next().await {
            let object = object?;
            let Some(digest) = digest_of(&object) else { continue };
            if is_older(&object, ORPHAN_LIFE) && self.checkpoint(&digest).await?.is_none() {
                failpoint!("sweep.object-found");
                self.objects.store.delete(&object.location).await?;
                failpoint!("sweep.object-removed");
                tracing::info!(checkpoint.digest = %digest, "bytes that no row tells of were removed");
            }
        }
        Ok(())
    }

    /// How many bytes of a checkpoint are stored; nothing if there are none.
    pub(super) async fn object_size(&self, digest: &Digest) -> Result<Option<u64>> {
        match self.objects.store.head(&key(digest)).await {
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
        let size = self.objects.store.head(&key(digest)).await?.size;
        let range = range.start.min(size)..range.end.min(size);
        if range.is_empty() {
            return Ok(Object { size, stream: futures::stream::empty().boxed() });
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let got = self.objects.store.get_opts(&key(digest), options).await?;
        Ok(Object { size, stream: got.into_stream().map(|part| part.map_err(Error::from)).boxed() })
    }

    /// Random access to a stored checkpoint, for aligning and merging: the file itself where the store is a folder,
    /// a copy that vanishes with the source elsewhere.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::error::Code), or [`Code::Internal`](crate::error::Code) where the bytes are not
    /// the checkpoint that they were when they came.
    pub async fn source(&self, digest: &Digest) -> Result<FileSource> {
        let got = self.objects.store.get(&key(digest)).await?;
        let mut file = match got.payload {
            GetResultPayload::File(file, _) => file,
            GetResultPayload::Stream(mut stream) => {
                let mut file = self.scratch_file()?;
                while let Some(part) = stream.next().await {
                    file.write_all(&part?)?;
                }
                file
            }
        };
        tokio::task::spawn_blocking(move || {
            let size = file.seek(SeekFrom::End(0))?;
            file.seek(SeekFrom::Start(0))?;
            let header = Header::read(&mut file, size).map_err(Error::internal)?;
            Ok(FileSource::new(file, header))
        })
        .await
        .map_err(Error::internal)?
    }

    /// A file without a name in the staging folder.
    fn scratch_file(&self) -> Result<std::fs::File> {
        let path = self.staging_dir.join(format!("scratch-{}", uuid::Uuid::now_v7()));
        let file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    }
}

/// Copies exactly the sealed bytes, and completes the copy only if they are the ones that were sealed.
async fn copy_parts(
    mut file: std::fs::File,
    sealed: &Sealed,
    upload: &mut dyn MultipartUpload,
) -> Result<()> {
    let mut hasher = Hasher::default();
    let mut left = sealed.size;
    while left > 0 {
        let size = left.min(PART_BYTES as u64);
        let read = move || read_part(file, hasher, size);
        let part;
        (file, hasher, part) = tokio::task::spawn_blocking(read).await.map_err(Error::internal)??;
        if part.is_empty() {
            break;
        }
        left -= part.len() as u64;
        upload.put_part(PutPayload::from(part)).await?;
        failpoint!("upload.part-stored");
    }
    let found = hasher.finish();
    if left > 0 || found != sealed.digest {
        return Err(Error::internal(format_args!(
            "the file of checkpoint {} changed after it was sealed: {left} of {} bytes are missing, the rest has \
             digest {found}",
            sealed.digest, sealed.size
        )));
    }
    failpoint!("upload.copied");
    upload.complete().await?;
    Ok(())
}

fn read_part(
    mut file: std::fs::File,
    mut hasher: Hasher,
    size: u64,
) -> Result<(std::fs::File, Hasher, Vec<u8>)> {
    let mut part = Vec::with_capacity(PART_BYTES);
    (&mut file).take(size).read_to_end(&mut part)?;
    hasher.update(&part);
    Ok((file, hasher, part))
}
