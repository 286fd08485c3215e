//! What an adversary tried: graphs for which a spec could seem right, and be wrong.

mod build;

use build::{Message, drawn, floats, given, ints, ints32, network, node, value, with_int, with_ints};
use fedbasin_graph::{Certificate, Derived, Graph, GraphError, VerifyOptions, derive, verify};
use rebasin::Spec;

fn derived(bytes: &[u8]) -> (Graph, Derived) {
    let graph = Graph::read(bytes).expect("reads");
    let derived = derive(&graph).expect("derives");
    (graph, derived)
}

fn tried(graph: &Graph, spec: &Spec) -> Result<Certificate, GraphError> {
    verify(graph, spec, &VerifyOptions::default())
}

fn moves(derived: &Derived, tensor: &str, axis: usize) -> bool {
    derived.spec.tensors()[tensor][axis].is_some()
}

/// A recurrent network over a learned batch of 4 sequences, 5 long.
fn recurrent(op: &str, gates: i64, lengths: &[i32]) -> Vec<u8> {
    let cell = with_int(node(op, &["h", "w", "r", "", "lengths"], &["all", "last"]), "hidden_size", 8);
    let cell = if op == "GRU" { with_int(cell, "linear_before_reset", 1) } else { cell };
    let nodes = [
        node("ReduceMean", &["x", "zero"], &["m"]),
        node("Mul", &["learned", "m"], &["h"]),
        cell,
        node("Squeeze", &["last", "zero"], &["s"]),
        node("Tanh", &["s"], &["t"]),
        node("ReduceSum", &["t", "zero"], &["u"]),
        node("MatMul", &["u", "head"], &["y"]),
    ];
    let tensors = [
        ints("zero", &[0]),
        ints32("lengths", lengths),
        drawn("learned", &[5, 4, 6], 2.0),
        drawn("w", &[1, 8 * gates, 6], 1.0),
        drawn("r", &[1, 8 * gates, 8], 1.0),
        drawn("head", &[8, 3], 1.0),
    ];
    network(&[3, 6], &nodes, &tensors)
}

#[test]
fn sequences_that_end_early_are_told_apart() {
    for (op, gates) in [("LSTM", 4), ("GRU", 3), ("RNN", 1)] {
        let (graph, early) = derived(&recurrent(op, gates, &[5, 2, 4, 1]));
        assert!(!moves(&early, "learned", 1), "{op}");
        let outcome = tried(&graph, &early.spec);
        assert!(matches!(outcome, Err(GraphError::Runtime(_))), "{op}: {outcome:?}");
        let (graph, full) = derived(&recurrent(op, gates, &[5, 5, 5, 5]));
        assert!(moves(&full, "learned", 1), "{op}");
        tried(&graph, &full.spec).unwrap_or_else(|error| panic!("{op}: {error}"));
    }
}

/// Some columns of a hidden layer, and the largest of all.
fn looked_up(places: &[Message], initializers: &[Message]) -> Vec<u8> {
    let rest = [
        node("MatMul", &["x", "w"], &["a"]),
        node("Relu", &["a"], &["h"]),
        with_int(node("Gather", &["h", "places"], &["g"]), "axis", 1),
        node("ReduceMax", &["h", "one"], &["m"]),
        with_int(node("Concat", &["g", "m"], &["c"]), "axis", 1),
        node("MatMul", &["c", "head"], &["y"]),
    ];
    let tensors = [ints("one", &[1]), drawn("w", &[5, 8], 1.0), drawn("head", &[3, 3], 1.0)];
    network(&[2, 5], &[places, &rest].concat(), &[initializers, &tensors].concat())
}

