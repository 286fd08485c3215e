//! A checkpoint's bytes as a stream of chunks.

use bytes::{Bytes, BytesMut};
use fedbasin_proto::{MAX_CHUNK_BYTES, v1};
use futures::{Stream, StreamExt as _, stream::BoxStream};
use rebasin::Digest;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    error::{Code, Error, Result},
    sessions,
    store::Store,
};

struct Cursor {
    parts: BoxStream<'static, Result<Bytes>>,
    held: BytesMut,
    offset: u64,
    total: u64,
}

/// The bytes from `offset` on, until the server stops or the caller's token ends; one empty chunk that tells the size where nothing is left.
pub(super) async fn stream(
    store: &Store,
    digest: Digest,
    offset: u64,
    stop: CancellationToken,
    ended: CancellationToken,
) -> Result<impl Stream<Item = std::result::Result<v1::DownloadChunk, Status>> + Send + use<>, Status> {
    let object = store.object(&digest, offset..u64::MAX).await?;
    if offset > object.size {
        let message = format!("offset {offset} is beyond the end: the checkpoint has {} bytes", object.size);
        return Err(Error::new(Code::OutOfRange, message).into());
    }
    let cursor = Cursor { parts: object.stream, held: BytesMut::new(), offset, total: object.size };
    let first_may_be_empty = offset == object.size;
    let chunks =
        futures::stream::try_unfold((cursor, first_may_be_empty), |(mut cursor, empty_once)| async move {
            match cursor.next_chunk().await? {
                Some(chunk) => Ok(Some((chunk, (cursor, false)))),
                None if empty_once => {
                    let chunk = v1::DownloadChunk {
                        offset: cursor.offset,
                        data: Bytes::new(),
                        total_size: cursor.total,
                    };
                    Ok(Some((chunk, (cursor, false))))
                }
                None => Ok(None),
            }
        });
    // A long download must not keep the process from ending; what is held already need not be sent again.
    let (stopping, over) = (stop.clone(), ended.clone());
    let last = futures::stream::once(async move {
        let stopped = "the server is stopping; go on from the bytes already held";
        match (over.is_cancelled(), stopping.is_cancelled()) {
            (true, _) => Some(Err(sessions::ended().into())),
            (_, true) => Some(Err(Error::new(Code::Unavailable, stopped).into())),
            _ => None,
        }
    });
    let until = async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = ended.cancelled() => {}
        }
    };
    Ok(chunks.take_until(Box::pin(until)).chain(last.filter_map(std::future::ready)))
}

impl Cursor {
    /// The next chunk, filled to the limit: object stores give parts of any size.
    async fn next_chunk(&mut self) -> Result<Option<v1::DownloadChunk>> {
        while self.held.len() < MAX_CHUNK_BYTES {
            match self.parts.next().await.transpose()? {
                // As it is: nothing is copied.
                Some(part) if self.held.is_empty() && part.len() == MAX_CHUNK_BYTES => {
                    return Ok(Some(self.chunk(part)));
                }
                Some(part) => self.held.extend_from_slice(&part),
                None => break,
            }
        }
        if self.held.is_empty() {
            if self.offset < self.total {
                return Err(Error::new(Code::Unavailable, "the object store ended a download early"));
            }
            return Ok(None);
        }
        let data = self.held.split_to(self.held.len().min(MAX_CHUNK_BYTES)).freeze();
        Ok(Some(self.chunk(data)))
    }

    fn chunk(&mut self, data: Bytes) -> v1::DownloadChunk {
        let chunk = v1::DownloadChunk { offset: self.offset, total_size: self.total, data };
        self.offset += chunk.data.len() as u64;
        chunk
    }
}
