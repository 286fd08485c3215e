//! Spans of what an update and its round go through, exported where the settings name a collector; else nothing is made, kept or sent.
//!
//! An update's trace begins where a site announces it, or is the one that the site names. The row holds it, and so does the row of the
//! round whose first accepted update it is: whichever process receives, aligns, merges or publishes, its spans are of that trace. Times are
//! the database's, as everywhere; within a process they go on by its own steady clock.

mod exporter;
mod wire;

use std::{sync::Arc, time::Instant};

use tokio::sync::mpsc;

pub(crate) use self::exporter::Exporter;
use crate::{config::Config, error::Result, requests::Trace, round::Millis, store::Store};

/// Spans that wait to be exported; further ones are let go.
const AHEAD: usize = 4096;

/// Makes spans, or none where nothing is to be exported. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traces(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    sample_ratio: f64,
    /// When this began by the process's steady clock, and by the database's.
    began: (Instant, Millis),
    send: mpsc::Sender<wire::Span>,
}

/// A span that goes on until this is dropped.
#[derive(Debug)]
pub(crate) struct Open {
    inner: Arc<Inner>,
    span: wire::Span,
}

impl Traces {
    /// As the settings say, and what is to be run beside for spans to go out.
    ///
    /// # Errors
    /// Says what of the settings cannot be used; or the database does not answer.
    pub(crate) async fn from_config(config: &Config, store: &Store) -> Result<(Self, Option<Exporter>)> {
        let Some(otlp) = &config.otlp else { return Ok((Self::default(), None)) };
        let (send, receive) = mpsc::channel(AHEAD);
        let exporter = Exporter::new(otlp, receive)?;
        let began = (Instant::now(), store.now().await?);
        let inner = Inner { sample_ratio: otlp.sample_ratio, began, send };
        Ok((Self(Some(Arc::new(inner))), Some(exporter)))
    }

    /// Whether any span is made.
    pub(crate) fn are_made(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a trace, or goes on with the one that a caller began, where it is to be exported.
    pub(crate) fn begin(&self, name: &'static str, trace: Trace) -> Option<Open> {
        let inner = self.0.as_ref()?;
        let sampled = match trace.parent {
            Some(_) => trace.sampled,
            None => is_sampled(&trace.id, inner.sample_ratio),
        };
        self.within(name, Some(Trace { sampled, ..trace }))
    }

    /// Begins a span within a trace, where there is one that is exported.
    pub(crate) fn within(&self, name: &'static str, trace: Option<Trace>) -> Option<Open> {
        let inner = Arc::clone(self.0.as_ref()?);
        let trace = trace.filter(|trace| trace.sampled)?;
        let [.., a, b, c, d, e, f, g, h] = uuid::Uuid::now_v7().into_bytes();
        let span = wire::Span {
            trace_id: trace.id.to_vec(),
            // Of a UUID the half that is random, and never 0.
            span_id: vec![a, b, c, d, e, f, g, h],
            parent_span_id: trace.parent.map(|parent| parent.to_vec()).unwrap_or_default(),
            name: name.to_owned(),
            kind: wire::INTERNAL,
            start_time_unix_nano: inner.now(),
            ..wire::Span::default()
        };
        Some(Open { inner, span })
    }
}

impl Inner {
    /// Nanoseconds since the Unix epoch.
    fn now(&self) -> u64 {
        let (steady, began) = self.began;
        let since = u64::try_from(steady.elapsed().as_nanos()).unwrap_or(u64::MAX);
        began.unsigned_abs().saturating_mul(1_000_000).saturating_add(since)
    }
}

/// Whether a trace that begins here is among those that are exported: the same at every process, for it goes by the trace's id, whose
/// second half is random.
fn is_sampled(id: &[u8; 16], ratio: f64) -> bool {
    let [.., a, b, c, d] = *id;
    f64::from(u32::from_be_bytes([a, b, c, d])) < ratio * 4_294_967_296.0
}

impl Open {
    /// The place that what happens within it is a part of.
    pub(crate) fn place(&self) -> Option<Trace> {
        let id = self.span.trace_id.as_slice().try_into().ok()?;
        let parent = self.span.span_id.as_slice().try_into().ok()?;
        Some(Trace { id, parent: Some(parent), sampled: true })
    }

    /// Says something of it.
    pub(crate) fn tell(mut self, key: &'static str, value: &(impl ToString + ?Sized)) -> Self {
        self.span.attributes.push(wire::KeyValue::new(key, value.to_string()));
        self
    }

    /// Says that what happened in another trace led to it.
    pub(crate) fn link(&mut self, trace: Trace) {
        let span_id = trace.parent.map(|parent| parent.to_vec()).unwrap_or_default();
        self.span.links.push(wire::Link { trace_id: trace.id.to_vec(), span_id });
    }

    /// Says that it failed, and why, in words that others may read.
    pub(crate) fn fail(&mut self, why: &str) {
        self.span.status = Some(wire::Status { message: why.to_owned(), code: wire::FAILED });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.span.end_time_unix_nano = self.inner.now();
        // Where the collector is away for long, spans are let go: nothing waits for it.
        let _ = self.inner.send.try_send(std::mem::take(&mut self.span));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_traces_are_sampled_as_the_ratio_says_and_always_the_same_ones() {
        let ids: Vec<[u8; 16]> = (0..2000).map(|_| uuid::Uuid::now_v7().into_bytes()).collect();
        let count = |ratio: f64| ids.iter().filter(|id| is_sampled(id, ratio)).count();
        assert_eq!((count(0.0), count(1.0)), (0, 2000));
        assert!((300..700).contains(&count(0.25)), "{}", count(0.25));
        assert_eq!(count(0.25), count(0.25));
    }
}
