//! An upload's file: opened, grown, made durable and sealed on threads that may block.

use std::sync::Arc;

use fedbasin_proto::{MAX_CHUNK_BYTES, v1};
use tokio::task::JoinHandle;

use super::{Gate, Held};
use crate::{
    error::{Code, Error, Result},
    model::Update,
    store::{Sealed, Staging, Store},
};

/// Bytes on their way to the disk, while further ones arrive.
pub(super) struct Syncing {
    durable_offset: u64,
    done: JoinHandle<Result<()>>,
}

impl Syncing {
    pub(super) fn begin(held: &mut Option<Held>) -> Result<Self> {
        let (work, durable_offset) = opened(guard(held)?)?.begin_sync()?;
        Ok(Self { durable_offset, done: tokio::task::spawn_blocking(work) })
    }

    /// Waits until the disk has answered, and gives how many bytes are durable then; for ever where nothing is on its way. May be
    /// dropped and asked again.
    pub(super) async fn end(syncing: &mut Option<Self>) -> Result<u64> {
        let Some(now) = syncing else { return std::future::pending().await };
        let outcome = (&mut now.done).await.map_err(Error::internal);
        let durable_offset = now.durable_offset;
        *syncing = None;
        outcome?.map(|()| durable_offset)
    }

    /// The same, noted, where something is on its way.
    pub(super) async fn settle(syncing: &mut Option<Self>, held: &mut Option<Held>) -> Result<Option<u64>> {
        match syncing {
            Some(_) => synced(held, Self::end(syncing).await).map(Some),
            None => Ok(None),
        }
    }
}

/// Notes what the disk answered.
pub(super) fn synced(held: &mut Option<Held>, outcome: Result<u64>) -> Result<u64> {
    let guard = guard(held)?;
    match outcome {
        Ok(durable_offset) => {
            opened(guard)?.synced(durable_offset);
            Ok(durable_offset)
        }
        // What is on the disk is unknown, and the file is gone: who comes next begins anew.
        Err(error) => {
            **guard = None;
            Err(error)
        }
    }
}

fn guard(held: &mut Option<Held>) -> Result<&mut Held> {
    held.as_mut().ok_or_else(|| Error::internal("an upload's lock was lost"))
}

pub(super) async fn open(store: &Store, update: &Update, gate: &Gate, held: &mut Option<Held>) -> Result<()> {
    if store.is_shared() {
        let here = held.as_ref().and_then(|held| held.as_ref());
        let here = here.map(|staging| (staging.written(), staging.durable()));
        let is_acknowledged = match here {
            Some((written, durable)) => {
                written == durable && durable == store.received_bytes(&update.id).await?
            }
            None => false,
        };
        if !is_acknowledged {
            // Another replica may have gone on, or what was written here was never acknowledged.
            close(held).await?;
            store.restore_staging(&update.id).await?;
        }
    }
    let key = match store.key_of_update(update).await {
        // Its round may have ended since it was looked at: then the row says why. One that was taken is asked for again.
        Err(error) if error.code() == Code::Unavailable => {
            let now = store.update_of_site(&update.site_id, &update.id).await?;
            let ended = super::under_way(&now).err().filter(|ended| ended.code() != Code::Conflict);
            return Err(ended.unwrap_or(error));
        }
        key => key?,
    };
    let (store, update) = (store.clone(), update.clone());
    let (layout, bounds) = (gate.layout.clone(), gate.bounds.clone());
    on_disk(held, move |staging| {
        // A stream that was given up may not have heard what the disk answered: the file is read again.
        staging.take_if(|staging| staging.is_syncing());
        if staging.is_none() {
            *staging = Some(store.staging_within(&update, key, layout, bounds)?);
        }
        Ok(())
    })
    .await
}

