//! Work is found in the rows: leases on rounds and updates, and the commits that end them.
//!
//! A lease is a token, an expiry by the database's clock, and a fence that grows with every lease. A result is
//! written in one transaction `WHERE fence = … AND state = …`: a worker that lost its lease meets no row.

mod alignments;
mod deliveries;
mod judging;
mod merges;

use std::time::Duration;

use sqlx::{Row as _, any::AnyRow};

pub use self::{
    alignments::AlignWork,
    deliveries::DeliverWork,
    merges::{Aligned, MergeInput, MergeWork},
};
use super::Store;
use crate::error::{Code, Result};

/// A wait before the next try of what failed, so that a passing fault can pass.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// A timed exclusive right to one piece of work, and the proof of it that results are written with.
#[derive(Debug)]
pub struct Lease<T> {
    /// The work.
    pub work: T,
    token: String,
    fence: i64,
}

impl<T> Lease<T> {
    /// What [`Store::renew`] knows the lease by.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }
}

impl Store {
    /// A lease with its work; one whose work cannot be read now is given back, one whose rows are broken counts as tried.
    async fn leased<T>(&self, token: String, row: &AnyRow, work: Result<T>) -> Result<Option<Lease<T>>> {
        match work {
            Ok(work) => Ok(Some(Lease { work, token, fence: fence(row)? })),
            Err(error) => {
                if error.code() == Code::Unavailable {
                    self.give_back(&token, RETRY_PAUSE).await?;
                }
                Err(error)
            }
        }
    }

    /// Keeps a lease for another `length`; tells whether it was still held.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn renew(&self, token: &str, length: Duration) -> Result<bool> {
        let mut renewed = 0;
        for statement in [
            "UPDATE rounds SET lease_expires_at_ms = {now} + $2 WHERE lease_token = $1",
            "UPDATE updates SET lease_expires_at_ms = {now} + $2 WHERE lease_token = $1",
        ] {
            let result =
                sqlx::query(self.sql(statement)).bind(token).bind(millis(length)).execute(&self.pool).await?;
            renewed += result.rows_affected();
        }
        Ok(renewed == 1)
    }

    /// Gives a lease back without counting the try: it did not fail by itself. `pause` is how long nobody takes it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn give_back(&self, token: &str, pause: Duration) -> Result<()> {
        for statement in [
            "UPDATE rounds SET lease_token = NULL, lease_expires_at_ms = {now} + $2, attempts = attempts - 1
             WHERE lease_token = $1 AND state = 'merging'",
            "UPDATE updates SET lease_token = NULL, lease_expires_at_ms = {now} + $2, attempts = attempts - 1
             WHERE lease_token = $1 AND state = 'accepted'",
        ] {
            sqlx::query(self.sql(statement)).bind(token).bind(millis(pause)).execute(&self.pool).await?;
        }
        Ok(())
    }
}

/// Why work that was begun too often is given up. What ended the process it cannot say.
fn never_ended(attempts: u32) -> String {
    format!(
        "it was begun {attempts} times and never ended; the server was killed or ran out of memory meanwhile, \
         see its log"
    )
}

fn millis(length: Duration) -> i64 {
    i64::try_from(length.as_millis()).unwrap_or(i64::MAX)
}

fn fence(row: &AnyRow) -> Result<i64> {
    Ok(row.try_get("fence")?)
}
