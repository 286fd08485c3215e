//! Bytes in the object store: immutable, named by digest.

use std::{
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    ops::Range,
    path::Path,
};

use ::bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use object_store::{
    GetOptions, GetRange, GetResultPayload, ObjectStore as _, ObjectStoreExt as _, PutPayload,
    path::Path as Key,
};
use rebasin::{Digest, FileSource, Header};

use super::Store;
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

fn key(digest: &Digest) -> Key {
    Key::from(format!("checkpoints/{digest}"))
}

impl Store {
    pub(super) async fn objects_ready(&self) -> Result<()> {
        match self.objects.head(&Key::from("ready")).await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores the file's bytes under `digest`, durable when this returns. Does nothing when they are there.
    pub(super) async fn put_object(&self, digest: &Digest, file: &Path) -> Result<()> {
        let key = key(digest);
        match self.objects.head(&key).await {
            Ok(_) => return Ok(()),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let mut file = std::fs::File::open(file)?;
        let mut upload = self.objects.put_multipart(&key).await?;
        loop {
            let (returned, part) =
                tokio::task::spawn_blocking(move || read_part(file)).await.map_err(Error::internal)??;
            file = returned;
            if part.is_empty() {
                break;
            }
            upload.put_part(PutPayload::from(part)).await?;
        }
        upload.complete().await?;
        Ok(())
    }

    /// A range of a stored checkpoint's bytes.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::error::Code) when the object store does not answer.
    pub async fn object(&self, digest: &Digest, range: Range<u64>) -> Result<Object> {
        let size = self.objects.head(&key(digest)).await?.size;
        let range = range.start.min(size)..range.end.min(size);
        if range.is_empty() {
            return Ok(Object { size, stream: futures::stream::empty().boxed() });
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let got = self.objects.get_opts(&key(digest), options).await?;
        Ok(Object { size, stream: got.into_stream().map(|part| part.map_err(Error::from)).boxed() })
    }

    /// Random access to a stored checkpoint, for aligning and merging: the file itself where the store is a folder,
    /// a copy that vanishes with the source elsewhere.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::error::Code), or [`Code::Internal`](crate::error::Code) where the bytes are not
    /// the checkpoint that they were when they came.
    pub async fn source(&self, digest: &Digest) -> Result<FileSource> {
        let got = self.objects.get(&key(digest)).await?;
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

fn read_part(mut file: std::fs::File) -> Result<(std::fs::File, Vec<u8>)> {
    let mut part = Vec::with_capacity(PART_BYTES);
    (&mut file).take(PART_BYTES as u64).read_to_end(&mut part)?;
    Ok((file, part))
}
