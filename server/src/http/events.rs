//! Events: what the audit log records, as it is recorded (server-sent events, in HTML's words).

use std::{fmt::Write as _, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::State,
    response::{IntoResponse, Response},
};
use fedbasin_proof::Record;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Api,
    problem::{Problem, Query},
    time::iso,
};
use crate::{
    error::{Error, Result},
    model::check_id,
    store::Store,
};

/// How often the log is looked at when nothing in this process wakes who waits for events.
const POLL: Duration = Duration::from_secs(1);

/// What happens within so much time is told at once.
const PAUSE: Duration = Duration::from_millis(50);

/// Where nothing happens, a comment is sent so often: proxies end what stands still.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Records that are read at once.
const AT_ONCE: u32 = 100;

/// After how many milliseconds a client that lost its connection is to come again.
const RETRY_MS: u32 = 2000;

/// By which a client says what it saw last.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Which events.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// The events after the one of this id; `Last-Event-ID` counts where both are there. Absent: what comes from now on.
    after: Option<u64>,
    /// Only those of this run.
    run: Option<String>,
}

impl Asked {
    /// After which event to begin, if after one.
    ///
    /// # Errors
    /// The run's name is none, or the header no id.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<Option<u64>> {
        if let Some(run) = &self.run {
            check_id("run", run)?;
        }
        let Some(last) = headers.get(LAST_EVENT_ID) else { return Ok(self.after) };
        // What a client that saw no event yet sends.
        if last.is_empty() {
            return Ok(self.after);
        }
        let id = last.to_str().ok().and_then(|text| text.parse().ok());
        let what = "last-event-id: not the id of an event, a number";
        id.map(Some).ok_or_else(|| Error::invalid(what))
    }
}

/// What is told of an event. Nothing that a viewer could not read in the audit log.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Event {
    /// When, by the database's clock.
    at: String,
    /// The run, where it is of one.
    run: Option<String>,
    /// The round's number, where it is of one.
    round: Option<u32>,
    /// The site, where it is of one.
    site: Option<String>,
    /// The id of what it is about: an update, a token, a certificate, a checkpoint, a graph, a model.
    object: Option<String>,
    /// Digest of the bytes that stand there since.
    digest: Option<String>,
    /// Why, in words.
    reason: Option<String>,
}

/// What happens, as it happens: a stream of server-sent events that does not end. `id` is the place of a record in the audit log, `event` its
/// action (`round.published`, `update.accepted`, …), `data` a JSON object. Who lost the connection goes on with `Last-Event-ID`, as browsers do by
/// themselves, and misses nothing; what happened before is at `/v1/audit`.
#[utoipa::path(get, path = "/v1/events", tag = "events", security(("token" = [])),
    params(Asked, ("Last-Event-ID" = Option<u64>, Header, description = "The id of the event that was seen last.")), responses(
    (status = 200, body = Event, content_type = "text/event-stream",
     description = "Blocks of `id`, `event` and `data`; the schema is that of `data`"),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json", description = "There is no such event, or no such name of a run")))]
pub(super) async fn stream(
    State(api): State<Api>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let after = asked.check(&headers)?;
    // Before the log is looked at: what comes after that look wakes.
    let changes = api.store.changes();
    let size = api.store.log_head().await?.size;
    let from = match after {
        None => size,
        Some(after) if after < size => after + 1,
        Some(after) => {
            let what = format!("after: there is no event {after}, the log has {size}; begin without it");
            return Err(Error::invalid(what).into());
        }
    };
    // An id without data tells nobody of an event: whoever is cut off before the first one goes on from here.
    let mut first = format!("retry: {RETRY_MS}\n");
    if let Some(seen) = from.checked_sub(1) {
        _ = writeln!(first, "id: {seen}");
    }
    first.push('\n');
    let watch = Watch { store: api.store.clone(), changes, stop: api.stop.clone(), from, run: asked.run };
    let first = futures::stream::iter([Ok::<_, Error>(Bytes::from(first))]);
    let events = futures::stream::try_unfold(watch, |mut watch| async move {
        Ok(watch.next().await?.map(|text| (Bytes::from(text), watch)))
    });
    let body = Body::from_stream(futures::StreamExt::chain(first, events));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // A proxy is to pass each event on at once.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, body).into_response())
}

/// Who waits for events.
struct Watch {
    store: Store,
    changes: watch::Receiver<u64>,
    /// The server is to stop.
    stop: CancellationToken,
    /// The place of the next record.
    from: u64,
    run: Option<String>,
}

impl Watch {
    /// What is to be sent next; nothing once the server stops.
    async fn next(&mut self) -> Result<Option<String>> {
        let begun = Instant::now();
        while !self.stop.is_cancelled() {
            self.changes.mark_unchanged();
            let lines = self.store.log_lines(self.from, AT_ONCE, self.run.as_deref()).await?;
            if !lines.is_empty() {
                return self.told(&lines).map(Some);
            }
            if begun.elapsed() >= KEEP_ALIVE {
                return Ok(Some(":\n\n".to_owned()));
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                Ok(()) = self.changes.changed() => tokio::time::sleep(PAUSE).await,
                () = tokio::time::sleep(POLL) => {}
            }
        }
        Ok(None)
    }

    fn told(&mut self, lines: &[String]) -> Result<String> {
        let mut text = String::new();
        for line in lines {
            let record = Record::from_line(line).map_err(Error::internal)?;
            self.from = record.seq + 1;
            let block = block(record)?;
            text.push_str(&block);
        }
        Ok(text)
    }
}

/// A record as an event. JSON has no line breaks here, and an action is one word.
fn block(record: Record) -> Result<String> {
    let (id, action) = (record.seq, record.action);
    let event = Event {
        at: iso(record.at_ms),
        run: record.run,
        round: record.round,
        site: record.site,
        object: record.object,
        digest: record.after,
        reason: record.reason,
    };
    let data = serde_json::to_string(&event).map_err(Error::internal)?;
    Ok(format!("id: {id}\nevent: {action}\ndata: {data}\n\n"))
}
