//! `/metrics`, for Prometheus: what the rows say, so that every replica says the same, and how this process stands.

use std::sync::atomic::AtomicU64;

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::header;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

use tokio::net::TcpListener;

use super::{Api, certificates::ends, problem::Problem};
use crate::{
    error::{Error, Result},
    model::{Certificate, Site, days_left},
    round::Millis,
    store::{ByName, Figures, Store},
};

/// What the format is called: OpenMetrics 1.0, which Prometheus asks for first.
const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRun {
    run: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSite {
    site: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCertificate {
    holder: Holder,
    site: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the value of a label")]
enum Holder {
    authority,
    server,
    site,
}

/// How the server stands, for Prometheus (OpenMetrics text). Sites and runs are labels.
#[utoipa::path(get, path = "/metrics", tag = "health", security(("token" = [])), responses(
    (status = 200, body = String, content_type = "application/openmetrics-text"),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn metrics(State(api): State<Api>) -> Result<Response, Problem> {
    let figures = api.store.figures().await?;
    let mut registry = Registry::with_prefix("fedbasin");
    registry.register(
        "build",
        "The program",
        Info::new(vec![("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
    );
    api.store.telemetry().register(&mut registry);
    of_rows(&mut registry, &figures);
    of_open_rounds(&mut registry, &figures);
    of_models(&mut registry, &figures);
    of_sites(&mut registry, &api.store.sites().await?, &figures);
    of_certificates(&mut registry, ends(&api), &api.store.certificates().await?, figures.now);
    let help = "1 where the server speaks clear text beyond its own machine";
    registry.register("clear_text", help, gauge(api.clear_text.into()));
    let mut text = String::new();
    encode(&mut text, &registry).map_err(Error::internal)?;
    Ok(([(header::CONTENT_TYPE, FORMAT)], text).into_response())
}

/// The figures of a process that only works, for Prometheus on the same machine: no token is asked for, so nothing of runs or sites is
/// told. Serves until it is dropped.
pub(crate) async fn serve_own(store: Store, listener: TcpListener) -> Result<()> {
    let telling = move || {
        let text = own(&store);
        std::future::ready(text.map(|text| ([(header::CONTENT_TYPE, FORMAT)], text)).map_err(Problem::from))
    };
    let router = Router::new().route("/metrics", get(telling));
    Ok(axum::serve(listener, router).await?)
}

fn own(store: &Store) -> Result<String> {
    let mut registry = Registry::with_prefix("fedbasin");
    store.telemetry().register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(Error::internal)?;
    Ok(text)
}

/// A gauge takes no number above `i64::MAX`; no count here comes near.
fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn gauge(value: u64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(whole(value));
    gauge
}

/// All states are there, so that what is missing is no news.
fn by_state(registry: &mut Registry, name: &str, help: &str, states: &[&str], found: &ByName) {
    let family = Family::<OfState, Gauge>::default();
    for state in states {
        let count = found.get(*state).copied().unwrap_or_default();
        family.get_or_create(&OfState { state: (*state).to_owned() }).set(whole(count));
    }
    registry.register(name, help, family);
}

fn of_rows(registry: &mut Registry, figures: &Figures) {
    by_state(registry, "runs", "Runs", &["open", "complete", "failed", "cancelled"], &figures.runs);
    let states = ["collecting", "merging", "published", "failed", "cancelled"];
    by_state(registry, "rounds", "Rounds of all runs", &states, &figures.rounds);
    let states = ["receiving", "accepted", "aligned", "rejected", "declined"];
    by_state(registry, "updates", "Updates of all rounds", &states, &figures.updates);
    let states = ["pending", "delivered", "dead"];
    let help = "Notices to webhooks; delivered ones are forgotten after 90 days";
    by_state(registry, "webhook_deliveries", help, &states, &figures.deliveries);
    let merge_waited =
        figures.to_merge_since.map_or(0, |since| (figures.now - since).max(0).unsigned_abs() / 1000);
    registry.register_with_unit(
        "rounds_to_merge_oldest",
        "How long ago the last update came of the round that waits longest to be merged",
        Unit::Seconds,
        gauge(merge_waited),
    );
    let waited = figures.to_align_since.map_or(0, |since| (figures.now - since).max(0).unsigned_abs() / 1000);
    for (name, help, value) in [
        ("updates_to_align", "Updates that wait to be aligned, or are being aligned", figures.to_align),
        (
            "work_attempts",
            "Most tries that an alignment or a merge of an open round has taken",
            figures.most_attempts,
        ),
        ("log_records", "Records of the audit log", figures.log_records),
        ("database_connections", "Connections to the database of this process", figures.connections.into()),
        ("database_connections_idle", "Those of them that nothing uses", figures.idle_connections.into()),
    ] {
        registry.register(name, help, gauge(value));
    }
    registry.register_with_unit(
        "updates_to_align_oldest",
        "How long ago the update came that waits longest to be aligned; in a founding round that is when it may be aligned, and not before",
        Unit::Seconds,
        gauge(waited),
    );
    registry.register_with_unit(
        "accepted",
        "Size of all updates that were accepted",
        Unit::Bytes,
        gauge(figures.accepted_bytes),
    );
}

fn of_open_rounds(registry: &mut Registry, figures: &Figures) {
    let families = [(); 5].map(|()| Family::<OfRun, Gauge>::default());
    let [number, held, quorum, collecting, deadline] = &families;
    for round in &figures.open {
        let of = OfRun { run: round.run_id.clone() };
        number.get_or_create(&of).set(round.number.into());
        held.get_or_create(&of).set(whole(round.held));
        quorum.get_or_create(&of).set(whole(round.quorum));
        collecting.get_or_create(&of).set(round.collecting.into());
        deadline.get_or_create(&of).set(round.deadline_at_ms / 1000);
    }
    let [number, held, quorum, collecting, deadline] = families;
    registry.register("open_round", "Number of the run's open round", number);
    registry.register("open_round_updates", "Updates that the run's open round holds", held);
    registry.register("open_round_quorum", "Fewest updates that the run's open round may merge", quorum);
    registry.register("open_round_collecting", "1 while the run's open round takes updates", collecting);
    let help = "When the run's open round stops to collect, since the Unix epoch";
    registry.register_with_unit("open_round_deadline_timestamp", help, Unit::Seconds, deadline);
}

fn of_models(registry: &mut Registry, figures: &Figures) {
    let figure = Family::<OfRun, Gauge<f64, AtomicU64>>::default;
    let (round, loss, accuracy) = (Family::<OfRun, Gauge>::default(), figure(), figure());
    for (run, mean) in &figures.evaluated {
        let of = OfRun { run: run.clone() };
        round.get_or_create(&of).set(mean.round.into());
        for (family, value) in [(&loss, mean.loss), (&accuracy, mean.accuracy)] {
            if let Some(value) = value {
                family.get_or_create(&of).set(value);
            }
        }
    }
    registry.register("evaluated_round", "Newest round of the open run whose model a site evaluated", round);
    let help = "Mean loss of that model over the sites that told one, by their examples";
    registry.register("evaluated_loss", help, loss);
    let help = "Mean accuracy of that model over the sites that told it, by their examples, 0 to 1";
    registry.register("evaluated_accuracy", help, accuracy);
}

fn of_sites(registry: &mut Registry, sites: &[Site], figures: &Figures) {
    let (family, open) = (Family::<OfSite, Gauge>::default(), Family::<OfSite, Gauge>::default());
    for site in sites {
        let (of, seen) = (OfSite { site: site.id.clone() }, site.last_seen_at_ms.map_or(0, |at| at / 1000));
        family.get_or_create(&of).set(seen);
        let runs = figures.runs_of_sites.get(&site.id).copied().unwrap_or_default();
        open.get_or_create(&of).set(whole(runs));
    }
    registry.register("site_open_runs", "Open runs that the site is in", open);
    let help = "Last call of the site, since the Unix epoch; 0: never";
    registry.register_with_unit("site_last_seen_timestamp", help, Unit::Seconds, family);
}

/// Of a site's certificates the one that lasts longest: an older one ends while its successor is in use.
fn of_certificates(
    registry: &mut Registry,
    (own, authority): (Option<Millis>, Option<Millis>),
    of_sites: &[Certificate],
    now: Millis,
) {
    let family = Family::<OfCertificate, Gauge>::default();
    let tell = |holder, site: &str, expires| {
        family.get_or_create(&OfCertificate { holder, site: site.to_owned() }).set(days_left(expires, now));
    };
    for (holder, expires) in [(Holder::server, own), (Holder::authority, authority)] {
        if let Some(expires) = expires {
            tell(holder, "", expires);
        }
    }
    // Those that expire first come first.
    for certificate in of_sites.iter().filter(|certificate| certificate.revoked_at_ms.is_none()) {
        if let (Some(site), Some(expires)) = (&certificate.site, certificate.expires_at_ms) {
            tell(Holder::site, site, expires);
        }
    }
    registry.register("certificate_days_left", "Whole days until the certificate expires", family);
}