#[test]
fn positions_that_runtimes_round_otherwise_stand_still() {
    let cast = |from: &str, to: i64, output: &str| with_int(node("Cast", &[from], &[output]), "to", to);
    let half = [
        floats("f", &[2049.0, 2050.0]),
        cast("f", 10, "half"),
        cast("half", 7, "i"),
        node("Sub", &["i", "base"], &["places"]),
    ];
    let (graph, found) = derived(&looked_up(&half, &[ints("base", &[2048, 2048])]));
    assert_eq!(found.coverage.permutable_axes, 0, "{:?}", found.spec);
    let outcome = tried(&graph, &found.spec);
    assert!(matches!(outcome, Err(GraphError::Runtime(_))), "it would not round: {outcome:?}");
    let known = [node("Mod", &["p", "q"], &["places"])];
    let (graph, found) = derived(&looked_up(&known, &[ints("p", &[13, 14]), ints("q", &[8, 8])]));
    assert!(moves(&found, "w", 1), "but what is known cuts an axis only");
    tried(&graph, &found.spec).expect("holds");
}

#[test]
fn a_shape_that_only_the_file_declares_pins_what_is_computed_from_it() {
    for shape in [vec![2, 1], vec![2, 8]] {
        let nodes = [
            node("ReduceSum", &["x", "zero"], &["s"]),
            node("Greater", &["s", "limit"], &["wanted"]),
            with_int(node("Compress", &["x", "wanted"], &["c"]), "axis", 1),
            node("Add", &["c", "b"], &["d"]),
            node("Relu", &["d"], &["e"]),
            node("ReduceSum", &["e", "one"], &["f"]),
            node("MatMul", &["f", "head"], &["y"]),
        ];
        let graph = [with_int(node("ReduceSum", &[], &[]), "keepdims", 0)];
        let mut all = nodes.to_vec();
        all[0].0.extend_from_slice(&graph[0].0[2 + "ReduceSum".len()..]);
        let body = all.iter().fold(Message::default(), |graph, node| graph.message(1, node));
        let tensors = [
            ints("zero", &[0]),
            ints("one", &[1]),
            drawn("limit", &[], 1.0),
            drawn("b", &[8], 1.0),
            drawn("head", &[1, 3], 1.0),
        ];
        let body = tensors.iter().fold(body, |graph, tensor| graph.message(5, tensor));
        let body = body.message(13, &value("c", &shape));
        let body = body.message(11, &value("x", &[2, 8])).message(12, &value("y", &[2, 3]));
        let (_, found) = derived(&build::model(18, &body));
        assert_eq!(found.coverage.permutable_axes, 0, "{shape:?}: {:?}", found.spec);
    }
}

#[test]
fn what_comes_after_an_operator_without_a_rule_but_with_a_known_shape_is_free() {
    let nodes = [
        node("MatMul", &["x", "a"], &["h"]),
        node("TopK", &["h", "k"], &["t", "i"]),
        node("MatMul", &["t", "b"], &["u"]),
        node("Relu", &["u"], &["v"]),
        node("MatMul", &["v", "c"], &["y"]),
    ];
    let tensors =
        [ints("k", &[3]), drawn("a", &[5, 6], 1.0), drawn("b", &[3, 7], 1.0), drawn("c", &[7, 2], 1.0)];
    let (graph, found) = derived(&network(&[2, 5], &nodes, &tensors));
    assert!(!moves(&found, "a", 1) && moves(&found, "b", 1) && moves(&found, "c", 0));
    tried(&graph, &found.spec).expect("holds");
}

/// A policy of which one action is masked, and a value.
fn masked(mask: f32) -> Vec<u8> {
    let nodes = [
        node("MatMul", &["x", "w"], &["a"]),
        node("Relu", &["a"], &["h"]),
        node("MatMul", &["h", "policy"], &["p"]),
        floats("mask", &[0.0, 0.0, 0.0, 0.0, 0.0, mask]),
        node("Add", &["p", "mask"], &["y"]),
    ];
    network(&[2, 5], &nodes, &[drawn("w", &[5, 8], 2.0), drawn("policy", &[8, 6], 2.0)])
}

#[test]
fn a_mask_hides_no_wrong_spec_and_no_right_one() {
    for mask in [0.0, -1e4, -1e9, f32::MIN, f32::NEG_INFINITY] {
        let (graph, found) = derived(&masked(mask));
        assert_eq!(found.coverage.permutable_axes, 2);
        let certificate = tried(&graph, &found.spec).unwrap_or_else(|error| panic!("{mask}: {error}"));
        assert_eq!(certificate.noticed.len(), 2, "{mask}: {certificate:?}");
        let wrong = r#"{"format": "fedbasin.spec/1", "groups": {"g": {"size": 8, "kind": "symmetric"}},
            "tensors": {"policy": [null, null], "w": [null, "g"]}, "scales": []}"#;
        let outcome = tried(&graph, &Spec::from_json(wrong).expect("a spec"));
        assert!(matches!(outcome, Err(GraphError::Changed { .. })), "{mask}: {outcome:?}");
    }
}

