//! Posts spans to the collector that the settings name, many at once. What it does not take is let go: nothing waits for it.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message as _;
use reqwest::{Client, Url, redirect};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::wire;
use crate::{
    authorities,
    config::Otlp,
    error::{Error, Result},
};

/// Spans wait so long for others to go with them.
const TOGETHER: Duration = Duration::from_secs(1);
/// So many go at once at the most.
const MOST: usize = 512;
/// How long the collector may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what ends with the process may take to tell its last spans.
const GOODBYE: Duration = Duration::from_millis(500);

/// Takes spans to a collector.
pub(crate) struct Exporter {
    client: Client,
    url: Url,
    resource: wire::Resource,
    receive: mpsc::Receiver<wire::Span>,
    /// Whether the collector took what it was sent last: a change is logged, not each failure.
    well: bool,
}

impl Exporter {
    pub(super) fn new(otlp: &Otlp, receive: mpsc::Receiver<wire::Span>) -> Result<Self> {
        let url = otlp.address().map_err(Error::invalid)?;
        let mut client = Client::builder()
            .timeout(PATIENCE)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .default_headers(headers(otlp)?)
            .user_agent(concat!("fedbasin-server/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &otlp.ca_file {
            let found =
                authorities::read(path).map_err(|what| Error::invalid(format!("otlp.ca_file: {what}")))?;
            client = client.tls_certs_only(found);
        } else if url.scheme() == "http" {
            client = client.tls_certs_only([]);
        }
        let client = client.build();
        let client = client
            .map_err(|error| Error::invalid(format!("otlp.ca_file: no client can be made: {error}")))?;
        let attributes = vec![
            wire::KeyValue::new("service.name", "fedbasin-server".to_owned()),
            wire::KeyValue::new("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            wire::KeyValue::new("service.instance.id", uuid::Uuid::now_v7().to_string()),
        ];
        Ok(Self { client, url, resource: wire::Resource { attributes }, receive, well: true })
    }

    /// Exports until `stop` is cancelled, and what is there then.
    pub(crate) async fn export(mut self, stop: CancellationToken) {
        loop {
            let mut spans = Vec::new();
            let came = stop.run_until_cancelled(self.receive.recv_many(&mut spans, MOST)).await;
            let wait = match came {
                None => GOODBYE,
                Some(_) => TOGETHER,
            };
            // Also where the process is to end: what is under way still ends its spans.
            tokio::time::sleep(wait).await;
            while spans.len() < MOST
                && let Ok(span) = self.receive.try_recv()
            {
                spans.push(span);
            }
            if !spans.is_empty() {
                self.send(spans).await;
            }
            if came.is_none() {
                return;
            }
        }
    }

    async fn send(&mut self, spans: Vec<wire::Span>) {
        let count = spans.len();
        let scope = wire::Scope { name: "fedbasin-server".into(), version: env!("CARGO_PKG_VERSION").into() };
        let scope_spans = vec![wire::ScopeSpans { scope: Some(scope), spans }];
        let resource = Some(self.resource.clone());
        let request = wire::Request { resource_spans: vec![wire::ResourceSpans { resource, scope_spans }] };
        let post = self.client.post(self.url.clone()).header("content-type", "application/x-protobuf");
        let why = match post.body(request.encode_to_vec()).send().await {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("the collector answers {}", answer.status())),
            Err(error) => Some(error.without_url().to_string()),
        };
        let taken = why.is_none();
        match why {
            None if !self.well => tracing::info!("the collector of traces takes spans again"),
            Some(why) if self.well => {
                tracing::warn!(
                    error.message = why,
                    spans = count,
                    "spans could not be exported, and are let go"
                );
            }
            _ => {}
        }
        self.well = taken;
    }
}

/// The headers of the settings' file, a secret among them: they show themselves nowhere.
fn headers(otlp: &Otlp) -> Result<HeaderMap> {
    let Some(path) = &otlp.headers_file else { return Ok(HeaderMap::new()) };
    let bad = |what: &dyn std::fmt::Display| {
        Error::invalid(format!("otlp.headers_file: {}: {what}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| bad(&error))?;
    let mut headers = HeaderMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let parts = line.split_once(':').and_then(|(name, value)| {
            let name: HeaderName = name.trim().parse().ok()?;
            let mut value: HeaderValue = value.trim().parse().ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        let (name, value) =
            parts.ok_or_else(|| bad(&"a line is not a header's name, a colon, and its value"))?;
        headers.insert(name, value);
    }
    Ok(headers)
}
