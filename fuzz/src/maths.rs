//! Of the mathematics and graphs: what is tried with bytes that nobody should trust.

use fedbasin_graph::{Graph, derive};
use rebasin::{Alignment, Checkpoint, Dtype, Layout, Spec, TensorInfo};

/// An ONNX file: read, and a spec derived from it, which must fit the graph's own parameters.
///
/// # Panics
/// If a derived spec does not fit.
pub fn graph(bytes: &[u8]) -> bool {
    let Ok(graph) = Graph::read(bytes) else { return false };
    let Ok(derived) = derive(&graph) else { return false };
    let layout = graph.layout().expect("a graph with a spec has a layout");
    derived.spec.check(&layout).expect("a derived spec fits the graph's parameters");
    again(&derived.spec);
    true
}

/// A spec's JSON: read, and checked against a layout; if it fits, its elements form a group.
///
/// # Panics
/// If a random element and its inverse do not give back what they were applied to.
pub fn spec(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(spec) = Spec::from_json(text) else { return false };
    again(&spec);
    let layout = layout();
    let Ok(checked) = spec.check(&layout) else { return false };
    let model = numbered(&layout);
    let element = Alignment::random(&checked, 1);
    let moved = element.apply(&checked, &model).expect("fits");
    assert!(element.inverse().apply(&checked, &moved).expect("fits") == model, "there and back");
    rebasin::canonical_scale(&checked, &model).expect("small numbers stay finite");
    true
}

/// A safetensors file: read, written, read again.
///
/// # Panics
/// If a checkpoint that was read is not read the same from what it was written as.
pub fn checkpoint(bytes: &[u8]) -> bool {
    let Ok(model) = Checkpoint::from_bytes(bytes) else { return false };
    let written = model.to_bytes();
    let read = Checkpoint::from_bytes(&written).expect("what we write, we read");
    assert!(read == model && read.to_bytes() == written, "one file for one checkpoint");
    true
}

fn again(spec: &Spec) {
    let read = Spec::from_json(&spec.to_json()).expect("what we write, we read");
    assert!(read == *spec && read.digest() == spec.digest(), "one spec, one text, one digest");
}

/// The layout that specs are checked against: names as in the seeds.
fn layout() -> Layout {
    let tensors: [(&str, &[usize]); 7] = [
        ("a.weight", &[6, 3]),
        ("a.bias", &[6]),
        ("b.weight", &[6, 6]),
        ("b.bias", &[6]),
        ("c.weight", &[2, 6]),
        ("d.weight", &[4, 3, 1]),
        ("count", &[]),
    ];
    let info = |&(name, shape): &(&str, &[usize])| TensorInfo {
        name: name.into(),
        dtype: if name == "count" { Dtype::I64 } else { Dtype::F32 },
        shape: shape.to_vec(),
    };
    Layout::new(tensors.iter().map(info).collect()).expect("a layout")
}

/// Every element another number above 0.
fn numbered(layout: &Layout) -> Checkpoint {
    let mut next = 0_u8;
    let tensors = layout.tensors().iter().map(|info| {
        let bytes = (0..info.num_elements()).flat_map(|_| {
            next += 1;
            match info.dtype {
                Dtype::F32 => f32::from(next).to_le_bytes().to_vec(),
                _ => i64::from(next).to_le_bytes().to_vec(),
            }
        });
        rebasin::Tensor::from_bytes(info, bytes.collect()).expect("as many as the shape says")
    });
    Checkpoint::new(layout.clone(), tensors.collect()).expect("fits")
}