#[test]
fn a_wrong_spec_that_few_inputs_show_is_tried_with_several() {
    // Rows 2 and 3 of the table are swapped, which shows where they are asked for.
    let x = {
        let tensor = Message::default()
            .int(1, 7)
            .message(2, &Message::default().message(1, &Message::default().int(1, 1)));
        Message::default().bytes(1, b"x").message(2, &Message::default().message(1, &tensor))
    };
    let nodes = [
        node("Gather", &["table", "x"], &["h"]),
        node("Tanh", &["h"], &["t"]),
        node("MatMul", &["t", "head"], &["y"]),
    ];
    let body = nodes.iter().fold(Message::default(), |graph, node| graph.message(1, node));
    let body = body.message(5, &drawn("table", &[4, 6], 2.0)).message(5, &drawn("head", &[6, 3], 2.0));
    let graph = Graph::read(&build::model(18, &body.message(11, &x).message(12, &value("y", &[1, 3]))))
        .expect("reads");
    let wrong = r#"{"format": "fedbasin.spec/1", "groups": {"g": {"size": 2, "kind": "symmetric"}},
        "tensors": {"table": [{"concat": [2, "g"]}, null], "head": [null, null]}, "scales": []}"#;
    let wrong = Spec::from_json(wrong).expect("a spec");
    let passes = |seed: &u64| {
        verify(&graph, &wrong, &VerifyOptions { seed: *seed, ..VerifyOptions::default() }).is_ok()
    };
    let passed = (0..60).filter(passes).count();
    assert!(passed < 15, "{passed} of 60: one input would miss it in half of them");
}

#[test]
fn every_axis_of_every_group_is_left_out_once() {
    let nodes = [
        node("MatMul", &["x", "a"], &["h"]),
        node("Add", &["h", "bias"], &["i"]),
        node("Relu", &["i"], &["j"]),
        node("MatMul", &["j", "b"], &["k"]),
        node("Tanh", &["k"], &["l"]),
        node("MatMul", &["l", "c"], &["y"]),
    ];
    let tensors = [
        drawn("a", &[5, 8], 2.0),
        drawn("bias", &[8], 2.0),
        drawn("b", &[8, 7], 2.0),
        drawn("c", &[7, 3], 2.0),
    ];
    let (graph, found) = derived(&network(&[2, 5], &nodes, &tensors));
    let certificate = tried(&graph, &found.spec).expect("holds");
    assert_eq!(certificate.draws, 3);
    assert_eq!((certificate.noticed.len(), certificate.unnoticed.len(), certificate.untried), (5, 0, 0));
}

#[test]
fn a_group_that_stands_on_one_axis_is_verified_without_leaving_it_out() {
    // A factorisation machine: the sum of squares does not ask for the factors' order.
    let nodes = [
        node("MatMul", &["x", "v"], &["a"]),
        node("Mul", &["a", "a"], &["b"]),
        node("ReduceSum", &["b", "one"], &["c"]),
        node("MatMul", &["x", "w"], &["d"]),
        node("Add", &["c", "d"], &["y"]),
    ];
    let bytes =
        network(&[2, 7], &nodes, &[ints("one", &[1]), drawn("v", &[7, 5], 1.0), drawn("w", &[7, 1], 1.0)]);
    let (graph, found) = derived(&bytes);
    assert!(moves(&found, "v", 1));
    let certificate = tried(&graph, &found.spec).expect("holds");
    assert_eq!((certificate.single.len(), certificate.noticed.len()), (1, 0));
    // Rows are the inputs' and stand still.
    let wrong = r#"{"format": "fedbasin.spec/1", "groups": {"g": {"size": 7, "kind": "symmetric"}},
        "tensors": {"v": ["g", null], "w": [null, null]}, "scales": []}"#;
    let outcome = tried(&graph, &Spec::from_json(wrong).expect("a spec"));
    assert!(matches!(outcome, Err(GraphError::Changed { .. })), "{outcome:?}");
}

