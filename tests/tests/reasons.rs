//! Why persons act: one parameter of every call that changes something, kept in the records of what the call changed.

use std::collections::BTreeMap;

use fedbasin_proof::{Record, export};
use fedbasin_server::auth::access::ROUTES;
use fedbasin_tests::{
    Admin, Database, Server,
    checkpoint::{one_hot, one_hot_spec},
    on_both_databases,
};
use serde_json::{Value, json};

const LONG_GONE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A change by its path, with what is to be said of why; gives the answer.
fn change(admin: &Admin, path: &str, reason: &str, body: &[u8]) -> Value {
    let said: String = reason.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let kind = if path == "/v1/checkpoints" { "application/octet-stream" } else { "application/json" };
    let answer = admin.request("POST", &format!("{path}?reason={said}"), &[("content-type", kind)], body);
    assert!(matches!(answer.status, 200 | 201), "{path}: {}", String::from_utf8_lossy(&answer.body));
    answer.json()
}

/// All records, from an export that is whole.
fn records(server: &Server) -> Vec<Record> {
    let exported = server.admin().get("/v1/audit/export").body;
    export::verify(&mut exported.as_slice(), None, None).expect("whole");
    let text = String::from_utf8(exported).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    lines[1..lines.len() - 1].iter().map(|line| Record::from_line(line).expect("a record")).collect()
}

on_both_databases!(what_a_person_says_of_why_is_in_the_records_of_what_they_changed);

async fn what_a_person_says_of_why_is_in_the_records_of_what_they_changed(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let text = |value: &Value| value.to_string().into_bytes();
    let id = |value: &Value| value["id"].as_str().expect("an id").to_owned();
    change(&admin, "/v1/sites", "Studie 7: Prüfung \u{2713}", &text(&json!({ "id": "a" })));
    let token = id(&change(&admin, "/v1/tokens", "a new colleague", &text(&json!({ "role": "viewer" }))));
    change(&admin, &format!("/v1/tokens/{token}/revoke"), "\"she\" left", b"");
    change(&admin, "/v1/sites/a/tokens", "the old one leaked", b"{}");
    change(&admin, &format!("/v1/certificates/{LONG_GONE}/revoke"), "never used", b"");
    change(&admin, "/v1/checkpoints", "from the pilot", &one_hot(0, 2));
    let run = json!({
        "id": "r", "spec": one_hot_spec(), "strategy": "aligned", "cohort": ["a"],
        "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 600 },
    });
    change(&admin, "/v1/runs", &"x".repeat(500), &text(&run));
    admin.round_becomes("r", 1, "collecting").await;
    change(&admin, "/v1/runs/r/pause", "maintenance", b"");
    change(&admin, "/v1/runs/r/resume", "done", b"");
    change(&admin, "/v1/runs/r/cancel", "wrong spec", b"");
    // Who says nothing is asked nothing.
    let _ = admin.enrol("silent");

    let mut found: BTreeMap<Option<String>, Vec<String>> = BTreeMap::new();
    for record in records(&server) {
        if record.who.kind == "server" {
            assert_eq!(record.reason, None, "{record:?}");
        } else {
            found.entry(record.reason).or_default().push(record.action);
        }
    }
    let expected = [
        (None, &["site.enrolled", "token.made"][..]),
        (Some("Studie 7: Prüfung \u{2713}"), &["site.enrolled", "token.made"]),
        (Some("a new colleague"), &["token.made"]),
        (Some("\"she\" left"), &["token.revoked"]),
        (Some("the old one leaked"), &["token.made"]),
        (Some("never used"), &["certificate.revoked"]),
        (Some("from the pilot"), &["checkpoint.stored"]),
        (Some(&"x".repeat(500)), &["run.created"]),
        (Some("maintenance"), &["run.paused"]),
        (Some("done"), &["run.resumed"]),
        (Some("wrong spec"), &["round.cancelled", "run.cancelled"]),
    ];
    // Which of one call's records comes first does not matter here.
    found.values_mut().for_each(|actions| actions.sort());
    let expected = expected.map(|(reason, actions)| {
        (reason.map(str::to_owned), actions.iter().map(ToString::to_string).collect::<Vec<_>>())
    });
    assert_eq!(found, BTreeMap::from(expected));
    let (whole, said) = server.says(&["audit", "verify"]);
    assert!(whole && said.contains("whole"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_that_changes_something_takes_a_reason_and_refuses_what_is_none() {
    let server = Server::start(Database::sqlite());
    let admin = server.admin();
    let document = admin.get("/openapi.json").json();
    let before = records(&server).len();
    let too_long = "x".repeat(501);
    for (method, route, _) in ROUTES {
        let described = &document["paths"][route][method.to_lowercase()];
        let parameters = described["parameters"].as_array().cloned().unwrap_or_default();
        let reason = parameters.iter().find(|parameter| parameter["name"] == "reason");
        assert_eq!(reason.is_some(), *method != "GET", "{method} {route}: {parameters:?}");
        if *method == "GET" {
            continue;
        }
        let reason = reason.expect("described");
        assert_eq!((&reason["in"], &reason["required"]), (&json!("query"), &json!(false)), "{route}");
        assert_eq!(reason["schema"]["maxLength"], 500, "{route}");
        assert!(described["responses"]["422"].is_object(), "{route}");
        let path =
            route.replace("{number}", "1").replace("{fingerprint}", LONG_GONE).replace("{digest}", LONG_GONE);
        let path = ["{run}", "{site}", "{token}", "{tag}"]
            .iter()
            .fold(path, |path, name| path.replace(name, "none"));
        for bad in ["", "two%0Alines", "%00", "%C2%9B", &too_long, "one&reason=two"] {
            // A body that nobody reads ends its connection.
            let headers = [("content-type", "application/json"), ("connection", "close")];
            let answer = admin.request(method, &format!("{path}?reason={bad}"), &headers, b"{}");
            let detail = answer.assert_problem(422, "invalid-argument");
            assert!(detail.contains("reason"), "{route}?reason={bad}: {detail}");
        }
    }
    assert_eq!(records(&server).len(), before, "nothing was done");
}
