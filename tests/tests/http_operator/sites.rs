//! Sites as operators look after them.

use fedbasin_tests::{Database, Server, checkpoint::one_hot, eventually, on_both_databases};
use serde_json::{Value, json};

use super::{assert_points, new_run, publish, records};

on_both_databases!(
    a_site_is_shown_given_another_token_and_shut_out,
    what_a_site_was_told_is_shown_to_whoever_helps_it
);

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
    let person = admin.with_token(None);
    let cookie = person.sign_in(&server.admin_token());
    let page = person.request("GET", "/sites/b", &[("cookie", &cookie)], b"");
    let html = String::from_utf8_lossy(&page.body).into_owned();
    assert!(html.contains("as the site was told") && html.contains("BeginUpdate"), "{html}");
}
