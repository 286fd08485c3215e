//! Of the admin API: bodies that are no JSON, too much of it, or files that are none.

use fedbasin_tests::checkpoint::{f32s, file};

use crate::{
    admin::{By, Call, How, good_run},
    corpus::{Case, Ground, case, of_kind},
};

pub(crate) fn cases() -> Vec<Case<How>> {
    let mut cases = of_kind("bodies: JSON", json());
    cases.extend(of_kind("bodies: too much", much()));
    cases.extend(of_kind("bodies: of small calls", small()));
    cases.extend(of_kind("bodies: checkpoints and graphs", files()));
    cases
}

fn post(
    name: &'static str,
    path: &'static str,
    kind: &'static str,
    body: fn() -> Vec<u8>,
    expected: (&'static str, &'static str),
) -> Case<How> {
    let call = Call { by: By::Admin, method: "POST", path, kind, body };
    case(name, How::Call(call), expected.0, expected.1)
}

/// A good run's text with something else in the place of its strategy.
fn run_with(from: &str, to: &str) -> Vec<u8> {
    let text = good_run().to_string();
    assert!(text.contains(from), "{from} in {text}");
    text.replacen(from, to, 1).into_bytes()
}

const STRATEGY: &str = r#""strategy":"aligned""#;

/// What is no JSON, or no document of its own.
fn json() -> Vec<Case<How>> {
    let json = |name, body: fn() -> Vec<u8>, says| {
        post(name, "/v1/runs", "application/json", body, ("invalid-argument", says))
    };
    vec![
        json("no body", Vec::new, "body"),
        json("half a body", || good_run().to_string().into_bytes()[..40].to_vec(), "body"),
        json("two bodies", || good_run().to_string().repeat(2).into_bytes(), "trailing"),
        json("a list for a body", || b"[]".to_vec(), "body"),
        json("null for a body", || b"null".to_vec(), "body"),
        json(
            "a byte order mark first",
            || [b"\xef\xbb\xbf", good_run().to_string().as_bytes()].concat(),
            "body",
        ),
        json(
            "a body in UTF-16",
            || good_run().to_string().encode_utf16().flat_map(u16::to_le_bytes).collect(),
            "body",
        ),
        json(
            "a body that is no UTF-8",
            || {
                run_with("aligned", "\u{fffd}")
                    .into_iter()
                    .map(|b| if b == 0xef { 0xff } else { b })
                    .collect()
            },
            "body",
        ),
        json("half a surrogate pair", || run_with(STRATEGY, r#""id":"\ud800","strategy":"aligned""#), "body"),
        json("a comma at the end", || run_with(STRATEGY, r#""strategy":"aligned","#), "body"),
        json("a comment", || run_with(STRATEGY, r#"/**/"strategy":"aligned""#), "body"),
        json("NaN", || run_with(r#""rounds":1"#, r#""rounds":NaN"#), "body"),
        json(
            "a number of a thousand digits",
            || run_with(r#""rounds":1"#, &format!(r#""rounds":{}"#, "1".repeat(1000))),
            "body",
        ),
        json(
            "a number with a huge exponent",
            || run_with(r#""rounds":1"#, r#""rounds":1e999999999"#),
            "body",
        ),
        json(
            "a field twice",
            || run_with(STRATEGY, r#""strategy":"mean","strategy":"aligned""#),
            "duplicate",
        ),
        json("a policy's field twice", || run_with(r#""rounds":1"#, r#""rounds":1,"rounds":2"#), "duplicate"),
        json(
            "ten thousand lists in one another",
            || run_with("\"spec\":{", &format!("\"spec\":{}{{", "[".repeat(10_000))),
            "body",
        ),
        json("a million lists in one another", || vec![b'['; 1_000_000], "body"),
        json(
            "a million objects in one another",
            || "{\"spec\":".repeat(1_000_000).into_bytes()[..8_000_000].to_vec(),
            "body",
        ),
        post(
            "JSON that calls itself text",
            "/v1/runs",
            "text/plain",
            || good_run().to_string().into_bytes(),
            ("invalid-argument", "body"),
        ),
        post(
            "JSON that calls itself a form",
            "/v1/runs",
            "multipart/form-data; boundary=x",
            || good_run().to_string().into_bytes(),
            ("invalid-argument", "body"),
        ),
    ]
}

/// Much of it: memory must not follow.
fn much() -> Vec<Case<How>> {
    /// A run with one field as large as a body may be.
    fn full_of(from: &str, begin: &str, part: &str, end: &str) -> Vec<u8> {
        let times = ((8 << 20) - 2000) / part.len();
        run_with(from, &format!("{begin}{}{end}", part.repeat(times)))
    }
    let json = |name, body: fn() -> Vec<u8>, code, says| {
        post(name, "/v1/runs", "application/json", body, (code, says))
    };
    let invalid = "invalid-argument";
    vec![
        json("a body of a byte too many", || vec![b' '; (8 << 20) + 1], "too-large", ""),
        case("a hundred megabytes announced, of which eight come", How::Raw(announced), "too-large", ""),
        json("eight mebibytes of spaces", || vec![b' '; 8 << 20], invalid, "body"),
        json(
            "a spec of millions of zeros",
            || full_of("\"spec\":{", "\"spec\":[", "0,", "0],\"x\":{"),
            invalid,
            "",
        ),
        json(
            "a spec of millions of empty lists",
            || full_of("\"spec\":{", "\"spec\":[", "[],", "0],\"x\":{"),
            invalid,
            "",
        ),
        json(
            "a spec of a million groups",
            || full_of(r#""groups":{}"#, r#""groups":{"#, r#""a":{},"#, r#""b":{}}"#),
            invalid,
            "",
        ),
        json("a cohort of millions", || full_of(r#""cohort":["#, r#""cohort":["#, r#""","#, ""), invalid, ""),
        json("a strategy of eight mebibytes", || full_of("aligned", "", "x", ""), invalid, "body"),
        json(
            "a field's name of eight mebibytes",
            || full_of("\"strategy\"", "\"", "x", "\""),
            invalid,
            "body",
        ),
        json(
            "an id of eight mebibytes",
            || full_of(STRATEGY, "\"id\":\"", "x", r#"","strategy":"aligned""#),
            invalid,
            "id",
        ),
    ]
}

fn announced(ground: &Ground) -> Vec<u8> {
    let token = ground.server.admin_token();
    format!(
        "POST /v1/runs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: 100000000\r\n\r\n{}",
        " ".repeat((8 << 20) + 1)
    )
    .into_bytes()
}

/// Sites and tokens.
fn small() -> Vec<Case<How>> {
    let site = |name, body: fn() -> Vec<u8>, says| {
        post(name, "/v1/sites", "application/json", body, ("invalid-argument", says))
    };
    let token = |name, body: fn() -> Vec<u8>, says| {
        post(name, "/v1/tokens", "application/json", body, ("invalid-argument", says))
    };
    vec![
        site("a site of no id", || br#"{"id":""}"#.to_vec(), "id"),
        site("a site in upper case", || br#"{"id":"Hospital"}"#.to_vec(), "id"),
        site("a site that begins with a dash", || br#"{"id":"-rf"}"#.to_vec(), "id"),
        site("a site of 64 characters", || format!(r#"{{"id":"{}"}}"#, "x".repeat(64)).into_bytes(), "id"),
        site("a site with a zero in its id", || br#"{"id":"a\u0000"}"#.to_vec(), "id"),
        site("a site with a newline in its id", || br#"{"id":"a\nINJECTED"}"#.to_vec(), "id"),
        site("a site with an accent", || "{\"id\":\"h\u{f4}pital\"}".into(), "id"),
        site("a site that brings its token", || br#"{"id":"mine","token":"fbs_x"}"#.to_vec(), "token"),
        site("a site that brings a role", || br#"{"id":"mine","role":"admin"}"#.to_vec(), "role"),
        site(
            "a site whose token lasts 0 days",
            || br#"{"id":"mine","token_expires_in_days":0}"#.to_vec(),
            "days",
        ),
        site(
            "a site whose token lasts for ever",
            || br#"{"id":"mine","token_expires_in_days":4294967295}"#.to_vec(),
            "days",
        ),
        site(
            "a site whose token lasts below 0",
            || br#"{"id":"mine","token_expires_in_days":-1}"#.to_vec(),
            "body",
        ),
        token("a token of no role", || b"{}".to_vec(), "role"),
        token("a token of a role that there is not", || br#"{"role":"god"}"#.to_vec(), "god"),
        token("a token of two roles", || br#"{"role":"viewer","role":"admin"}"#.to_vec(), "duplicate"),
        token("a token of a list of roles", || br#"{"role":["admin"]}"#.to_vec(), "body"),
        token("a token by its place in a list", || br#"["viewer"]"#.to_vec(), "an object"),
        site("a site by its place in a list", || br#"["mine"]"#.to_vec(), "an object"),
        token("a token that brings its hash", || br#"{"role":"viewer","hash":"00"}"#.to_vec(), "hash"),
        token("a token that brings its id", || br#"{"role":"viewer","id":"00"}"#.to_vec(), "id"),
        token(
            "a token for a site at the wrong place",
            || br#"{"role":"viewer","site":"h"}"#.to_vec(),
            "site",
        ),
        token("a label with a newline", || br#"{"role":"viewer","label":"a\nINJECTED"}"#.to_vec(), "label"),
        token("a label with a zero", || br#"{"role":"viewer","label":"a\u0000"}"#.to_vec(), "label"),
        token(
            "a label that colours a terminal",
            || br#"{"role":"viewer","label":"\u001b[31m"}"#.to_vec(),
            "label",
        ),
        token(
            "a label of 201 bytes",
            || format!(r#"{{"role":"viewer","label":"{}"}}"#, "x".repeat(201)).into_bytes(),
            "label",
        ),
        token(
            "a token that lasts 367 days",
            || br#"{"role":"viewer","expires_in_days":367}"#.to_vec(),
            "days",
        ),
        token(
            "a token that lasts a fraction",
            || br#"{"role":"viewer","expires_in_days":1.5}"#.to_vec(),
            "body",
        ),
    ]
}

/// Checkpoints and graphs.
fn files() -> Vec<Case<How>> {
    let seed = |name, body: fn() -> Vec<u8>, expected| {
        post(name, "/v1/checkpoints", "application/octet-stream", body, expected)
    };
    let graph = |name, body: fn() -> Vec<u8>, says| {
        post(name, "/v1/graphs", "application/octet-stream", body, ("invalid-graph", says))
    };
    /// The head of a file with this much behind it.
    fn raw(ground: &Ground, path: &str, length: &str, body: &[u8]) -> Vec<u8> {
        let token = ground.server.admin_token();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n{length}\r\n\r\n"
        );
        [head.as_bytes(), body].concat()
    }
    let bytes = |name, made: fn(&Ground) -> Vec<u8>, code| case(name, How::Raw(made), code, "");
    vec![
        seed("a seed of nothing", Vec::new, ("invalid-checkpoint", "")),
        seed("a seed of text", || vec![1; 100], ("invalid-checkpoint", "")),
        seed("a seed of NaN", || file(&[f32s("x", &[1], &[f32::NAN])]), ("invalid-checkpoint", "x")),
        seed(
            "a seed with a tensor that is a path",
            || file(&[f32s("../x", &[1], &[1.0])]),
            ("invalid-checkpoint", "tensor name"),
        ),
        bytes(
            "a seed of a byte too many",
            |g| raw(g, "/v1/checkpoints", "content-length: 4194305", b"x"),
            "too-large",
        ),
        bytes(
            "a seed of no length",
            |g| raw(g, "/v1/checkpoints", "transfer-encoding: chunked", b"1\r\nx\r\n0\r\n\r\n"),
            "invalid-argument",
        ),
        bytes(
            "a seed of the largest length",
            |g| raw(g, "/v1/checkpoints", "content-length: 18446744073709551615", b"x"),
            "http-431",
        ),
        graph("a graph of nothing", Vec::new, ""),
        graph("a graph of text", || b"no graph".to_vec(), ""),
        graph("a graph that runs in a circle", || corpus_file("cyclic.onnx"), "cyclic"),
        graph("a graph that reads other files", || corpus_file("external_climbs.onnx"), "external"),
        graph("a graph of huge numbers", || corpus_file("huge_varint.onnx"), ""),
        graph("a graph of huge tensors", || corpus_file("huge_dims.onnx"), ""),
        bytes(
            "a graph of the largest length",
            |g| raw(g, "/v1/graphs", "content-length: 18446744073709551615", b"x"),
            "http-431",
        ),
    ]
}

fn corpus_file(name: &str) -> Vec<u8> {
    let path = format!("{}/../fuzz/corpus/graph/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}
