//! Checkpoints: a row for each that is stored.

use super::{Store, Tx, document, signed, staging::Sealed, to_json, unsigned};
use crate::error::{Error, Result};
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
        self.put_object(&sealed).await?;
        let stored = StoredCheckpoint { digest: sealed.digest, size: sealed.size, layout: sealed.layout };
        let mut tx = self.begin().await?;
        self.insert_checkpoint(&mut tx, &stored).await?;
        self.commit(tx).await?;
        Ok(stored)
    }

    pub(super) async fn insert_checkpoint(&self, tx: &mut Tx, stored: &StoredCheckpoint) -> Result<()> {
        sqlx::query(self.sql(
            "INSERT INTO checkpoints (digest, size, layout, created_at_ms) VALUES ($1, $2, $3, {now})
             ON CONFLICT (digest) DO NOTHING",
        ))
        .bind(stored.digest.to_string())
        .bind(signed(stored.size)?)
        .bind(to_json(&stored.layout)?)
        .execute(&mut **tx)
        .await?;
        Ok(())
    }

    /// The stored checkpoint of that digest.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn checkpoint(&self, digest: &Digest) -> Result<Option<StoredCheckpoint>> {
        let row = sqlx::query("SELECT size, layout FROM checkpoints WHERE digest = $1")
            .bind(digest.to_string())
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let layout =
            document(&row, "layout")?.ok_or_else(|| Error::internal("checkpoints.layout is null"))?;
        Ok(Some(StoredCheckpoint { digest: *digest, size: unsigned(&row, "size")?, layout }))
    }

    /// Whether the site may read the checkpoint: it is the seed or a global model of a run of the site's. Every
    /// reference is one of these, but for a founding round's, which is another site's update and not for download.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn site_may_read(&self, site_id: &str, digest: &Digest) -> Result<bool> {
        let row = sqlx::query(
            "SELECT 1 FROM run_sites s JOIN runs r ON r.id = s.run_id
             WHERE s.site_id = $1
               AND (r.seed_digest = $2
                    OR EXISTS (SELECT 1 FROM rounds o WHERE o.run_id = r.id AND o.global_digest = $2))
             LIMIT 1",
        )
        .bind(site_id)
        .bind(digest.to_string())
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.is_some())
    }
}
