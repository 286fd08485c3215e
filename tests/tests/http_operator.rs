//! What operators ask of the HTTP edge beside rounds: runs that are extended and cloned, models, sites, calls that are made once.

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
    a_site_is_shown_given_another_token_and_shut_out,
    what_a_site_was_told_is_shown_to_whoever_helps_it,
    a_call_with_a_key_is_made_once,
    pages_of_updates_and_models_one_after_another_are_the_list,
    lists_are_filtered
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

async fn a_site_is_shown_given_another_token_and_shut_out(database: Database) {
    let server = Server::start(database);
    let (admin, a) = (server.admin(), server.site("a"));
    admin.create_run(&new_run("pilot", &["a"], 2));
    publish(&admin, &a, "pilot", &[0]).await;
    admin.round_becomes("pilot", 2, "collecting").await;
    let update = one_hot(1, 64);
    a.begin("pilot", 2, &update, 1).await.expect("begun");

    let shown = admin.get("/v1/sites/a").json();
    assert_eq!((&shown["id"], &shown["runs"]), (&json!("a"), &json!({ "open": 1 })));
    assert_eq!(shown["updates"]["receiving"], 1, "{shown}");
    let arriving = &shown["arriving"][0];
    assert_eq!((&arriving["round"], &arriving["size"]), (&json!(2), &json!(update.len())));
    assert_eq!((&arriving["received_bytes"], &arriving["bytes_per_second"]), (&json!(0), &json!(0.0)));
    assert_eq!(shown["tokens"].as_array().map(Vec::len), Some(1));
    let viewer = admin.post("/v1/tokens", &json!({ "role": "viewer" })).json();
    let viewer = admin.with_token(viewer["token"].as_str());
    assert_eq!(viewer.get("/v1/sites/a").json()["tokens"], Value::Null, "a viewer may not list tokens");
    admin.get("/v1/sites/none").assert_problem(404, "not-found");
    admin.get("/v1/sites/NONE").assert_problem(404, "not-found");

    // The old one goes on for a while, then at once no more.
    let rotate = |body: Value| admin.post("/v1/sites/a/rotate?reason=leaked", &body);
    let made = rotate(json!({ "label": "next", "old_tokens_seconds": 3600 }));
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.body));
    let next = a.with_token(&server.grpc, made.json()["token"].as_str());
    assert!(a.status("pilot").await.is_ok() && next.status("pilot").await.is_ok());
    assert_eq!(records(&admin, "token.shortened")[0]["reason"], "leaked");
    rotate(json!({})).assert_problem(409, "conflict");
    let made = rotate(json!({ "old_tokens_seconds": 0 })).json();
    let last = a.with_token(&server.grpc, made["token"].as_str());
    assert!(a.status("pilot").await.is_err() && next.status("pilot").await.is_err());
    assert!(last.status("pilot").await.is_ok());
    assert_points(
        &rotate(json!({ "old_tokens_seconds": 9_999_999 })),
        422,
        "invalid-argument",
        "/old_tokens_seconds",
    );
    admin.post("/v1/sites/none/rotate", &json!({})).assert_problem(404, "not-found");

    let watched = last.status("pilot").await;
    assert!(watched.is_ok());
    for _ in 0..2 {
        let out = admin.post("/v1/sites/a/revoke", &json!({}));
        assert_eq!(out.status, 200);
        let tokens = out.json()["tokens"].as_array().expect("an administrator sees them").clone();
        assert!(tokens.iter().all(|token| token["state"] == "revoked"), "{tokens:?}");
    }
    assert!(last.status("pilot").await.is_err());
    assert_eq!(records(&admin, "token.revoked").len(), 3, "each once");
    admin.post("/v1/sites/none/revoke", &json!({})).assert_problem(404, "not-found");
}

