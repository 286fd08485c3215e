use super::*;
use crate::{Dtype, TensorInfo};

fn parse(json: &str, data: u64) -> Result<Header, CheckpointError> {
    Header::parse(json.as_bytes(), data, &Limits::default())
}

fn refused(json: &str, data: u64) -> String {
    parse(json, data).expect_err("must be refused").to_string()
}

#[test]
fn what_serde_would_forgive_is_refused() {
    for (json, reason) in [
        (r#"{"a":["F32",[1],[0,4]]}"#, "an object with dtype"),
        (r#"{"a":{"dtype":{"F32":null},"shape":[1],"data_offsets":[0,4]}}"#, "a string"),
        (r#"{"a":{"dtype":"F32","shape":[1]}}"#, "data_offsets is missing"),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}"#, "not two numbers"),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}}"#, "more than 2 data_offsets"),
        (r#"{"a":{"dtype":"F32","shape":[01],"data_offsets":[0,4]}}"#, "invalid number"),
        (r#"{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,4]}}"#, "invalid type"),
        (r#"{"a":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}"#, "invalid type"),
        (r#"{"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}}"#, "invalid type"),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}{}"#, "trailing"),
        (r#"{"__metadata__":{"k":"v","k":"w"}}"#, "a key twice"),
        (r#"{"__metadata__":[]}"#, "object of texts"),
        (r#"{"\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, "unexpected end of hex escape"),
    ] {
        let message = refused(json, 4);
        assert!(message.contains(reason), "{json}: {message}");
    }
}

#[test]
fn sizes_at_the_end_of_the_numbers_do_not_overflow() {
    let far = format!(
        r#"{{"a":{{"dtype":"U8","shape":[{0}],"data_offsets":[0,{0}]}},"b":{{"dtype":"U8","shape":[{1}],"data_offsets":[{0},{2}]}}}}"#,
        i64::MAX,
        i64::MAX - 100,
        u64::MAX - 101
    );
    assert!(matches!(parse(&far, 4), Err(CheckpointError::Length { .. })));
    for shape in ["[0,18446744073709551615]", "[18446744073709551615,0]", "[0,4294967296,4294967296]"] {
        let empty = format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,0]}}}}"#);
        assert!(refused(&empty, 0).contains("overflows"), "{shape}: an empty axis hides no absurd one");
    }
    assert!(parse(r#"{"a":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]}}"#, 0).is_ok());
}

#[test]
fn a_message_is_short_and_holds_nothing_that_moves_a_cursor() {
    let long = "\u{1b}[2J\u{202e}".repeat(10_000);
    let json = serde_json::json!({ &long: { "dtype": "F32", "shape": [1], "data_offsets": [0, 4] } });
    let dtype = serde_json::json!({ "a": { "dtype": &long, "shape": [1], "data_offsets": [0, 4] } });
    let field = serde_json::json!({ "a": { &long: "F32" } });
    let metadata = serde_json::json!({ "__metadata__": { &long[..602]: "v" }, "a": 1 });
    for json in [json, dtype, field, metadata] {
        let message = refused(&json.to_string(), 4);
        assert!(message.chars().count() < 400 && !message.chars().any(char::is_control), "{message}");
        assert!(!message.contains('\u{202e}'), "{message}");
    }
}

#[test]
fn metadata_is_bounded_and_else_ignored() {
    let of = |entries: usize, length: usize| {
        let pairs: Vec<String> = (0..entries).map(|i| format!(r#""{i}":"{}""#, "x".repeat(length))).collect();
        format!(
            r#"{{"__metadata__":{{{}}},"a":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#,
            pairs.join(",")
        )
    };
    assert_eq!(parse(&of(64, 1024), 4).expect("within bounds").layout().tensors().len(), 1);
    assert!(refused(&of(65, 1), 4).contains("more than 64 entries"));
    assert!(refused(&of(1, 1025), 4).contains("more than 1024 bytes"));
}

#[test]
fn a_known_layout_bounds_its_header() {
    let info = TensorInfo { name: "a".into(), dtype: Dtype::F32, shape: vec![1] };
    let layout = Layout::new(vec![info]).expect("a layout");
    let limits = Limits::default().within(&layout);
    assert!(limits.max_header_bytes < 160_000, "{limits:?}");
    let (_, bytes) = Header::canonical(&layout);
    assert!((bytes.len() as u64) < limits.max_header_bytes);
}

#[test]
fn our_files_are_aligned_and_read_as_they_were_meant() {
    let info =
        |name: &str, dtype, shape: &[usize]| TensorInfo { name: name.into(), dtype, shape: shape.to_vec() };
    let layout = Layout::new(vec![
        info("a.mask", Dtype::Bool, &[3]),
        info("b", Dtype::F16, &[5]),
        info("c", Dtype::I64, &[]),
        info("d", Dtype::F32, &[0]),
        info("e", Dtype::F32, &[2, 1]),
    ])
    .expect("a layout");
    let (header, bytes) = Header::canonical(&layout);
    let again =
        Header::parse(&bytes[8..], layout.num_bytes() as u64, &Limits::default()).expect("our own header");
    assert_eq!(again, header);
    for (index, tensor) in layout.tensors().iter().enumerate() {
        let range = header.range(index);
        assert_eq!(range.start % tensor.dtype.size() as u64, 0, "{}", tensor.name);
        assert_eq!(range.end - range.start, tensor.num_bytes() as u64);
    }
    let names: Vec<&str> =
        header.file_order().into_iter().map(|i| layout.tensors()[i].name.as_str()).collect();
    assert_eq!(names, ["c", "d", "e", "b", "a.mask"]);
    assert_eq!(header.file_size(), bytes.len() as u64 + layout.num_bytes() as u64);
}
