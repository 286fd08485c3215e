//! Each limit of `[limits]` has an effect: how it is provoked, and what the caller is told.

mod calls;
mod checkpoints;
mod connections;
mod http2;
#[path = "../../../graph/tests/build/mod.rs"]
mod onnx;

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

/// Waits until the log says why a connection was ended.
async fn says(server: &Server, why: &str) {
    eventually(&format!("the log says: {why}"), || server.log().contains(why).then_some(())).await;
}

fn run_of(admin: &Admin, sites: &[&str]) -> String {
    admin.create_run(&json!({
        "spec": null, "strategy": "mean", "cohort": sites,
        "policy": { "rounds": 1, "quorum": sites.len(), "deadline_seconds": 600 },
    }))
}

/// A call that needs no token.
fn healthz(stream: u32) -> Vec<u8> {
    let get = [(":method", "GET"), (":scheme", "http"), (":path", "/healthz"), (":authority", "localhost")];
    frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &header_block(&get))
}
