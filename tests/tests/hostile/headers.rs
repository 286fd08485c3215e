//! Class: a checkpoint's header. Each is refused before a payload byte is taken, and the update is on record as rejected.

use fedbasin_proto::v1::UpdateState;
use fedbasin_tests::{checkpoint::with_header, chunks, on_both_databases};
use serde_json::json;

use crate::corpus::{Answer, Case, Ground, Tried, case, good, of_kind};

on_both_databases!(every_header_is_refused_for_its_own_reason);

pub(crate) async fn every_header_is_refused_for_its_own_reason(
    database: fedbasin_tests::Database,
) -> Vec<Tried> {
    let ground = Ground::new(database, fedbasin_tests::Options::default()).await;
    ground.try_all(cases(), async |ground, made| send(ground, &made()).await).await
}

pub(crate) fn names() -> Vec<&'static str> {
    crate::corpus::names(cases())
}

/// Sends a file as site `x`'s checkpoint. Where it is refused as one, the record must say so.
pub(crate) async fn send(ground: &Ground, bytes: &[u8]) -> Answer {
    let begun = match ground.x.begin(&ground.run, 1, bytes, 1).await {
        Ok(begun) => begun,
        Err(status) => return Answer::from(Err::<(), _>(status)),
    };
    let sent = ground.x.send(chunks(&begun.update_id, bytes, 0)).await;
    let answer = match sent {
        Ok(_) => Answer::from(ground.x.finish(&begun.update_id).await),
        Err(status) => Answer::from(Err::<(), _>(status)),
    };
    on_record(ground, &begun.update_id, answer).await
}

/// The same answer, if an update that was refused as a checkpoint is on record as rejected.
pub(crate) async fn on_record(ground: &Ground, update: &str, answer: Answer) -> Answer {
    if answer.code != "invalid-checkpoint" {
        return answer;
    }
    let update = ground.x.update(update).await.expect("the update");
    let entry = ground.admin.round_site(&ground.run, 1, "x");
    let is_on_record = update.state() == UpdateState::Rejected
        && update.receipt.is_none()
        && !update.reason.is_empty()
        && (&entry["state"], &entry["reason"]) == (&json!("rejected"), &json!(update.reason));
    if is_on_record { answer } else { Answer { code: "not on record".into(), ..answer } }
}

/// The header of a good file.
fn header() -> String {
    let bytes = good();
    let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"))).expect("small");
    String::from_utf8(bytes[8..8 + length].to_vec()).expect("text").trim_end().to_owned()
}

/// The good file's data.
fn data() -> Vec<u8> {
    let bytes = good();
    let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"))).expect("small");
    bytes[8 + length..].to_vec()
}

/// A good file with one piece of its header replaced.
fn with(from: &str, to: &str) -> Vec<u8> {
    let header = header();
    assert_eq!(header.matches(from).count(), 1, "{from} in {header}");
    with_header(&header.replace(from, to), &data())
}

/// A good file with entries added to its header.
fn plus(entries: &str) -> Vec<u8> {
    let header = header();
    with_header(&format!("{},{entries}}}", header.trim_end_matches('}').to_owned() + "}"), &data())
}

/// A good file whose header is said to have so many bytes.
fn said(length: u64) -> Vec<u8> {
    [&length.to_le_bytes()[..], &good()[8..]].concat()
}

/// A file of this header as it stands, with nothing added.
fn raw(header: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, &data()].concat()
}

const BIAS: &str = r#""fc.bias":{"data_offsets":[8,16],"dtype":"F32","shape":[2]}"#;
const WEIGHT: &str = r#""fc.weight":{"data_offsets":[16,40],"dtype":"F32","shape":[2,3]}"#;

type Made = fn() -> Vec<u8>;

fn cases() -> Vec<Case<Made>> {
    let mut cases = of_kind("the length in front", lengths());
    cases.extend(of_kind("no header at all", nothing()));
    cases.extend(of_kind("JSON", json()));
    cases.extend(of_kind("numbers", numbers()));
    cases.extend(of_kind("metadata", further()));
    cases.extend(of_kind("names of tensors", names_of_tensors()));
    cases.extend(of_kind("dtypes and shapes", shapes()));
    cases.extend(of_kind("offsets", offsets()));
    cases
}

