//! Whether rows and bytes agree: read by `fedbasin-server fsck`, which changes nothing.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use fedbasin_proof::Record;
use futures::{StreamExt as _, TryStreamExt as _};
use rebasin::{Digest, Hasher};
use sqlx::Row as _;

use super::{
    Store,
    bytes::{folder, named},
    parsed, unsigned,
};
use crate::error::{Code, Error, Result};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A row tells of bytes that are not there.
    Missing {
        /// The checkpoint.
        digest: Digest,
    },
    /// There are more or fewer bytes than the row says.
    Size {
        /// The checkpoint.
        digest: Digest,
        /// By its row.
        expected: u64,
        /// Found.
        found: u64,
    },
    /// The bytes are not those that the digest was made of.
    Altered {
        /// The checkpoint.
        digest: Digest,
        /// What the bytes have.
        found: Digest,
    },
    /// The bytes are encrypted with keys that are not at hand.
    Locked {
        /// The checkpoint.
        digest: Digest,
    },
    /// A held update's checkpoint has no row, or one that says that it was removed.
    Dangling {
        /// The update.
        update_id: String,
        /// Its checkpoint.
        digest: Digest,
    },
    /// Bytes that are on record as erased, or were to be erased long ago, and are there.
    Kept {
        /// Where.
        key: String,
        /// The checkpoint.
        digest: Digest,
    },
    /// Bytes that no row tells of: harmless, and swept when they are an hour old.
    Orphan {
        /// Where.
        key: String,
        /// How many bytes.
        size: u64,
    },
}

impl Finding {
    /// Whether something was lost, or kept that may not be; an orphan is only litter.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Orphan { .. })
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing { digest } => {
                write!(f, "missing   checkpoint {digest}: restore its bytes from a backup")
            }
            Self::Size { digest, expected, found } => {
                write!(
                    f,
                    "size      checkpoint {digest}: {found} bytes, not {expected}; restore them from a backup"
                )
            }
            Self::Altered { digest, found } => {
                write!(
                    f,
                    "altered   checkpoint {digest}: its bytes have digest {found}; restore them from a backup"
                )
            }
            Self::Locked { digest } => write!(
                f,
                "locked    checkpoint {digest}: it is encrypted with other signing keys than those at hand; name them by signing_key_file"
            ),
            Self::Dangling { update_id, digest } => {
                write!(f, "dangling  update {update_id}: no row tells of its checkpoint {digest}")
            }
            Self::Kept { key, digest } => {
                write!(
                    f,
                    "kept      {key}: checkpoint {digest} was to be erased, and is there; remove this object"
                )
            }
            Self::Orphan { key, size } => write!(f, "orphan    {key}: {size} bytes that no row tells of"),
        }
    }
}

/// How often a comparison that takes long says how far it is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// A server that runs erases what is to be erased within a minute; what waits for longer than this is not erased.
const ERASED_WITHIN: Duration = Duration::from_secs(3600);

