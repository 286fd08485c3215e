//! What no row tells: how long things take in this process, what its edges carry, and what its limits refuse. One handle, cheap to clone;
//! all clones are one. Labels come from short lists of our own: never from what a caller says.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};

/// From a millisecond to a quarter of an hour, in seconds: a call, an upload, an alignment of a large network.
const SECONDS: [f64; 14] =
    [0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0];

/// The figures of one process.
#[derive(Clone)]
pub(crate) struct Telemetry(Arc<Figures>);

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Telemetry")
    }
}

/// The limits that refuse calls and connections.
const LIMITS: [&str; 9] = [
    "max_connections",
    "max_connections_per_address",
    "max_new_connections_per_minute_per_address",
    "max_calls_per_minute_per_site",
    "max_calls_per_minute_per_person",
    "max_calls_per_minute_per_address",
    "max_calls_per_caller",
    "max_bytes_in_flight",
    "min_bytes_per_second",
];

struct Figures {
    calls: Family<OfCall, Counter>,
    call_seconds: Family<OfRoute, Histogram, Buckets>,
    under_way: Family<OfEdge, Gauge>,
    connections: Family<OfEdge, Gauge>,
    received: Family<OfEdge, Counter>,
    sent: Family<OfEdge, Counter>,
    refusals: Family<OfLimit, Counter>,
    step_seconds: Family<OfStep, Histogram, Buckets>,
    leases: Family<OfLease, Counter>,
    acquire_seconds: Histogram,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            calls: Family::default(),
            call_seconds: Family::new_with_constructor(Buckets),
            under_way: Family::default(),
            connections: Family::default(),
            received: Family::default(),
            sent: Family::default(),
            refusals: Family::default(),
            step_seconds: Family::new_with_constructor(Buckets),
            leases: Family::default(),
            acquire_seconds: Histogram::new(SECONDS),
        }
    }
}

#[derive(Clone)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(SECONDS)
    }
}

/// An edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the value of a label")]
pub(crate) enum Edge {
    /// For sites.
    grpc,
    /// For operators.
    http,
}

impl Edge {
    /// The name, as in labels.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::grpc => "grpc",
            Self::http => "http",
        }
    }
}

/// A part of what an update, or a round, goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the value of a label")]
pub(crate) enum Step {
    /// The stream of an upload.
    receive,
    /// The whole update is checked.
    validate,
    /// One update is aligned.
    align,
    /// A round's model is computed.
    merge,
    /// It is stored, signed and recorded.
    publish,
}

impl Step {
    /// The name, as in labels.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::receive => "receive",
            Self::validate => "validate",
            Self::align => "align",
            Self::merge => "merge",
            Self::publish => "publish",
        }
    }
}

/// What was leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the value of a label")]
pub(crate) enum Leased {
    /// An update, to be aligned.
    align,
    /// A round, to be merged.
    merge,
    /// A notice, to be delivered.
    deliver,
}

