//! Each limit of `[limits]` has an effect: how it is provoked, and what the caller is told.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use fedbasin_proto::v1;
use fedbasin_server::config::Limits;
use fedbasin_tests::{
    Admin, Database, Options, Server, Site, assert_refused,
    checkpoint::{Entry, f32s, file, one_hot, with_header},
    chunks, eventually,
    h2::{End, Frame, Raw, flag, frame, grpc_headers, header_block, kind},
};
use serde_json::{Value, json};
use tonic::Code;

/// A limit, how it is provoked, and what comes of it.
type Row = (&'static str, &'static str, &'static str);

const OF_CHECKPOINTS: &[Row] = &[
    ("max_checkpoint_bytes", "a seed with one byte more", "413 too-large"),
    ("max_checkpoint_header_bytes", "a seed with metadata", "422 invalid-checkpoint"),
    ("max_tensors", "a seed with one more", "422 invalid-checkpoint"),
    ("max_assignment_width", "a run whose spec has a wider group", "422 invalid-checkpoint"),
    ("max_align_memory_bytes", "a run whose updates need more", "422 invalid-checkpoint"),
    ("max_cohort", "a run with one site more", "422 invalid-argument"),
    ("max_graph_bytes", "a graph with one byte more", "413 too-large"),
    ("max_graph_memory_bytes", "a graph", "422 invalid-graph"),
    ("max_graph_seconds", "a graph", "422 invalid-graph"),
    ("max_json_bytes", "a body with one byte more", "413 too-large"),
    ("max_json_depth", "a body that nests one deeper", "422 invalid-argument"),
    ("max_page_size", "a list with one entry more; a page of one more", "`next`; 422 invalid-argument"),
];

const OF_CONNECTIONS: &[Row] = &[
    ("max_connections", "one more, from another address", "closed"),
    ("max_connections_per_address", "one more", "closed"),
    ("max_new_connections_per_minute_per_address", "one more", "closed"),
    ("handshake_timeout_seconds", "a connection that never shakes hands", "closed"),
    ("first_call_timeout_seconds", "connections that say nothing, or only who they are", "closed"),
    ("idle_connection_seconds", "a connection after its call", "closed"),
    ("max_connection_age_seconds", "a connection with a call", "GOAWAY 0"),
    ("connection_age_grace_seconds", "the same, when the call goes on", "closed"),
    ("keepalive_interval_seconds", "a connection with a call", "PING"),
    ("keepalive_timeout_seconds", "the same, when nothing is answered", "closed"),
];

const OF_HTTP2: &[Row] = &[
    ("max_concurrent_streams", "one more", "SETTINGS; RST_STREAM 7"),
    ("max_pending_accept_reset_streams", "one more opened and reset", "GOAWAY 11"),
    ("max_local_error_reset_streams", "one more opened and broken", "GOAWAY 11"),
    ("max_control_frames_per_second", "a question after those for three seconds", "an answer after two"),
    (
        "max_calls_per_second_per_connection",
        "twelve where four may begin",
        "the last answers after two seconds",
    ),
    ("max_header_list_bytes", "larger headers", "SETTINGS; status 431"),
    ("max_frame_bytes", "a larger frame", "SETTINGS; GOAWAY 6"),
    ("stream_window_bytes", "more on one stream", "SETTINGS; RST_STREAM 3"),
    ("connection_window_bytes", "more on all streams", "WINDOW_UPDATE; GOAWAY 3"),
];

const OF_CALLS: &[Row] = &[
    ("max_calls_per_caller", "one more at once", "RESOURCE_EXHAUSTED too-many; 429 too-many"),
    ("max_calls_per_minute_per_site", "one more", "RESOURCE_EXHAUSTED too-many"),
    ("max_calls_per_minute_per_person", "one more", "429 too-many, retry-after"),
    ("max_calls_per_minute_per_address", "one more with a token that opens nothing, or without one", "both"),
    ("max_concurrent_uploads", "another site's upload", "waits"),
    ("max_uploads_per_site", "a site's second upload", "waits"),
    ("max_bytes_in_flight", "a second download", "RESOURCE_EXHAUSTED too-many"),
    ("idle_timeout_seconds", "an upload that stops", "UNAVAILABLE too-slow; 408 too-slow"),
    ("min_bytes_per_second", "an upload that goes on too slowly", "UNAVAILABLE too-slow"),
];

/// Notes which rows were provoked; what is missing at the end fails the test.
struct Provoked(BTreeSet<&'static str>);

impl Provoked {
    fn of(rows: &[Row]) -> Self {
        Self(rows.iter().map(|(limit, ..)| *limit).collect())
    }

    fn note(&mut self, limit: &str) {
        assert!(self.0.remove(limit), "{limit} is in the table, and once");
    }
}

impl Drop for Provoked {
    fn drop(&mut self) {
        assert!(std::thread::panicking() || self.0.is_empty(), "not provoked: {:?}", self.0);
    }
}

#[test]
fn each_limit_is_in_the_table() {
    let text = format!("{:#?}", Limits::default());
    let fields =
        text.lines().filter_map(|line| line.trim().split_once(": ").map(|(name, _)| name.to_owned()));
    let tables = [OF_CHECKPOINTS, OF_CONNECTIONS, OF_HTTP2, OF_CALLS].concat();
    let named: BTreeSet<String> = tables.iter().map(|(limit, ..)| (*limit).to_owned()).collect();
    assert_eq!(fields.collect::<BTreeSet<_>>(), named);
}

fn server(limits: &str) -> Server {
    Server::start_with(Database::sqlite(), options(limits))
}

fn options(limits: &str) -> Options {
    let log = "[log]\nlevel = \"info,fedbasin_server::connections=debug\"\n";
    Options { config: format!("[limits]\n{limits}\n{log}"), ..Options::default() }
}

fn tensors(count: usize) -> Vec<Entry> {
    (0..count).map(|place| f32s(&format!("t{place}"), &[1], &[1.0])).collect()
}

fn put(admin: &Admin, path: &str, bytes: &[u8]) -> fedbasin_tests::Answer {
    admin.request("POST", path, &[("content-type", "application/octet-stream")], bytes)
}

#[test]
fn of_checkpoints_runs_and_bodies() {
    let mut provoked = Provoked::of(OF_CHECKPOINTS);
    let server = server(
        "max_checkpoint_bytes = 20000\nmax_checkpoint_header_bytes = 600\nmax_tensors = 4\nmax_assignment_width = 4\n\
         max_align_memory_bytes = 100000\nmax_cohort = 2\nmax_graph_bytes = 100\nmax_json_bytes = 4000\nmax_json_depth = 8\n\
         max_page_size = 2",
    );
    let admin = server.admin();
    let names = |detail: &str, limit: &str| assert!(detail.contains(limit), "{detail}");

    let detail = put(&admin, "/v1/checkpoints", &[0; 20_001]).assert_problem(413, "too-large");
    names(&detail, "20000");
    provoked.note("max_checkpoint_bytes");
    let header = format!("{{\"__metadata__\":{{\"a\":\"{}\"}}}}", "x".repeat(700));
    put(&admin, "/v1/checkpoints", &with_header(&header, &[])).assert_problem(422, "invalid-checkpoint");
    provoked.note("max_checkpoint_header_bytes");
    let _ = admin.upload(&file(&tensors(4)));
    put(&admin, "/v1/checkpoints", &file(&tensors(5))).assert_problem(422, "invalid-checkpoint");
    provoked.note("max_tensors");

    let _ = ["a", "b", "c"].map(|id| admin.enrol(id));
    let run = |cohort: &[&str], spec: Value, seed: &[u8]| {
        admin.post(
            "/v1/runs",
            &json!({
                "spec": spec, "strategy": "aligned", "cohort": cohort, "seed_digest": admin.upload(seed),
                "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 600 },
            }),
        )
    };
    let hidden = |units: usize| {
        let seed =
            file(&[f32s("in", &[units, 1], &vec![1.0; units]), f32s("out", &[1, units], &vec![1.0; units])]);
        let spec = json!({ "format": "fedbasin.spec/1", "groups": { "h": { "size": units, "kind": "symmetric" } },
            "tensors": { "in": ["h", null], "out": [null, "h"] } });
        run(&["a"], spec, &seed)
    };
    assert_eq!(hidden(4).status, 201, "{}", String::from_utf8_lossy(&hidden(4).body));
    names(&hidden(5).assert_problem(422, "invalid-checkpoint"), "limits.max_assignment_width");
    provoked.note("max_assignment_width");
    let pinned = json!({ "format": "fedbasin.spec/1", "groups": {}, "tensors": { "t": [null] } });
    let seed = file(&[f32s("t", &[4000], &[1.0; 4000])]);
    let detail = run(&["a"], pinned, &seed).assert_problem(422, "invalid-checkpoint");
    names(&detail, "limits.max_align_memory_bytes");
    provoked.note("max_align_memory_bytes");
    let detail = run(&["a", "b", "c"], Value::Null, &one_hot(0, 3)).assert_problem(422, "invalid-argument");
    names(&detail, "limits.max_cohort");
    provoked.note("max_cohort");

    names(&put(&admin, "/v1/graphs", &[0; 101]).assert_problem(413, "too-large"), "limits.max_graph_bytes");
    provoked.note("max_graph_bytes");
    let graph = concat!(env!("CARGO_MANIFEST_DIR"), "/../graph/zoo/convbn8.onnx");
    let graph = std::fs::read(graph).expect("a graph");
    for (limit, value) in [("max_graph_memory_bytes", 30_000_000), ("max_graph_seconds", 1)] {
        let server = self::server(&format!("{limit} = {value}"));
        let answer = put(&server.admin(), "/v1/graphs", &graph);
        if limit == "max_graph_memory_bytes" || answer.status != 201 {
            names(&answer.assert_problem(422, "invalid-graph"), limit);
        }
        provoked.note(limit);
    }

    let label = |bytes: usize| json!({ "role": "viewer", "label": "x".repeat(bytes) });
    names(&admin.post("/v1/tokens", &label(4000)).assert_problem(413, "too-large"), "body");
    provoked.note("max_json_bytes");
    let nested = |depth: usize| format!("{{\"id\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
    let body = |text: &str| {
        admin.request("POST", "/v1/sites", &[("content-type", "application/json")], text.as_bytes())
    };
    assert!(!body(&nested(8)).assert_problem(422, "invalid-argument").contains("max_json_depth"));
    names(&body(&nested(9)).assert_problem(422, "invalid-argument"), "limits.max_json_depth");
    // Brackets that nobody nests.
    let text = format!("{{\"id\":\"{}\"}}", "[\\\"".repeat(100));
    assert!(!body(&text).assert_problem(422, "invalid-argument").contains("max_json_depth"));
    provoked.note("max_json_depth");

    let page = admin.get("/v1/sites").json();
    let ids = |page: &Value| -> Vec<String> {
        let sites = page["sites"].as_array().expect("a list").iter();
        sites.map(|site| site["id"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!((ids(&page), &page["next"]), (vec!["a".to_owned(), "b".into()], &json!("b")));
    let page = admin.get("/v1/sites?after=b").json();
    assert_eq!((ids(&page), &page["next"]), (vec!["c".to_owned()], &Value::Null));
    names(&admin.get("/v1/sites?limit=3").assert_problem(422, "invalid-argument"), "limits.max_page_size");
    admin.get("/v1/sites?after=z").assert_problem(422, "invalid-argument");
    admin.get("/v1/sites?pages=2").assert_problem(422, "invalid-argument");
    provoked.note("max_page_size");
}

/// Waits until the log says why a connection was ended.
async fn says(server: &Server, why: &str) {
    eventually(&format!("the log says: {why}"), || server.log().contains(why).then_some(())).await;
}

/// Whether a connection stays open: the server answers its preface with settings.
async fn is_taken(mut raw: Raw) -> Option<Raw> {
    let hello = [fedbasin_tests::h2::PREFACE, &frame(kind::SETTINGS, 0, 0, &[])].concat();
    raw.send(&hello).await.ok()?;
    raw.next().await.expect("an answer or an end").is_some().then_some(raw)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_connections() {
    let mut provoked = Provoked::of(OF_CONNECTIONS);
    let crowded = server("max_connections = 4\nmax_connections_per_address = 3");
    let from = |last: u8| Raw::silent_from([127, 0, 0, last], &crowded.grpc);
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(is_taken(from(1).await.expect("connected")).await.expect("taken"));
    }
    assert!(is_taken(from(1).await.expect("connected")).await.is_none(), "the fourth of one address");
    says(&crowded, "limits.max_connections_per_address").await;
    provoked.note("max_connections_per_address");
    open.push(is_taken(from(2).await.expect("connected")).await.expect("taken"));
    assert!(is_taken(from(3).await.expect("connected")).await.is_none(), "the fifth of all");
    provoked.note("max_connections");
    drop(open);
    eventually("places are free again", || crowded.admin().try_request("GET", "/healthz", &[], &[]).ok())
        .await;
    assert!(is_taken(from(1).await.expect("connected")).await.is_some());

    let hurried = server("max_new_connections_per_minute_per_address = 5");
    for _ in 0..5 {
        assert!(is_taken(Raw::silent(&hurried.grpc).await.expect("connected")).await.is_some());
    }
    assert!(is_taken(Raw::silent(&hurried.grpc).await.expect("connected")).await.is_none());
    says(&hurried, "limits.max_new_connections_per_minute_per_address").await;
    provoked.note("max_new_connections_per_minute_per_address");

    let folder = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).expect("a file");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    let more = Options { tls: Some((cert, key)), ..options("handshake_timeout_seconds = 1") };
    let shy = Server::start_with(Database::sqlite(), more);
    for url in [&shy.grpc, &shy.http] {
        assert_eq!(Raw::silent(url).await.expect("connected").end().await, End::default());
    }
    says(&shy, "a handshake took too long").await;
    provoked.note("handshake_timeout_seconds");

    let silent = server("first_call_timeout_seconds = 1");
    for url in [&silent.grpc, &silent.http] {
        assert_eq!(Raw::silent(url).await.expect("connected").end().await, End::default());
        Raw::connect(url).await.expect("connected").end().await;
    }
    says(&silent, "limits.first_call_timeout_seconds").await;
    provoked.note("first_call_timeout_seconds");
    ages(&mut provoked).await;
}

/// Opens a call to the run that the site watches, which stays open.
async fn watching(server: &Server, site: &Site, run: &str) -> Raw {
    let mut raw = Raw::connect(&server.grpc).await.expect("connected");
    let headers = grpc_headers("/fedbasin.v1.FedBasin/WatchRun", &site.token);
    let request = fedbasin_tests::h2::message(&[&[10, run.len() as u8], run.as_bytes()].concat());
    let opened = [
        frame(kind::HEADERS, flag::END_HEADERS, 1, &headers),
        frame(kind::DATA, flag::END_STREAM, 1, &request),
    ];
    raw.send(&opened.concat()).await.expect("sent");
    raw
}

fn run_of(admin: &Admin, sites: &[&str]) -> String {
    admin.create_run(&json!({
        "spec": null, "strategy": "mean", "cohort": sites,
        "policy": { "rounds": 1, "quorum": sites.len(), "deadline_seconds": 600 },
    }))
}

async fn ages(provoked: &mut Provoked) {
    let idle = server("idle_connection_seconds = 1");
    let mut raw = Raw::connect(&idle.http).await.expect("connected");
    raw.send(&healthz(1)).await.expect("sent");
    raw.end().await;
    says(&idle, "limits.idle_connection_seconds").await;
    provoked.note("idle_connection_seconds");

    let ageing = server("max_connection_age_seconds = 1\nconnection_age_grace_seconds = 1");
    let (site, admin) = (ageing.site("a"), ageing.admin());
    let run = run_of(&admin, &["a"]);
    let end = watching(&ageing, &site, &run).await.end().await;
    assert_eq!(end.goaway.map(|(code, _)| code), Some(0), "asked to take another connection");
    provoked.note("max_connection_age_seconds");
    says(&ageing, "limits.max_connection_age_seconds").await;
    provoked.note("connection_age_grace_seconds");
    // An upload that lasts longer than its connection may goes on from where it was.
    let sent = site.upload(&run, 1, &one_hot(0, 3), 1).await;
    sent.expect("on another connection");

    let asking = server("keepalive_interval_seconds = 1\nkeepalive_timeout_seconds = 1");
    let site = asking.site("a");
    let run = run_of(&asking.admin(), &["a"]);
    let mut raw = watching(&asking, &site, &run).await;
    let asked = async {
        while let Some(frame) = raw.next().await.expect("something") {
            if frame.kind == kind::PING && frame.flags & flag::ACK == 0 {
                return true;
            }
        }
        false
    };
    assert!(asked.await, "the server asks whether the peer is there");
    provoked.note("keepalive_interval_seconds");
    raw.end().await;
    provoked.note("keepalive_timeout_seconds");
}

/// What the server says of itself at first: its settings, and how much more than HTTP/2's default all streams may send.
async fn said_first(raw: &mut Raw) -> (Vec<(u16, u32)>, u32) {
    let (mut settings, mut more) = (Vec::new(), 0);
    while let Some(Frame { kind: of, flags, stream, payload }) = raw.next().await.expect("something") {
        match of {
            kind::SETTINGS if flags & flag::ACK == 0 => {
                settings = payload
                    .chunks_exact(6)
                    .map(|entry| {
                        let (name, value) = entry.split_at(2);
                        (
                            u16::from_be_bytes(name.try_into().expect("two")),
                            u32::from_be_bytes(value.try_into().expect("four")),
                        )
                    })
                    .collect();
            }
            kind::WINDOW_UPDATE if stream == 0 => {
                more = u32::from_be_bytes(payload[..4].try_into().expect("four"));
            }
            _ => {}
        }
        if !settings.is_empty() && more > 0 {
            break;
        }
    }
    (settings, more)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_http2() {
    let mut provoked = Provoked::of(OF_HTTP2);
    let server = server(
        "max_concurrent_streams = 5\nmax_pending_accept_reset_streams = 3\nmax_local_error_reset_streams = 4\n\
         max_control_frames_per_second = 100\nmax_header_list_bytes = 9000\nmax_frame_bytes = 17000\n\
         stream_window_bytes = 70000\nconnection_window_bytes = 200000",
    );
    let site = server.site("a");
    let path = "/fedbasin.v1.FedBasin/SendUpdate";
    for url in [&server.grpc, &server.http] {
        let mut raw = Raw::connect(url).await.expect("connected");
        let (settings, more) = said_first(&mut raw).await;
        for (name, value) in [(3, 5), (4, 70_000), (5, 17_000), (6, 9000)] {
            assert!(settings.contains(&(name, value)), "{url}: {settings:?} lacks {name}");
        }
        assert_eq!(more, 200_000 - 65_535, "{url}");
        raw.send(&frame(kind::SETTINGS, flag::ACK, 0, &[])).await.expect("sent");
        let end = async |mut raw: Raw, bytes: Vec<u8>| {
            let _ = raw.send(&bytes).await;
            raw.end().await
        };
        let goaway = |end: &End| end.goaway.as_ref().map(|(code, _)| *code);
        // A frame that is too large for the settings ends the connection: FRAME_SIZE_ERROR.
        let ended = end(raw, frame(kind::DATA, 0, 1, &[0; 17_001])).await;
        assert_eq!(goaway(&ended), Some(6), "{url}: {ended:?}");
        let open = |stream| frame(kind::HEADERS, flag::END_HEADERS, stream, &grpc_headers(path, &site.token));
        let reset = |stream| frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        let flood: Vec<u8> = (0..20).flat_map(|i| [open(2 * i + 1), reset(2 * i + 1)].concat()).collect();
        let ended = end(Raw::connect(url).await.expect("connected"), flood).await;
        assert_eq!(goaway(&ended), Some(11), "{url}: {ended:?}");
        let burst = |stream| frame(kind::WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
        let flood: Vec<u8> = (0..20).flat_map(|i| [open(2 * i + 1), burst(2 * i + 1)].concat()).collect();
        let ended = end(Raw::connect(url).await.expect("connected"), flood).await;
        assert_eq!(goaway(&ended), Some(11), "{url}: {ended:?}");
    }
    for limit in ["max_frame_bytes", "max_pending_accept_reset_streams", "max_local_error_reset_streams"] {
        provoked.note(limit);
    }
    streams_and_windows(&server, &site, &mut provoked).await;

    // A second's worth at once, and two more when they are due: what comes after them waits so long.
    let mut raw = Raw::connect(&server.grpc).await.expect("connected");
    let begun = Instant::now();
    let (mut end, mut asked) = (End::default(), 0);
    for questions in [300, 1] {
        raw.send(&frame(kind::PING, 0, 0, b"question").repeat(questions)).await.expect("sent");
        asked += questions;
        // The settings are acknowledged, too.
        while end.acknowledged < asked + 1 {
            end.note(&raw.next().await.expect("an answer").expect("the connection stays"));
        }
    }
    assert!(begun.elapsed() > Duration::from_millis(1900), "{:?}", begun.elapsed());
    provoked.note("max_control_frames_per_second");

    let slowed = self::server("max_calls_per_second_per_connection = 4");
    let mut raw = Raw::connect(&slowed.http).await.expect("connected");
    let begun = Instant::now();
    let calls: Vec<u8> = (0..12).flat_map(|i| healthz(2 * i + 1)).collect();
    raw.send(&calls).await.expect("sent");
    let mut answers = 0;
    while answers < 12 {
        let frame = raw.next().await.expect("an answer").expect("the connection stays");
        answers += usize::from(frame.kind == kind::HEADERS);
    }
    assert!(begun.elapsed() > Duration::from_millis(1900), "{:?}", begun.elapsed());
    provoked.note("max_calls_per_second_per_connection");
}

/// A call that needs no token.
fn healthz(stream: u32) -> Vec<u8> {
    let get = [(":method", "GET"), (":scheme", "http"), (":path", "/healthz"), (":authority", "localhost")];
    frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &header_block(&get))
}

async fn streams_and_windows(server: &Server, site: &Site, provoked: &mut Provoked) {
    let path = "/fedbasin.v1.FedBasin/SendUpdate";
    let open = |stream| frame(kind::HEADERS, flag::END_HEADERS, stream, &grpc_headers(path, &site.token));
    let code = |frame: &Frame| u32::from_be_bytes(frame.payload[..4].try_into().expect("a code"));
    let first = async |raw: &mut Raw, of: u8| loop {
        let frame = raw.next().await.expect("something").expect("the connection stays");
        if frame.kind == of {
            return frame;
        }
    };
    let mut raw = Raw::connect(&server.grpc).await.expect("connected");
    said_first(&mut raw).await;
    raw.send(&frame(kind::SETTINGS, flag::ACK, 0, &[])).await.expect("sent");
    let streams: Vec<u8> = (0..6).flat_map(|i| open(2 * i + 1)).collect();
    raw.send(&streams).await.expect("sent");
    let refused = first(&mut raw, kind::RST_STREAM).await;
    assert_eq!((refused.stream, code(&refused)), (11, 7), "the sixth stream, REFUSED_STREAM");
    provoked.note("max_concurrent_streams");

    // Unlike what is content, headers are taken to their end; the call is answered by 431.
    let mut raw = Raw::connect(&server.http).await.expect("connected");
    said_first(&mut raw).await;
    let get = [(":method", "GET"), (":scheme", "http"), (":path", "/healthz"), (":authority", "localhost")];
    let block = [header_block(&get), header_block(&[("a", &"x".repeat(9000))])].concat();
    raw.send(&frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &block)).await.expect("sent");
    let answer = first(&mut raw, kind::HEADERS).await;
    assert!(
        String::from_utf8_lossy(&answer.payload).contains("431") || answer.payload.len() < 8,
        "{answer:?}"
    );
    provoked.note("max_header_list_bytes");

    // Of one frame, so that nothing of it can have been taken meanwhile.
    let wide = "max_frame_bytes = 1048576\nstream_window_bytes = 100000\nconnection_window_bytes = 200000";
    let server = self::server(wide);
    let site = server.site("a");
    let open = |stream| frame(kind::HEADERS, flag::END_HEADERS, stream, &grpc_headers(path, &site.token));
    for (bytes, limit) in [(150_000, "stream_window_bytes"), (250_000, "connection_window_bytes")] {
        let mut raw = Raw::connect(&server.grpc).await.expect("connected");
        said_first(&mut raw).await;
        raw.send(&frame(kind::SETTINGS, flag::ACK, 0, &[])).await.expect("sent");
        let _ = raw.send(&[open(1), frame(kind::DATA, 0, 1, &vec![0; bytes])].concat()).await;
        loop {
            let frame = raw.next().await.expect("something").expect("it says why");
            match frame.kind {
                kind::RST_STREAM if code(&frame) == 3 && limit == "stream_window_bytes" => break,
                kind::GOAWAY if frame.payload[4..8] == 3_u32.to_be_bytes() => break,
                _ => {}
            }
        }
        provoked.note(limit);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_calls() {
    let mut provoked = Provoked::of(OF_CALLS);
    let server = server("max_calls_per_caller = 2\nmax_calls_per_minute_per_address = 10");
    let (a, b) = (server.site("a"), server.site("b"));
    let run = run_of(&server.admin(), &["a", "b"]);
    let watch = || async {
        let request = v1::WatchRunRequest { run_id: run.clone() };
        a.client.clone().watch_run(request).await.map(tonic::Response::into_inner)
    };
    let held = [watch().await.expect("one"), watch().await.expect("two")];
    let refused = watch().await.expect_err("three");
    let wait = refused.metadata().get(fedbasin_proto::RETRY_METADATA_KEY);
    assert!(
        wait.is_some_and(|wait| wait.to_str().is_ok_and(|wait| wait.parse::<u64>().is_ok())),
        "{refused:?}"
    );
    let text = assert_refused(Err::<(), _>(refused), Code::ResourceExhausted, "too-many");
    assert!(text.contains("limits.max_calls_per_caller"), "{text}");
    b.status(&run).await.expect("another site is let in");
    drop(held);
    let again = async || loop {
        match watch().await {
            Ok(_) => break,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    tokio::time::timeout(fedbasin_tests::PATIENCE, again()).await.expect("places are free again");
    provoked.note("max_calls_per_caller");

    // Who opened something here before is let in, whatever its neighbours do.
    let stranger = Site::new("x", &server.grpc, &format!("fbs_{}", "x".repeat(43)));
    let mut answers = Vec::new();
    for _ in 0..12 {
        answers.push(stranger.status(&run).await.expect_err("refused").code());
    }
    assert_eq!(answers[..10], [Code::Unauthenticated; 10]);
    assert_eq!(answers[10..], [Code::ResourceExhausted; 2]);
    a.status(&run).await.expect("a known one");
    assert_eq!(server.admin().get("/v1/runs").status, 200, "and so is the operator");
    let answer = server.admin().with_token(None).get("/openapi.json");
    answer.assert_problem(429, "too-many");
    assert_eq!(server.admin().with_token(None).get("/readyz").status, 200, "health is never refused");
    assert!(answer.header("retry-after").parse::<u64>().is_ok());
    provoked.note("max_calls_per_minute_per_address");

    rates(&mut provoked).await;
    uploads(&mut provoked).await;
}

async fn rates(provoked: &mut Provoked) {
    let server = server("max_calls_per_minute_per_site = 5\nmax_calls_per_minute_per_person = 20");
    let (a, b) = (server.site("a"), server.site("b"));
    let admin = server.admin();
    let run = run_of(&admin, &["a", "b"]);
    let mut codes = Vec::new();
    for _ in 0..7 {
        codes.push(a.status(&run).await.map_or_else(|status| status.code(), |_| Code::Ok));
    }
    assert_eq!(codes.iter().filter(|code| **code == Code::Ok).count(), 5, "{codes:?}");
    let text = assert_refused(a.status(&run).await, Code::ResourceExhausted, "too-many");
    assert!(text.contains("limits.max_calls_per_minute_per_site"), "{text}");
    b.status(&run).await.expect("another site has its own");
    provoked.note("max_calls_per_minute_per_site");

    let made = admin.post("/v1/tokens", &json!({ "role": "viewer" })).json();
    let viewer = admin.with_token(made["token"].as_str());
    let refused = (0..30).map(|_| viewer.get("/v1/runs")).find(|answer| answer.status != 200);
    let refused = refused.expect("one of thirty");
    let detail = refused.assert_problem(429, "too-many");
    assert!(detail.contains("limits.max_calls_per_minute_per_person"), "{detail}");
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds >= 1));
    provoked.note("max_calls_per_minute_per_person");
}

async fn uploads(provoked: &mut Provoked) {
    let one_second = Duration::from_secs(1);
    for (limits, limit, second) in [
        ("max_concurrent_uploads = 1\nmax_uploads_per_site = 1", "max_concurrent_uploads", "b"),
        ("max_uploads_per_site = 1", "max_uploads_per_site", "a"),
    ] {
        let server = server(&format!("idle_timeout_seconds = 1\n{limits}"));
        let sites = ["a", "b"].map(|id| server.site(id));
        let runs = [run_of(&server.admin(), &["a", "b"]), run_of(&server.admin(), &["a", "b"])];
        let (first, bytes) = (&sites[0], one_hot(0, 3));
        let begun = first.begin(&runs[0], 1, &bytes, 1).await.expect("an update");
        let mut part = chunks(&begun.update_id, &bytes, 0).remove(0);
        part.data = part.data.slice(..9);
        part.crc32c = crc32c::crc32c(&part.data);
        let began = Instant::now();
        let mut stalled = first.open_stream(&[part]).await;
        eventually("the first has its place", || (!server.open_uploads().is_empty()).then_some(())).await;
        let other = sites.iter().find(|site| site.id == second).expect("a site");
        other.upload(&runs[1], 1, &bytes, 1).await.expect("when the first has given its place up");
        assert!(began.elapsed() >= one_second, "{limit}: it waited");
        provoked.note(limit);
        if limit == "max_concurrent_uploads" {
            let text = assert_refused(stalled.acknowledged().await, Code::Unavailable, "too-slow");
            assert!(text.contains("limits.min_bytes_per_second"), "{text}");
            let admin = server.admin();
            let head = format!(
                "POST /v1/sites HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
                 content-length: 100\r\n\r\n",
                server.admin_token()
            );
            let mut raw = Raw::silent(&server.http).await.expect("connected");
            raw.send(head.as_bytes()).await.expect("sent");
            let said = raw.drip(std::iter::repeat(b' '), Duration::from_millis(100)).await;
            assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("too-slow"), "{said}");
            assert_eq!(admin.get("/v1/sites").status, 200);
            provoked.note("idle_timeout_seconds");
        }
    }
    // Bytes come all the time, but too few.
    let server = server("idle_timeout_seconds = 1\nmin_bytes_per_second = 1000000");
    let (site, bytes) = (server.site("a"), one_hot(0, 300_000));
    let run = run_of(&server.admin(), &["a"]);
    let begun = site.begin(&run, 1, &bytes, 1).await.expect("an update");
    let mut sending = site.open_stream(&[]).await;
    let (sender, update) = (sending.sender.clone(), begun.update_id);
    tokio::spawn(async move {
        for offset in (0..bytes.len()).step_by(1000) {
            let mut part =
                chunks(&update, &bytes[..(offset + 1000).min(bytes.len())], offset as u64).remove(0);
            part.crc32c = crc32c::crc32c(&part.data);
            tokio::time::sleep(Duration::from_millis(20)).await;
            if sender.send(part).await.is_err() {
                return;
            }
        }
    });
    let slow = loop {
        if let Err(status) = sending.acknowledged().await {
            break status;
        }
    };
    assert_refused(Err::<(), _>(slow), Code::Unavailable, "too-slow");
    provoked.note("min_bytes_per_second");
    bytes_in_flight(provoked).await;
}

async fn bytes_in_flight(provoked: &mut Provoked) {
    let server = server(
        "max_bytes_in_flight = 4194304\nmax_json_bytes = 65536\nstream_window_bytes = 65535\nconnection_window_bytes = 65535",
    );
    let (site, admin) = (server.site("a"), server.admin());
    let seed = one_hot(0, 3_000_000);
    let digest = admin.upload(&seed);
    admin.create_run(&json!({
        "spec": null, "strategy": "mean", "cohort": ["a"], "seed_digest": digest,
        "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 600 },
    }));
    let download = async || {
        let request = v1::DownloadRequest { digest: digest.clone(), offset: 0 };
        site.client.clone().download(request).await.map(tonic::Response::into_inner)
    };
    let held = download().await.expect("the first");
    let text = assert_refused(download().await, Code::ResourceExhausted, "too-many");
    assert!(text.contains("limits.max_bytes_in_flight"), "{text}");
    provoked.note("max_bytes_in_flight");
    drop(held);
    let read = async {
        loop {
            if let Ok(bytes) = site.download(&digest, 0).await {
                break bytes;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(tokio::time::timeout(fedbasin_tests::PATIENCE, read).await.expect("in time"), seed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_outlives_its_connections() {
    let server = server("max_connection_age_seconds = 1\nconnection_age_grace_seconds = 1");
    let (site, bytes) = (server.site("a"), one_hot(0, 3000));
    let run = run_of(&server.admin(), &["a"]);
    let begun = site.begin(&run, 1, &bytes, 1).await.expect("an update");
    let (mut offset, mut cuts) = (0, 0);
    // Part by part, for as long as two connections live.
    while cuts < 2 {
        let sending = &mut site.open_stream(&[]).await;
        let status = loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let part = chunks(&begun.update_id, &bytes[..(offset + 100).min(bytes.len())], offset as u64);
            if let Some(part) = part.into_iter().next()
                && sending.sender.send(part).await.is_ok()
            {
                offset = (offset + 100).min(bytes.len() - 1);
                continue;
            }
            break last_of(sending).await;
        };
        assert!(
            matches!(status, Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal),
            "cut, {status:?}"
        );
        let again = site.begin(&run, 1, &bytes, 1).await.expect("the same update, on another connection");
        (offset, cuts) = (usize::try_from(again.offset).expect("small"), cuts + 1);
    }
    site.send(chunks(&begun.update_id, &bytes, offset as u64)).await.expect("the rest");
    site.finish(&begun.update_id).await.expect("a receipt");
}

/// What a stream ends with.
async fn last_of(sending: &mut fedbasin_tests::Sending) -> Code {
    loop {
        if let Err(status) = sending.acknowledged().await {
            return status.code();
        }
    }
}