impl Store {
    /// Compares all rows with all bytes, and tells of what it finds. With `whole` every byte is read and hashed, else
    /// only sizes are compared. Gives the number of checkpoints.
    ///
    /// # Errors
    /// Those of the database and the object store.
    pub async fn fsck(&self, whole: bool, tell: &mut dyn FnMut(Finding)) -> Result<u64> {
        let rows =
            sqlx::query("SELECT digest, size, COALESCE(object, digest) AS object FROM checkpoints WHERE removed_at_ms IS NULL ORDER BY digest").fetch_all(&self.pool).await?;
        let mut known = HashSet::with_capacity(rows.len());
        let (mut told, mut bytes) = (Instant::now(), 0);
        for (place, row) in rows.iter().enumerate() {
            if told.elapsed() > TELL_EVERY {
                told = Instant::now();
                tracing::info!(
                    checkpoints.done = place,
                    checkpoints.all = rows.len(),
                    bytes.done = bytes,
                    "comparing"
                );
            }
            bytes += unsigned::<u64>(row, "size")?;
            let digest: Digest = parsed(row, "digest")?;
            let object: String = row.try_get("object")?;
            if let Some(finding) = self.check_object(digest, &object, unsigned(row, "size")?, whole).await? {
                tell(finding);
            }
            known.insert(object);
        }
        let dangling = sqlx::query(
            "SELECT u.id, u.digest FROM updates u LEFT JOIN checkpoints c ON c.digest = u.digest
             WHERE u.state IN ('accepted', 'aligned') AND u.retired_at_ms IS NULL
               AND (c.digest IS NULL OR c.removed_at_ms IS NOT NULL) ORDER BY u.id",
        );
        for row in dangling.fetch_all(&self.pool).await? {
            tell(Finding::Dangling { update_id: row.try_get("id")?, digest: parsed(&row, "digest")? });
        }
        let mut objects = self.objects.store.list(Some(&folder()));
        while let Some(object) = objects.next().await {
            let object = object?;
            let key = object.location.to_string();
            match named(&object) {
                // One that is not known may have come meanwhile.
                Some((name, digest))
                    if known.contains(name) || self.object_name(&digest).await?.as_deref() == Some(name) => {}
                Some((name, digest)) if self.is_kept_though_erased(name, &digest).await? => {
                    tell(Finding::Kept { key, digest });
                }
                _ => tell(Finding::Orphan { key, size: object.size }),
            }
        }
        Ok(rows.len() as u64)
    }

    /// Whether an object that no row tells of holds bytes that were let go: the audit log says that it was erased, or a row says for
    /// an hour that it was to be. Whoever stores the same bytes anew gives them another name.
    async fn is_kept_though_erased(&self, name: &str, digest: &Digest) -> Result<bool> {
        let (object, hour) = (digest.to_string(), ERASED_WITHIN.as_millis());
        let overdue = sqlx::query(self.sql(
            "SELECT 1 FROM checkpoints WHERE digest = $1 AND COALESCE(object, digest) = $2 AND removed_at_ms < {now} - $3",
        ))
        .bind(&object)
        .bind(name)
        .bind(i64::try_from(hour).map_err(Error::internal)?)
        .fetch_optional(&self.pool)
        .await?;
        if overdue.is_none() {
            let lines = self.log_lines_of("checkpoint.erased", &object).await?;
            let mut names = Vec::with_capacity(lines.len());
            for line in &lines {
                let mut record = Record::from_line(line).map_err(Error::internal)?;
                names.push(record.details.remove("name"));
            }
            // Records of before there were names tell the digest alone.
            let is_it = |erased: &Option<_>| erased.as_ref().is_none_or(|erased| erased == name);
            if !names.iter().any(is_it) {
                return Ok(false);
            }
        }
        // The list may be older than what removed it.
        Ok(self.object_size(name).await?.is_some())
    }

    async fn check_object(
        &self,
        digest: Digest,
        object: &str,
        expected: u64,
        whole: bool,
    ) -> Result<Option<Finding>> {
        let Some(found) = self.object_size(object).await? else {
            return Ok(Some(Finding::Missing { digest }));
        };
        if found != expected {
            return Ok(Some(Finding::Size { digest, expected, found }));
        }
        if !whole {
            return Ok(None);
        }
        let place = match self.place(&digest).await {
            Ok(Some(place)) => place,
            // A policy let it go meanwhile.
            Ok(None) => return Ok(None),
            Err(error) if error.code() == Code::DataLoss => return Ok(Some(Finding::Locked { digest })),
            Err(error) => return Err(error),
        };
        let mut bytes = match self.object_at(&place, &digest, 0..expected).await {
            Ok(object) => object.stream,
            Err(error) if error.code() == Code::NotFound => return Ok(None),
            Err(error) if error.code() == Code::DataLoss => return Ok(Some(Finding::Missing { digest })),
            Err(error) => return Err(error),
        };
        let mut hasher = Hasher::default();
        while let Some(part) = bytes.try_next().await? {
            hasher = tokio::task::spawn_blocking(move || {
                hasher.update(&part);
                hasher
            })
            .await
            .map_err(Error::internal)?;
        }
        let found = hasher.finish();
        Ok((found != digest).then_some(Finding::Altered { digest, found }))
    }
}