/// What came of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the value of a label")]
pub(crate) enum Outcome {
    /// The work was done and recorded.
    done,
    /// It failed: it is tried again, or given up.
    failed,
    /// It was another's meanwhile.
    lost,
    /// It was given back, uncounted.
    returned,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEdge {
    edge: Edge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRoute {
    edge: Edge,
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCall {
    edge: Edge,
    route: String,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLimit {
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStep {
    step: Step,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLease {
    work: Leased,
    outcome: Outcome,
}

impl Default for Telemetry {
    /// Nothing happened yet, and that is told: what is missing would be no news.
    fn default() -> Self {
        let own = Figures::default();
        for edge in [Edge::grpc, Edge::http] {
            drop(own.under_way.get_or_create(&OfEdge { edge }));
            drop(own.connections.get_or_create(&OfEdge { edge }));
            drop(own.received.get_or_create(&OfEdge { edge }));
            drop(own.sent.get_or_create(&OfEdge { edge }));
        }
        for limit in LIMITS {
            drop(own.refusals.get_or_create(&OfLimit { limit }));
        }
        for step in [Step::receive, Step::validate, Step::align, Step::merge, Step::publish] {
            drop(own.step_seconds.get_or_create(&OfStep { step }));
        }
        for work in [Leased::align, Leased::merge, Leased::deliver] {
            for outcome in [Outcome::done, Outcome::failed, Outcome::lost, Outcome::returned] {
                drop(own.leases.get_or_create(&OfLease { work, outcome }));
            }
        }
        Self(Arc::new(own))
    }
}

impl Telemetry {
    /// Adds the figures to what is told.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let own = &*self.0;
        registry.register("calls", "Calls that ended, by what was answered", own.calls.clone());
        registry.register("calls_under_way", "Calls under way, streams among them", own.under_way.clone());
        registry.register("connections", "Open connections", own.connections.clone());
        registry.register(
            "refusals",
            "What a limit refused, by the limit's name in the settings",
            own.refusals.clone(),
        );
        registry.register(
            "leases",
            "Leases on work that this process took, by what came of them",
            own.leases.clone(),
        );
        let help = "How long calls took, their answers among it";
        registry.register_with_unit("call_duration", help, Unit::Seconds, own.call_seconds.clone());
        let help = "How long the steps took that an update and a round go through";
        registry.register_with_unit("step_duration", help, Unit::Seconds, own.step_seconds.clone());
        let help = "How long changes waited for a connection to the database";
        registry.register_with_unit("database_wait", help, Unit::Seconds, own.acquire_seconds.clone());
        registry.register_with_unit(
            "received",
            "Content that calls brought",
            Unit::Bytes,
            own.received.clone(),
        );
        registry.register_with_unit(
            "sent",
            "Content of answers that was handed over",
            Unit::Bytes,
            own.sent.clone(),
        );
    }

    /// How long a step took.
    pub(crate) fn step(&self, step: Step, took: Duration) {
        self.0.step_seconds.get_or_create(&OfStep { step }).observe(took.as_secs_f64());
    }

    /// What came of a lease.
    pub(crate) fn leased(&self, work: Leased, outcome: Outcome) {
        self.0.leases.get_or_create(&OfLease { work, outcome }).inc();
    }

    /// A limit refused something.
    pub(crate) fn refused(&self, limit: &'static str) {
        self.0.refusals.get_or_create(&OfLimit { limit }).inc();
    }

    /// How long a change waited for its connection to the database.
    pub(crate) fn acquired(&self, waited: Duration) {
        self.0.acquire_seconds.observe(waited.as_secs_f64());
    }

    /// What the calls of an edge bring.
    pub(crate) fn received(&self, edge: Edge) -> Counter {
        self.0.received.get_or_create(&OfEdge { edge }).clone()
    }

    /// What they are answered.
    pub(crate) fn sent(&self, edge: Edge) -> Counter {
        self.0.sent.get_or_create(&OfEdge { edge }).clone()
    }

    /// A connection, until this is dropped.
    pub(crate) fn connection(&self, edge: Edge) -> Counting {
        Counting::one(&self.0.connections, edge)
    }

    /// A call, until this is dropped.
    pub(crate) fn call(&self, edge: Edge) -> Measured {
        Measured {
            telemetry: self.clone(),
            edge,
            began: Instant::now(),
            route: None,
            code: None,
            _under_way: Counting::one(&self.0.under_way, edge),
        }
    }
}

/// One of what there is now.
pub(crate) struct Counting(Gauge);

impl Counting {
    fn one(family: &Family<OfEdge, Gauge>, edge: Edge) -> Self {
        let gauge = family.get_or_create(&OfEdge { edge }).clone();
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A call under way; its end is what is told.
pub(crate) struct Measured {
    telemetry: Telemetry,
    edge: Edge,
    began: Instant,
    /// As the router names it.
    route: Option<String>,
    /// What it was answered.
    code: Option<String>,
    _under_way: Counting,
}

impl Measured {
    /// As the router names what is called.
    pub(crate) fn name(&mut self, route: &str) {
        self.route = Some(route.to_owned());
    }

    /// What was answered.
    pub(crate) fn answer(&mut self, code: &str) {
        self.code = Some(code.to_owned());
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        let (edge, figures) = (self.edge, &self.telemetry.0);
        // Whatever else is called is one.
        let route = self.route.take().unwrap_or_else(|| "other".into());
        let took = self.began.elapsed().as_secs_f64();
        figures.call_seconds.get_or_create(&OfRoute { edge, route: route.clone() }).observe(took);
        let code = self.code.take().unwrap_or_else(|| "broken-off".into());
        figures.calls.get_or_create(&OfCall { edge, route, code }).inc();
    }
}
