//! `fedbasin site run`, the whole life of a site: real processes of the real program, a shell script as trainer.

use std::fs;

use fedbasin_tests::{
    Database, Server, SiteProgram,
    checkpoint::{Mlp, mlp, one_hot, read_f32},
    client_binary, on_both_databases,
};
use serde_json::{Value, json};

on_both_databases!(
    sites_that_run_by_themselves_finish_a_run_of_two_rounds,
    sites_survive_a_restart_of_the_server,
    a_site_that_aligns_by_itself_leaves_nothing_to_move,
    sites_try_each_published_model_and_tell_how_good_it_is
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

/// Notes what it was given; knows figures of the global model alone, and no others.
const EVALUATION: &str = r#"
echo "round=$FEDBASIN_ROUND kind=$FEDBASIN_KIND run=$FEDBASIN_RUN token=$FEDBASIN_TOKEN size=$(wc -c < "$FEDBASIN_MODEL")" >> tried.txt
[ "$FEDBASIN_KIND" = global ] || exit 3
printf '{"num_examples": %s, "loss": 0.%s, "accuracy": 0.5}' "$(cat num_examples)" "$FEDBASIN_ROUND" > "$FEDBASIN_METRICS"
"#;

async fn sites_try_each_published_model_and_tell_how_good_it_is(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let (token_a, token_b) = (admin.enrol("a"), admin.enrol("b"));
    admin.create_run(&SiteProgram::run(2));
    let more = ["--evaluate", EVALUATION];
    let mut a = SiteProgram::start_with(&server.grpc, &token_a, &one_hot(0, 2), 1, &more);
    let mut b = SiteProgram::start(&server, &token_b, 1, 3);
    assert_eq!((a.ends().await, b.ends().await), (Some(0), Some(0)), "{}\n{}", a.read("log"), b.read("log"));
    for (round, loss) in [(1, 0.1), (2, 0.2)] {
        let record = admin.round("pilot", round);
        let global = json!({ "sites": 1, "num_examples": 1, "loss": loss, "accuracy": 0.5, "path": null });
        assert_eq!(record["evaluations"]["global"], global, "{record}");
        assert!(record["evaluations"]["own"].is_null(), "{record}");
        let said = record["evaluations"]["sites"][0].clone();
        assert_eq!((&said["site"], &said["digest"]), (&json!("a"), &record["global_digest"]), "{said}");
    }
    assert_eq!(admin.run("pilot")["best_round"], json!(1));
    let size = one_hot(0, 2).len();
    let tried = a.read("tried.txt");
    let expected = |round: u32, kind: &str| {
        let size = if kind == "own" { size } else { admin.model("pilot", round).len() };
        format!("round={round} kind={kind} run=pilot token= size={size}")
    };
    let lines: Vec<String> =
        [1, 2].into_iter().flat_map(|round| ["global", "own"].map(|kind| expected(round, kind))).collect();
    assert_eq!(tried.lines().collect::<Vec<_>>(), lines);
    let log = a.read("log");
    assert!(log.contains("round 1: global model: loss 0.1000, accuracy 50.0 %, 1 example"), "{log}");
    assert!(log.contains("the own model is not evaluated: ended with exit status: 3"), "{log}");

    // What was told is not tried again; what failed is.
    a.start_again();
    assert_eq!(a.ends().await, Some(0), "{}", a.read("log"));
    let again = a.read("tried.txt");
    assert_eq!(again.lines().skip(4).collect::<Vec<_>>(), [expected(2, "own")]);
    let (whole, said) = server.says(&["audit", "verify"]);
    assert!(whole, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evaluation_that_does_not_end_is_ended_and_the_run_goes_on() {
    let server = Server::start(Database::sqlite());
    let token = server.admin().enrol("a");
    server.admin().create_run(&json!({
        "id": "pilot", "strategy": "mean", "cohort": ["a"],
        "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 600 },
    }));
    let more = ["--evaluate", "sleep 600", "--evaluate-seconds", "1"];
    let mut site = SiteProgram::start_with(&server.grpc, &token, &one_hot(0, 2), 1, &more);
    assert_eq!(site.ends().await, Some(0), "{}", site.read("log"));
    let log = site.read("log");
    assert!(log.contains("the global model is not evaluated: took longer than 1 s and was ended"), "{log}");
    assert!(server.admin().round("pilot", 1)["evaluations"]["global"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_tries_the_naive_mean_of_a_run_that_asks_for_it() {
    let server = Server::start(Database::sqlite());
    let admin = server.admin();
    let tokens = ["a", "b"].map(|id| admin.enrol(id));
    let seed = admin.upload(&mlp(1).file());
    admin.create_run(&json!({
        "id": "pilot", "spec": Mlp::spec(), "strategy": "aligned", "cohort": ["a", "b"], "seed_digest": seed,
        "policy": { "rounds": 1, "quorum": 2, "deadline_seconds": 600, "evaluate_naive": true },
    }));
    let reordered = mlp(2).permuted([[2, 0, 3, 1], [1, 2, 3, 0]]).file();
    // The path of the naive mean alone, by what it is given: at 1 as many bytes as the global model has.
    let evaluation = r#"case "$FEDBASIN_KIND" in
        naive) size=$(wc -c < "$FEDBASIN_GLOBAL"); printf '{"num_examples": 1, "loss": 2, "path": [{"t": 0, "loss": 2}, {"t": 1, "loss": %s}]}' "$size" ;;
        own) [ -n "$FEDBASIN_GLOBAL" ] && printf '{"num_examples": 1, "loss": 1}' ;;
        *) [ -z "$FEDBASIN_GLOBAL" ] && printf '{"num_examples": 1, "loss": 1}' ;;
    esac > "$FEDBASIN_METRICS""#;
    let more = ["--evaluate", evaluation];
    let mut a = SiteProgram::start_with(&server.grpc, &tokens[0], &mlp(3).file(), 1, &more);
    let mut b = SiteProgram::start_with(&server.grpc, &tokens[1], &reordered, 1, &[]);
    assert_eq!((a.ends().await, b.ends().await), (Some(0), Some(0)), "{}\n{}", a.read("log"), b.read("log"));
    let found = admin.round("pilot", 1)["evaluations"].clone();
    let losses = ["global", "naive", "own"].map(|kind| found[kind]["loss"].clone());
    assert_eq!(losses, [json!(1.0), json!(2.0), json!(1.0)], "{found}");
    let size = admin.model("pilot", 1).len() as f64;
    let path = &found["naive"]["path"]["points"];
    assert_eq!((&path[0]["loss"], &path[1]["loss"]), (&json!(2.0), &json!(size)), "{found}");
    assert!(found["own"]["path"].is_null(), "{found}");
    let mut shown = std::process::Command::new(client_binary());
    shown
        .args(["admin", "--server", &server.http, "--token-file"])
        .arg(server.data_dir().join("admin-token"));
    shown.args(["round", "pilot", "1"]).env("FEDBASIN_STATE_DIR", server.operators_dir());
    let said = String::from_utf8_lossy(&shown.output().expect("the client runs").stdout).into_owned();
    assert!(
        said.contains(&format!(
            "loss from naive (0) to global (1), mean of 1: 2.0000 at 0.00, {size:.4} at 1.00"
        )),
        "{said}"
    );
    let left = a.folder.path().join("fedbasin-pilot/round-1/naive.safetensors");
    assert!(!left.exists(), "nobody goes on from it");
}
