//! `/metrics` says what the rows say, and alert rules name no metric that a server does not tell.

use std::{collections::BTreeSet, path::Path};

use fedbasin_tests::{
    Admin, Database, Options, SelfSigned, Server,
    checkpoint::{one_hot, one_hot_spec},
    on_both_databases,
};
use serde_json::{Value, json};

on_both_databases!(how_runs_rounds_updates_and_sites_stand_is_told);

/// The lines, without comments.
fn metrics(admin: &Admin) -> Vec<String> {
    let answer = admin.get("/metrics");
    assert_eq!(answer.status, 200);
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(answer.header("content-type"), format);
    let text = String::from_utf8(answer.body).expect("text");
    assert!(text.ends_with("# EOF\n"), "whole");
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

/// The value of a metric with its labels.
fn value(lines: &[String], name: &str) -> i64 {
    let found = lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("{name} is not in {lines:#?}")).parse().expect("a whole number")
}

async fn how_runs_rounds_updates_and_sites_stand_is_told(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let (a, b) = (server.site("a"), server.site("b"));
    let run = admin.create_run(&json!({
        "id": "pilot", "spec": one_hot_spec(), "strategy": "aligned", "cohort": ["a", "b"],
        "policy": { "rounds": 1, "quorum": 2, "deadline_seconds": 600 },
    }));
    let update = one_hot(0, 64);
    a.upload(&run, 1, &update, 1).await.expect("a receipt");
    let lines = metrics(&admin);
    let now = value(&lines, r#"fedbasin_site_last_seen_timestamp_seconds{site="a"}"#);
    for (name, expected) in [
        (r#"fedbasin_runs{state="open"}"#, 1),
        (r#"fedbasin_runs{state="failed"}"#, 0),
        (r#"fedbasin_rounds{state="collecting"}"#, 1),
        (r#"fedbasin_updates{state="accepted"}"#, 1),
        (r#"fedbasin_open_round{run="pilot"}"#, 1),
        (r#"fedbasin_open_round_updates{run="pilot"}"#, 1),
        (r#"fedbasin_open_round_quorum{run="pilot"}"#, 2),
        (r#"fedbasin_open_round_collecting{run="pilot"}"#, 1),
        (r#"fedbasin_site_last_seen_timestamp_seconds{site="b"}"#, 0),
        ("fedbasin_accepted_bytes", i64::try_from(update.len()).expect("small")),
        ("fedbasin_updates_to_align", 0),
    ] {
        assert_eq!(value(&lines, name), expected, "{name}");
    }
    let deadline = value(&lines, r#"fedbasin_open_round_deadline_timestamp_seconds{run="pilot"}"#);
    assert!((deadline - now - 600).abs() <= 60, "{deadline} and {now}");
    let records = admin.get("/v1/audit?limit=1").json()["size"].as_i64().expect("a size");
    assert_eq!(value(&metrics(&admin), "fedbasin_log_records"), records);

    b.upload(&run, 1, &one_hot(1, 64), 1).await.expect("a receipt");
    admin.round_becomes(&run, 1, "published").await;
    let lines = metrics(&admin);
    assert_eq!(value(&lines, r#"fedbasin_rounds{state="published"}"#), 1);
    assert_eq!(value(&lines, r#"fedbasin_updates{state="aligned"}"#), 2);
    assert!(!lines.iter().any(|line| line.contains("open_round")), "there is none any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_that_an_alert_or_the_dashboard_names_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = SelfSigned::in_folder(folder.path());
    let options = Options { tls: made.files(), ..Options::default() };
    let server = Server::start_with(Database::sqlite(), options);
    let admin = Admin::new(&server.http, &server.admin_token()).trusting(&made.pem);
    let _token = admin.enrol("a");
    assert_eq!(admin.get("/v1/sites").status, 200, "a call that ended");
    admin.create_run(&json!({
        "strategy": "mean", "cohort": ["a"],
        "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 600 },
    }));
    let text = String::from_utf8(admin.get("/metrics").body).expect("text");
    let told: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let rules = deployed("prometheus/alerts.yml");
    let dashboard: Value = serde_json::from_str(&deployed("grafana/fedbasin.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let asked: Vec<&str> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten())
        .map(|target| target["expr"].as_str().expect("what a panel asks"))
        .collect();
    assert!(asked.len() >= 15, "{asked:?}");
    for (whose, text, least) in [("alerts", rules, 8), ("the dashboard", asked.join(" "), 15)] {
        let named = names(&text);
        assert!(named.len() >= least, "{whose}: {named:?}");
        let unknown: Vec<&&str> = named.difference(&told).collect();
        assert!(unknown.is_empty(), "{whose}: no server tells {unknown:?}");
    }
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let says = |field: &str| panel[field].as_str().is_some_and(|text| !text.is_empty());
        assert!(says("title") && says("description"), "a panel says what it shows: {panel}");
    }
}

fn deployed(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The metrics that a text names, without what OpenMetrics appends to a sample's name.
fn names(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("fedbasin_"))
        .map(|word| {
            let appended = ["_info", "_total", "_bucket", "_count", "_sum"];
            appended.iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word)
        })
        .collect()
}
