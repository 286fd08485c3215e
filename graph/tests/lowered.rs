//! Forms of operators that the runtime does not take as they are: they run all the same, and compute what they say.

mod build;

use std::collections::BTreeMap;

use build::{Message, drawn, given, ints, network, network_of, node, with_float, with_int, with_ints};
use fedbasin_graph::{Evaluation, Graph, InputData, VerifyOptions, derive, verify};

fn holds(bytes: &[u8]) {
    let graph = Graph::read(bytes).expect("reads");
    let derived = derive(&graph).expect("derives");
    assert!(derived.coverage.permutable_axes > 0);
    verify(&graph, &derived.spec, &VerifyOptions::default()).expect("holds");
}

fn outputs(bytes: &[u8], shape: &[usize]) -> Vec<f32> {
    let graph = Graph::read(bytes).expect("reads");
    let count: usize = shape.iter().product();
    let values = (0..count).map(|at| (at as f32 * 0.7).sin()).collect();
    let inputs = BTreeMap::from([("x".to_owned(), InputData::Floats { shape: shape.to_vec(), values })]);
    let evaluation = Evaluation::new(&graph, inputs).expect("runs");
    evaluation.run(&graph.checkpoint().expect("a checkpoint")).expect("runs").values
}

fn near(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().any(|value| value.abs() > 0.01));
    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
}

#[test]
fn convolutions_and_pools_without_attributes() {
    let pool = |op: &str, from: &str, to: &str| with_ints(node(op, &[from], &[to]), "kernel_shape", &[2, 2]);
    let nodes = [
        node("Conv", &["x", "w"], &["a"]),
        node("Relu", &["a"], &["b"]),
        pool("MaxPool", "b", "c"),
        pool("AveragePool", "c", "d"),
        node("ConvTranspose", &["d", "v"], &["e"]),
        node("Relu", &["e"], &["f"]),
        node("GlobalAveragePool", &["f"], &["g"]),
        node("Flatten", &["g"], &["h"]),
        node("MatMul", &["h", "head"], &["y"]),
    ];
    let tensors =
        [drawn("w", &[8, 3, 3, 3], 1.0), drawn("v", &[8, 6, 3, 3], 1.0), drawn("head", &[6, 3], 1.0)];
    holds(&network(&[2, 3, 8, 8], &nodes, &tensors));
}

#[test]
fn dropout_as_exporters_left_it() {
    for opset in [10, 13] {
        let drop = match opset {
            10 => with_float(node("Dropout", &["h"], &["d"]), "ratio", 0.5),
            _ => node("Dropout", &["h", "ratio"], &["d"]),
        };
        let nodes = [node("MatMul", &["x", "w"], &["h"]), drop, node("MatMul", &["d", "head"], &["y"])];
        let mut tensors = vec![drawn("w", &[5, 8], 1.0), drawn("head", &[8, 3], 1.0)];
        if opset == 13 {
            tensors.push(given("ratio", &[], &[0.5]));
        }
        holds(&network_of(opset, &[2, 5], &nodes, &tensors));
    }
}

#[test]
fn a_power_of_a_whole_number() {
    let nodes = [
        node("MatMul", &["x", "w"], &["h"]),
        node("Pow", &["h", "two"], &["p"]),
        node("MatMul", &["p", "head"], &["y"]),
    ];
    let tensors = [ints("two", &[2]), drawn("w", &[5, 8], 1.0), drawn("head", &[8, 3], 1.0)];
    holds(&network(&[2, 5], &nodes, &tensors));
}

#[test]
fn space_to_depth_is_undone_by_depth_to_space() {
    let blocks = |op: &str, from: &str, to: &str| with_int(node(op, &[from], &[to]), "blocksize", 2);
    let there = [
        node("Mul", &["x", "w"], &["h"]),
        blocks("SpaceToDepth", "h", "d"),
        node("Relu", &["d"], &["r"]),
        blocks("DepthToSpace", "r", "y"),
    ];
    let plain = [node("Mul", &["x", "w"], &["h"]), node("Relu", &["h"], &["y"])];
    let run = |nodes: &[Message]| {
        outputs(&network(&[2, 3, 4, 6], nodes, &[drawn("w", &[3, 1, 1], 2.0)]), &[2, 3, 4, 6])
    };
    near(&run(&there), &run(&plain));
    // And its channels are where the rule says.
    let nodes = [
        node("Conv", &["x", "w"], &["a"]),
        blocks("SpaceToDepth", "a", "b"),
        node("Relu", &["b"], &["c"]),
        node("Conv", &["c", "v"], &["y"]),
    ];
    holds(&network(
        &[2, 3, 4, 4],
        &nodes,
        &[drawn("w", &[5, 3, 1, 1], 1.0), drawn("v", &[2, 20, 1, 1], 1.0)],
    ));
}

/// A `GRU` in both directions whose hidden gate has a diagonal recurrent matrix and no bias: with the reset gate before or after
/// that product it is the same network.
fn gru(before: i64) -> Vec<u8> {
    let hidden = 4_usize;
    let gru = with_int(node("GRU", &["x", "w", "r", "b"], &["all", "y"]), "hidden_size", 4);
    let gru = build::with_text(with_int(gru, "linear_before_reset", before), "direction", "bidirectional");
    let some = |at: usize| ((at * 37 % 23) as f32 / 23.0 - 0.5) * 1.5;
    let recurrent = (0..2 * 3 * hidden * hidden).map(|at| {
        let (gate, row, column) = (at / (hidden * hidden) % 3, at / hidden % hidden, at % hidden);
        if gate == 2 && row != column { 0.0 } else { some(at) }
    });
    let bias = (0..2 * 6 * hidden).map(|at| if at / hidden % 6 == 5 { 0.0 } else { some(at + 5) });
    let tensors = [
        drawn("w", &[2, 12, 5], 2.0),
        given("r", &[2, 12, 4], &recurrent.collect::<Vec<_>>()),
        given("b", &[2, 24], &bias.collect::<Vec<_>>()),
    ];
    network(&[6, 3, 5], &[gru], &tensors)
}

#[test]
fn a_gru_that_resets_before_its_product_is_unrolled() {
    near(&outputs(&gru(0), &[6, 3, 5]), &outputs(&gru(1), &[6, 3, 5]));
    let nodes = [
        with_int(node("GRU", &["x", "w", "r"], &["all", "last"]), "hidden_size", 4),
        node("Squeeze", &["last", "zero"], &["s"]),
        node("MatMul", &["s", "head"], &["y"]),
    ];
    let tensors = [
        ints("zero", &[0]),
        drawn("w", &[1, 12, 5], 2.0),
        drawn("r", &[1, 12, 4], 2.0),
        drawn("head", &[4, 3], 2.0),
    ];
    holds(&network(&[6, 3, 5], &nodes, &tensors));
}
