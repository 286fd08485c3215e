//! Lists: in pages, and filtered.

use fedbasin_tests::{Admin, Database, Server, checkpoint::one_hot, on_both_databases};
use serde_json::{Value, json};

use super::{new_run, publish};

on_both_databases!(pages_of_updates_and_models_one_after_another_are_the_list, lists_are_filtered);

/// The entries of a list that is read in pages of `limit`, by one of their members.
fn in_pages(admin: &Admin, path: &str, list: &str, member: &str, limit: usize) -> Vec<String> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = admin.get(&format!("{path}limit={limit}{after}")).json();
        let entries = page[list].as_array().unwrap_or_else(|| panic!("{path}: {page}"));
        assert!(entries.len() <= limit, "{page}");
        found.extend(entries.iter().map(|entry| entry[member].as_str().expect("a name").to_owned()));
        match page["next"].as_str() {
            Some(next) => {
                let newer = format!("&after={next}");
                assert_ne!(newer, after, "the next page is another one");
                after = newer;
            }
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
