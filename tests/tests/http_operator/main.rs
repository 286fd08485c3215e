//! What operators ask of the HTTP edge beside rounds: runs that are extended and cloned, models, sites, calls that are made once.

mod lists;
mod sites;

use fedbasin_tests::{
    Admin, Answer, Database, Server, Site,
    checkpoint::{one_hot, one_hot_spec},
    digest, eventually, on_both_databases,
};
use serde_json::{Value, json};

on_both_databases!(
    a_run_is_extended_by_rounds_and_by_time,
    a_clone_has_the_settings_of_its_run_but_for_what_is_said,
    no_run_begins_from_what_is_one_sites_alone,
    a_model_is_listed_marked_and_fetched_by_its_digest,
    a_call_with_a_key_is_made_once
);

fn new_run(id: &str, cohort: &[&str], rounds: u32) -> Value {
    json!({
        "id": id, "spec": one_hot_spec(), "strategy": "aligned", "cohort": cohort,
        "policy": { "rounds": rounds, "quorum": cohort.len(), "deadline_seconds": 600 },
    })
}

/// The records of an action.
fn records(admin: &Admin, action: &str) -> Vec<Value> {
    let list = admin.get("/v1/audit?limit=1000").json();
    let all = list["records"].as_array().expect("a list");
    all.iter().filter(|record| record["action"] == action).cloned().collect()
}

