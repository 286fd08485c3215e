//! Graphs: a row for each whose spec was derived and verified.

use fedbasin_proof::Record;
use rebasin::{Digest, Spec};
use serde_json::Value;
use sqlx::Row as _;

use super::{Store, document, signed, to_json, unsigned};
use crate::{
    error::{Error, Result},
    round::Millis,
};

/// A network whose spec was derived from its graph and verified by running it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredGraph {
    /// SHA-256 of the ONNX file.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// The spec as derived.
    pub spec: Spec,
    /// How it was verified.
    pub certificate: Value,
    /// Each axis that stays, and why.
    pub pinned: Value,
    /// When it was first stored.
    pub created_at_ms: Millis,
}

impl Store {
    /// Keeps a graph's spec and certificate. The same graph again changes nothing. Returns what is stored.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::error::Code) when the database does not answer.
    pub async fn put_graph(
        &self,
        digest: &Digest,
        size: u64,
        spec: &Spec,
        certificate: &Value,
        pinned: &Value,
    ) -> Result<StoredGraph> {
        let mut tx = self.begin().await?;
        let stored = sqlx::query(self.sql(
            "INSERT INTO graphs (digest, size, spec, certificate, pinned, created_at_ms)
             VALUES ($1, $2, $3, $4, $5, {now}) ON CONFLICT (digest) DO NOTHING",
        ))
        .bind(digest.to_string())
        .bind(signed(size)?)
        .bind(spec.to_json())
        .bind(to_json(certificate)?)
        .bind(to_json(pinned)?)
        .execute(&mut *tx)
        .await?;
        if stored.rows_affected() == 1 {
            let digest = digest.to_string();
            tx.record(Record::of("graph.stored").object(&digest).digests(None, Some(digest.clone())));
        }
        self.settle(tx).await?;
        self.graph(digest).await?.ok_or_else(|| Error::internal("a graph just stored is gone"))
    }

    /// The graph of that digest.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn graph(&self, digest: &Digest) -> Result<Option<StoredGraph>> {
        let row = sqlx::query(
            "SELECT size, spec, certificate, pinned, created_at_ms FROM graphs WHERE digest = $1",
        )
        .bind(digest.to_string())
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let whole = |name: &'static str| -> Result<Value> {
            document(&row, name)?.ok_or_else(|| Error::internal(format_args!("graphs.{name} is null")))
        };
        let spec: String = row.try_get("spec")?;
        Ok(Some(StoredGraph {
            digest: *digest,
            size: unsigned(&row, "size")?,
            spec: Spec::from_json(&spec)
                .map_err(|error| Error::internal(format_args!("graphs.spec of {digest}: {error}")))?,
            certificate: whole("certificate")?,
            pinned: whole("pinned")?,
            created_at_ms: row.try_get("created_at_ms")?,
        }))
    }
}