fn lengths() -> Vec<Case<Made>> {
    let bad = |name, made: Made, says| case(name, made, "invalid-checkpoint", says);
    vec![
        case("no room for a length", || vec![0; 7], "invalid-argument", "too few"),
        case("a length and nothing", || vec![0; 8], "invalid-argument", "too few"),
        bad("a length of 0", || said(0), "said to have 0 bytes"),
        bad("a length of 1", || said(1), "said to have 1 bytes"),
        bad("a length beyond the file", || said(good().len() as u64), "bytes in a file of"),
        bad("a length of the whole rest and one", || said(good().len() as u64 - 7), "bytes in a file of"),
        bad("the largest length", || said(u64::MAX), "at most"),
        bad("a length that overflows with its own 8 bytes", || said(u64::MAX - 7), "at most"),
        bad("the largest signed length", || said(i64::MAX as u64), "at most"),
        bad("a length just above what the layout allows", || raw(&vec![b'{'; 140_000]), "at most"),
        bad("a length in the other byte order", || said((header().len() as u64).swap_bytes()), "at most"),
        bad("a header that ends within a name", || raw(&header().as_bytes()[..20]), "cut off"),
        bad("a file that ends within its header", || good()[..60].to_vec(), "bytes in a file of"),
    ]
}

fn nothing() -> Vec<Case<Made>> {
    let bad = |name, made: Made, says| case(name, made, "invalid-checkpoint", says);
    vec![
        bad("text", || b"this is not a safetensors file at all".to_vec(), "at most"),
        bad("zeros", || vec![0; 64], "said to have 0 bytes"),
        bad("the first bytes of a pickled file", || [b"PK\x03\x04".as_slice(), &[0; 60]].concat(), "at most"),
        bad("a list", || with_header("[1,2,3]", &data()), "'{'"),
        bad("a text in quotes", || with_header("\"a\"", &data()), "'{'"),
        bad("null", || with_header("null", &data()), "'{'"),
        bad("no tensor", || with_header("{}", &data()), "file"),
    ]
}