/// Runs `work` where it may block, and the upload's lock with it: if this future is dropped (a newer stream took
/// over, the client is gone), the lock is released only once the work has ended, so that no late write can land behind
/// the bytes of who comes next. After an error what was hashed and what is on the disk may differ: then the file is
/// closed, and read again by who comes next.
async fn on_disk<T: Send + 'static>(
    held: &mut Option<Held>,
    work: impl FnOnce(&mut Option<Staging>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let mut guard = held.take().ok_or_else(|| Error::internal("an upload's lock was lost"))?;
    let (guard, outcome) = tokio::task::spawn_blocking(move || {
        let outcome = work(&mut guard);
        if outcome.as_ref().is_err_and(|error| error.code() != Code::OffsetMismatch) {
            *guard = None;
        }
        (guard, outcome)
    })
    .await
    .map_err(Error::internal)?;
    *held = Some(guard);
    outcome
}

async fn close(held: &mut Option<Held>) -> Result<()> {
    on_disk(held, |staging| {
        *staging = None;
        Ok(())
    })
    .await
}

fn opened(staging: &mut Option<Staging>) -> Result<&mut Staging> {
    staging.as_mut().ok_or_else(|| Error::internal("an upload without a file"))
}

/// Appends one chunk; tells whether it is time to make what is there durable.
pub(super) async fn append(
    gate: &Arc<Gate>,
    held: &mut Option<Held>,
    chunk: v1::UpdateChunk,
) -> Result<bool> {
    let gate = Arc::clone(gate);
    on_disk(held, move |staging| {
        let staging = opened(staging)?;
        append_blocking(staging, &chunk).map_err(|error| gate.explain(staging, error))?;
        gate.check(staging)?;
        Ok(staging.sync_is_due())
    })
    .await
}

pub(super) fn append_blocking(staging: &mut Staging, chunk: &v1::UpdateChunk) -> Result<()> {
    if chunk.data.len() > MAX_CHUNK_BYTES {
        return Err(Error::new(Code::TooLarge, format!("a chunk has more than {MAX_CHUNK_BYTES} bytes")));
    }
    if chunk.data.is_empty() {
        return Err(Error::invalid(
            "a chunk is empty; send bytes, and end the stream when there are no more",
        ));
    }
    if chunk.offset != staging.written() {
        return Err(Error::new(
            Code::OffsetMismatch,
            format!(
                "a chunk begins at {}, the server holds {} bytes; begin again and go on from the offset given",
                chunk.offset,
                staging.written()
            ),
        ));
    }
    if crc32c::crc32c(&chunk.data) != chunk.crc32c {
        return Err(Error::new(
            Code::OffsetMismatch,
            format!("the chunk at {} arrived damaged (CRC-32C); begin again and send it again", chunk.offset),
        ));
    }
    staging.append(&chunk.data)
}

/// Makes what was received durable: on this process's disk, or where all replicas find it. Gives how much that is.
pub(super) async fn make_durable(store: &Store, update_id: &str, held: &mut Option<Held>) -> Result<u64> {
    if store.is_shared() {
        let part = on_disk(held, |staging| opened(staging)?.unsynced()).await?;
        if let Some((offset, bytes)) = part
            && let Err(error) = store.put_part(update_id, offset, bytes).await
        {
            close(held).await?;
            return Err(error);
        }
        return on_disk(held, |staging| {
            let staging = opened(staging)?;
            staging.stored_elsewhere();
            Ok(staging.durable())
        })
        .await;
    }
    on_disk(held, |staging| {
        let staging = opened(staging)?;
        staging.sync()?;
        Ok(staging.durable())
    })
    .await
}

pub(super) async fn seal(
    store: &Store,
    site: &str,
    update: &Update,
    held: &mut Option<Held>,
) -> Result<Sealed> {
    let gate = Gate::of(store, site, update).await?;
    open(store, update, &gate, held).await?;
    let digest = update.digest;
    on_disk(held, move |staging| {
        gate.check(opened(staging)?)?;
        let staging = staging.take().ok_or_else(|| Error::internal("an upload without a file"))?;
        staging.seal(Some(digest))
    })
    .await
}
