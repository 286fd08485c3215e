//! The reader is a trust boundary: every hostile file is a typed error, and what it takes others take too.

mod common;

use common::{checkpoint, layout};
use proptest::prelude::*;
use rebasin::{Checkpoint, CheckpointError, Dtype, Layout, Limits, Scanner, Tensor, TensorInfo};

fn small() -> Checkpoint {
    checkpoint(&layout(&[("a.weight", &[2, 3]), ("b.num_batches_tracked", &[]), ("c", &[4])]), 3)
}

/// A file of that JSON and so many zero bytes of data.
fn file(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn refused(bytes: &[u8]) -> String {
    Checkpoint::from_bytes(bytes).expect_err("must be refused").to_string()
}

#[test]
fn a_file_written_here_is_read_by_the_safetensors_crate_and_the_other_way_round() {
    let model = small();
    let bytes = model.to_bytes();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).expect("their reader takes it");
    for tensor in model.tensors() {
        assert_eq!(theirs.tensor(&tensor.info().name).expect("there").data(), tensor.bytes());
    }
    let data: Vec<u8> = [1.0_f32, 2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2], &data).expect("a view");
    let bytes = safetensors::serialize([("w", view)], None).expect("their writer");
    assert_eq!(
        Checkpoint::from_bytes(&bytes).expect("ours takes it").get("w").expect("there").to_f32(),
        [1.0, 2.0]
    );
}