fn json() -> Vec<Case<Made>> {
    let bad = |name, made: Made, says| case(name, made, "invalid-checkpoint", says);
    vec![
        bad(
            "bytes that are no UTF-8",
            || {
                let mut bytes = good();
                bytes[11] = 0xff;
                bytes
            },
            "is not what it must be",
        ),
        bad(
            "an overlong encoding of a quote",
            || {
                let mut bytes = header().into_bytes();
                bytes.splice(1..2, [0xc0, 0xa2]);
                raw(&bytes)
            },
            "is not what it must be",
        ),
        bad("a byte order mark", || raw(format!("\u{feff}{}", header()).as_bytes()), "'{'"),
        bad("a space in front", || raw(format!(" {}", header()).as_bytes()), "'{'"),
        bad("padding of newlines", || raw(format!("{}\n\n", header()).as_bytes()), "padded"),
        bad("padding of zeros", || raw(format!("{}\0\0", header()).as_bytes()), "padded"),
        bad("padding of tabs", || raw(format!("{}\t}}", header()).as_bytes()), "trailing"),
        bad("two documents", || raw(format!("{0}{0}", header()).as_bytes()), "trailing"),
        bad(
            "a comma at the end",
            || with_header(&format!("{},}}", header().trim_end_matches('}').to_owned() + "}"), &data()),
            "is not what it must be",
        ),
        bad("a comment", || with("{\"counted\"", "{/* */\"counted\""), "is not what it must be"),
        bad("a key without quotes", || with("\"steps\"", "steps"), "is not what it must be"),
        bad(
            "ten thousand lists in one another",
            || with("[8,16]", &"[".repeat(10_000)),
            "is not what it must be",
        ),
        bad(
            "ten thousand objects in one another",
            || with("[8,16]", &"{\"a\":".repeat(10_000)),
            "is not what it must be",
        ),
        bad("a tensor twice, the same", || plus(BIAS), "stands twice"),
        bad("a tensor twice, with another range", || plus(&BIAS.replace("8,16", "0,8")), "stands twice"),
        bad("a tensor twice, with another dtype", || plus(&BIAS.replace("F32", "I32")), "stands twice"),
        bad("a tensor twice, once by an escape", || plus(&BIAS.replace("fc.", "\\u0066c.")), "stands twice"),
        bad("two metadata", || plus(r#""__metadata__":{},"__metadata__":{}"#), "stands twice"),
        bad(
            "a field twice",
            || with(r#""dtype":"BOOL""#, r#""dtype":"BOOL","dtype":"BOOL""#),
            "duplicate field",
        ),
        bad("an unknown field", || with(r#""dtype":"BOOL""#, r#""dtype":"BOOL","x":1"#), "unknown field"),
        bad("a missing field", || with(r#""dtype":"BOOL","#, ""), "dtype is missing"),
        bad(
            "a list for a tensor",
            || with(BIAS, r#""fc.bias":[[8,16],"F32",[2]]"#),
            "is not what it must be",
        ),
        bad("null for a tensor", || with(BIAS, r#""fc.bias":null"#), "is not what it must be"),
    ]
}

fn numbers() -> Vec<Case<Made>> {
    let bad = |name, made: Made, says| case(name, made, "invalid-checkpoint", says);
    vec![
        bad(
            "a fraction in a shape",
            || with("\"shape\":[2,3]", "\"shape\":[2.0,3]"),
            "is not what it must be",
        ),
        bad(
            "an exponent in a shape",
            || with("\"shape\":[2,3]", "\"shape\":[2e0,3]"),
            "is not what it must be",
        ),
        bad("a negative zero", || with("[8,16]", "[-0,16]"), "is not what it must be"),
        bad("a negative size", || with("\"shape\":[2,3]", "\"shape\":[-2,-3]"), "is not what it must be"),
        bad("a leading zero", || with("[8,16]", "[08,16]"), "is not what it must be"),
        bad(
            "a number beyond 64 bits",
            || with("[8,16]", "[8,18446744073709551616]"),
            "is not what it must be",
        ),
        bad("a text for a number", || with("[8,16]", "[\"8\",16]"), "is not what it must be"),
        bad("NaN for a number", || with("[8,16]", "[NaN,16]"), "is not what it must be"),
    ]
}

fn further() -> Vec<Case<Made>> {
    let bad = |name, made: Made, says| case(name, made, "invalid-checkpoint", says);
    vec![
        bad("metadata of a number", || plus(r#""__metadata__":{"a":1}"#), "is not what it must be"),
        bad("metadata of null", || plus(r#""__metadata__":null"#), "is not what it must be"),
        bad("metadata of a list", || plus(r#""__metadata__":["a"]"#), "is not what it must be"),
        bad(
            "metadata within metadata",
            || plus(r#""__metadata__":{"a":{"b":"c"}}"#),
            "is not what it must be",
        ),
        bad("65 entries of metadata", || plus(&metadata(65)), "more than 64 entries"),
        case("a million entries of metadata", || plus(&metadata(1_000_000)), "too-large", ""),
        bad(
            "a metadata text of 1025 bytes",
            || plus(&format!(r#""__metadata__":{{"a":"{}"}}"#, "x".repeat(1025))),
            "more than 1024",
        ),
        bad("a metadata key twice", || plus(r#""__metadata__":{"a":"b","a":"b"}"#), "twice"),
        bad("half a surrogate pair", || plus(r#""__metadata__":{"a":"\ud800"}"#), "is not what it must be"),
    ]
}

fn metadata(entries: usize) -> String {
    let entries: Vec<String> = (0..entries).map(|i| format!("\"{i}\":\"\"")).collect();
    format!(r#""__metadata__":{{{}}}"#, entries.join(","))
}

/// A tensor of another name at the place of `fc.bias`.
fn named(name: &str) -> Vec<u8> {
    with("\"fc.bias\"", name)
}

fn names_of_tensors() -> Vec<Case<Made>> {
    let bad = |name, made: Made, says| case(name, made, "invalid-checkpoint", says);
    vec![
        bad("an empty name", || named(r#""""#), "tensor name"),
        bad("a name that climbs", || named(r#""../../etc/passwd""#), "tensor name"),
        bad("a name that is an absolute path", || named(r#""/etc/passwd""#), "tensor name"),
        bad("a name with a zero", || named(r#""fc\u0000bias""#), "tensor name"),
        bad("a name with a newline", || named(r#""fc\nINJECTED bias""#), "tensor name"),
        bad("a name that colours a terminal", || named(r#""\u001b[31mbias""#), "tensor name"),
        bad("a name of 257 bytes", || named(&format!("\"{}\"", "n".repeat(257))), "tensor name"),
        bad("a name of a mebibyte", || named(&format!("\"{}\"", "n".repeat(1 << 20))), "at most"),
        bad("a name with an accent, composed", || named("\"fc.b\u{ef}as\""), "tensor name"),
        bad("a name with an accent, decomposed", || named("\"fc.bi\u{308}as\""), "tensor name"),
        bad("a name that turns the writing's direction", || named("\"fc.\u{202e}bias\""), "tensor name"),
        bad("a name with a space", || named(r#""fc bias""#), "tensor name"),
        bad("a name with a quote", || named(r#""fc\"bias""#), "tensor name"),
        bad("a name with SQL", || named(r#""x'; DROP TABLE updates; --""#), "tensor name"),
        bad("a twin in another case", || named(r#""FC.bias""#), "fc.bias"),
        bad("a renamed tensor", || named(r#""fc.bios""#), "fc.bias"),
        bad(
            "a missing tensor",
            || {
                with(
                    &format!("{BIAS},{WEIGHT}"),
                    &format!(r#"{WEIGHT},"pad":{{"data_offsets":[8,16],"dtype":"F32","shape":[2]}}"#),
                )
            },
            "fc.bias",
        ),
        bad(
            "an extra tensor",
            || plus(r#""more":{"data_offsets":[68,68],"dtype":"F32","shape":[0]}"#),
            "more",
        ),
        case(
            "a hundred thousand empty tensors",
            || {
                let empty: Vec<String> = (0..100_000)
                    .map(|i| format!(r#""e{i}":{{"data_offsets":[0,0],"dtype":"F32","shape":[0]}}"#))
                    .collect();
                plus(&empty.join(","))
            },
            "too-large",
            "",
        ),
    ]
}

fn shapes() -> Vec<Case<Made>> {
    let bad = |name, made: Made, says| case(name, made, "invalid-checkpoint", says);
    /// Another shape for `fc.weight`.
    fn shaped(shape: &str) -> Vec<u8> {
        with("\"shape\":[2,3]", &format!("\"shape\":{shape}"))
    }
    /// Another dtype for `fc.weight`.
    fn typed(dtype: &str) -> Vec<u8> {
        with(WEIGHT, &WEIGHT.replace("\"F32\"", dtype))
    }
    vec![
        bad("another dtype of the same size", || typed("\"I32\""), "fc.weight"),
        bad("another dtype of half the size", || typed("\"F16\""), "do not fit"),
        bad("an unknown dtype", || typed("\"Q4\""), "not supported"),
        bad("a dtype of four bits", || typed("\"F4\""), "not supported"),
        bad("a dtype in lower case", || typed("\"f32\""), "not supported"),
        bad("a dtype that is a number", || typed("32"), "is not what it must be"),
        bad("a dtype of a kilobyte", || typed(&format!("\"{}\"", "F".repeat(1024))), "not supported"),
        bad("a dtype with a newline", || typed("\"F32\\nINJECTED\""), "not supported"),
        bad("the transposed shape", || shaped("[3,2]"), "fc.weight"),
        bad("another rank", || shaped("[6]"), "fc.weight"),
        bad("a further axis of 1", || shaped("[2,3,1]"), "fc.weight"),
        bad("rank 9", || shaped("[2,3,1,1,1,1,1,1,1]"), "more than 8 axes"),
        bad("rank 60 000", || shaped(&format!("[{}2]", "1,".repeat(60_000))), "more than 8 axes"),
        bad("a size that overflows", || shaped("[4294967296,4294967296]"), "overflows"),
        bad("a size that overflows in bytes only", || shaped("[4611686018427387904]"), "overflows"),
        bad("an axis of 0 beside the largest", || shaped("[0,18446744073709551615]"), "overflows"),
        bad("another size", || shaped("[2,4]"), "do not fit"),
        bad("a shape that is a number", || shaped("6"), "is not what it must be"),
    ]
}

fn offsets() -> Vec<Case<Made>> {
    let bad = |name, made: Made, says| case(name, made, "invalid-checkpoint", says);
    fn at(offsets: &str) -> Vec<u8> {
        with("[16,40]", offsets)
    }
    vec![
        bad("an overlap", || at("[12,36]"), "gap or overlap"),
        bad("a gap", || at("[20,44]"), "gap or overlap"),
        bad("offsets backwards", || at("[40,16]"), "gap or overlap"),
        bad("offsets that are empty", || at("[16,16]"), "do not fit"),
        bad("an end beyond the file", || at("[16,4000]"), "cut off"),
        bad("the largest end", || at("[16,18446744073709551615]"), "cut off"),
        bad("three offsets", || at("[16,40,40]"), "more than 2"),
        bad("one offset", || at("[16]"), "not two"),
        bad("two tensors that share their bytes", || with("[16,40]", "[8,32]"), "gap or overlap"),
        bad("data cut by one byte", || good()[..good().len() - 1].to_vec(), "cut off"),
        bad("a byte behind the data", || [&good()[..], &[0]].concat(), "appended"),
        bad("a second file behind the first", || [good(), good()].concat(), "appended"),
    ]
}
