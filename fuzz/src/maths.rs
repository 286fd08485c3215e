//! Of the mathematics and graphs: what is tried with bytes that nobody should trust.

use fedbasin_graph::{Graph, derive};
use rebasin::{Alignment, Checkpoint, Dtype, Header, Layout, Limits, Scanner, Spec, TensorInfo};

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
    assert!(element.inverse_permutations().apply(&checked, &moved).expect("fits") == model, "there and back");
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

/// A safetensors file's header: four bytes say how it is read, how it is cut, and how many bytes of data follow it (zeros); then the
/// header's JSON, or, where the first byte is odd, the file as it is.
///
/// # Panics
/// If what arrives in parts is taken otherwise than at once, or otherwise than a file is read.
pub fn header(bytes: &[u8]) -> bool {
    let Some((&[how, cut, low, high], rest)) = bytes.split_first_chunk::<4>() else { return false };
    let mut file = Vec::new();
    if how % 2 == 0 {
        file.extend_from_slice(&(rest.len() as u64).to_le_bytes());
        file.extend_from_slice(rest);
        file.resize(file.len() + usize::from(u16::from_le_bytes([low, high])), 0);
    } else {
        file.extend_from_slice(rest);
    }
    let size = file.len() as u64;
    let expected = (how & 2 != 0).then(layout);
    let scanned = |length: usize| {
        let mut scanner = Scanner::new(expected.clone(), size, Limits::default()).measuring();
        let mut parts = file.chunks(length);
        parts.try_for_each(|part| scanner.push(part)).map_err(|error| error.to_string())?;
        assert_eq!(scanner.magnitudes().is_some(), scanner.layout().is_some());
        scanner.finish().map_err(|error| error.to_string())
    };
    let at_once = scanned(file.len().max(1));
    assert_eq!(scanned(usize::from(cut) + 1), at_once, "in parts as at once");
    let whole = Checkpoint::from_bytes(&file).is_ok();
    assert!(if expected.is_some() { whole || at_once.is_err() } else { whole == at_once.is_ok() });
    match (Header::read(&mut &file[..], size), at_once) {
        (Ok(read), Ok(scanned)) => {
            assert_eq!(read, scanned);
            assert_eq!(read.file_size(), size);
            true
        }
        (Err(error), Ok(_)) => panic!("{error}, but it was taken as it arrived"),
        (Ok(_), Err(error)) => {
            assert!(expected.is_some() || error.contains("NaN"), "{error}, but as a file it is read");
            false
        }
        (Err(_), Err(_)) => false,
    }
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
