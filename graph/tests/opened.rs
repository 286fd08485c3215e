//! The networks of `zoo/`, made for two examples at a time, with that number left open.

mod build;

use std::{collections::BTreeMap, fs};

use build::Message;
use fedbasin_graph::{Derived, Graph, VerifyOptions, derive, verify};
use serde_json::Value;

fn folder() -> String {
    format!("{}/zoo", env!("CARGO_MANIFEST_DIR"))
}

fn varint(bytes: &[u8], at: &mut usize) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[*at];
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return value;
        }
    }
}

/// The numbers that a message holds.
fn each_number(bytes: &[u8], see: &mut dyn FnMut(u64, u64)) {
    let mut at = 0;
    while at < bytes.len() {
        let key = varint(bytes, &mut at);
        match key & 7 {
            0 => see(key >> 3, varint(bytes, &mut at)),
            2 => {
                let length = varint(bytes, &mut at) as usize;
                at += length;
            }
            5 => at += 4,
            other => panic!("wire type {other}"),
        }
    }
}

/// A message with those of its fields that are messages, or bytes, put through a function of their number and what they hold.
fn mapped(bytes: &[u8], map: &mut dyn FnMut(u64, &[u8]) -> Vec<u8>) -> Vec<u8> {
    let (mut out, mut at) = (Message::default(), 0);
    while at < bytes.len() {
        let from = at;
        let key = varint(bytes, &mut at);
        match key & 7 {
            0 => {
                varint(bytes, &mut at);
                out.0.extend_from_slice(&bytes[from..at]);
            }
            2 => {
                let length = varint(bytes, &mut at) as usize;
                let inner = map(key >> 3, &bytes[at..at + length]);
                at += length;
                out = out.bytes(key >> 3, &inner);
            }
            5 => {
                at += 4;
                out.0.extend_from_slice(&bytes[from..at]);
            }
            other => panic!("wire type {other}"),
        }
    }
    out.0
}

/// What a field of a message holds, all of it.
fn fields(bytes: &[u8], wanted: u64) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    mapped(bytes, &mut |number, bytes| {
        if number == wanted {
            out.push(bytes.to_vec());
        }
        bytes.to_vec()
    });
    out
}

/// A message with one of its fields put through a function.
fn with(bytes: &[u8], wanted: u64, map: &dyn Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    mapped(bytes, &mut |number, bytes| if number == wanted { map(bytes) } else { bytes.to_vec() })
}

/// The whole numbers of constants, and of what they are put together to.
fn constants(graph: &[u8]) -> BTreeMap<Vec<u8>, Vec<i64>> {
    let numbers = |tensor: &[u8]| -> Option<Vec<i64>> {
        // Element type 7: 64 bits.
        let mut whole = false;
        let data = fields(tensor, 9).concat();
        each_number(tensor, &mut |number, value| whole |= number == 2 && value == 7);
        let parts = data.chunks_exact(8).map(|part| i64::from_le_bytes(part.try_into().expect("8")));
        whole.then(|| parts.collect())
    };
    let mut out = BTreeMap::new();
    for tensor in fields(graph, 5) {
        out.extend(numbers(&tensor).map(|numbers| (fields(&tensor, 8).concat(), numbers)));
    }
    for node in fields(graph, 1) {
        let (op, output) = (fields(&node, 4).concat(), fields(&node, 2).swap_remove(0));
        let attributes = fields(&node, 5);
        let found = match &op[..] {
            b"Constant" => {
                let mut listed = Vec::new();
                each_number(&attributes[0], &mut |number, value| {
                    if number == 3 || number == 8 {
                        listed.push(value as i64);
                    }
                });
                if listed.is_empty() { numbers(&fields(&attributes[0], 5).concat()) } else { Some(listed) }
            }
            b"Unsqueeze" => out.get(&fields(&node, 1)[0]).cloned(),
            b"Concat" => {
                let parts: Option<Vec<Vec<i64>>> =
                    fields(&node, 1).iter().map(|part| out.get(part).cloned()).collect();
                parts.map(|parts| parts.concat())
            }
            _ => None,
        };
        out.extend(found.map(|numbers| (output, numbers)));
    }
    out
}

