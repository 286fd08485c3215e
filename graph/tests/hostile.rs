//! Files that nobody should trust: errors within bounds, never a panic.

mod build;

use std::{fs, time::Instant};

use build::{Message, model, node, tensor, value};
use fedbasin_graph::{Graph, GraphError, VerifyOptions, derive, verify};

fn zoo(name: &str) -> Vec<u8> {
    fs::read(format!("{}/zoo/{name}.onnx", env!("CARGO_MANIFEST_DIR"))).expect("a file of the zoo")
}

fn small(nodes: &[Message]) -> Message {
    let graph = nodes.iter().fold(Message::default(), |graph, node| graph.message(1, node));
    graph.message(11, &value("x", &[2, 4])).message(12, &value("y", &[2, 4]))
}

fn error(bytes: &[u8]) -> GraphError {
    Graph::read(bytes).expect_err("refused")
}

#[test]
fn a_file_cut_anywhere_gives_an_error_or_a_graph_but_no_panic() {
    for name in ["lenet", "gpt2", "lstm", "densenet", "vit32"] {
        let bytes = zoo(name);
        for end in (0..bytes.len()).step_by(97) {
            if let Ok(graph) = Graph::read(&bytes[..end]) {
                let _ = derive(&graph);
            }
        }
    }
}

#[test]
fn damaged_bytes_give_an_error_or_a_graph_but_no_panic() {
    let bytes = zoo("lenet");
    for at in (0..bytes.len()).step_by(41) {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            if let Ok(graph) = Graph::read(&damaged) {
                let _ = derive(&graph);
            }
        }
    }
}

#[test]
fn a_cyclic_or_unsorted_graph_is_refused() {
    let cyclic = small(&[node("Add", &["x", "y"], &["a"]), node("Relu", &["a"], &["y"])]);
    assert!(matches!(error(&model(18, &cyclic)), GraphError::Unwritten { value, .. } if value == "y"));
    let own = small(&[node("Relu", &["y"], &["y"])]);
    assert!(matches!(error(&model(18, &own)), GraphError::Unwritten { .. }));
}

#[test]
fn what_is_missing_or_stands_twice_is_named() {
    let missing = small(&[node("MatMul", &["x", "w"], &["y"])]);
    assert!(matches!(error(&model(18, &missing)), GraphError::Unwritten { value, .. } if value == "w"));
    let twice = small(&[node("Relu", &["x"], &["y"]), node("Relu", &["x"], &["y"])]);
    assert!(matches!(error(&model(18, &twice)), GraphError::Duplicate { name, .. } if name == "y"));
    let nothing = Message::default().message(11, &value("x", &[2, 4]));
    assert!(matches!(error(&model(18, &nothing)), GraphError::Unsupported(_)));
}

#[test]
fn an_unknown_opset_is_refused() {
    let graph = small(&[node("Relu", &["x"], &["y"])]);
    for opset in [0, 1, 8, 25, 1000, -1, i64::MIN] {
        assert!(matches!(error(&model(opset, &graph)), GraphError::Opset { .. }), "{opset}");
    }
    assert!(Graph::read(&model(18, &graph)).is_ok());
}

#[test]
fn external_data_is_refused_wherever_it_points() {
    for place in ["weights.bin", "../../secret", "/absolute"] {
        let location = Message::default().bytes(1, b"location").bytes(2, place.as_bytes());
        let weights = Message::default().int(1, 4).int(2, 1).bytes(8, b"w").message(13, &location).int(14, 1);
        let graph = small(&[node("Add", &["x", "w"], &["y"])]).message(5, &weights);
        let text = error(&model(18, &graph)).to_string();
        assert!(text.contains("never opened") && text.contains("external_data=False"), "{text}");
    }
}

#[test]
fn functions_of_the_model_s_own_are_refused_with_advice() {
    let text = error(&zoo("channel_max.fn")).to_string();
    assert!(text.contains("inline"), "{text}");
}

#[test]
fn sizes_that_lie_are_refused_without_being_believed() {
    for dims in [&[i64::MAX, i64::MAX][..], &[-1], &[1 << 40]] {
        let lie =
            dims.iter().fold(Message::default(), |tensor, &dim| tensor.int(1, dim)).int(2, 1).bytes(8, b"w");
        let graph = small(&[node("Add", &["x", "w"], &["y"])]).message(5, &lie);
        assert!(matches!(error(&model(18, &graph)), GraphError::Tensor { .. }), "{dims:?}");
    }
    let wide = Message::default()
        .message(1, &node("Relu", &["x"], &["y"]))
        .message(11, &value("x", &[1 << 30, 1 << 30]))
        .message(12, &value("y", &[1, 1]));
    assert!(matches!(error(&model(18, &wide)), GraphError::Limit { .. }));
}

#[test]
fn a_million_nodes_are_refused_early() {
    let mut graph = Message::default();
    for _ in 0..1_000_000 {
        graph.0.extend_from_slice(&[0x0a, 0x00]);
    }
    let began = Instant::now();
    assert!(matches!(error(&model(18, &graph)), GraphError::Limit { what: "nodes", .. }));
    assert!(began.elapsed().as_secs() < 10);
}

