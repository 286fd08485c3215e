//! What a graph leaves open must not decide: a spec holds for all sizes, and verification tries more than one.

mod build;

use std::collections::BTreeMap;

use build::{Message, drawn, ints, model, node, value, with_int, with_ints};
use fedbasin_graph::{Certificate, Derived, Graph, GraphError, VerifyOptions, derive, verify};
use rebasin::{AxisForm, FactorForm, GroupForm, Kind, Spec};

/// An input whose dimensions are names, or numbers.
fn input(name: &str, dtype: i64, dims: &[&str]) -> Message {
    let dim = |dim: &str| match dim.parse::<i64>() {
        Ok(size) => Message::default().int(1, size),
        Err(_) => Message::default().bytes(2, dim.as_bytes()),
    };
    let shape = dims.iter().fold(Message::default(), |shape, size| shape.message(1, &dim(size)));
    let tensor = Message::default().int(1, dtype).message(2, &shape);
    Message::default().bytes(1, name.as_bytes()).message(2, &Message::default().message(1, &tensor))
}

fn graph_of(inputs: &[Message], nodes: &[Message], tensors: &[Message]) -> Vec<u8> {
    let graph = nodes.iter().fold(Message::default(), |graph, node| graph.message(1, node));
    let graph = tensors.iter().fold(graph, |graph, tensor| graph.message(5, tensor));
    let graph = inputs.iter().fold(graph, |graph, input| graph.message(11, input));
    model(18, &graph.message(12, &value("y", &[])))
}

fn open(dims: &[&str], nodes: &[Message], tensors: &[Message]) -> Vec<u8> {
    let fixed = [
        ints("zero", &[0]),
        ints("one", &[1]),
        ints("two", &[2]),
        ints("rest", &[-1]),
        with_rank_0("nought", 0),
        with_rank_0("unit", 1),
    ];
    // Its first dimension as a number, in a list and alone.
    let lengths = [
        node("Shape", &["x"], &["shape"]),
        node("Slice", &["shape", "zero", "one"], &["n"]),
        node("Squeeze", &["n", "zero"], &["n0"]),
    ];
    graph_of(&[input("x", 1, dims)], &[&lengths, nodes].concat(), &[&fixed, tensors].concat())
}

fn with_rank_0(name: &str, number: i64) -> Message {
    Message::default().int(2, 7).bytes(8, name.as_bytes()).bytes(9, &number.to_le_bytes())
}

fn at(bytes: &[u8], sizes: &[(&str, usize)]) -> Graph {
    let sizes: BTreeMap<String, usize> = sizes.iter().map(|&(name, size)| (name.to_owned(), size)).collect();
    Graph::read_with(bytes, &sizes).unwrap_or_else(|error| panic!("{sizes:?}: {error}"))
}

fn moves(derived: &Derived, tensor: &str, axis: usize) -> bool {
    derived.spec.tensors()[tensor][axis].is_some()
}

fn tried(graph: &Graph, spec: &Spec) -> Result<Certificate, GraphError> {
    verify(graph, spec, &VerifyOptions::default())
}

fn symmetric(size: usize) -> GroupForm {
    GroupForm { size, kind: Kind::Symmetric, within: None }
}

fn group(name: &str) -> FactorForm {
    FactorForm::Group(name.to_owned())
}

/// The spec, but with a group of its own on one axis.
fn with_form(spec: &Spec, tensor: &str, axis: usize, size: usize, segments: Vec<Vec<FactorForm>>) -> Spec {
    let (mut groups, mut tensors) = (spec.groups().clone(), spec.tensors().clone());
    groups.insert("wrong".into(), symmetric(size));
    tensors.get_mut(tensor).expect("a tensor")[axis] = Some(AxisForm::from_segments(segments));
    Spec::new(groups, tensors).expect("a spec")
}

/// Sums, over `table`, of what a part of a learned axis comes to; and of the input, so that the output depends on it.
fn summed(rows: &str, part: &[Message], extra: &[Message]) -> Vec<u8> {
    let rest = [
        node("Tanh", &["part"], &["t"]),
        node("ReduceSum", &["t", "zero"], &["s"]),
        node("MatMul", &["x", "w"], &["a"]),
        node("ReduceMean", &["a", "zero"], &["m"]),
        node("Add", &["s", "m"], &["h"]),
        node("Relu", &["h"], &["r"]),
        node("MatMul", &["r", "head"], &["y"]),
    ];
    let tensors = [drawn("q", &[4, 8], 3.0), drawn("w", &[5, 8], 1.0), drawn("head", &[8, 3], 1.0)];
    open(&[rows, "5"], &[part, &rest].concat(), &[extra, &tensors].concat())
}

