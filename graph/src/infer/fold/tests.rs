//! Folded values are a runtime's, to the last bit, or there are none.

#[path = "../../../tests/build/mod.rs"]
mod build;

use build::{Message, floats, ints, network, node, with_int};

use crate::graph::{Graph, Known};

const F32: i64 = 1;
const U8: i64 = 2;
const I32: i64 = 6;
const I64: i64 = 7;
const F16: i64 = 10;
const F64: i64 = 11;

fn cast(from: &str, to: i64, output: &str) -> Message {
    with_int(node("Cast", &[from], &[output]), "to", to)
}

/// What is known of `k`.
fn folded(nodes: &[Message], initializers: &[Message]) -> Option<Known> {
    let nodes = [nodes, &[node("Relu", &["x"], &["y"])]].concat();
    let graph = Graph::read(&network(&[2, 10], &nodes, initializers)).expect("reads");
    graph.values.iter().find(|value| value.name == "k").expect("a value k").known.clone()
}

fn whole(values: &[i64]) -> Option<Known> {
    Some(Known::Ints(values.to_vec()))
}

#[test]
fn floats_of_32_bits_are_rounded_to_them_after_each_step() {
    // In 64 bits: 6.99999988.
    let nodes = [
        node("Shape", &["x"], &["s"]),
        cast("s", F32, "f"),
        floats("by", &[1.0, 0.7]),
        node("Mul", &["f", "by"], &["m"]),
        node("Floor", &["m"], &["g"]),
        cast("g", I64, "k"),
    ];
    assert_eq!(folded(&nodes, &[]), whole(&[2, 7]));
    let thirds = [
        floats("a", &[3.0, 6.0]),
        floats("b", &[0.3, 0.3]),
        node("Div", &["a", "b"], &["d"]),
        cast("d", I64, "k"),
    ];
    assert_eq!(folded(&thirds, &[]), whole(&[10, 20]));
}

#[test]
fn what_runtimes_round_otherwise_is_not_known() {
    let half = [floats("a", &[2049.0]), cast("a", F16, "h"), cast("h", I64, "k")];
    assert_eq!(folded(&half, &[]), None);
    let bytes = |values: &[i64]| folded(&[cast("a", U8, "b"), cast("b", I64, "k")], &[ints("a", values)]);
    assert_eq!(bytes(&[256, 257]), None);
    assert_eq!(bytes(&[7, 255]), whole(&[7, 255]));
    let far = [floats("a", &[3e9, f32::NAN]), cast("a", I32, "k")];
    assert_eq!(folded(&far, &[]), None);
}

#[test]
fn whole_numbers_are_exact_or_not_known() {
    let two = |op: &str, a: &[i64], b: &[i64]| {
        folded(&[node(op, &["a", "b"], &["k"])], &[ints("a", a), ints("b", b)])
    };
    assert_eq!(two("Sub", &[i64::MAX], &[i64::MAX - 1]), None);
    assert_eq!(two("Min", &[i64::MAX], &[7]), whole(&[7]));
    assert_eq!(two("Sub", &[9], &[12]), whole(&[-3]));
    assert_eq!(two("Add", &[i64::MAX], &[1]), None);
    assert_eq!(two("Div", &[-7], &[2]), whole(&[-3]));
    assert_eq!(two("Div", &[i64::MIN], &[-1]), None);
    assert_eq!(two("Mod", &[-3, 3], &[2, -2]), whole(&[1, -1]));
    let narrow = [cast("a", I32, "b"), node("Mul", &["b", "b"], &["k"])];
    assert_eq!(folded(&narrow, &[ints("a", &[70_000])]), None);
    let bytes = [cast("a", U8, "b"), node("Add", &["b", "b"], &["k"])];
    assert_eq!(folded(&bytes, &[ints("a", &[3])]), None);
}

#[test]
fn a_remainder_may_have_the_sign_of_what_is_divided() {
    let rest = with_int(node("Mod", &["a", "b"], &["k"]), "fmod", 1);
    assert_eq!(folded(&[rest], &[ints("a", &[-3, -1]), ints("b", &[2, 2])]), whole(&[-1, -1]));
}

#[test]
fn floats_of_64_bits_keep_all_of_them() {
    let data: Vec<u8> = [4_294_967_297.0_f64].iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = Message::default().int(1, 1).int(2, F64).bytes(9, &data);
    let value = Message::default().bytes(1, b"value").message(5, &tensor).int(20, 4);
    let nodes = [node("Constant", &[], &["a"]).message(5, &value), cast("a", I64, "k")];
    assert_eq!(folded(&nodes, &[]), whole(&[4_294_967_297]));
}

#[test]
fn two_zeros_are_not_one_constant() {
    let nodes = [floats("a", &[0.0, 1.0]), floats("b", &[-1.0, -0.0]), node("Mul", &["a", "b"], &["k"])];
    let known = folded(&nodes, &[]).expect("known");
    assert!(known.is_uniform(2, 1), "both are -0: {known:?}");
    let nodes = [floats("a", &[0.0, 0.0]), floats("b", &[-1.0, 1.0]), node("Mul", &["a", "b"], &["k"])];
    assert!(!folded(&nodes, &[]).expect("known").is_uniform(2, 1));
}
