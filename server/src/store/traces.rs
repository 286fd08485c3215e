//! Which trace an update and a round belong to: written and read only where spans are exported, and never what keeps work from being done.

use sqlx::Row as _;

use super::Store;
use crate::{
    error::{Error, Result},
    requests::Trace,
    traces::Traces,
};

impl Store {
    /// The same store, whose work makes spans.
    #[must_use]
    pub(crate) fn tracing(self, traces: Traces) -> Self {
        Self { traces, ..self }
    }

    /// What makes spans.
    pub(crate) fn traces(&self) -> &Traces {
        &self.traces
    }

    /// Notes the trace of an update that has none yet.
    pub(crate) async fn note_trace(&self, update_id: &str, trace: Trace) {
        let noted = sqlx::query("UPDATE updates SET traceparent = $2 WHERE id = $1 AND traceparent IS NULL")
            .bind(update_id)
            .bind(trace.to_string())
            .execute(&self.pool)
            .await;
        or_nothing(noted.map(drop).map_err(Error::from));
    }

    /// Notes the trace of a round that has none yet: that of an update which it holds.
    pub(crate) async fn note_round_trace(&self, run_id: &str, number: u32, trace: Trace) {
        let noted = sqlx::query(
            "UPDATE rounds SET traceparent = $3 WHERE run_id = $1 AND number = $2 AND traceparent IS NULL",
        )
        .bind(run_id)
        .bind(i64::from(number))
        .bind(trace.to_string())
        .execute(&self.pool)
        .await;
        or_nothing(noted.map(drop).map_err(Error::from));
    }

    /// The trace of an update; nothing where spans are not made, or it has none.
    pub(crate) async fn trace_of_update(&self, update_id: &str) -> Option<Trace> {
        if !self.traces.are_made() {
            return None;
        }
        let found = async {
            let row = sqlx::query("SELECT traceparent FROM updates WHERE id = $1")
                .bind(update_id)
                .fetch_optional(&self.pool)
                .await?;
            let text: Option<String> = row.map_or(Ok(None), |row| row.try_get("traceparent"))?;
            Ok(text.and_then(|text| Trace::parse(&text)))
        };
        or_nothing(found.await)
    }

    /// The trace of a round, and those of the updates that it holds.
    pub(crate) async fn traces_of_round(&self, run_id: &str, number: u32) -> (Option<Trace>, Vec<Trace>) {
        if !self.traces.are_made() {
            return (None, Vec::new());
        }
        let found = async {
            let row = sqlx::query("SELECT traceparent FROM rounds WHERE run_id = $1 AND number = $2")
                .bind(run_id)
                .bind(i64::from(number))
                .fetch_optional(&self.pool)
                .await?;
            let of_round: Option<String> = row.map_or(Ok(None), |row| row.try_get("traceparent"))?;
            let rows = sqlx::query(
                "SELECT traceparent FROM updates WHERE run_id = $1 AND round = $2 AND state IN ('accepted', 'aligned')
                   AND traceparent IS NOT NULL ORDER BY site_id",
            )
            .bind(run_id)
            .bind(i64::from(number))
            .fetch_all(&self.pool)
            .await?;
            let mut of_updates = Vec::new();
            for row in &rows {
                let text: String = row.try_get("traceparent")?;
                of_updates.extend(Trace::parse(&text));
            }
            Ok((of_round.and_then(|text| Trace::parse(&text)), of_updates))
        };
        or_nothing(found.await)
    }
}

/// A trace that is not known costs a trace, and nothing else.
fn or_nothing<T: Default>(found: Result<T>) -> T {
    found.unwrap_or_else(|error| {
        tracing::debug!(error.message = error.message(), "a trace is neither known nor noted");
        T::default()
    })
}
