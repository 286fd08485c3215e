//! Whether rows say what the audit log says: of what is held, of what was published, and of what was let go.

use sqlx::{Row as _, any::AnyRow};

use super::Store;
use crate::{
    error::{Code, Error, Result},
    round::Millis,
};

/// Whether the record `e` says that the bytes of the checkpoint `c` were erased, and none says that they came again since.
macro_rules! erased_for_good {
    () => {
        "e.object = c.digest AND e.action = 'checkpoint.erased'
         AND NOT EXISTS (SELECT 1 FROM audit_records a
                         WHERE a.object = c.digest AND a.action = 'checkpoint.stored' AND a.seq > e.seq)
         AND NOT EXISTS (SELECT 1 FROM updates u JOIN audit_records a ON a.object = u.id
                         WHERE u.digest = c.digest AND a.action = 'update.accepted' AND a.seq > e.seq
                           AND a.line LIKE '%\"after\":\"' || c.digest || '\"%')
         AND NOT EXISTS (SELECT 1 FROM rounds o JOIN audit_records a ON a.run_id = o.run_id
                         WHERE o.global_digest = c.digest AND a.action = 'round.published' AND a.seq > e.seq
                           AND a.line LIKE '%\"after\":\"' || c.digest || '\"%')"
    };
}

/// What rows say since `$1`, and no record does.
const UNRECORDED: [(&str, &str); 8] = [
    (
        "update",
        "SELECT u.id AS id FROM updates u WHERE u.state IN ('accepted', 'aligned') AND u.accepted_at_ms >= $1
           AND NOT EXISTS (SELECT 1 FROM audit_records a WHERE a.object = u.id AND a.action = 'update.accepted'
             AND a.line LIKE '%\"after\":\"' || u.digest || '\"%'
             AND a.line LIKE '%\"num_examples\":' || u.num_examples || '}%') LIMIT 1",
    ),
    (
        "published round of run",
        "SELECT o.run_id AS id FROM rounds o WHERE o.state = 'published' AND o.closed_at_ms >= $1
           AND NOT EXISTS (SELECT 1 FROM audit_records a WHERE a.run_id = o.run_id
             AND a.action = 'round.published' AND a.line LIKE '%\"round\":' || o.number || ',%'
             AND a.line LIKE '%\"after\":\"' || o.global_digest || '\"%') LIMIT 1",
    ),
    (
        "withdrawn update",
        "SELECT u.id AS id FROM updates u WHERE u.withdrawn_at_ms >= $1
           AND NOT EXISTS (SELECT 1 FROM audit_records a WHERE a.object = u.id AND a.action = 'update.withdrawn'
             AND a.line LIKE '%\"before\":\"' || u.digest || '\"%') LIMIT 1",
    ),
    (
        "retired update",
        // One that is withdrawn is retired with that.
        "SELECT u.id AS id FROM updates u WHERE u.retired_at_ms >= $1
           AND NOT EXISTS (SELECT 1 FROM audit_records a WHERE a.object = u.id
             AND a.action IN ('update.retired', 'update.withdrawn')
             AND a.line LIKE '%\"before\":\"' || u.digest || '\"%') LIMIT 1",
    ),
    (
        "retired model of run",
        "SELECT o.run_id AS id FROM rounds o WHERE o.model_retired_at_ms >= $1
           AND NOT EXISTS (SELECT 1 FROM audit_records a WHERE a.run_id = o.run_id
             AND a.action = 'model.retired' AND a.line LIKE '%\"round\":' || o.number || ',%'
             AND a.line LIKE '%\"before\":\"' || o.global_digest || '\"%') LIMIT 1",
    ),
    (
        "naive mean of run",
        "SELECT o.run_id AS id FROM rounds o WHERE o.naive_digest IS NOT NULL AND o.closed_at_ms >= $1
           AND NOT EXISTS (SELECT 1 FROM audit_records a WHERE a.object = o.naive_digest AND a.run_id = o.run_id
             AND a.action = 'checkpoint.stored' AND a.line LIKE '%\"round\":' || o.number || ',%') LIMIT 1",
    ),
    (
        "retired naive mean of run",
        "SELECT o.run_id AS id FROM rounds o WHERE o.naive_retired_at_ms >= $1
           AND NOT EXISTS (SELECT 1 FROM audit_records a WHERE a.run_id = o.run_id
             AND a.action = 'naive-mean.retired' AND a.line LIKE '%\"round\":' || o.number || ',%'
             AND a.line LIKE '%\"before\":\"' || o.naive_digest || '\"%') LIMIT 1",
    ),
    (
        "erased checkpoint",
        // One that has an object yet is to be erased, and is not.
        concat!(
            "SELECT c.digest AS id FROM checkpoints c WHERE c.removed_at_ms >= $1 AND c.object IS NULL
               AND NOT EXISTS (SELECT 1 FROM audit_records e WHERE ",
            erased_for_good!(),
            ") LIMIT 1"
        ),
    ),
];

/// What records say was let go, and rows do not.
const HELD: [(&str, &str); 5] = [
    (
        "update.withdrawn",
        "SELECT a.object AS id FROM audit_records a WHERE a.action = 'update.withdrawn'
           AND NOT EXISTS (SELECT 1 FROM updates u WHERE u.id = a.object
             AND u.withdrawn_at_ms IS NOT NULL AND u.retired_at_ms IS NOT NULL) LIMIT 1",
    ),
    (
        "update.retired",
        "SELECT a.object AS id FROM audit_records a WHERE a.action = 'update.retired'
           AND NOT EXISTS (SELECT 1 FROM updates u WHERE u.id = a.object AND u.retired_at_ms IS NOT NULL) LIMIT 1",
    ),
    (
        "model.retired",
        "SELECT a.run_id AS id FROM audit_records a WHERE a.action = 'model.retired'
           AND NOT EXISTS (SELECT 1 FROM rounds o WHERE o.run_id = a.run_id AND o.model_retired_at_ms IS NOT NULL
             AND a.line LIKE '%\"round\":' || o.number || ',%'
             AND a.line LIKE '%\"before\":\"' || o.global_digest || '\"%') LIMIT 1",
    ),
    (
        "naive-mean.retired",
        "SELECT a.run_id AS id FROM audit_records a WHERE a.action = 'naive-mean.retired'
           AND NOT EXISTS (SELECT 1 FROM rounds o WHERE o.run_id = a.run_id AND o.naive_retired_at_ms IS NOT NULL
             AND a.line LIKE '%\"round\":' || o.number || ',%'
             AND a.line LIKE '%\"before\":\"' || o.naive_digest || '\"%') LIMIT 1",
    ),
    (
        "checkpoint.erased",
        // Neither its bytes nor their key.
        concat!(
            "SELECT c.digest AS id FROM checkpoints c JOIN audit_records e ON e.object = c.digest
             WHERE (c.removed_at_ms IS NULL OR c.object IS NOT NULL OR c.wrapped_key IS NOT NULL) AND ",
            erased_for_good!(),
            " LIMIT 1"
        ),
    ),
];

impl Store {
    /// Whether each update that is held, each model that was published, each evaluation, and all that was withdrawn, retired or erased has
    /// its record, with the same digest; and whether nothing is held that the log says was let go. What was there before the log began has no record.
    ///
    /// # Errors
    /// [`Code::DataLoss`] with the first that has none, or is held.
    pub(super) async fn compare_rows(&self, since: Millis) -> Result<()> {
        for (what, query) in UNRECORDED {
            let row = sqlx::query(query).bind(since).fetch_optional(&self.pool).await?;
            differs(row.as_ref(), |id| {
                format!("it has no record of the {what} {id} as the database holds it")
            })?;
        }
        if let Some(id) = self.unrecorded_evaluation(since).await? {
            let how =
                format!("the audit log: it has no record of the evaluation {id} as the database holds it");
            return Err(Error::new(Code::DataLoss, how));
        }
        for (action, query) in HELD {
            let row = sqlx::query(query).fetch_optional(&self.pool).await?;
            differs(row.as_ref(), |id| {
                format!("it says {action} of {id}, which the database holds all the same")
            })?;
        }
        Ok(())
    }
}

fn differs(row: Option<&AnyRow>, how: impl FnOnce(&str) -> String) -> Result<()> {
    let Some(row) = row else { return Ok(()) };
    let id: String = row.try_get("id")?;
    Err(Error::new(Code::DataLoss, format!("the audit log: {}", how(&id))))
}