/// Asserts that an answer is a problem of that status and code that points at that place of the body.
fn assert_points(answer: &Answer, status: u16, code: &str, pointer: &str) {
    answer.assert_problem(status, code);
    let problem = answer.json();
    assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    assert!(problem["errors"][0]["detail"].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
}

async fn a_run_is_extended_by_rounds_and_by_time(database: Database) {
    let server = Server::start(database);
    let (admin, a) = (server.admin(), server.site("a"));
    admin.create_run(&new_run("pilot", &["a"], 1));
    let before = admin.round("pilot", 1);
    let more = |body: Value| admin.post("/v1/runs/pilot/extend?reason=late", &body);
    let extended = more(json!({ "rounds": 1, "deadline_seconds": 3600 }));
    assert_eq!((extended.status, &extended.json()["policy"]["rounds"]), (200, &json!(2)));
    // 600 s became 4200 s: the times differ by an hour, whatever the clock said.
    let hour = |at: &Value| at.as_str().expect("a time")[11..13].parse::<u32>().expect("an hour");
    let after = admin.round("pilot", 1);
    assert_eq!((hour(&before["deadline_at"]) + 1) % 24, hour(&after["deadline_at"]));
    assert_eq!(
        before["deadline_at"].as_str().map(|at| &at[13..]),
        after["deadline_at"].as_str().map(|at| &at[13..])
    );

    let bad = [
        (json!({}), "/rounds"),
        (json!({ "rounds": 0 }), "/rounds"),
        (json!({ "rounds": 100_000 }), "/rounds"),
        (json!({ "rounds": "x" }), "/rounds"),
        (json!({ "deadline_seconds": 0 }), "/deadline_seconds"),
        (json!({ "deadline_seconds": 31_622_400 }), "/deadline_seconds"),
        (json!({ "deadline_seconds": u64::MAX }), "/deadline_seconds"),
    ];
    for (body, pointer) in bad {
        assert_points(&more(body), 422, "invalid-argument", pointer);
    }
    a.upload("pilot", 1, &one_hot(0, 8), 1).await.expect("a receipt");
    admin.round_becomes("pilot", 2, "collecting").await;
    a.upload("pilot", 2, &one_hot(0, 8), 1).await.expect("a receipt");
    admin.run_becomes("pilot", "complete").await;
    more(json!({ "rounds": 1 })).assert_problem(409, "conflict");
    admin.post("/v1/runs/none/extend", &json!({ "rounds": 1 })).assert_problem(404, "not-found");
    for action in ["run.extended", "round.extended"] {
        let found = records(&admin, action);
        assert_eq!((found.len(), &found[0]["reason"]), (1, &json!("late")), "{found:?}");
    }
}

async fn a_clone_has_the_settings_of_its_run_but_for_what_is_said(database: Database) {
    let server = Server::start(database);
    let (admin, a, _b) = (server.admin(), server.site("a"), server.site("b"));
    let seed = admin.upload(&one_hot(0, 8));
    let mut run = new_run("pilot", &["a"], 1);
    run["seed_digest"] = json!(seed);
    admin.create_run(&run);
    let clone = |body: Value| admin.post("/v1/runs/pilot/clone", &body);
    clone(json!({ "from": "newest" })).assert_problem(409, "conflict");
    a.upload("pilot", 1, &one_hot(3, 8), 1).await.expect("a receipt");
    let published = admin.run_becomes("pilot", "complete").await;

    let same = clone(json!({}));
    assert_eq!(same.status, 201, "{}", String::from_utf8_lossy(&same.body));
    let same = same.json();
    for field in ["spec", "strategy", "cohort", "policy", "seed_digest"] {
        assert_eq!(same[field], published[field], "{field}");
    }
    assert_eq!(same["state"], "open");
    let policy = json!({ "rounds": 3, "quorum": 2, "deadline_seconds": 60 });
    let other =
        clone(json!({ "id": "next", "cohort": ["a", "b"], "policy": policy, "from": "newest" })).json();
    assert_eq!((&other["id"], &other["cohort"]), (&json!("next"), &json!(["a", "b"])));
    assert_eq!((&other["policy"]["rounds"], &other["seed_digest"]), (&json!(3), &published["global_digest"]));
    let made = records(&admin, "run.created");
    assert_eq!(made[2]["details"]["cloned_from"], "pilot", "{made:?}");

    clone(json!({ "id": "next" })).assert_problem(409, "conflict");
    assert_points(&clone(json!({ "cohort": [] })), 422, "invalid-argument", "/cohort");
    assert_points(&clone(json!({ "cohort": ["nobody"] })), 404, "not-found", "/cohort");
    assert_points(&clone(json!({ "seed_digest": "x" })), 422, "invalid-argument", "/seed_digest");
    assert_points(&clone(json!({ "seed_digest": seed, "from": "seed" })), 422, "invalid-argument", "/from");
    assert_points(&clone(json!({ "policy": { "rounds": 1 } })), 422, "invalid-argument", "/policy");
    admin.post("/v1/runs/none/clone", &json!({})).assert_problem(404, "not-found");
}

async fn no_run_begins_from_what_is_one_sites_alone(database: Database) {
    let server = Server::start(database);
    let (admin, a, b, _c) = (server.admin(), server.site("a"), server.site("b"), server.site("c"));
    admin.create_run(&new_run("pilot", &["a", "b"], 1));
    let of_a = one_hot(0, 8);
    a.upload("pilot", 1, &of_a, 1).await.expect("a receipt");
    b.upload("pilot", 1, &one_hot(1, 8), 1).await.expect("a receipt");
    let published = admin.run_becomes("pilot", "complete").await;
    let from = |seed: &str| {
        admin.post("/v1/runs/pilot/clone", &json!({ "cohort": ["b", "c"], "seed_digest": seed }))
    };
    let refused = from(&digest(&of_a));
    refused.assert_problem(422, "invalid-argument");
    assert!(String::from_utf8_lossy(&refused.body).contains("that site's alone"));
    let mut run = new_run("other", &["b"], 1);
    run["seed_digest"] = json!(digest(&of_a));
    admin.post("/v1/runs", &run).assert_problem(422, "invalid-argument");
    let global = published["global_digest"].as_str().expect("a digest");
    assert_eq!(from(global).status, 201, "what was published is everybody's");
}

/// A run whose one site publishes a round with each of these.
async fn publish(admin: &Admin, site: &Site, run: &str, hot: &[usize]) -> Vec<String> {
    let mut digests = Vec::new();
    for (number, hot) in (1..).zip(hot) {
        admin.round_becomes(run, number, "collecting").await;
        site.upload(run, number, &one_hot(*hot, 64), 1).await.expect("a receipt");
        let round = admin.round_becomes(run, number, "published").await;
        digests.push(round["global_digest"].as_str().expect("a digest").to_owned());
    }
    digests
}

async fn a_model_is_listed_marked_and_fetched_by_its_digest(database: Database) {
    let server = Server::start(database);
    let (admin, a) = (server.admin(), server.site("a"));
    // The mean of one: two updates are two models.
    let mut run = new_run("pilot", &["a"], 2);
    (run["strategy"], run["spec"]) = (json!("mean"), Value::Null);
    admin.create_run(&run);
    let models = publish(&admin, &a, "pilot", &[0, 5]).await;
    let (first, second) = (&models[0], &models[1]);
    assert_ne!(first, second);

    let listed = admin.get("/v1/models").json();
    let digests: Vec<&str> = listed["models"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|m| m["digest"].as_str().expect("one"))
        .collect();
    assert_eq!(digests, [second, first], "the newest first");
    let page = admin.get("/v1/models?limit=1").json();
    assert_eq!(page["next"], json!(second));
    assert_eq!(
        admin.get(&format!("/v1/models?limit=1&after={second}")).json()["models"][0]["digest"],
        json!(first)
    );

    let path = format!("/v1/models/{first}");
    for _ in 0..2 {
        let promoted = admin.request("POST", &format!("{path}/promote?reason=best"), &[], &[]);
        assert_eq!(promoted.status, 200, "{}", String::from_utf8_lossy(&promoted.body));
        assert_eq!(admin.request("PUT", &format!("{path}/tags/best.1?reason=why"), &[], &[]).status, 200);
    }
    let model = admin.get(&path).json();
    assert_eq!((&model["kept"], &model["tags"]), (&json!(true), &json!(["best.1"])));
    let published = &model["published"][0];
    assert_eq!(
        (&published["run"], &published["round"], &published["promoted"]),
        (&json!("pilot"), &json!(1), &json!(true))
    );
    assert_eq!(admin.get(published["signature"].as_str().expect("a link")).status, 200);
    assert_eq!(admin.get("/v1/models?tag=best.1").json()["models"][0]["digest"], json!(first));
    assert_eq!(admin.get("/v1/models?run=none").json()["models"], json!([]));
    assert_eq!(
        (records(&admin, "model.promoted").len(), records(&admin, "model.tagged").len()),
        (1, 1),
        "once"
    );
    assert_eq!(records(&admin, "model.tagged")[0]["reason"], "why");

    // One of a run is promoted.
    assert_eq!(admin.request("POST", &format!("/v1/models/{second}/promote"), &[], &[]).status, 200);
    assert_eq!(admin.get(&path).json()["published"][0]["promoted"], false);
    assert_eq!(admin.request("DELETE", &format!("{path}/tags/best.1"), &[], &[]).json()["tags"], json!([]));
    assert_eq!(records(&admin, "model.untagged").len(), 1);
    for tag in 0..32 {
        assert_eq!(admin.request("PUT", &format!("{path}/tags/{tag}"), &[], &[]).status, 200);
    }
    admin.request("PUT", &format!("{path}/tags/one-more"), &[], &[]).assert_problem(409, "conflict");
    for tag in ["A", "-a", "%C3%A4", &"x".repeat(65)] {
        admin.request("PUT", &format!("{path}/tags/{tag}"), &[], &[]).assert_problem(422, "invalid-argument");
    }
    for none in [format!("/v1/models/{}", "0".repeat(64)), "/v1/models/x".to_owned()] {
        admin.get(&none).assert_problem(404, "not-found");
        admin.get(&format!("{none}/content")).assert_problem(404, "not-found");
        admin.request("POST", &format!("{none}/promote"), &[], &[]).assert_problem(404, "not-found");
    }
    fetched(&admin, &path, first);
}

/// A model's bytes, in ranges and under conditions.
fn fetched(admin: &Admin, path: &str, model: &str) {
    let content = format!("{path}/content");
    let with = |headers: &[(&str, &str)]| admin.request("GET", &content, headers, &[]);
    let whole = with(&[]);
    assert_eq!((whole.status, digest(&whole.body)), (200, model.to_owned()));
    let tag = format!("\"{model}\"");
    assert_eq!(whole.header("etag"), tag);
    let head = admin.request("HEAD", &content, &[], &[]);
    assert_eq!((head.status, head.header("content-length")), (200, whole.body.len().to_string().as_str()));
    assert!(head.body.is_empty());

    let part = with(&[("range", "bytes=8-15")]);
    assert_eq!((part.status, &part.body[..]), (206, &whole.body[8..16]));
    assert_eq!(with(&[("range", "bytes=8-15"), ("if-range", &tag)]).status, 206);
    for other in ["\"other\"", "Wed, 21 Oct 2015 07:28:00 GMT"] {
        assert_eq!(with(&[("range", "bytes=8-15"), ("if-range", other)]).body, whole.body, "{other}");
    }
    with(&[("range", "bytes=100000000-")]).assert_problem(416, "range-not-satisfiable");
    for had in [tag.as_str(), &format!("W/{tag}"), &format!("\"x\", {tag}"), "*"] {
        let answer = with(&[("if-none-match", had)]);
        assert_eq!(
            (answer.status, answer.body.len(), answer.header("etag")),
            (304, 0, tag.as_str()),
            "{had}"
        );
    }
    assert_eq!(with(&[("if-none-match", "\"other\"")]).status, 200);
    let of_round = admin.request("GET", "/v1/runs/pilot/rounds/1/model", &[("if-none-match", &tag)], &[]);
    assert_eq!(of_round.status, 304);
}

async fn a_call_with_a_key_is_made_once(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let send = |admin: &Admin, path: &str, key: &str, body: &Value| {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        admin.request("POST", path, &headers, body.to_string().as_bytes())
    };
    let enrolled = send(&admin, "/v1/sites", "k1", &json!({ "id": "a" }));
    assert_eq!(enrolled.status, 201, "{}", String::from_utf8_lossy(&enrolled.body));
    let said = send(&admin, "/v1/sites", "k1", &json!({ "id": "a" })).assert_problem(409, "conflict");
    assert!(said.contains(enrolled.json()["token_id"].as_str().expect("an id")), "{said}");
    let token = enrolled.json()["token"].as_str().expect("a token").to_owned();
    assert!(!said.contains(&token));

    // Without an id each call would make another run.
    let mut run = new_run("", &["a"], 1);
    run.as_object_mut().expect("an object").remove("id");
    let made = send(&admin, "/v1/runs", "k2", &run);
    let again = send(&admin, "/v1/runs?reason=again", "k2", &run);
    assert_eq!((made.status, again.status), (201, 201));
    assert_eq!(made.body, again.body, "the same answer");
    let runs = || admin.get("/v1/runs").json()["runs"].as_array().expect("a list").len();
    assert_eq!(runs(), 1);
    let id = made.json()["id"].as_str().expect("an id").to_owned();
    run["policy"]["rounds"] = json!(2);
    send(&admin, "/v1/runs", "k2", &run).assert_problem(422, "idempotency-key-reused");
    send(&admin, &format!("/v1/runs/{id}/clone"), "k2", &run).assert_problem(422, "idempotency-key-reused");
    // It is its caller's; and one that failed is not remembered.
    let operator = admin.post("/v1/tokens", &json!({ "role": "operator" })).json();
    let operator = admin.with_token(operator["token"].as_str());
    assert_eq!(send(&operator, "/v1/runs", "k2", &run).status, 201);
    run["cohort"] = json!(["b"]);
    send(&admin, "/v1/runs", "k3", &run).assert_problem(404, "not-found");
    let _ = admin.enrol("b");
    assert_eq!(send(&admin, "/v1/runs", "k3", &run).status, 201);

    // More rounds are more but once, and the same again with another key.
    let extend = |key: &str| send(&admin, &format!("/v1/runs/{id}/extend"), key, &json!({ "rounds": 3 }));
    for (key, rounds) in [("k5", 4), ("k5", 4), ("k6", 7)] {
        let answer = extend(key);
        assert_eq!((answer.status, &answer.json()["policy"]["rounds"]), (200, &json!(rounds)), "{key}");
        assert_eq!(admin.run(&id)["policy"]["rounds"], json!(rounds));
    }
    assert_eq!(records(&admin, "run.extended").len(), 2);

    // Of many at once one is made.
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let (admin, run) = (admin.clone(), run.clone());
            std::thread::spawn(move || send(&admin, "/v1/runs", "k4", &run))
        })
        .collect();
    let before = runs();
    for call in calls {
        let answer = call.join().expect("an answer");
        if answer.status != 201 {
            answer.assert_problem(409, "idempotency-key-in-use");
        }
    }
    eventually("all see it", || (runs() == 4).then_some(())).await;
    assert!(before <= 4);
    let again = send(&admin, "/v1/runs", "k4", &run);
    assert_eq!((again.status, runs()), (201, 4));
    for bad in ["", "two words", &"x".repeat(256)] {
        send(&admin, "/v1/sites", bad, &json!({ "id": "c" })).assert_problem(422, "invalid-argument");
    }
    assert!(admin.get("/v1/sites?q=c").json()["sites"] == json!([]), "nothing was enrolled");
}