/// Learned rows, as many as the input has: looked up, and cut off.
fn queries(rows: &str) -> [(&'static str, Vec<u8>); 4] {
    let slice = node("Slice", &["q", "zero", "n", "zero"], &["part"]);
    let lengths = [
        node("Sub", &["four", "n"], &["others"]),
        with_int(node("Concat", &["n", "others"], &["both"]), "axis", 0),
        with_int(node("Split", &["q", "both"], &["part", "unread"]), "axis", 0),
    ];
    let last = [node("Neg", &["n"], &["from"]), node("Slice", &["q", "from", "far", "zero"], &["part"])];
    let range =
        [node("Range", &["nought", "n0", "unit"], &["places"]), node("Gather", &["q", "places"], &["part"])];
    [
        ("range", summed(rows, &range, &[])),
        ("slice", summed(rows, &[slice], &[])),
        ("split", summed(rows, &lengths, &[ints("four", &[4])])),
        ("from the end", summed(rows, &last, &[ints("far", &[i64::MAX])])),
    ]
}

#[test]
fn rows_that_are_as_many_as_the_input_s_stand_still() {
    for (what, bytes) in queries("n") {
        let graph = at(&bytes, &[]);
        assert_eq!(graph.bound_dimensions(), [("n".to_owned(), 2)]);
        let derived = derive(&graph).expect("derives");
        assert!(!moves(&derived, "q", 0), "{what}: {:?}", derived.spec.tensors()["q"]);
        // What has nothing to do with it moves.
        assert!(moves(&derived, "q", 1) && moves(&derived, "w", 1) && moves(&derived, "head", 0), "{what}");
        let certificate = tried(&graph, &derived.spec).unwrap_or_else(|error| panic!("{what}: {error}"));
        let held: Vec<usize> = certificate.resized.iter().map(|resized| resized.sizes["n"]).collect();
        assert_eq!(held, [3, 1], "{what}");
        assert!(certificate.resized.iter().all(|resized| resized.untried.is_none()), "{what}");
        assert!(certificate.one_size.is_empty());
    }
}

#[test]
fn a_spec_that_is_wrong_at_another_size_only_is_refused() {
    let rows = |from: &str| match from {
        "from the end" => vec![vec![FactorForm::Stays(2)], vec![group("wrong")]],
        _ => vec![vec![group("wrong")], vec![FactorForm::Stays(2)]],
    };
    for ((what, bytes), (_, fixed)) in queries("n").into_iter().zip(queries("2")) {
        let graph = at(&bytes, &[]);
        let spec = derive(&graph).expect("derives").spec;
        // For two rows of input those two may be exchanged, and for three; for one they may not.
        let wrong = with_form(&spec, "q", 0, 2, rows(what));
        match tried(&graph, &wrong) {
            Err(GraphError::Changed { what: moved, .. }) => assert!(moved.contains("n = 1"), "{moved}"),
            other => panic!("{what}: {other:?}"),
        }
        tried(&at(&fixed, &[]), &wrong).unwrap_or_else(|error| panic!("{what}: right for two: {error}"));
    }
}

#[test]
fn where_the_network_runs_for_one_size_only_the_certificate_says_so() {
    // As many rows as learned ones are added to them: no more, no fewer.
    let nodes = [
        node("MatMul", &["x", "w"], &["a"]),
        node("Add", &["a", "q"], &["b"]),
        node("Relu", &["b"], &["r"]),
        node("MatMul", &["r", "head"], &["y"]),
    ];
    let tensors = [drawn("q", &[3, 8], 1.0), drawn("w", &[5, 8], 1.0), drawn("head", &[8, 3], 1.0)];
    let bytes = open(&["n", "5"], &nodes, &tensors);
    let graph = at(&bytes, &[("n", 3)]);
    let derived = derive(&graph).expect("derives");
    assert!(!moves(&derived, "q", 0) && moves(&derived, "q", 1));
    let certificate = tried(&graph, &derived.spec).expect("holds");
    // A single row is added to each of them.
    let untried = |size: usize| {
        let resized = certificate.resized.iter().find(|resized| resized.sizes["n"] == size);
        resized.unwrap_or_else(|| panic!("{certificate:?}")).untried.is_some()
    };
    assert!(untried(5) && !untried(1) && certificate.one_size.is_empty());
    let halves = [
        node("Reshape", &["x", "ten"], &["f"]),
        node("MatMul", &["f", "w"], &["a"]),
        node("Relu", &["a"], &["r"]),
        node("MatMul", &["r", "head"], &["y"]),
    ];
    let tensors = [ints("ten", &[1, 10]), drawn("w", &[10, 8], 1.0), drawn("head", &[8, 3], 1.0)];
    let graph = at(&open(&["n", "5"], &halves, &tensors), &[]);
    let certificate = tried(&graph, &derive(&graph).expect("derives").spec).expect("holds");
    assert_eq!(certificate.one_size, ["n"]);
    assert!(certificate.resized.iter().all(|resized| resized.untried.is_some()));
}

/// What comes before and after a part that is about the hidden axis `h`, 8 long.
fn around(middle: &[Message], extra: &[Message]) -> Vec<u8> {
    let before = [node("MatMul", &["x", "w"], &["a"]), node("Relu", &["a"], &["h"])];
    let tensors = [drawn("w", &[5, 8], 2.0), drawn("q", &[8], 2.0), drawn("v", &[8, 4], 2.0)];
    open(&["n", "5"], &[&before, middle].concat(), &[extra, &tensors].concat())
}

#[test]
fn axes_that_a_size_splits_or_cuts_stand_still() {
    let concat = |list: &[&str], to: &str| with_int(node("Concat", list, &[to]), "axis", 0);
    let total =
        |from: &str| [node("ReduceMax", &[from, "zero"], &["top"]), node("Mul", &["x", "top"], &["y"])];
    let cases: Vec<(&str, Vec<Message>, Vec<Message>)> = vec![
        (
            "as many parts as rows",
            vec![
                concat(&["n", "rest"], "target"),
                node("Reshape", &["q", "target"], &["parts"]),
                node("ReduceSum", &["parts", "zero"], &["s"]),
                node("Reshape", &["s", "rest"], &["flat"]),
                with_int(node("ReduceMax", &["flat", "zero"], &["top"]), "keepdims", 1),
                node("Mul", &["x", "top"], &["y"]),
            ],
            vec![],
        ),
        (
            "parts of as many as rows",
            vec![
                concat(&["rest", "n"], "target"),
                node("Reshape", &["q", "target"], &["parts"]),
                node("ReduceMax", &["parts", "one"], &["s"]),
                node("ReduceSum", &["s", "zero"], &["top"]),
                node("Mul", &["x", "top"], &["y"]),
            ],
            vec![],
        ),
        (
            "rows that run over into units",
            [
                node("Reshape", &["h", "four"], &["parts"]),
                node("ReduceMax", &["parts", "one"], &["top4"]),
                node("MatMul", &["four_by", "top4"], &["s"]),
                node("Mul", &["x", "s"], &["y"]),
            ]
            .to_vec(),
            vec![ints("four", &[4, -1]), drawn("four_by", &[1, 4], 1.0)],
        ),
        (
            "a stretch from the middle",
            [&[node("Slice", &["q", "n", "far", "zero"], &["some"])], &total("some")[..]].concat(),
            vec![ints("far", &[i64::MAX])],
        ),
        (
            "a stretch up to a remainder",
            [
                &[
                    node("Mod", &["n", "seven"], &["m"]),
                    node("Slice", &["q", "zero", "m", "zero"], &["some"]),
                ],
                &total("some")[..],
            ]
            .concat(),
            vec![ints("seven", &[7])],
        ),
        (
            "every so many",
            [&[node("Slice", &["q", "zero", "far", "zero", "n"], &["some"])], &total("some")[..]].concat(),
            vec![ints("far", &[i64::MAX])],
        ),
        ("one place", [&[node("Gather", &["q", "n"], &["some"])], &total("some")[..]].concat(), vec![]),
        (
            "places where a table of sizes says so",
            [
                &[
                    node("Range", &["nought", "n0", "unit"], &["range"]),
                    node("Mod", &["range", "three"], &["places"]),
                    node("Gather", &["q", "places"], &["some"]),
                ],
                &total("some")[..],
            ]
            .concat(),
            vec![ints("three", &[3])],
        ),
        (
            "an axis resized to as many",
            vec![
                node("Reshape", &["q", "row"], &["row_of_q"]),
                node("Mul", &["n", "four"], &["wide"]),
                concat(&["one", "one", "wide"], "sizes"),
                node("Resize", &["row_of_q", "", "", "sizes"], &["some"]),
                node("ReduceMax", &["some", "two"], &["top"]),
                node("Squeeze", &["top", "zero"], &["top2"]),
                node("Mul", &["x", "top2"], &["y"]),
            ],
            vec![ints("row", &[1, 1, 8]), ints("four", &[4])],
        ),
    ];
    let mut wrong = Vec::new();
    for (what, nodes, extra) in cases {
        let bytes = around(&nodes, &extra);
        let first = derive(&at(&bytes, &[])).unwrap_or_else(|error| panic!("{what}: {error}"));
        let (tensor, axis) = if what.starts_with("rows") { ("w", 1) } else { ("q", 0) };
        // What it was bound to does not decide.
        let others = [1, 2, 4].map(|size| derive(&at(&bytes, &[("n", size)])).expect("derives").spec);
        if moves(&first, tensor, axis) || others.iter().any(|other| *other != first.spec) {
            wrong.push((what, first.spec.tensors()[tensor][axis].clone()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn an_axis_that_is_one_long_by_chance_is_not_taken_for_one() {
    // All rows but the first, each plus a learned one: for two rows there is one, and it is added to all learned ones alike.
    let nodes = [
        node("Slice", &["x", "one", "far", "zero"], &["later"]),
        node("MatMul", &["later", "w"], &["a"]),
        node("Add", &["a", "q"], &["b"]),
        node("Tanh", &["b"], &["t"]),
        node("ReduceSum", &["t", "zero"], &["s"]),
        node("MatMul", &["s", "head"], &["y"]),
    ];
    let tensors = [
        ints("far", &[i64::MAX]),
        drawn("q", &[4, 8], 2.0),
        drawn("w", &[5, 8], 2.0),
        drawn("head", &[8, 3], 1.0),
    ];
    let bytes = open(&["n", "5"], &nodes, &tensors);
    for size in [2, 5] {
        let derived = derive(&at(&bytes, &[("n", size)])).expect("derives");
        assert!(!moves(&derived, "q", 0) && moves(&derived, "q", 1) && moves(&derived, "w", 1), "{size}");
    }
}

/// An attention block as exporters write it, every length taken from a shape.
fn attention(batch: &str, steps: &str, merged: bool) -> Vec<u8> {
    let pick = |place: &str, to: &str| node("Gather", &["dims", place], &[to]);
    let concat = |list: &[&str], to: &str| with_int(node("Concat", list, &[to]), "axis", 0);
    let order =
        |from: &str, to: &str, order: &[i64]| with_ints(node("Transpose", &[from], &[to]), "perm", order);
    let mut nodes = vec![
        node("Shape", &["ids"], &["dims"]),
        pick("zero", "b"),
        pick("one", "t"),
        node("Gather", &["words", "ids"], &["e"]),
        node("Slice", &["places", "zero", "t", "zero"], &["p"]),
        node("Add", &["e", "p"], &["x0"]),
        node("LayerNormalization", &["x0", "gain", "offset"], &["x1"]),
        concat(&["b", "t", "heads", "rest"], "apart"),
        concat(&["b", "t", "rest"], "together"),
        node("Mul", &["b", "heads"], &["bh"]),
        concat(&["bh", "t", "width"], "merged"),
        concat(&["b", "heads", "t", "width"], "parted"),
    ];
    for name in ["q", "k", "v"] {
        let weight = format!("w{name}");
        let [linear, split, turned, one] = ["l", "s", "r", "m"].map(|stem| format!("{stem}{name}"));
        nodes.push(node("MatMul", &["x1", &weight], &[&linear]));
        nodes.push(node("Reshape", &[&linear, "apart"], &[&split]));
        nodes.push(order(&split, &turned, &[0, 2, 1, 3]));
        let last = if merged {
            node("Reshape", &[&turned, "merged"], &[&one])
        } else {
            node("Identity", &[&turned], &[&one])
        };
        nodes.push(last);
    }
    let keys: &[i64] = if merged { &[0, 2, 1] } else { &[0, 1, 3, 2] };
    let parted =
        if merged { node("Reshape", &["o", "parted"], &["o4"]) } else { node("Identity", &["o"], &["o4"]) };
    nodes.extend([
        order("mk", "kt", keys),
        node("MatMul", &["mq", "kt"], &["scores"]),
        with_int(node("Softmax", &["scores"], &["soft"]), "axis", -1),
        node("MatMul", &["soft", "mv"], &["o"]),
        parted,
        order("o4", "o5", &[0, 2, 1, 3]),
        node("Reshape", &["o5", "together"], &["o6"]),
        node("MatMul", &["o6", "wo"], &["o7"]),
        node("Add", &["x0", "o7"], &["x2"]),
        node("MatMul", &["x2", "up"], &["f"]),
        node("Relu", &["f"], &["g"]),
        node("MatMul", &["g", "down"], &["d"]),
        node("Add", &["x2", "d"], &["x3"]),
        node("MatMul", &["x3", "head"], &["y"]),
    ]);
    let tensors = [
        ints("zero", &[0]),
        ints("one", &[1]),
        ints("rest", &[-1]),
        ints("heads", &[4]),
        ints("width", &[2]),
        drawn("words", &[13, 8], 2.0),
        drawn("places", &[9, 8], 2.0),
        drawn("gain", &[8], 2.0),
        drawn("offset", &[8], 2.0),
        drawn("wq", &[8, 8], 2.0),
        drawn("wk", &[8, 8], 2.0),
        drawn("wv", &[8, 8], 2.0),
        drawn("wo", &[8, 8], 2.0),
        drawn("up", &[8, 12], 1.0),
        drawn("down", &[12, 8], 1.0),
        drawn("head", &[8, 3], 1.0),
    ];
    graph_of(&[input("ids", 7, &[batch, steps])], &nodes, &tensors)
}

#[test]
fn a_transformer_of_open_length_is_covered_as_one_of_fixed_length() {
    for merged in [false, true] {
        let fixed = derive(&at(&attention("2", "3", merged), &[])).expect("derives");
        let graph = at(&attention("batch", "steps", merged), &[]);
        let open = derive(&graph).expect("derives");
        assert_eq!(open.spec, fixed.spec, "{merged} {:?}", open.pinned);
        assert!(moves(&open, "places", 1) && moves(&open, "wq", 1) && !moves(&open, "places", 0));
        let certificate = tried(&graph, &open.spec).expect("holds");
        assert_eq!(certificate.resized.len(), 2, "{:?}", certificate.resized);
        assert!(certificate.one_size.is_empty());
    }
}

/// A residual network whose images may be of any size, as many as one likes, and a recurrent one with states of zeros.
fn images(dims: &[&str]) -> Vec<u8> {
    let conv = |from: &str, w: &str, to: &str, stride: i64, pad: i64| {
        let conv = with_ints(node("Conv", &[from, w], &[to]), "strides", &[stride, stride]);
        with_ints(conv, "pads", &[pad; 4])
    };
    let nodes = [
        conv("x", "w1", "a", 1, 1),
        node("Relu", &["a"], &["b"]),
        conv("b", "w2", "c", 2, 1),
        conv("b", "w3", "d", 2, 0),
        node("Add", &["c", "d"], &["e"]),
        node("Reshape", &["e", "groups"], &["g"]),
        node("InstanceNormalization", &["g", "ones", "zeros"], &["i"]),
        node("Shape", &["e"], &["whole"]),
        node("Reshape", &["i", "whole"], &["j"]),
        node("Relu", &["j"], &["k"]),
        node("GlobalAveragePool", &["k"], &["p"]),
        node("Reshape", &["p", "flat"], &["q"]),
        node("MatMul", &["q", "head"], &["y"]),
    ];
    let tensors = [
        ints("groups", &[0, 3, -1]),
        ints("flat", &[0, -1]),
        drawn("w1", &[6, 3, 3, 3], 1.0),
        drawn("w2", &[6, 6, 3, 3], 1.0),
        drawn("w3", &[6, 6, 1, 1], 1.0),
        drawn("ones", &[3], 1.0),
        drawn("zeros", &[3], 1.0),
        drawn("head", &[6, 3], 1.0),
    ];
    graph_of(&[input("x", 1, dims)], &nodes, &tensors)
}

fn recurrent(steps: &str, batch: &str) -> Vec<u8> {
    let cell = node("LSTM", &["x", "w", "r", "", "", "state", "cell"], &["all", "last"]);
    let nodes = [
        node("Shape", &["x"], &["dims"]),
        node("Gather", &["dims", "one"], &["b"]),
        with_int(node("Concat", &["one", "b", "eight"], &["target"]), "axis", 0),
        node("ConstantOfShape", &["target"], &["state"]),
        node("Expand", &["nothing", "target"], &["cell"]),
        with_int(cell, "hidden_size", 8),
        node("Squeeze", &["last", "zero"], &["s"]),
        node("MatMul", &["s", "head"], &["y"]),
    ];
    let tensors = [
        ints("zero", &[0]),
        ints("one", &[1]),
        ints("eight", &[8]),
        drawn("w", &[1, 32, 5], 2.0),
        drawn("r", &[1, 32, 8], 2.0),
        drawn("head", &[8, 3], 2.0),
    ];
    let nodes = [&[build::floats("nothing", &[0.0])], &nodes[..]].concat();
    graph_of(&[input("x", 1, &[steps, batch, "5"])], &nodes, &tensors)
}

#[test]
fn images_of_open_size_and_sequences_of_open_length_are_covered_as_fixed_ones() {
    let cases = [
        (
            images(&["2", "3", "8", "6"]),
            images(&["n", "3", "height", "width"]),
            vec![("height", 8), ("width", 6)],
        ),
        (recurrent("4", "3"), recurrent("steps", "batch"), vec![]),
    ];
    for (fixed, open, sizes) in cases {
        let fixed = derive(&at(&fixed, &[])).expect("derives");
        let graph = at(&open, &sizes);
        let open = derive(&graph).expect("derives");
        assert_eq!(open.spec, fixed.spec, "{:?}", open.pinned);
        assert!(open.coverage.permutable_axes > 2);
        let certificate = tried(&graph, &open.spec).expect("holds");
        assert!(certificate.one_size.is_empty(), "{:?}", certificate.resized);
    }
}

#[test]
fn a_squeeze_of_a_length_costs_nothing() {
    // A flatten as PyTorch writes it where the batch is open: the one length squeezed without saying which axis.
    let nodes = [
        node("MatMul", &["x", "w"], &["a"]),
        node("Relu", &["a"], &["r"]),
        with_int(with_int(node("Shape", &["r"], &["s"]), "start", 0), "end", 1),
        node("Squeeze", &["s"], &["batch"]),
        node("Unsqueeze", &["batch", "zero"], &["first"]),
        with_int(node("Concat", &["first", "rest"], &["target"]), "axis", 0),
        node("Reshape", &["r", "target"], &["flat"]),
        node("MatMul", &["flat", "head"], &["y"]),
    ];
    let tensors = [drawn("w", &[5, 8], 1.0), drawn("head", &[24, 3], 1.0)];
    let graph = at(&open(&["n", "3", "5"], &nodes, &tensors), &[]);
    let derived = derive(&graph).expect("derives");
    assert!(moves(&derived, "w", 1) && moves(&derived, "head", 0), "{:?}", derived.spec.tensors());
    assert!(
        tried(&graph, &derived.spec).expect("verified").resized.iter().all(|other| other.untried.is_none())
    );

    // Where the axis itself is open, it may be one that goes.
    let nodes = [
        node("MatMul", &["x", "w"], &["a"]),
        node("Squeeze", &["a"], &["r"]),
        node("MatMul", &["r", "head"], &["y"]),
    ];
    let tensors = [drawn("w", &[5, 8], 1.0), drawn("head", &[8, 3], 1.0)];
    let derived = derive(&at(&open(&["n", "3", "5"], &nodes, &tensors), &[])).expect("derives");
    assert!(!moves(&derived, "w", 1), "{:?}", derived.spec.tensors());
}