/// What takes one position off an axis, or puts some on, many times.
fn nested(op: &str, count: i64) -> Vec<u8> {
    let width = if op == "Slice" { count + 4 } else { 4 };
    let mut graph =
        Message::default().message(11, &value("x", &[2, 4])).message(5, &tensor("w", &[4, width]));
    graph = graph.message(1, &node("MatMul", &["x", "w"], &["v0"]));
    for (name, list) in [("one", 1), ("end", i64::MAX)] {
        graph = graph.message(5, &build::ints(name, &[list]));
    }
    for at in 0..count {
        let (from, to) = (format!("v{at}"), format!("v{}", at + 1));
        let step = match op {
            "Slice" => node("Slice", &[&from, "one", "end", "one"], &[&to]),
            _ => build::with_int(node("Concat", &[&from, "v0"], &[&to]), "axis", 1),
        };
        graph = graph.message(1, &step);
    }
    let width = if op == "Slice" { 4 } else { 4 * (count + 1) };
    let last = format!("v{count}");
    let graph = graph
        .message(5, &tensor("u", &[width, 4]))
        .message(1, &node("MatMul", &[&last, "u"], &["y"]))
        .message(12, &value("y", &[2, 4]));
    model(18, &graph)
}

#[test]
fn structures_in_structures_end() {
    for op in ["Slice", "Concat"] {
        let began = Instant::now();
        let outcome = derive(&Graph::read(&nested(op, 1500)).expect("reads"));
        assert!(matches!(outcome, Err(GraphError::Exhausted)), "{op}: {outcome:?}");
        assert!(began.elapsed().as_secs() < 30, "{op}: {:?}", began.elapsed());
        assert!(derive(&Graph::read(&nested(op, 60)).expect("reads")).is_ok(), "{op}");
    }
}

#[test]
fn subgraphs_in_subgraphs_end() {
    let mut inner = Message::default();
    for _ in 0..200 {
        let attribute = Message::default().bytes(1, b"body").message(6, &inner).int(20, 5);
        inner = Message::default().message(1, &node("Loop", &[], &["l"]).message(5, &attribute));
    }
    let attribute = Message::default().bytes(1, b"body").message(6, &inner).int(20, 5);
    let graph = small(&[node("Loop", &["x"], &["y"]).message(5, &attribute)]);
    assert!(matches!(error(&model(18, &graph)), GraphError::Limit { .. }));
}

fn with_weights(nodes: &[Message]) -> Vec<u8> {
    let graph = small(nodes).message(5, &tensor("a", &[4, 4])).message(5, &tensor("b", &[4, 4]));
    model(18, &graph)
}

#[test]
fn an_unknown_operator_pins_all_that_it_touches() {
    let open = with_weights(&[node("MatMul", &["x", "a"], &["h"]), node("MatMul", &["h", "b"], &["y"])]);
    let derived = derive(&Graph::read(&open).expect("reads")).expect("derives");
    assert_eq!(derived.coverage.permutable_axes, 2, "the hidden axis");
    let unknown = node("Whatever", &["h"], &["g"]).bytes(7, b"com.example");
    let shut =
        with_weights(&[node("MatMul", &["x", "a"], &["h"]), unknown, node("MatMul", &["g", "b"], &["y"])]);
    let derived = derive(&Graph::read(&shut).expect("reads")).expect("derives");
    assert_eq!(derived.coverage.permutable_axes, 0);
    let reasons: Vec<&str> = derived.pinned.iter().map(|pinned| pinned.reason.as_str()).collect();
    assert!(reasons.contains(&"com.example.Whatever g"), "{reasons:?}");
}

#[test]
fn a_subgraph_pins_what_it_captures() {
    let body =
        Message::default().message(1, &node("Identity", &["h"], &["z"])).message(12, &value("z", &[2, 4]));
    let attribute = |name: &str| Message::default().bytes(1, name.as_bytes()).message(6, &body).int(20, 5);
    let choice = node("If", &["c"], &["g"])
        .message(5, &attribute("then_branch"))
        .message(5, &attribute("else_branch"));
    let nodes = [
        node("MatMul", &["x", "a"], &["h"]),
        choice,
        node("MatMul", &["h", "b"], &["k"]),
        node("Add", &["g", "k"], &["y"]),
    ];
    let graph = small(&nodes)
        .message(5, &tensor("a", &[4, 4]))
        .message(5, &tensor("b", &[4, 4]))
        .message(11, &value("c", &[]));
    let derived = derive(&Graph::read(&model(18, &graph)).expect("reads")).expect("derives");
    assert_eq!(derived.coverage.permutable_axes, 0);
}

#[test]
fn outputs_that_show_nothing_certify_nothing() {
    let zero = node("Sub", &["h", "h"], &["y"]);
    let bytes = with_weights(&[node("MatMul", &["x", "a"], &["h"]), zero]);
    let graph = Graph::read(&bytes).expect("reads");
    let spec = derive(&graph).expect("derives").spec;
    let outcome = verify(&graph, &spec, &VerifyOptions::default());
    assert!(matches!(outcome, Err(GraphError::Degenerate(_))), "{outcome:?}");
}

fn seed(name: &str) -> Vec<u8> {
    fs::read(format!("{}/../fuzz/corpus/graph/{name}.onnx", env!("CARGO_MANIFEST_DIR"))).expect("a seed")
}

#[test]
fn a_sequence_of_endlessly_many_parts_is_refused() {
    let bytes = seed("seq_bomb");
    assert!(bytes.len() < 600);
    let began = Instant::now();
    for bytes in [bytes, seed("seq_bomb2")] {
        assert!(matches!(error(&bytes), GraphError::Limit { what: "parts of one sequence", .. }));
    }
    assert!(began.elapsed().as_secs() < 5);
}

#[test]
fn an_outer_group_that_stands_twice_in_a_product_is_let_go() {
    let graph = Graph::read(&seed("twice_in_product")).expect("reads");
    let derived = derive(&graph).expect("derives");
    derived.spec.check(&graph.layout().expect("a layout")).expect("fits");
}