async fn what_a_site_was_told_is_shown_to_whoever_helps_it(database: Database) {
    let server = Server::start(database);
    let (admin, a, b) = (server.admin(), server.site("a"), server.site("b"));
    admin.create_run(&new_run("pilot", &["a"], 1));
    let told = |site: &str| admin.get(&format!("/v1/sites/{site}")).json()["failed_calls"].clone();
    assert_eq!(told("a"), json!([]));
    // Of the same words one entry, which counts; of others the newest twenty.
    let mut words = Vec::new();
    for number in [7, 7, 7, 8] {
        let refused = a.begin("pilot", number, &one_hot(0, 1), 1).await.expect_err("no such round");
        words.push(refused.message().to_owned());
    }
    eventually("they are noted", || {
        let noted = told("a").as_array()?.iter().filter_map(|entry| entry["times"].as_u64()).sum::<u64>();
        (noted == 4).then_some(())
    })
    .await;
    let noted = told("a");
    assert_eq!(noted.as_array().map(Vec::len), Some(2), "{noted}");
    for entry in noted.as_array().expect("a list") {
        assert_eq!(entry["rpc"], "BeginUpdate");
        let of = words.iter().filter(|word| entry["message"] == **word).count();
        assert_eq!(entry["times"], of, "{entry} {words:?}");
        assert_eq!(entry["code"], "not-found", "{entry}");
    }
    for number in 100..160 {
        a.begin("pilot", number, &one_hot(0, 1), 1).await.expect_err("no such round");
    }
    eventually("the first are forgotten", || {
        let noted = told("a");
        let list = noted.as_array()?;
        let forgotten = list.iter().all(|entry| entry["message"] != *words[0]);
        (list.len() == 20 && forgotten).then_some(())
    })
    .await;
    // Each its own.
    b.begin("pilot", 1, &one_hot(0, 1), 1).await.expect_err("not its run");
    eventually("the other one's are noted", || (told("b").as_array().map(Vec::len) == Some(1)).then_some(()))
        .await;
    assert!(told("a").as_array().is_some_and(|list| list.len() == 20));
    // And on the page of the site.
    let cookie = admin.with_token(None).without_redirects();
    let headers = [("content-type", "application/x-www-form-urlencoded"), ("sec-fetch-site", "same-origin")];
    let body = format!("token={}&next=%2F", server.admin_token());
    let set = cookie.request("POST", "/signin", &headers, body.as_bytes()).header("set-cookie").to_owned();
    let page =
        cookie.request("GET", "/sites/b", &[("cookie", set.split(';').next().unwrap_or_default())], b"");
    let html = String::from_utf8_lossy(&page.body).into_owned();
    assert!(html.contains("as the site was told") && html.contains("BeginUpdate"), "{html}");
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

/// The entries of a list that is read in pages of `limit`, by one of their members.
fn in_pages(admin: &Admin, path: &str, list: &str, member: &str, limit: usize) -> Vec<String> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = admin.get(&format!("{path}limit={limit}{after}")).json();
        let entries = page[list].as_array().unwrap_or_else(|| panic!("{path}: {page}"));
        assert!(entries.len() <= limit, "{page}");
        found.extend(entries.iter().map(|entry| entry[member].as_str().expect("a name").to_owned()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return found,
        }
    }
}

async fn pages_of_updates_and_models_one_after_another_are_the_list(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let sites = ["a", "b", "c"].map(|id| server.site(id));
    let mut run = new_run("one", &["a", "b", "c"], 2);
    (run["strategy"], run["spec"]) = (json!("mean"), Value::Null);
    admin.create_run(&run);
    for round in 1..=2 {
        admin.round_becomes("one", round, "collecting").await;
        for (hot, site) in (round as usize * 3..).zip(&sites) {
            site.upload("one", round, &one_hot(hot, 64), 1).await.expect("a receipt");
        }
        admin.round_becomes("one", round, "published").await;
    }
    let (mut other, mut same) = (new_run("two", &["a"], 3), new_run("three", &["a"], 1));
    for run in [&mut other, &mut same] {
        (run["strategy"], run["spec"]) = (json!("mean"), Value::Null);
        admin.create_run(run);
    }
    publish(&admin, &sites[0], "two", &[0, 1, 2]).await;
    // The same bytes are one model, which was published last by another run.
    let again = publish(&admin, &sites[0], "three", &[1]).await;
    assert_eq!(admin.request("PUT", &format!("/v1/models/{}/tags/best", again[0]), &[], &[]).status, 200);

    for (path, list, member, count) in [
        ("/v1/runs/one/updates?", "updates", "id", 6),
        ("/v1/runs/one/updates?site=b&", "updates", "id", 2),
        ("/v1/runs/one/updates?round=2&", "updates", "id", 3),
        ("/v1/runs/one/updates?round=2&site=c&state=accepted&", "updates", "id", 1),
        ("/v1/runs/one/updates?state=rejected&", "updates", "id", 0),
        ("/v1/models?", "models", "digest", 5),
        ("/v1/models?run=two&", "models", "digest", 3),
        ("/v1/models?run=three&", "models", "digest", 1),
        ("/v1/models?run=two&tag=best&", "models", "digest", 1),
        ("/v1/models?run=one&tag=best&", "models", "digest", 0),
    ] {
        let whole = in_pages(&admin, path, list, member, 1000);
        assert_eq!(whole.len(), count, "{path}: {whole:?}");
        for limit in 1..=3 {
            assert_eq!(in_pages(&admin, path, list, member, limit), whole, "{path} in pages of {limit}");
        }
    }
    let models = admin.get("/v1/models").json()["models"].clone();
    assert_eq!(
        (&models[0]["digest"], models[0]["published"].as_array().map(Vec::len)),
        (&json!(again[0]), Some(2))
    );
    assert_eq!(models[0]["tags"], json!(["best"]));
    let of_two = in_pages(&admin, "/v1/runs/two/updates?", "updates", "id", 1000);
    let nobody = "019a0000-0000-7000-8000-000000000000";
    for unknown in [
        format!("/v1/runs/one/updates?after={}", of_two[0]),
        format!("/v1/runs/one/updates?after={nobody}"),
        "/v1/runs/one/updates?after=%00".into(),
        format!("/v1/models?after={}", "0".repeat(64)),
        "/v1/models?after=x".into(),
    ] {
        let said = admin.get(&unknown).assert_problem(422, "invalid-argument");
        assert!(said.contains("after"), "{unknown}: {said}");
    }
}

