//! Webhooks: each is told of each thing once, signed, again where it failed, and never at an address that is not everybody's.

use std::path::PathBuf;

use fedbasin_proof::{Record, export};
use fedbasin_tests::{
    Admin, Database, Options, Receiver, Server,
    checkpoint::{one_hot, one_hot_spec},
    eventually, on_both_databases,
};
use serde_json::{Value, json};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

on_both_databases!(
    two_processes_tell_a_webhook_once_of_each_thing_that_happens,
    what_is_not_taken_is_sent_again_until_it_is_given_up_and_an_operator_asks,
);

/// Settings of one webhook `ops`, with a secret by file, and quick tries.
fn told(folder: &tempfile::TempDir, url: &str, more: &str) -> String {
    let secret: PathBuf = folder.path().join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).expect("a file");
    format!(
        "[notify]\nfirst_retry_ms = 50\nmax_attempts = 3\nsite_silent_seconds = 1\nquorum_at_risk_fraction = 1.0\n\
         [work]\npoll_ms = 100\n[[webhooks]]\nname = \"ops\"\nurl = \"{url}/hook\"\nsecret_file = {secret:?}\n{more}\n"
    )
}

fn run(admin: &Admin, id: &str, quorum: u32, deadline_seconds: u32) {
    admin.create_run(&json!({
        "id": id, "spec": one_hot_spec(), "strategy": "aligned", "cohort": ["a", "b"],
        "policy": { "rounds": 1, "quorum": quorum, "deadline_seconds": deadline_seconds, "failed_rounds_allowed": 0 },
    }));
}

/// The notices, the newest first.
fn deliveries(admin: &Admin, query: &str) -> Vec<Value> {
    let answer = admin.get(&format!("/v1/webhooks/deliveries{query}"));
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    answer.json()["deliveries"].as_array().expect("a list").clone()
}

