//! Calls that make something, and that their caller may send again: the key that comes with one is noted in the transaction that makes it, so
//! that it is made once.

use sqlx::Row as _;

use super::{Store, Tx};
use crate::{
    error::{Code, Error, Result},
    round::Millis,
};

/// So long a key is remembered.
const REMEMBERED_MS: Millis = 24 * 3600 * 1000;

/// What makes a call one that is made once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// Its caller's key.
    pub key: String,
    /// SHA-256 of what is asked for, hex.
    pub request: String,
}

/// A call that was made with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeCall {
    /// SHA-256 of what was asked for, hex.
    pub request: String,
    /// Its status and its JSON, without secrets; absent while it is not answered yet.
    pub answer: Option<(u16, String)>,
}

impl Store {
    /// The call that a caller made with a key, within a day.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn made_call(&self, credential: &str, key: &str) -> Result<Option<MadeCall>> {
        let row = sqlx::query(self.sql(
            "SELECT request, status, answer FROM made_calls
             WHERE credential = $1 AND key = $2 AND created_at_ms > {now} - $3",
        ));
        let row = row.bind(credential).bind(key).bind(REMEMBERED_MS).fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok(None) };
        let (status, answer): (Option<i64>, Option<String>) =
            (row.try_get("status")?, row.try_get("answer")?);
        let status = status.map(u16::try_from).transpose().map_err(Error::internal)?;
        Ok(Some(MadeCall { request: row.try_get("request")?, answer: status.zip(answer) }))
    }

    /// Notes what such a call was answered.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn answer_made_call(
        &self,
        credential: &str,
        key: &str,
        (status, answer): (u16, &str),
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE made_calls SET status = $3, answer = $4 WHERE credential = $1 AND key = $2")
            .bind(credential)
            .bind(key)
            .bind(i64::from(status))
            .bind(answer)
            .execute(&mut *tx)
            .await?;
        self.commit_quietly(tx).await
    }

    /// Notes that a call was made with a key, in the transaction that made what it makes; forgets those that are a day old.
    pub(super) async fn note_made(&self, tx: &mut Tx, once: &Once) -> Result<()> {
        let credential = self.actor.who.credential.as_deref().unwrap_or_default();
        let now = self.now_in(tx).await?;
        sqlx::query("DELETE FROM made_calls WHERE created_at_ms <= $1")
            .bind(now - REMEMBERED_MS)
            .execute(&mut **tx)
            .await?;
        let noted = sqlx::query(
            "INSERT INTO made_calls (credential, key, request, created_at_ms) VALUES ($1, $2, $3, $4)
             ON CONFLICT (credential, key) DO NOTHING",
        );
        let noted = noted.bind(credential).bind(&once.key).bind(&once.request).bind(now);
        match noted.execute(&mut **tx).await?.rows_affected() {
            1 => Ok(()),
            _ => Err(in_use()),
        }
    }
}

/// Another call with the same key was there first.
pub(crate) fn in_use() -> Error {
    Error::new(
        Code::KeyInUse,
        "idempotency-key: the call that came with it first is under way, or its answer was lost with the server; look whether it made what it \
         was to, and send another key",
    )
}