async fn lists_are_filtered(database: Database) {
    let server = Server::start(database);
    let (admin, a, _b) = (server.admin(), server.site("ward-a"), server.site("ward-b"));
    admin.create_run(&new_run("one", &["ward-a"], 2));
    admin.create_run(&new_run("two", &["ward-b"], 1));
    publish(&admin, &a, "one", &[0]).await;
    admin.round_becomes("one", 2, "collecting").await;
    assert_eq!(admin.post("/v1/runs/two/cancel", &json!({})).status, 200);
    let ids = |path: &str, list: &str, id: &str| {
        let answer = admin.get(path).json();
        let all = answer[list].as_array().unwrap_or_else(|| panic!("{path}: {answer}")).clone();
        all.iter().map(|entry| entry[id].to_string()).collect::<Vec<_>>().join(" ")
    };
    for (query, found) in [
        ("state=open", "\"one\""),
        ("state=cancelled", "\"two\""),
        ("state=failed", ""),
        ("site=ward-b", "\"two\""),
        ("site=ward-b&state=open", ""),
        ("site=nobody", ""),
    ] {
        assert_eq!(ids(&format!("/v1/runs?{query}"), "runs", "id"), found, "{query}");
    }
    assert_eq!(ids("/v1/runs/one/rounds?state=published", "rounds", "number"), "1");
    assert_eq!(ids("/v1/runs/one/rounds?state=collecting&limit=1", "rounds", "number"), "2");
    for (query, found) in [
        ("", "1"),
        ("round=1", "1"),
        ("round=2", ""),
        ("site=ward-b", ""),
        ("state=aligned", "1"),
        ("state=rejected", ""),
    ] {
        assert_eq!(ids(&format!("/v1/runs/one/updates?{query}"), "updates", "round"), found, "{query}");
    }
    assert_eq!(ids("/v1/sites?q=-b", "sites", "id"), "\"ward-b\"");
    // The audit log: the records are as they were written, their times stand beside them.
    let actions = |query: &str| ids(&format!("/v1/audit?{query}"), "records", "action");
    assert_eq!(actions("action=round.published"), "\"round.published\"");
    assert_eq!(actions("action=round.published&run=two"), "");
    assert_eq!(actions("action=site.enrolled&site=ward-b"), "\"site.enrolled\"");
    let first = admin.get("/v1/audit?action=site.enrolled&limit=1").json();
    let next = first["next"].as_u64().expect("a place to go on from");
    let second = admin.get(&format!("/v1/audit?action=site.enrolled&from={next}")).json();
    assert_eq!(
        (&first["records"][0]["site"], &second["records"][0]["site"]),
        (&json!("ward-a"), &json!("ward-b"))
    );
    assert_eq!((&second["next"], second["at"].as_array().map(Vec::len)), (&json!(null), Some(1)), "{second}");
    assert!(
        first["at"][0].as_str().is_some_and(|at| at.ends_with('Z')) && first["records"][0]["at"].is_null()
    );
    let site = admin.round_site("one", 1, "ward-a");
    assert!(site["begun_at"].is_string() && site["bytes_per_second"].is_null(), "{site}");
    for bad in [
        "/v1/audit?site=X",
        "/v1/runs?state=x",
        "/v1/runs?site=X",
        "/v1/runs/one/rounds?state=open",
        "/v1/sites?limit=0",
    ] {
        admin.get(bad).assert_problem(422, "invalid-argument");
    }
}