/// The model with the first dimension of each input named, and with that number, where a reshape or an expansion has it, taken from
/// the input's shape; of a reshape to a multiple of it, the first axis is as long as is left over.
fn opened(model: &[u8]) -> Vec<u8> {
    let named = Message::default().bytes(2, b"examples").0;
    let shape = |shape: &[u8]| {
        let mut first = true;
        mapped(shape, &mut |_, dim| if std::mem::take(&mut first) { named.clone() } else { dim.to_vec() })
    };
    let tensor = |bytes: &[u8]| with(bytes, 2, &shape);
    let kind = |bytes: &[u8]| with(bytes, 1, &tensor);
    let graph = fields(model, 7).concat();
    let known = constants(&graph);
    let input = String::from_utf8(fields(&fields(&graph, 11)[0], 1).concat()).expect("a name");
    let mut before = Message::default()
        .message(1, &build::node("Shape", &[&input], &["opened.shape"]))
        .message(1, &build::node("Slice", &["opened.shape", "opened.0", "opened.1"], &["opened.n"]))
        .message(5, &build::ints("opened.0", &[0]))
        .message(5, &build::ints("opened.1", &[1]));
    let mut count = 0;
    let mut node = |node: &[u8]| {
        let (op, inputs) = (fields(node, 4).concat(), fields(node, 1));
        let Some(target) = inputs.get(1).and_then(|target| known.get(target).cloned()) else {
            return node.to_vec();
        };
        count += 1;
        let (name, rest) = (format!("opened.to.{count}"), format!("opened.rest.{count}"));
        let so_far = std::mem::take(&mut before);
        before = match (&op[..], target.first()) {
            (b"Reshape" | b"Expand", Some(2)) => {
                let together = build::node("Concat", &["opened.n", &rest], &[&name]);
                so_far
                    .message(1, &build::with_int(together, "axis", 0))
                    .message(5, &build::ints(&rest, &target[1..]))
            }
            (b"Reshape", Some(_)) if target.iter().all(|&number| number > 0) => {
                so_far.message(5, &build::ints(&name, &[&[-1], &target[1..]].concat()))
            }
            _ => {
                before = so_far;
                return node.to_vec();
            }
        };
        let mut place = 0;
        mapped(node, &mut |number, bytes| {
            place += usize::from(number == 1);
            if number == 1 && place == 2 { name.clone().into_bytes() } else { bytes.to_vec() }
        })
    };
    let rest = mapped(&graph, &mut |number, bytes| match number {
        1 => node(bytes),
        11 => with(bytes, 2, &kind),
        _ => bytes.to_vec(),
    });
    with(model, 7, &|_| [&before.0[..], &rest].concat())
}

fn options(zoo: &Value, name: &str) -> VerifyOptions {
    let mut ranges = BTreeMap::new();
    for (input, info) in zoo[name]["inputs"].as_object().into_iter().flatten() {
        if let (Some(low), Some(high)) = (info["low"].as_f64(), info["high"].as_f64()) {
            ranges.insert(input.clone(), (low, high));
        }
    }
    VerifyOptions { ranges, ..VerifyOptions::default() }
}

/// Networks that are also run.
const RUN: [&str; 20] = [
    "alibi",
    "bert",
    "concat_groupnorm",
    "convnext.ts",
    "densenet",
    "gru_cell",
    "instance_norm",
    "layernorm_flat",
    "lenet",
    "lstm_loop",
    "mamba",
    "mlp_mixer",
    "moe_einsum",
    "mqa_qk_norm",
    "pixel_shuffle",
    "roll",
    "shufflenet_v1",
    "t5_encoder",
    "unet",
    "vit_fused_qkv",
];

/// Networks that have the number of examples in other places of the file too: they run for two, and no others.
const BAKED: [&str; 8] =
    ["gpt2.ts", "llama.ts", "swin", "swin_v2", "transformer_encoder", "transformer_seq2seq", "vit", "vit.ts"];

#[test]
fn as_much_moves_as_for_two_examples_where_the_network_runs_for_others() {
    let zoo: Value =
        serde_json::from_slice(&fs::read(format!("{}/zoo.json", folder())).expect("a file")).expect("JSON");
    let (mut same, mut less, mut run) = (0, Vec::new(), 0);
    for name in zoo.as_object().expect("networks").keys() {
        let bytes = fs::read(format!("{}/{name}.onnx", folder())).expect("a file");
        // Functions of a model's own are refused.
        let Ok(fixed) = Graph::read(&bytes) else { continue };
        let graph = Graph::read(&opened(&bytes)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(graph.bound_dimensions(), [("examples".to_owned(), 2)], "{name}");
        let (fixed, open) = (derive(&fixed).expect("derives"), derive(&graph).expect("derives"));
        let (known, baked) = (RUN.contains(&name.as_str()), BAKED.contains(&name.as_str()));
        if open.spec == fixed.spec {
            same += 1;
        } else {
            let moving = |derived: &Derived| derived.coverage.permutable_axes;
            less.push(format!("{name} {} of {}", moving(&open), moving(&fixed)));
            assert!(baked, "{less:?}");
        }
        if known || baked {
            let certificate = verify(&graph, &open.spec, &options(&zoo, name));
            let certificate = certificate.unwrap_or_else(|error| panic!("{name}: {error}"));
            if baked {
                assert_eq!(certificate.one_size, ["examples"], "{name}");
                continue;
            }
            let tried: Vec<usize> = certificate
                .resized
                .iter()
                .filter(|resized| resized.untried.is_none())
                .map(|resized| resized.sizes["examples"])
                .collect();
            assert_eq!(tried, [3, 1], "{name}: {:?}", certificate.resized);
            run += 1;
        }
    }
    println!("{same} the same, {run} run; not the same: {less:?}");
    assert!(same > 85 && run == RUN.len(), "{same} {run}");
}