async fn two_processes_tell_a_webhook_once_of_each_thing_that_happens(database: Database) {
    let (receiver, folder) = (Receiver::start(), tempfile::tempdir().expect("a folder"));
    let url = receiver.url.as_str();
    let mut options = Options::in_folder(folder.path());
    options.config += &told(&folder, url, "allow_private_addresses = true");
    let first = Server::start_with(database.clone(), options);
    // SQLite is one process's.
    let second = database.url().map(|_| first.beside(true));
    let admin = first.admin();
    let (a, b) = (first.site("a"), first.site("b"));
    run(&admin, "pilot", 2, 600);
    admin.round_becomes("pilot", 1, "collecting").await;
    // One of two is there: the other one becomes silent, and the quorum is at risk from the first moment.
    a.upload("pilot", 1, &one_hot(0, 64), 1).await.expect("a receipt");
    eventually("b is silent", || {
        receiver.told().iter().any(|told| told.json()["type"] == "site.silent").then_some(())
    })
    .await;
    b.upload("pilot", 1, &one_hot(1, 64), 1).await.expect("a receipt");
    let round = admin.round_becomes("pilot", 1, "published").await;
    run(&admin, "hopeless", 2, 2);
    admin.round_becomes("hopeless", 1, "failed").await;
    eventually("all is delivered", || {
        let all = deliveries(&admin, "");
        let ends = |event: &str| all.iter().any(|one| one["event"] == event && one["state"] == "delivered");
        (ends("round.published") && ends("round.failed") && deliveries(&admin, "?state=pending").is_empty())
            .then_some(())
    })
    .await;

    let all = receiver.told();
    let mut seen: Vec<String> = Vec::new();
    for told in &all {
        assert_eq!(told.line, "POST /hook");
        assert_eq!(told.header("content-type"), "application/json");
        assert!(
            told.is_signed_with(SECRET) && !told.is_signed_with("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
        );
        let (body, id) = (told.json(), told.header("webhook-id"));
        assert!(!id.is_empty() && body["timestamp"].as_str().is_some_and(|at| at.ends_with('Z')), "{body}");
        let of = |name: &str| body["data"][name].as_str().unwrap_or_default().to_owned();
        seen.push(format!("{} {} {}", body["type"].as_str().unwrap_or_default(), of("run"), of("site")));
        match body["type"].as_str() {
            Some("round.published") => assert_eq!(body["data"]["model"], round["global_digest"], "{round}"),
            Some("round.failed") => assert!(of("reason").contains("quorum"), "{body}"),
            _ => {}
        }
    }
    for expected in [
        "round.quorum-at-risk pilot ",
        "site.silent pilot b",
        "round.published pilot ",
        "round.quorum-at-risk hopeless ",
        "round.failed hopeless ",
    ] {
        assert_eq!(seen.iter().filter(|one| *one == expected).count(), 1, "{expected} once: {seen:#?}");
    }
    drop(second);
}

async fn what_is_not_taken_is_sent_again_until_it_is_given_up_and_an_operator_asks(database: Database) {
    let (receiver, folder) = (Receiver::start(), tempfile::tempdir().expect("a folder"));
    let config = told(&folder, &receiver.url, "allow_private_addresses = true\nevents = [\"round.failed\"]");
    let server = Server::start_with(database, Options { config, ..Options::default() });
    let admin = server.admin();
    admin.post("/v1/webhooks/nobody/test", &json!({})).assert_problem(404, "not-found");

    // A failure and a redirect, which is none of the receiver's to give; then it is taken.
    receiver.answer_first([500, 307]);
    let asked = admin.post("/v1/webhooks/ops/test", &json!({}));
    assert_eq!(asked.status, 202, "{}", String::from_utf8_lossy(&asked.body));
    let id = asked.json()["id"].as_str().expect("an id").to_owned();
    let all = receiver.was_told(3).await;
    assert!(all.iter().all(|told| told.header("webhook-id") == id && told.line == "POST /hook"), "{all:#?}");
    eventually("it is delivered", || (deliveries(&admin, "")[0]["state"] == "delivered").then_some(())).await;
    assert_eq!(deliveries(&admin, "")[0]["attempts"], 3);

    // Three times is enough.
    receiver.answer_first([500, 503, 404]);
    let id = admin.post("/v1/webhooks/ops/test", &json!({})).json()["id"].as_str().expect("an id").to_owned();
    let dead = eventually("it is given up", || deliveries(&admin, "?state=dead").pop()).await;
    assert_eq!((&dead["id"], &dead["attempts"]), (&json!(id), &json!(3)), "{dead}");
    assert!(dead["last_error"].as_str().is_some_and(|why| why.contains("404")), "{dead}");
    assert_eq!(receiver.told().len(), 6);
    let retry = format!("/v1/webhooks/deliveries/{id}/retry");
    assert_eq!(admin.post(&retry, &json!({})).json()["state"], "pending");
    receiver.was_told(7).await;
    eventually("it is delivered", || deliveries(&admin, "?state=dead").is_empty().then_some(())).await;
    eventually("it is noted", || (deliveries(&admin, "?limit=1")[0]["state"] == "delivered").then_some(()))
        .await;
    admin.post(&retry, &json!({})).assert_problem(409, "conflict");
    let page = admin.get("/v1/webhooks/deliveries?limit=1").json();
    let next = page["next"].as_str().expect("a second page");
    assert_eq!(deliveries(&admin, &format!("?limit=1&after={next}")).len(), 1);
    admin.get("/v1/webhooks/deliveries?limit=0").assert_problem(422, "invalid-argument");
    admin.get("/v1/webhooks/deliveries?state=lost").assert_problem(422, "invalid-argument");

    // What persons asked for is on record; nothing shows the secret.
    let exported = admin.get("/v1/audit/export").body;
    export::verify(&mut exported.as_slice(), None, None).expect("whole");
    let text = String::from_utf8(exported).expect("text");
    let records = text.lines().filter_map(|line| Record::from_line(line).ok());
    let actions: Vec<String> =
        records.filter(|record| record.object.as_deref() == Some(&id)).map(|record| record.action).collect();
    assert_eq!(actions, ["webhook.tested", "webhook.retried"]);
    assert!(!server.log().contains(&SECRET[6..]) && !text.contains(&SECRET[6..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_leads_to_a_private_address_is_not_called_unless_that_is_allowed() {
    let (receiver, folder) = (Receiver::start(), tempfile::tempdir().expect("a folder"));
    let by_name = receiver.url.replace("http://127.0.0.1", "https://localhost");
    let config = told(&folder, &by_name, "");
    let server = Server::start_with(Database::sqlite(), Options { config, ..Options::default() });
    let admin = server.admin();
    assert_eq!(admin.post("/v1/webhooks/ops/test", &json!({})).status, 202);
    let dead = eventually("it is given up", || deliveries(&admin, "?state=dead").pop()).await;
    let why = dead["last_error"].as_str().expect("why");
    assert!(why.contains("private addresses") && !why.contains("/hook"), "{why}");
    assert!(receiver.told().is_empty());

    let config = told(&folder, &receiver.url.replace("http:", "https:"), "");
    let refused = Server::try_start(Database::sqlite(), Options { config, ..Options::default() });
    let why = refused.expect_err("it refuses");
    assert!(why.contains("allow_private_addresses") && !why.contains("/hook"), "{why}");
}
