//! `fedbasin site run`, the whole life of a site: real processes of the real program, a shell script as trainer.

use std::fs;

use fedbasin_tests::{
    Database, Server, SiteProgram,
    checkpoint::{Mlp, mlp, one_hot, read_f32},
    on_both_databases,
};
use serde_json::{Value, json};

on_both_databases!(
    sites_that_run_by_themselves_finish_a_run_of_two_rounds,
    sites_survive_a_restart_of_the_server,
    a_site_that_aligns_by_itself_leaves_nothing_to_move
);

async fn sites_that_run_by_themselves_finish_a_run_of_two_rounds(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let (token_a, token_b) = (admin.enrol("a"), admin.enrol("b"));
    admin.create_run(&SiteProgram::run(2));
    let mut a = SiteProgram::start(&server, &token_a, 0, 1);
    let mut b = SiteProgram::start_with(&server.grpc, &token_b, &one_hot(1, 2), 3, &["--json"]);
    assert_eq!((a.ends().await, b.ends().await), (Some(0), Some(0)), "{}\n{}", a.read("log"), b.read("log"));
    assert_eq!(admin.run("pilot")["state"], "complete");
    assert!(b.read("log").contains("what a trainer prints"), "it is no answer");
    let answer: Value = serde_json::from_str(&b.read("answer")).expect("JSON and nothing else");
    assert_eq!((&answer["run_id"], &answer["rounds_published"]), (&json!("pilot"), &json!(2)), "{answer}");
    assert_eq!(answer["global_digest"], admin.run("pilot")["global_digest"]);
    assert_eq!(
        fs::read(b.folder.path().join(answer["file"].as_str().expect("a file"))).expect("the last model"),
        admin.model("pilot", 2)
    );
    assert_eq!(read_f32(&admin.model("pilot", 2), "counted"), [0.25, 0.75]);
    let entry = admin.round_site("pilot", 1, "b");
    assert_eq!((&entry["num_examples"], &entry["metrics"]["loss"]), (&json!(3), &json!(0.25)), "{entry}");
    let seen = a.read("seen.txt");
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines.len(), 2, "trained once a round: {seen}");
    assert_eq!(lines[0], "round=1 reference=none size=", "a founding round has no reference");
    let size = admin.model("pilot", 1).len();
    assert!(lines[1].starts_with("round=2 ") && lines[1].ends_with(&format!("size={size}")), "{seen}");
}

async fn sites_survive_a_restart_of_the_server(database: Database) {
    let mut server = Server::start(database);
    let (token_a, token_b) = (server.admin().enrol("a"), server.admin().enrol("b"));
    server.admin().create_run(&SiteProgram::run(2));
    let mut a = SiteProgram::start(&server, &token_a, 0, 1);
    fedbasin_tests::eventually("a's update is accepted", || {
        server.admin().round_site("pilot", 1, "a")["accepted_at"].is_string().then_some(())
    })
    .await;
    // It waits for the round to go on. The server dies, stays away for a moment, and comes back.
    server.kill();
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    server.start_again();
    let mut b = SiteProgram::start(&server, &token_b, 1, 3);
    assert_eq!((a.ends().await, b.ends().await), (Some(0), Some(0)), "{}\n{}", a.read("log"), b.read("log"));
    assert_eq!(read_f32(&server.admin().model("pilot", 2), "counted"), [0.25, 0.75]);
    assert_eq!(a.read("seen.txt").lines().count(), 2, "trained once a round: {}", a.read("seen.txt"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_rejected_after_its_receipt_ends_the_site_with_the_reason() {
    let server = Server::start(Database::sqlite());
    let token = server.admin().enrol("a");
    let _ = server.admin().enrol("b");
    server.admin().create_run(&SiteProgram::run(1));
    let mut site = SiteProgram::start(&server, &token, 0, 3);
    fedbasin_tests::eventually("the update is accepted", || {
        site.read("log").contains("accepted, receipt").then_some(())
    })
    .await;
    let mut rows = server.rows().await;
    sqlx::query("UPDATE updates SET state = 'rejected', reason = 'could not be aligned: why not'")
        .execute(&mut rows)
        .await
        .expect("the row is changed");
    let code = site.ends().await;
    let log = site.read("log");
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("accepted, then rejected: could not be aligned: why not"), "{log}");
    assert!(!log.contains("was not moved"), "{log}");
}

async fn a_site_that_aligns_by_itself_leaves_nothing_to_move(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let tokens = ["a", "b"].map(|id| admin.enrol(id));
    let seed = admin.upload(&mlp(1).file());
    admin.create_run(&json!({
        "id": "pilot", "spec": Mlp::spec(), "strategy": "aligned", "cohort": ["a", "b"], "seed_digest": seed,
        "policy": { "rounds": 1, "quorum": 2, "deadline_seconds": 600 },
    }));
    let reordered = mlp(2).permuted([[2, 0, 3, 1], [1, 2, 3, 0]]).file();
    let local =
        SiteProgram::start_with(&server.grpc, &tokens[0], &reordered, 10, &["--align-locally", "spec.json"]);
    let plain = SiteProgram::start_with(&server.grpc, &tokens[1], &reordered, 10, &[]);
    let record = admin.round_becomes("pilot", 1, "published").await;
    let moved = |site: &str| {
        let sites = record["sites"].as_array().expect("sites");
        let entry = sites.iter().find(|entry| entry["site"] == site).expect("the site");
        entry["alignment"]["moved"].as_f64().expect("an alignment")
    };
    assert_eq!((moved("a"), moved("b")), (0.0, 1.0), "{} {}", local.read("log"), plain.read("log"));
    assert!(local.read("log").contains("units moved"), "{}", local.read("log"));
}
