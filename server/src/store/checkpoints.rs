//! Checkpoints: a row for each that is stored.

use fedbasin_proof::Record;

use super::{Store, Tx, bytes::Stored, document, signed, staging::Sealed, to_json, unsigned};
use crate::error::{Code, Error, Result};
use rebasin::{Digest, Layout};

/// A stored checkpoint.
#[derive(Debug, Clone)]
pub struct StoredCheckpoint {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// Its layout.
    pub layout: Layout,
}

impl Store {
    /// Stores a seed. Bytes first, then the row.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::error::Code) when storage does not answer.
    pub async fn put_checkpoint(&self, sealed: Sealed) -> Result<StoredCheckpoint> {
        let stored = self.put_object(&sealed).await?;
        let mut tx = self.begin().await?;
        let known = self.hold_checkpoint(&mut tx, &sealed.digest).await?;
        self.insert_checkpoint(&mut tx, &sealed, &stored).await?;
        if !known {
            let digest = sealed.digest.to_string();
            tx.record(Record::of("checkpoint.stored").object(&digest).digests(None, Some(digest.clone())));
        }
        self.settle(tx).await?;
        Ok(StoredCheckpoint { digest: sealed.digest, size: sealed.size, layout: sealed.layout })
    }

    /// Records a checkpoint whose bytes are stored. What the row names stays there until the row says that it is removed.
    ///
    /// # Errors
    /// [`Code::Unavailable`] where the bytes that were found were removed meanwhile, or those that were stored are so old that they
    /// may have been swept: storing anew helps.
    pub(super) async fn insert_checkpoint(
        &self,
        tx: &mut Tx,
        sealed: &Sealed,
        stored: &Stored,
    ) -> Result<()> {
        if stored.may_be_swept() {
            return Err(again(&sealed.digest));
        }
        if !stored.found {
            self.insert_row(tx, sealed, stored).await?;
        }
        // A row that was there already, too.
        if self.hold_checkpoint(tx, &sealed.digest).await? { Ok(()) } else { Err(again(&sealed.digest)) }
    }

    async fn insert_row(&self, tx: &mut Tx, sealed: &Sealed, stored: &Stored) -> Result<()> {
        sqlx::query(self.sql(
            "INSERT INTO checkpoints (digest, size, layout, object, wrapped_key, magnitudes, created_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6, {now})
             ON CONFLICT (digest) DO UPDATE
             SET object = excluded.object, wrapped_key = excluded.wrapped_key, removed_at_ms = NULL
             WHERE checkpoints.removed_at_ms IS NOT NULL",
        ))
        .bind(sealed.digest.to_string())
        .bind(signed(sealed.size)?)
        .bind(to_json(&sealed.layout)?)
        .bind(&stored.place.object)
        .bind(stored.place.wrapped_key())
        .bind(sealed.magnitudes.as_ref().map(to_json).transpose()?)
        .execute(&mut **tx)
        .await?;
        Ok(())
    }

    /// Keeps a stored checkpoint from being removed until the transaction ends, and for as long as rows need it then; tells whether it
    /// is there.
    pub(super) async fn hold_checkpoint(&self, tx: &mut Tx, digest: &Digest) -> Result<bool> {
        let row =
            sqlx::query(self.sql(
                "SELECT digest FROM checkpoints WHERE digest = $1 AND removed_at_ms IS NULL {for_update}",
            ))
            .bind(digest.to_string())
            .fetch_optional(&mut **tx)
            .await?;
        Ok(row.is_some())
    }

    /// The stored checkpoint of that digest; nothing if its bytes are no longer kept.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn checkpoint(&self, digest: &Digest) -> Result<Option<StoredCheckpoint>> {
        let row =
            sqlx::query("SELECT size, layout FROM checkpoints WHERE digest = $1 AND removed_at_ms IS NULL")
                .bind(digest.to_string())
                .fetch_optional(&self.pool)
                .await?;
        let Some(row) = row else { return Ok(None) };
        let layout =
            document(&row, "layout")?.ok_or_else(|| Error::internal("checkpoints.layout is null"))?;
        Ok(Some(StoredCheckpoint { digest: *digest, size: unsigned(&row, "size")?, layout }))
    }

    /// Whether the site may read the checkpoint: it is the seed, a global model or a kept naive mean of a run of the site's. Every
    /// reference is one of the first two, but for a founding round's, which is another site's update and not for download.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn site_may_read(&self, site_id: &str, digest: &Digest) -> Result<bool> {
        let row = sqlx::query(
            "SELECT 1 FROM run_sites s JOIN runs r ON r.id = s.run_id
             WHERE s.site_id = $1
               AND (r.seed_digest = $2
                    OR EXISTS (SELECT 1 FROM rounds o WHERE o.run_id = r.id
                                 AND (o.global_digest = $2 OR (o.naive_digest = $2 AND o.naive_retired_at_ms IS NULL))))
             LIMIT 1",
        )
        .bind(site_id)
        .bind(digest.to_string())
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.is_some())
    }

    /// Whether the checkpoint is a naive mean, and neither a seed nor a global model: nothing that anybody is to go on from.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn is_naive_alone(&self, digest: &Digest) -> Result<bool> {
        let row = sqlx::query(
            "SELECT 1 FROM rounds n WHERE n.naive_digest = $1
               AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.seed_digest = $1)
               AND NOT EXISTS (SELECT 1 FROM rounds o WHERE o.global_digest = $1)
             LIMIT 1",
        )
        .bind(digest.to_string())
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.is_some())
    }
}

pub(super) fn again(digest: &Digest) -> Error {
    Error::new(
        Code::Unavailable,
        format!("the bytes of checkpoint {digest} were removed while it was taken; try again"),
    )
}
