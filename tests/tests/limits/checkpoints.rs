//! Of checkpoints, runs, graphs, bodies and lists.

use super::*;

fn tensors(count: usize) -> Vec<Entry> {
    (0..count).map(|place| f32s(&format!("t{place}"), &[1], &[1.0])).collect()
}

/// A small file whose network takes long to run: two convolutions over 512 x 512 places, 64 channels between them.
fn slow_graph() -> Vec<u8> {
    let conv = |inputs: &[&str], output| {
        onnx::with_ints(onnx::node("Conv", inputs, &[output]), "pads", &[1, 1, 1, 1])
    };
    let graph = onnx::Message::default()
        .message(1, &conv(&["x", "w1"], "a"))
        .message(1, &onnx::node("Relu", &["a"], &["r"]))
        .message(1, &conv(&["r", "w2"], "c"))
        .message(1, &onnx::node("GlobalAveragePool", &["c"], &["y"]))
        .bytes(2, b"slow")
        .message(5, &onnx::tensor("w1", &[64, 1, 3, 3]))
        .message(5, &onnx::tensor("w2", &[4, 64, 3, 3]))
        .message(11, &onnx::value("x", &[1, 1, 512, 512]))
        .message(12, &onnx::value("y", &[1, 4, 1, 1]));
    onnx::model(17, &graph)
}

fn put(admin: &Admin, path: &str, bytes: &[u8]) -> fedbasin_tests::Answer {
    admin.request("POST", path, &[("content-type", "application/octet-stream")], bytes)
}

#[test]
fn of_checkpoints_runs_and_bodies() {
    let mut provoked = Provoked::of(OF_CHECKPOINTS);
    let server = server(
        "max_checkpoint_bytes = 20000\nmax_checkpoint_header_bytes = 600\nmax_tensors = 4\nmax_assignment_width = 4\n\
         max_align_memory_bytes = 100000\nmax_cohort = 2\nmax_graph_bytes = 100\nmax_json_bytes = 4000\nmax_json_depth = 8\n\
         max_page_size = 2",
    );
    let admin = server.admin();
    let names = |detail: &str, limit: &str| assert!(detail.contains(limit), "{detail}");

    let detail = put(&admin, "/v1/checkpoints", &[0; 20_001]).assert_problem(413, "too-large");
    names(&detail, "20000");
    provoked.note("max_checkpoint_bytes");
    let header = format!("{{\"__metadata__\":{{\"a\":\"{}\"}}}}", "x".repeat(700));
    put(&admin, "/v1/checkpoints", &with_header(&header, &[])).assert_problem(422, "invalid-checkpoint");
    provoked.note("max_checkpoint_header_bytes");
    let _ = admin.upload(&file(&tensors(4)));
    put(&admin, "/v1/checkpoints", &file(&tensors(5))).assert_problem(422, "invalid-checkpoint");
    provoked.note("max_tensors");

    let _ = ["a", "b", "c"].map(|id| admin.enrol(id));
    let run = |cohort: &[&str], spec: Value, seed: &[u8]| {
        admin.post(
            "/v1/runs",
            &json!({
                "spec": spec, "strategy": "aligned", "cohort": cohort, "seed_digest": admin.upload(seed),
                "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 600 },
            }),
        )
    };
    let hidden = |units: usize| {
        let seed =
            file(&[f32s("in", &[units, 1], &vec![1.0; units]), f32s("out", &[1, units], &vec![1.0; units])]);
        let spec = json!({ "format": "fedbasin.spec/1", "groups": { "h": { "size": units, "kind": "symmetric" } },
            "tensors": { "in": ["h", null], "out": [null, "h"] } });
        run(&["a"], spec, &seed)
    };
    assert_eq!(hidden(4).status, 201, "{}", String::from_utf8_lossy(&hidden(4).body));
    names(&hidden(5).assert_problem(422, "invalid-checkpoint"), "limits.max_assignment_width");
    provoked.note("max_assignment_width");
    let pinned = json!({ "format": "fedbasin.spec/1", "groups": {}, "tensors": { "t": [null] } });
    let seed = file(&[f32s("t", &[4000], &[1.0; 4000])]);
    let detail = run(&["a"], pinned, &seed).assert_problem(422, "invalid-checkpoint");
    names(&detail, "limits.max_align_memory_bytes");
    provoked.note("max_align_memory_bytes");
    let detail = run(&["a", "b", "c"], Value::Null, &one_hot(0, 3)).assert_problem(422, "invalid-argument");
    names(&detail, "limits.max_cohort");
    provoked.note("max_cohort");

    names(&put(&admin, "/v1/graphs", &[0; 101]).assert_problem(413, "too-large"), "limits.max_graph_bytes");
    provoked.note("max_graph_bytes");
    let graph = concat!(env!("CARGO_MANIFEST_DIR"), "/../graph/zoo/convbn8.onnx");
    let graph = std::fs::read(graph).expect("a graph");
    for (limit, value, graph) in
        [("max_graph_memory_bytes", 30_000_000, graph), ("max_graph_seconds", 1, slow_graph())]
    {
        let server = self::server(&format!("{limit} = {value}"));
        let answer = put(&server.admin(), "/v1/graphs", &graph);
        names(&answer.assert_problem(422, "invalid-graph"), limit);
        provoked.note(limit);
    }

    let label = |bytes: usize| json!({ "role": "viewer", "label": "x".repeat(bytes) });
    names(&admin.post("/v1/tokens", &label(4000)).assert_problem(413, "too-large"), "body");
    provoked.note("max_json_bytes");
    let nested = |depth: usize| format!("{{\"id\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
    let body = |text: &str| {
        admin.request("POST", "/v1/sites", &[("content-type", "application/json")], text.as_bytes())
    };
    assert!(!body(&nested(8)).assert_problem(422, "invalid-argument").contains("max_json_depth"));
    names(&body(&nested(9)).assert_problem(422, "invalid-argument"), "limits.max_json_depth");
    // Brackets that nobody nests.
    let text = format!("{{\"id\":\"{}\"}}", "[\\\"".repeat(100));
    assert!(!body(&text).assert_problem(422, "invalid-argument").contains("max_json_depth"));
    provoked.note("max_json_depth");

    let page = admin.get("/v1/sites").json();
    let ids = |page: &Value| -> Vec<String> {
        let sites = page["sites"].as_array().expect("a list").iter();
        sites.map(|site| site["id"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!((ids(&page), &page["next"]), (vec!["a".to_owned(), "b".into()], &json!("b")));
    let page = admin.get("/v1/sites?after=b").json();
    assert_eq!((ids(&page), &page["next"]), (vec!["c".to_owned()], &Value::Null));
    names(&admin.get("/v1/sites?limit=3").assert_problem(422, "invalid-argument"), "limits.max_page_size");
    admin.get("/v1/sites?after=z").assert_problem(422, "invalid-argument");
    admin.get("/v1/sites?pages=2").assert_problem(422, "invalid-argument");
    provoked.note("max_page_size");
}
