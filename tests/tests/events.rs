//! What happens, told as it happens: server-sent events out of the audit log.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
};

use fedbasin_tests::{
    Admin, Database, PATIENCE, Server,
    checkpoint::{one_hot, one_hot_spec},
    on_both_databases,
};
use serde_json::{Value, json};

on_both_databases!(events_are_what_the_audit_log_records_and_go_on_where_a_client_was);

/// A stream of events that is open.
struct Events(BufReader<TcpStream>);

/// One of them: its id, its name and its data.
type Event = (u64, String, Value);

impl Events {
    fn open(server: &Server, token: &str, path: &str, last: Option<u64>) -> Self {
        let address = server.http.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let last = last.map(|last| format!("last-event-id: {last}\r\n")).unwrap_or_default();
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{last}\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
        let mut events = Self(BufReader::new(stream));
        let status = events.line().expect("an answer");
        assert!(status.starts_with("HTTP/1.1 200"), "{status}");
        // From here on it misses nothing.
        while events.line().expect("a first block") != "retry: 2000" {}
        events
    }

    /// The next line; nothing once the stream ended, however.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn next(&mut self) -> Option<Event> {
        let (mut id, mut name) = (0, String::new());
        loop {
            let line = self.line()?;
            if let Some(text) = line.strip_prefix("id: ") {
                id = text.parse().expect("a number");
            } else if let Some(text) = line.strip_prefix("event: ") {
                name = text.to_owned();
            } else if let Some(text) = line.strip_prefix("data: ") {
                return Some((id, name, serde_json::from_str(text).expect("JSON")));
            }
        }
    }

    /// The events up to the first of that name.
    fn until(&mut self, name: &str) -> Vec<Event> {
        let mut all = Vec::new();
        loop {
            let event = self.next().unwrap_or_else(|| panic!("no {name} after {all:?}"));
            let is_it = event.1 == name;
            all.push(event);
            if is_it {
                return all;
            }
        }
    }
}

fn run(admin: &Admin, id: &str, site: &str) -> String {
    admin.create_run(&json!({
        "id": id, "spec": one_hot_spec(), "strategy": "aligned", "cohort": [site],
        "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 600 },
    }))
}

async fn events_are_what_the_audit_log_records_and_go_on_where_a_client_was(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let (a, _b) = (server.site("a"), server.site("b"));
    let viewer = admin.post("/v1/tokens", &json!({ "role": "viewer" })).json();
    let viewer = viewer["token"].as_str().expect("a token");
    let mut all = Events::open(&server, viewer, "/v1/events", None);
    let mut of_other = Events::open(&server, viewer, "/v1/events?run=other", None);

    // Whoever comes without an id is told of what comes.
    run(&admin, "pilot", "a");
    let begun = all.until("round.opened");
    assert_eq!((begun[0].1.as_str(), &begun[0].2["run"]), ("run.created", &json!("pilot")));
    drop(all);
    a.upload("pilot", 1, &one_hot(0, 8), 1).await.expect("a receipt");
    let published = admin.round_becomes("pilot", 1, "published").await;
    run(&admin, "other", "b");

    // Whoever was away is told of all of it.
    let seen = begun[0].0;
    let mut again = Events::open(&server, viewer, "/v1/events?after=0", Some(seen));
    let missed = again.until("round.published");
    let ids: Vec<u64> = missed.iter().map(|event| event.0).collect();
    assert_eq!(ids, (seen + 1..=seen + ids.len() as u64).collect::<Vec<_>>(), "no gap");
    let last = &missed[missed.len() - 1].2;
    assert_eq!((&last["round"], &last["digest"]), (&json!(1), &published["global_digest"]));
    let accepted = missed.iter().find(|event| event.1 == "update.accepted").expect("told");
    assert_eq!(accepted.2["site"], "a");

    // It is the audit log, and no more of it than a viewer may read there.
    let from = format!("/v1/audit?from={}", seen + 1);
    let records = admin.with_token(Some(viewer)).get(&from).json()["records"].clone();
    for (event, record) in missed.iter().zip(records.as_array().expect("a list")) {
        assert_eq!((json!(event.0), json!(event.1)), (record["seq"].clone(), record["action"].clone()));
        for (ours, theirs) in [("run", "run"), ("site", "site"), ("object", "object"), ("digest", "after")] {
            assert_eq!(event.2[ours], record[theirs], "{ours} of {event:?}");
        }
    }

    // Whoever asks for one run is told of no other.
    let other = of_other.until("round.opened");
    assert!(other.iter().all(|event| event.2["run"] == "other") && other[0].1 == "run.created", "{other:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_events_ends_with_its_token_and_with_the_server() {
    let mut server = Server::start(Database::sqlite());
    let admin = server.admin();
    let made = admin.post("/v1/tokens", &json!({ "role": "viewer" })).json();
    let text = |name: &str| made[name].as_str().expect("a text").to_owned();
    let mut of_viewer = Events::open(&server, &text("token"), "/v1/events", None);
    let mut of_admin = Events::open(&server, &server.admin_token(), "/v1/events", None);
    assert_eq!(admin.post(&format!("/v1/tokens/{}/revoke", text("id")), &json!({})).status, 200);
    assert_eq!(of_admin.until("token.revoked").last().expect("told").2["object"], json!(text("id")));
    while of_viewer.next().is_some() {}
    assert!(server.terminate().success(), "an open stream keeps no server from stopping");
    while of_admin.next().is_some() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_never_was_is_refused() {
    let server = Server::start(Database::sqlite());
    let admin = server.admin();
    for bad in ["?after=1000", "?after=18446744073709551615", "?after=-1", "?after=x", "?run=A", "?more=1"] {
        admin.get(&format!("/v1/events{bad}")).assert_problem(422, "invalid-argument");
    }
    let answer = admin.request("GET", "/v1/events", &[("last-event-id", "x")], &[]);
    answer.assert_problem(422, "invalid-argument");
}
