//! Uploads under way where storage is shared: each acknowledged stretch of bytes is an object of its own, so that a site may go
//! on at any replica, whatever became of the one before.
//!
//! A part is named by the offset it begins at and is only ever created, so that of two replicas that write one upload the slower
//! one notices: what is there is one chain of parts from 0 on, the same for all who look.

use ::bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::{ObjectStoreExt as _, PutMode, PutPayload, path::Path as Key};

use super::Store;
use crate::error::{Code, Error, Result};

fn folder(update_id: &str) -> Key {
    Key::from(format!("uploads/{update_id}"))
}

/// Offsets have a fixed width, so that names sort like numbers.
fn key(update_id: &str, offset: u64) -> Key {
    Key::from(format!("uploads/{update_id}/{offset:020}"))
}

/// One acknowledged stretch.
struct Part {
    key: Key,
    offset: u64,
    size: u64,
}

impl Store {
    /// Whether other processes store bytes here too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.objects.shared
    }

    /// How many bytes of an upload are acknowledged.
    ///
    /// # Errors
    /// Those of the object store.
    pub async fn received_bytes(&self, update_id: &str) -> Result<u64> {
        if !self.is_shared() {
            return Ok(self.staged_bytes(update_id));
        }
        Ok(self.chain(update_id).await?.last().map_or(0, |part| part.offset + part.size))
    }

    /// The parts from 0 on that follow one another without a gap.
    async fn chain(&self, update_id: &str) -> Result<Vec<Part>> {
        let found = self.objects.store.list(Some(&folder(update_id)));
        let mut parts: Vec<Part> = found
            .map_err(Error::from)
            .try_filter_map(async |object| {
                let offset = object.location.filename().and_then(|name| name.parse().ok());
                Ok(offset.map(|offset| Part { offset, size: object.size, key: object.location }))
            })
            .try_collect()
            .await?;
        parts.sort_unstable_by_key(|part| part.offset);
        let mut end = 0;
        parts.retain(|part| {
            let follows = part.offset == end;
            end += if follows { part.size } else { 0 };
            follows
        });
        Ok(parts)
    }

    /// Stores an upload's bytes from `offset` on; they are durable when this returns.
    ///
    /// # Errors
    /// [`Code::OffsetMismatch`] where another replica was there first; those of the object store.
    pub async fn put_part(&self, update_id: &str, offset: u64, bytes: Vec<u8>) -> Result<()> {
        let (key, payload) = (key(update_id, offset), PutPayload::from(Bytes::from(bytes)));
        match self.objects.store.put_opts(&key, payload, PutMode::Create.into()).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => Err(Error::new(
                Code::OffsetMismatch,
                "another replica went on with this upload; begin again and go on from the offset given",
            )),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the upload's local file what is acknowledged of it. Does nothing where storage is not shared.
    ///
    /// # Errors
    /// Those of the object store and the disk.
    pub async fn restore_staging(&self, update_id: &str) -> Result<()> {
        if !self.is_shared() {
            return Ok(());
        }
        self.discard_staging(update_id);
        for part in self.chain(update_id).await? {
            let bytes = match self.objects.store.get(&part.key).await {
                Ok(part) => part.bytes().await?,
                Err(object_store::Error::NotFound { .. }) => {
                    let message = "another process ended this upload meanwhile; begin again";
                    return Err(Error::new(Code::OffsetMismatch, message));
                }
                Err(error) => return Err(error.into()),
            };
            let (store, name) = (self.clone(), update_id.to_owned());
            let extended = tokio::task::spawn_blocking(move || store.extend_staging(&name, &bytes));
            extended.await.map_err(Error::internal)??;
        }
        Ok(())
    }

    /// Removes an upload's bytes, here and where they are shared. What cannot be removed now is swept later.
    pub async fn discard_upload(&self, update_id: &str) {
        self.discard_staging(update_id);
        if !self.is_shared() {
            return;
        }
        let removed = async {
            let parts: Vec<Key> = self
                .objects
                .store
                .list(Some(&folder(update_id)))
                .map_ok(|object| object.location)
                .try_collect()
                .await?;
            for part in parts {
                self.objects.store.delete(&part).await?;
            }
            Ok::<_, object_store::Error>(())
        };
        if let Err(error) = removed.await {
            tracing::warn!(error.message = %error, update.id = update_id, "an upload's parts could not be removed");
        }
    }

    /// Removes the parts of uploads that are no longer under way. No part is of an update without a row: the row comes first.
    ///
    /// # Errors
    /// Those of the database and the object store.
    pub async fn sweep_parts(&self) -> Result<()> {
        if !self.is_shared() {
            return Ok(());
        }
        let root = Key::from("uploads");
        for folder in self.objects.store.list_with_delimiter(Some(&root)).await?.common_prefixes {
            let Some(id) = folder.filename().filter(|name| uuid::Uuid::parse_str(name).is_ok()) else {
                continue;
            };
            if !self.is_under_way(id).await? {
                self.discard_upload(id).await;
            }
        }
        Ok(())
    }
}