#[test]
fn each_hostile_file_is_refused_for_its_own_reason() {
    let one = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", vec![], "ends after 0"),
        ("seven bytes", vec![0; 7], "ends after 7"),
        ("header longer than the file", u64::MAX.to_le_bytes().to_vec(), "at most"),
        ("header cut off", file(&format!("{{{one}}}"), 4)[..20].to_vec(), "bytes in a file of"),
        ("leading space", file(&format!(" {{{one}}}"), 4), "'{'"),
        ("byte order mark", file(&format!("\u{feff}{{{one}}}"), 4), "'{'"),
        ("newline padding", file(&format!("{{{one}}}\n"), 4), "padded"),
        ("zero padding", file(&format!("{{{one}}}\0"), 4), "padded"),
        ("the same key twice", file(&format!("{{{one},{one}}}"), 4), "stands twice"),
        (
            "an unknown field",
            file(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}"#, 4),
            "unknown field",
        ),
        (
            "a field twice",
            file(r#"{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4),
            "duplicate field",
        ),
        (
            "an unknown dtype",
            file(r#"{"a":{"dtype":"F3","shape":[1],"data_offsets":[0,4]}}"#, 4),
            "is not supported",
        ),
        (
            "a path as a name",
            file(r#"{"../a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4),
            "tensor name",
        ),
        ("an empty name", file(r#"{"":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4), "tensor name"),
        (
            "a newline in a name",
            file(r#"{"a\n":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4),
            "tensor name",
        ),
        (
            "rank 9",
            file(r#"{"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}}"#, 4),
            "axes",
        ),
        (
            "a size that overflows",
            file(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#, 4),
            "overflows",
        ),
        (
            "a negative size",
            file(r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4),
            "invalid value",
        ),
        (
            "a fraction",
            file(r#"{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}"#, 4),
            "invalid type",
        ),
        (
            "offsets that do not fit",
            file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, 4),
            "do not fit",
        ),
        ("offsets backwards", file(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, 4), "gap"),
        ("a gap", file(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, 8), "gap"),
        (
            "an overlap",
            file(&format!(r#"{{{one},"b":{{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}}}"#), 6),
            "overlap",
        ),
        ("bytes behind the end", file(&format!("{{{one}}}"), 5), "appended"),
        ("data cut off", file(&format!("{{{one}}}"), 3), "cut off"),
        (
            "metadata that is no text",
            file(&format!(r#"{{"__metadata__":{{"a":1}},{one}}}"#), 4),
            "invalid type",
        ),
        (
            "two metadata",
            file(&format!(r#"{{"__metadata__":{{}},"__metadata__":{{}},{one}}}"#), 4),
            "stands twice",
        ),
        ("depth", file(&format!("{{\"a\":{}", "[".repeat(10_000)), 0), "padded"),
    ];
    for (what, bytes, reason) in cases {
        let message = refused(&bytes);
        assert!(message.contains(reason), "{what}: {message}");
    }
}

#[test]
fn a_header_beyond_the_limits_is_refused_before_it_is_read() {
    let limits = Limits { max_header_bytes: 64, ..Limits::default() };
    let error = Checkpoint::from_bytes_with(&small().to_bytes(), &limits).expect_err("too large");
    assert!(matches!(error, CheckpointError::HeaderTooLarge { .. }));
    let limits = Limits { max_tensors: 2, ..Limits::default() };
    assert!(Checkpoint::from_bytes_with(&small().to_bytes(), &limits).is_err());
}

#[test]
fn a_number_that_is_none_is_found_in_every_float_dtype() {
    for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16] {
        let info = TensorInfo { name: "w".into(), dtype, shape: vec![5] };
        let layout = Layout::new(vec![info.clone()]).expect("a layout");
        let size = dtype.size();
        for high in [[0xff, 0x7f], [0xff, 0xff]] {
            let mut bytes = vec![0; info.num_bytes()];
            bytes[4 * size - 2..4 * size].copy_from_slice(&high);
            let tensor = Tensor::from_bytes(&info, bytes).expect("fits");
            let file = Checkpoint::new(layout.clone(), vec![tensor]).expect("fits").to_bytes();
            match Checkpoint::from_bytes(&file) {
                Err(CheckpointError::NotFinite { name, index }) => {
                    assert_eq!((name.as_str(), index), ("w", 3));
                }
                other => panic!("{dtype}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_number_cut_between_two_parts_is_seen_whole() {
    for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16] {
        let info = TensorInfo { name: "w".into(), dtype, shape: vec![7] };
        let layout = Layout::new(vec![info.clone()]).expect("a layout");
        for bad in 0..7 {
            let mut bytes = vec![0; info.num_bytes()];
            bytes[bad * dtype.size() + dtype.size() - 2..][..2].copy_from_slice(&[0xff, 0x7f]);
            let tensor = Tensor::from_bytes(&info, bytes).expect("fits");
            let file = Checkpoint::new(layout.clone(), vec![tensor]).expect("fits").to_bytes();
            for part in 1..20 {
                let mut scanner = Scanner::new(None, file.len() as u64, Limits::default());
                match file.chunks(part).try_for_each(|part| scanner.push(part)) {
                    Err(CheckpointError::NotFinite { index, .. }) => assert_eq!(index, bad as u64),
                    other => panic!("{dtype}, element {bad}, parts of {part}: {other:?}"),
                }
            }
        }
    }
}

#[test]
fn a_layout_that_differs_is_told_by_its_tensor() {
    let expected = small().layout().clone();
    let scan = |tensors: &[(&str, &[usize])]| {
        let bytes = checkpoint(&layout(tensors), 1).to_bytes();
        let mut scanner = Scanner::new(Some(expected.clone()), bytes.len() as u64, Limits::default());
        scanner.push(&bytes).expect_err("differs")
    };
    let missing = scan(&[("a.weight", &[2, 3]), ("c", &[4])]);
    assert!(matches!(missing, CheckpointError::Missing { name } if name == "b.num_batches_tracked"));
    let extra = scan(&[("a.weight", &[2, 3]), ("b.num_batches_tracked", &[]), ("c", &[4]), ("d", &[1])]);
    assert!(matches!(extra, CheckpointError::Extra { name } if name == "d"));
    let other = scan(&[("a.weight", &[3, 2]), ("b.num_batches_tracked", &[]), ("c", &[4])]);
    assert!(matches!(other, CheckpointError::Differs { name, .. } if name == "a.weight"));
}

#[test]
fn a_layout_is_the_same_whatever_the_order_of_the_file() {
    let tensor = |name: &str| TensorInfo { name: name.into(), dtype: Dtype::F32, shape: vec![1] };
    let forward = Layout::new(vec![tensor("a"), tensor("b")]).expect("a layout");
    let backward = Layout::new(vec![tensor("b"), tensor("a")]).expect("a layout");
    assert_eq!((forward.digest(), &forward), (backward.digest(), &backward));
    let swapped = r#"{"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let mut bytes = file(swapped, 0);
    bytes.extend_from_slice(&2.0_f32.to_le_bytes());
    bytes.extend_from_slice(&1.0_f32.to_le_bytes());
    let model = Checkpoint::from_bytes(&bytes).expect("any order of the data");
    assert_eq!(model.layout(), &forward);
    assert_eq!(
        (model.get("a").expect("a").to_f32(), model.get("b").expect("b").to_f32()),
        (vec![1.0], vec![2.0])
    );
    let json = serde_json::to_string(&forward).expect("JSON");
    assert_eq!(serde_json::from_str::<Layout>(&json).expect("a layout"), forward);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_scanner_says_the_same_however_the_bytes_come(
        cuts in prop::collection::vec(1_usize..40, 1..60), spoil in prop::option::of(0_usize..600), value: u8,
    ) {
        let mut bytes = small().to_bytes();
        if let Some(at) = spoil {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let whole = Checkpoint::from_bytes(&bytes).is_ok();
        let mut scanner = Scanner::new(None, bytes.len() as u64, Limits::default());
        let mut rest = bytes.as_slice();
        let mut outcome = Ok(());
        let mut cut = cuts.iter().cycle();
        while !rest.is_empty() && outcome.is_ok() {
            let (now, later) = rest.split_at((*cut.next().expect("endless")).min(rest.len()));
            outcome = scanner.push(now);
            rest = later;
        }
        prop_assert_eq!(outcome.and_then(|()| scanner.finish().map(|_| ())).is_ok(), whole);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), length in 0_u64..300) {
        let mut file = length.to_le_bytes().to_vec();
        file.extend_from_slice(&bytes);
        let _ = Checkpoint::from_bytes(&file);
        let _ = Checkpoint::from_bytes(&bytes);
    }
}
