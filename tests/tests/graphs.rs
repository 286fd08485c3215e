//! Runs that name a network's graph instead of a spec.

use fedbasin_tests::{Answer, Database, Server, client_binary, on_both_databases, server_binary};
use serde_json::{Value, json};

on_both_databases!(
    a_run_takes_the_spec_that_was_derived_from_a_graph_and_verified,
    what_is_no_graph_or_not_a_right_one_is_refused_and_harms_nothing,
);

fn file(path: &str) -> Vec<u8> {
    let path = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn send(server: &Server, graph: &[u8]) -> Answer {
    server.admin().request("POST", "/v1/graphs", &[("content-type", "application/octet-stream")], graph)
}

async fn a_run_takes_the_spec_that_was_derived_from_a_graph_and_verified(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let answer = send(&server, &file("graph/zoo/convbn8.onnx"));
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    let graph = answer.json();
    let digest = graph["digest"].as_str().expect("a digest").to_owned();
    assert!(graph["certificate"]["noticed"].as_array().is_some_and(|noticed| !noticed.is_empty()), "{graph}");
    assert!(graph["pinned"].as_array().is_some_and(|pinned| pinned[0]["reason"].is_string()), "{graph}");
    assert_eq!(admin.get(&format!("/v1/graphs/{digest}")).json(), graph);
    assert_eq!(send(&server, &file("graph/zoo/convbn8.onnx")).json(), graph, "the same again");

    let sites = ["a", "b"].map(|id| server.site(id));
    let checkpoints = [0, 1].map(|site| file(&format!("rebasin/tests/data/convbn8-site{site}.safetensors")));
    // The checkpoints hold counters of batches, which no graph shows: a seed tells of them.
    let seed = admin.upload(&checkpoints[0]);
    let id = admin.create_run(&json!({
        "graph_digest": digest, "strategy": "aligned", "cohort": ["a", "b"], "seed_digest": seed,
        "policy": { "rounds": 1, "quorum": 2, "deadline_seconds": 600 },
    }));
    let run = admin.run(&id);
    assert_eq!((&run["spec_verified"], &run["graph_digest"]), (&json!(true), &json!(digest)));
    for (site, bytes) in sites.iter().zip(&checkpoints) {
        site.upload(&id, 1, bytes, 100).await.expect("a receipt");
    }
    let record = admin.round_becomes(&id, 1, "published").await;
    let moved = |site: &str| -> f64 {
        let sites = record["sites"].as_array().expect("sites");
        let entry = sites.iter().find(|entry| entry["site"] == site).expect("the site");
        entry["alignment"]["moved"].as_f64().expect("an alignment")
    };
    assert_eq!(moved("a"), 0.0, "the seed itself");
    assert!(moved("b") > 0.5, "trained from another start: {}", moved("b"));

    let shown = |args: &[&str]| {
        let output = std::process::Command::new(client_binary())
            .args(["admin", "--server", &server.http])
            .args(args)
            .env("FEDBASIN_ADMIN_TOKEN", server.admin_token())
            .env("FEDBASIN_STATE_DIR", server.operators_dir())
            .output()
            .expect("the client's program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    assert!(shown(&["run", &id]).contains(&format!("verified, from graph {digest}")));
    let model = format!("{}/../graph/zoo/mlp.onnx", env!("CARGO_MANIFEST_DIR"));
    let made = shown(&[
        "create-run",
        "--graph",
        &model,
        "--cohort",
        "a",
        "--rounds",
        "1",
        "--quorum",
        "1",
        "--deadline-seconds",
        "60",
        "--json",
    ]);
    let made: Value = serde_json::from_str(&made).expect("JSON");
    assert_eq!(made["spec_verified"], true);
    assert_eq!(made["graph_digest"], shown(&["graph", &model]).trim());
}

async fn what_is_no_graph_or_not_a_right_one_is_refused_and_harms_nothing(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let _ = admin.enrol("a");
    for (bytes, why) in [
        (b"no graph".to_vec(), "no ONNX model"),
        (file("fuzz/corpus/graph/cyclic.onnx"), "cyclic"),
        (file("fuzz/corpus/graph/external_climbs.onnx"), "external"),
        (file("graph/zoo/convbn8.onnx")[..3000].to_vec(), ""),
    ] {
        let detail = send(&server, &bytes).assert_problem(422, "invalid-graph");
        assert!(detail.contains(why), "{detail}");
    }
    assert_eq!(admin.with_token(None).request("POST", "/v1/graphs", &[], b"x").status, 401);
    let nothing = "0".repeat(64);
    admin.get(&format!("/v1/graphs/{nothing}")).assert_problem(404, "not-found");
    let mut run = json!({
        "graph_digest": nothing, "strategy": "aligned", "cohort": ["a"],
        "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 600 },
    });
    admin.post("/v1/runs", &run).assert_problem(404, "not-found");
    let graph = send(&server, &file("graph/zoo/mlp.onnx")).json();
    run["graph_digest"] = graph["digest"].clone();
    run["spec"] = graph["spec"].clone();
    admin.post("/v1/runs", &run).assert_problem(422, "invalid-argument");
    // Counters are added, other tensors that the graph lacks are not.
    run["spec"] = Value::Null;
    run["seed_digest"] = json!(admin.upload(&file("rebasin/tests/data/convbn8-site0.safetensors")));
    admin.post("/v1/runs", &run).assert_problem(422, "invalid-checkpoint");
    let staged = std::fs::read_dir(server.data_dir().join("staging")).map_or(0, Iterator::count);
    assert_eq!(staged, 0, "nothing is left behind");
}

/// The verifier as the server starts it.
fn verifier(memory: &str, seconds: &str, graph: &[u8]) -> std::process::Output {
    use std::io::Write as _;
    let mut child = std::process::Command::new(server_binary())
        .args(["verify-graph", memory, seconds])
        .env_clear()
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the server's program starts");
    // It may end before it has read all.
    let _ = child.stdin.take().expect("piped").write_all(graph);
    child.wait_with_output().expect("an end")
}

#[test]
fn the_verifier_keeps_to_its_memory() {
    let graph = file("graph/zoo/convbn8.onnx");
    let well = verifier("4294967296", "60", &graph);
    assert!(well.status.success() && String::from_utf8_lossy(&well.stdout).contains("verified"));
    let little = verifier("30000000", "60", &graph);
    assert!(!little.status.success(), "30 MB hold neither the program nor the graph");
}