#[test]
fn a_small_part_of_an_output_is_noticed_where_rounding_is_smaller_still() {
    let nodes = [
        node("MatMul", &["x", "u"], &["d"]),
        node("MatMul", &["x", "a"], &["h"]),
        node("Relu", &["h"], &["r"]),
        node("MatMul", &["r", "b"], &["s"]),
        node("Add", &["d", "s"], &["y"]),
    ];
    let tensors = [drawn("u", &[5, 3], 2.0), drawn("a", &[5, 8], 0.02), drawn("b", &[8, 3], 0.005)];
    let (graph, found) = derived(&network(&[2, 5], &nodes, &tensors));
    let certificate = tried(&graph, &found.spec).expect("holds");
    assert!(certificate.noticed.iter().all(|mutation| mutation.difference < certificate.tolerance));
    assert_eq!(certificate.noticed.len(), 2, "{certificate:?}");
}

#[test]
fn a_transposed_convolution_that_pads_by_itself_is_read() {
    let up = with_ints(node("ConvTranspose", &["x", "w"], &["h"]), "strides", &[2]);
    let nodes = [
        build::with_text(up, "auto_pad", "SAME_UPPER"),
        node("Relu", &["h"], &["r"]),
        node("Conv", &["r", "v"], &["y"]),
    ];
    let tensors = [drawn("w", &[3, 6, 3], 1.0), drawn("v", &[2, 6, 1], 1.0)];
    let (_, found) = derived(&network(&[2, 3, 4], &nodes, &tensors));
    assert!(moves(&found, "w", 1) && moves(&found, "v", 1) && !moves(&found, "w", 2));
}

#[test]
fn sizes_that_were_taken_for_open_ones_are_named() {
    let dim = |name: &str| Message::default().message(1, &Message::default().bytes(2, name.as_bytes()));
    let mut shape = dim("batch").0;
    shape.extend_from_slice(&Message::default().message(1, &Message::default().int(1, 3)).0);
    shape.extend_from_slice(&dim("width").0);
    let tensor = Message::default().int(1, 1).message(2, &Message(shape));
    let x = Message::default().bytes(1, b"x").message(2, &Message::default().message(1, &tensor));
    let body = Message::default()
        .message(1, &node("Conv", &["x", "w"], &["y"]))
        .message(5, &given("w", &[1, 3, 9], &[0.5; 27]))
        .message(11, &x)
        .message(12, &value("y", &[]));
    let error = Graph::read(&build::model(18, &body)).expect_err("too short").to_string();
    assert!(error.contains("batch = 2") && error.contains("width = 3"), "{error}");
}

#[test]
fn an_einsum_s_ellipsis_stands_for_the_axes_that_are_left() {
    let equation = |inputs: &[&str], to: &str, text: &str| {
        build::with_text(node("Einsum", inputs, &[to]), "equation", text)
    };
    let nodes = [
        equation(&["x", "w"], "h", "...i, oi -> ...o"),
        node("Relu", &["h"], &["r"]),
        equation(&["r", "g"], "s", "...o,o->...o"),
        equation(&["s", "v"], "y", "...i,io"),
    ];
    let tensors = [drawn("w", &[8, 5], 2.0), drawn("g", &[8], 2.0), drawn("v", &[8, 3], 2.0)];
    let (graph, found) = derived(&network(&[2, 4, 5], &nodes, &tensors));
    assert!(moves(&found, "w", 0) && moves(&found, "g", 0) && moves(&found, "v", 0), "{:?}", found.pinned);
    assert_eq!(found.coverage.permutable_axes, 3);
    tried(&graph, &found.spec).expect("holds");
    // A sum over what the ellipsis stands for has no rule.
    let nodes = [equation(&["x", "w"], "h", "...i,oi->o"), node("Tanh", &["h"], &["y"])];
    let (_, found) = derived(&network(&[2, 4, 5], &nodes, &tensors[..1]));
    assert_eq!(found.coverage.permutable_axes, 0);
}
