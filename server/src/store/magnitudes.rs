//! What values an update may have, by the reference of its round.

use rebasin::{Bounds, Digest, Magnitudes};
use sqlx::any::AnyRow;

use super::{Store, document, parsed, to_json};
use crate::{
    error::{Error, Result},
    model::Run,
};

impl Store {
    /// The bounds of a round's updates, by the run's policy; nothing where it asks for none, or where no reference is known yet.
    ///
    /// # Errors
    /// Those of the database, and of reading a reference that nobody measured yet.
    pub async fn bounds(&self, run: &Run, round: u32) -> Result<Option<Bounds>> {
        let factor = run.policy.max_magnitude_factor;
        let Some(layout) = run.layout.as_ref().filter(|_| factor > 0.0) else { return Ok(None) };
        let row = sqlx::query(
            "SELECT c.digest, c.magnitudes FROM rounds o JOIN checkpoints c ON c.digest = o.reference_digest
             WHERE o.run_id = $1 AND o.number = $2",
        )
        .bind(&run.id)
        .bind(i64::from(round))
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(self.magnitudes_of(&row).await?.bounds(layout, factor)))
    }

    /// How large a stored checkpoint's values are.
    ///
    /// # Errors
    /// Those of the database, and of reading one that nobody measured yet.
    pub async fn magnitudes(&self, digest: &Digest) -> Result<Magnitudes> {
        let row = sqlx::query("SELECT digest, magnitudes FROM checkpoints WHERE digest = $1")
            .bind(digest.to_string())
            .fetch_one(&self.pool)
            .await?;
        self.magnitudes_of(&row).await
    }

    async fn magnitudes_of(&self, row: &AnyRow) -> Result<Magnitudes> {
        match document(row, "magnitudes")? {
            Some(magnitudes) => Ok(magnitudes),
            None => self.measure(&parsed(row, "digest")?).await,
        }
    }

    /// Measures a reference that came as an update, or before references were measured. Whoever does it at the same moment finds the same.
    async fn measure(&self, digest: &Digest) -> Result<Magnitudes> {
        let source = self.source(digest).await?;
        let measure = move || Magnitudes::measure(&source);
        let magnitudes = tokio::task::spawn_blocking(measure).await.map_err(Error::internal)??;
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE checkpoints SET magnitudes = $2 WHERE digest = $1")
            .bind(digest.to_string())
            .bind(to_json(&magnitudes)?)
            .execute(&mut *tx)
            .await?;
        self.commit_quietly(tx).await?;
        Ok(magnitudes)
    }
}
