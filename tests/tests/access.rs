//! Who may call what: every cell of the table, on both edges; and what happens to what a token opened when it ends.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use fedbasin_proto::v1;
use fedbasin_server::{
    auth::access::{OPEN_PAGES, OPEN_ROUTES, PAGES, ROUTES, RPCS},
    model::Role,
};
use fedbasin_tests::{
    Admin, Database, Options, PATIENCE, Server, Site, assert_refused,
    checkpoint::{f32s, file, one_hot_spec},
    chunks, last,
};
use serde_json::{Value, json};
use tonic::Code;

/// A made token, and its public id.
fn made(admin: &Admin, path: &str, body: &Value) -> (String, String) {
    let answer = admin.post(path, body);
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    let text = |name: &str| answer.json()[name].as_str().expect("a text").to_owned();
    (text("token"), text("id"))
}

fn person(admin: &Admin, role: Role) -> (String, String) {
    made(admin, "/v1/tokens", &json!({ "role": role.name(), "label": format!("a {}", role.name()) }))
}

fn run(server: &Server, sites: &[&str]) -> String {
    server.admin().create_run(&json!({
        "spec": one_hot_spec(), "strategy": "aligned", "cohort": sites,
        "policy": { "rounds": 1, "quorum": sites.len(), "deadline_seconds": 600 },
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_route_answers_who_the_table_says_and_nobody_else() {
    let server = Server::start(Database::sqlite());
    let admin = server.admin();

    // The table and the description name the same calls.
    let document = admin.with_token(None).get("/openapi.json").json();
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().expect("methods");
            methods.keys().map(|method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let open = OPEN_ROUTES.iter().map(|(method, path)| (*method, *path));
    let known: BTreeSet<(String, String)> = open
        .clone()
        .filter(|(_, path)| *path != "/openapi.json" && !path.starts_with("/docs"))
        .chain(ROUTES.iter().map(|(method, path, _)| (*method, *path)))
        .map(|(method, path)| (method.to_owned(), path.to_owned()))
        .collect();
    assert_eq!(described, known);

    let site = admin.enrol("a");
    let (revoked, id) = person(&admin, Role::Admin);
    assert_eq!(admin.post(&format!("/v1/tokens/{id}/revoke"), &json!({})).status, 200);
    let mut wrong = revoked.clone();
    wrong.replace_range(10..11, if wrong.as_bytes()[10] == b'A' { "B" } else { "A" });
    let people: Vec<(Role, String)> =
        Role::ALL.into_iter().map(|role| (role, person(&admin, role).0)).collect();

    let strangers =
        [None, Some(""), Some("x"), Some(site.as_str()), Some(revoked.as_str()), Some(wrong.as_str())];
    for (method, path, least) in ROUTES {
        // Nothing has these names and no body says anything: who is let in meets 200 or a fault, and changes nothing.
        let path = path
            .replace("{number}", "1")
            .replace("{digest}", &"0".repeat(64))
            .replace("{run}", "none")
            .replace("{site}", "none")
            .replace("{token}", "none")
            .replace("{tag}", "none")
            // A stream without an end: after an event that never was, it is none.
            .replace("/v1/events", "/v1/events?after=99999999");
        let ask = |token: Option<&str>| {
            // A body that nobody reads ends its connection: the next call takes another one.
            let headers = [("content-type", "application/json"), ("connection", "close")];
            admin.with_token(token).request(method, &path, &headers, b"{}")
        };
        for stranger in strangers {
            let answer = ask(stranger);
            answer.assert_problem(401, "unauthenticated");
        }
        for (role, token) in &people {
            let answer = ask(Some(token));
            if *role < *least {
                let detail = answer.assert_problem(403, "forbidden");
                assert!(detail.contains(least.name()) && detail.contains(role.name()), "{detail}");
            } else {
                assert!(
                    !matches!(answer.status, 401 | 403 | 405 | 500..),
                    "{method} {path} as {}: {}",
                    role.name(),
                    answer.status
                );
            }
        }
    }
    for (method, path) in open {
        for token in [None, Some(site.as_str()), Some(revoked.as_str())] {
            assert_eq!(admin.with_token(token).request(method, path, &[], &[]).status, 200, "{path}");
        }
    }
    let sites = admin.get("/v1/sites").json();
    assert_eq!(sites["sites"].as_array().expect("a list").len(), 1, "nothing was enrolled by the way");
}

/// What a browser sends once its person has signed in with that token.
fn cookie(token: &str) -> String {
    format!("fedbasin_session={}", URL_SAFE_NO_PAD.encode(token))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_page_is_shown_to_whom_the_table_says_and_takes_nothing_from_elsewhere() {
    let server = Server::start(Database::sqlite());
    let admin = server.admin();
    let site = admin.enrol("a");
    let (revoked, id) = person(&admin, Role::Admin);
    assert_eq!(admin.post(&format!("/v1/tokens/{id}/revoke"), &json!({})).status, 200);
    let people: Vec<(Role, String)> =
        Role::ALL.into_iter().map(|role| (role, person(&admin, role).0)).collect();
    let browser = admin.with_token(None).without_redirects();
    let own = ("sec-fetch-site", "same-origin");
    let form = ("content-type", "application/x-www-form-urlencoded");

    for (method, path, least) in PAGES {
        let path = path
            .replace("{number}", "1")
            .replace("{run}", "none")
            .replace("{site}", "none")
            .replace("{token}", "none");
        let ask = |asking: &Admin, headers: &[(&str, &str)]| {
            asking.request(method, &path, &[&[form, ("connection", "close")], headers].concat(), b"")
        };
        for stranger in [None, Some("x"), Some(&site), Some(&revoked)] {
            let cookie = stranger.map(cookie).unwrap_or_default();
            let answer = ask(&browser, &[own, ("cookie", &cookie)]);
            assert_eq!(answer.status, 303, "{method} {path}");
            assert!(answer.header("location").starts_with("/signin?next="), "{method} {path}");
        }
        // The API's token opens no page: nothing that a browser would send by itself is mixed with it.
        let bearer = admin.without_redirects();
        assert_eq!(ask(&bearer, &[own]).status, 303, "{method} {path}");
        for (role, token) in &people {
            let cookie = cookie(token);
            let answer = ask(&browser, &[own, ("cookie", &cookie)]);
            let html = String::from_utf8_lossy(&answer.body).into_owned();
            if *role < *least {
                assert_eq!(answer.status, 403, "{method} {path}: {html}");
                assert!(html.contains(least.name()) && html.contains(role.name()), "{html}");
            } else {
                let refused = matches!(answer.status, 401 | 403 | 405 | 500..);
                assert!(!refused, "{method} {path} as {}: {}: {html}", role.name(), answer.status);
            }
            if *method == "POST" {
                for from in [
                    ("sec-fetch-site", "cross-site"),
                    ("sec-fetch-site", "same-site"),
                    ("origin", "https://evil.example"),
                    ("x-other", "1"),
                ] {
                    let answer = ask(&browser, &[from, ("cookie", &cookie)]);
                    assert_eq!(answer.status, 403, "{method} {path} {from:?}");
                }
            }
        }
    }
    // And no cookie opens the API.
    let everything = cookie(&people[2].1);
    for (method, path, _) in ROUTES {
        let headers = [own, ("cookie", everything.as_str()), ("connection", "close")];
        let answer = browser.request(method, &path.replace(['{', '}'], "x"), &headers, b"{}");
        assert_eq!(answer.status, 401, "{method} {path}");
    }
    for (method, path) in OPEN_PAGES {
        let answer = browser.request(method, path, &[own, form, ("connection", "close")], b"token=x");
        assert!(matches!(answer.status, 200 | 303 | 401 | 404), "{method} {path}: {}", answer.status);
        if *method == "POST" {
            let answer = browser.request(method, path, &[form, ("connection", "close")], b"token=x");
            assert_eq!(answer.status, 403, "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_signs_in_until_it_is_revoked_and_every_page_says_what_it_may_load() {
    let server = Server::start(Database::sqlite());
    let admin = server.admin();
    let browser = admin.with_token(None).without_redirects();
    let (token, id) = person(&admin, Role::Viewer);
    let headers = [("content-type", "application/x-www-form-urlencoded"), ("sec-fetch-site", "same-origin")];
    let sign_in = |token: &str, next: &str| {
        browser.request("POST", "/signin", &headers, format!("token={token}&next={next}").as_bytes())
    };
    let refused = sign_in("fba_none", "/");
    assert_eq!((refused.status, refused.header("set-cookie")), (401, ""));
    for (next, to) in
        [("%2Fsites", "/sites"), ("https%3A%2F%2Fevil.example", "/"), ("%2F%2Fevil.example", "/")]
    {
        let let_in = sign_in(&token, next);
        assert_eq!((let_in.status, let_in.header("location")), (303, to));
        let set = let_in.header("set-cookie");
        for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
            assert!(set.contains(part), "{set}");
        }
        assert!(set.starts_with(&cookie(&token)) && !set.contains("Secure"), "{set}");
    }
    let cookie = cookie(&token);
    let shown = browser.request("GET", "/sites", &[("cookie", &cookie)], b"");
    assert_eq!(shown.status, 200);
    for (name, part) in [
        ("content-security-policy", "default-src 'none'"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        assert!(shown.header(name).contains(part), "{name}: {}", shown.header(name));
    }
    // What has not changed is not sent again.
    let part = [("cookie", cookie.as_str()), ("x-fragment", "main")];
    let first = browser.request("GET", "/audit", &part, b"");
    let html = String::from_utf8_lossy(&first.body).into_owned();
    assert!(html.starts_with("<main") && !html.contains("<html"), "{html}");
    let again = [&part[..], &[("if-none-match", first.header("etag"))]].concat();
    let again = browser.request("GET", "/audit", &again, b"");
    assert_eq!((again.status, again.body.len()), (304, 0));

    assert_eq!(admin.post(&format!("/v1/tokens/{id}/revoke"), &json!({})).status, 200);
    let ended = browser.request("GET", "/sites", &[("cookie", &cookie)], b"");
    assert_eq!(ended.status, 303);
    assert!(ended.header("set-cookie").contains("Max-Age=0"), "the browser forgets it");
    assert_eq!(browser.request("GET", "/sites", &part, b"").status, 401, "a part of a page leads nowhere");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rpc_answers_sites_and_nobody_else() {
    let server = Server::start(Database::sqlite());
    let admin = server.admin();
    let site = server.site("a");
    let (revoked, id) = made(&admin, "/v1/sites/a/tokens", &json!({ "label": "the next" }));
    assert_eq!(admin.post(&format!("/v1/tokens/{id}/revoke"), &json!({})).status, 200);
    let mut strangers = vec![None, Some("x".to_owned()), Some(revoked), Some(server.admin_token())];
    strangers.extend(Role::ALL.map(|role| Some(person(&admin, role).0)));

    let mut called = BTreeSet::new();
    for rpc in RPCS {
        let name = rpc.rsplit('/').next().expect("a path");
        called.insert(name);
        for token in &strangers {
            let stranger = site.with_token(&server.grpc, token.as_deref());
            let refused = call(&stranger, name).await.expect_err("a stranger");
            assert_refused::<()>(Err(refused), Code::Unauthenticated, "unauthenticated");
        }
        if let Err(status) = call(&site, name).await {
            assert!(
                !matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied | Code::Internal),
                "{name}: {status:?}"
            );
        }
    }
    let all = [
        "BeginUpdate",
        "Download",
        "FinishUpdate",
        "GetModelSignature",
        "GetServerKeys",
        "GetUpdate",
        "ListRuns",
        "ProveLog",
        "ReportEvaluation",
        "SendUpdate",
        "WatchRun",
        "WithdrawUpdate",
    ];
    assert_eq!(called, BTreeSet::from(all), "all rpcs of the contract");
}

/// One call that changes nothing, whoever makes it.
async fn call(site: &Site, name: &str) -> Result<(), tonic::Status> {
    let (mut client, none) = (site.client.clone(), "none".to_owned());
    match name {
        "ListRuns" => client.list_runs(v1::ListRunsRequest {}).await.map(drop),
        "WatchRun" => client.watch_run(v1::WatchRunRequest { run_id: none }).await.map(drop),
        "Download" => {
            let request = v1::DownloadRequest { digest: "0".repeat(64), offset: 0 };
            client.download(request).await.map(drop)
        }
        "BeginUpdate" => client.begin_update(v1::BeginUpdateRequest::default()).await.map(drop),
        "SendUpdate" => {
            let chunk = v1::UpdateChunk { update_id: none, ..v1::UpdateChunk::default() };
            client.send_update(tokio_stream::iter([chunk])).await.map(drop)
        }
        "FinishUpdate" => client.finish_update(v1::FinishUpdateRequest { update_id: none }).await.map(drop),
        "WithdrawUpdate" => {
            client.withdraw_update(v1::WithdrawUpdateRequest { update_id: none }).await.map(drop)
        }
        "ReportEvaluation" => {
            client.report_evaluation(v1::ReportEvaluationRequest::default()).await.map(drop)
        }
        "GetServerKeys" => client.get_server_keys(v1::GetServerKeysRequest {}).await.map(drop),
        "GetModelSignature" => {
            let request = v1::GetModelSignatureRequest { digest: "0".repeat(64) };
            client.get_model_signature(request).await.map(drop)
        }
        "ProveLog" => {
            client.prove_log(v1::ProveLogRequest { first: 0, second: 1, record: None }).await.map(drop)
        }
        "GetUpdate" => client.get_update(v1::GetUpdateRequest { update_id: none }).await.map(drop),
        _ => panic!("{name} is in the table, and this test does not call it"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_ends_what_it_opened_at_every_replica_and_the_next_one_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options::in_folder(folder.path()).only_serving("");
    let first = Server::start_with(Database::postgres().await, options);
    let second = first.beside(false);
    let (a, b) = (first.site("a"), first.site("b"));
    let run = run(&first, &["a", "b"]);
    first.admin().round_becomes(&run, 1, "collecting").await;
    let there = Site::new("a", &second.grpc, &a.token);

    // A watch here, an upload there; a site that is not meant watches, too.
    let watch = v1::WatchRunRequest { run_id: run.clone() };
    let mut watched = a.client.clone().watch_run(watch.clone()).await.expect("a stream").into_inner();
    let mut of_b = b.client.clone().watch_run(watch).await.expect("a stream").into_inner();
    let values: Vec<f32> = (0..3 << 20).map(|i| (i % 1000) as f32).collect();
    let update = file(&[f32s("counted", &[values.len()], &values)]);
    let begun = there.begin(&run, 1, &update, 1).await.expect("begun");
    let mut sending = there.open_stream(&chunks(&begun.update_id, &update, 0)[..9]).await;
    let held = sending.acknowledged().await.expect("some of it");
    assert!(held > 0);

    let (next, _) = made(&first.admin(), "/v1/sites/a/tokens", &json!({ "label": "the next" }));
    let listed = first.admin().get("/v1/tokens").json();
    let mine = |token: &&Value| token["site"] == "a" && token["label"] != "the next";
    let id = listed["tokens"].as_array().expect("a list").iter().find(mine).expect("the first")["id"].clone();
    let revoke = format!("/v1/tokens/{}/revoke", id.as_str().expect("an id"));
    let revoked = first.admin().post(&revoke, &json!({})).json();
    assert_eq!(revoked["state"], "revoked");

    let refused = call(&there, "ListRuns").await.expect_err("at once, everywhere");
    assert_refused::<()>(Err(refused), Code::Unauthenticated, "unauthenticated");
    assert_refused::<()>(Err(last(&mut watched).await), Code::Unauthenticated, "unauthenticated");
    let ended = async {
        loop {
            if let Err(status) = sending.acknowledged().await {
                return status;
            }
        }
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await.expect("it ends in time");
    assert_refused::<()>(Err(ended), Code::Unauthenticated, "unauthenticated");

    // The next token goes on where the other one was.
    let a = a.with_token(&second.grpc, Some(&next));
    let again = a.begin(&run, 1, &update, 1).await.expect("begun");
    assert_eq!(again.update_id, begun.update_id);
    assert!(again.offset >= held);
    a.upload(&run, 1, &update, 1).await.expect("a receipt");
    let seen = of_b.message().await.expect("nobody revoked that one").expect("a state");
    assert_eq!(seen.run_id, run);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_of_a_person_breaks_off_with_the_token_that_opened_it() {
    let server = Server::start(Database::sqlite());
    let admin = server.admin();
    let a = server.site("a");
    let run = admin.create_run(&json!({
        "strategy": "mean", "cohort": ["a"], "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 600 },
    }));
    // More than sockets hold: somebody has to take it.
    let values: Vec<f32> = (0..12 << 20).map(|i| (i % 1000) as f32).collect();
    let update = file(&[f32s("counted", &[values.len()], &values)]);
    a.upload(&run, 1, &update, 1).await.expect("a receipt");
    admin.round_becomes(&run, 1, "published").await;
    let opened = |token: &str| {
        let address = server.http.strip_prefix("http://").expect("clear text");
        let mut stream = TcpStream::connect(address).expect("a connection");
        let head = format!(
            "GET /v1/runs/{run}/rounds/1/model HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
             connection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("sent");
        let mut some = vec![0; 64 << 10];
        stream.read_exact(&mut some).expect("it begins");
        assert!(some.starts_with(b"HTTP/1.1 200"));
        (stream, some.len())
    };
    let ((token, id), (other, _)) = (person(&admin, Role::Operator), person(&admin, Role::Operator));
    let (of_revoked, of_other) = (opened(&token), opened(&other));
    assert_eq!(admin.post(&format!("/v1/tokens/{id}/revoke"), &json!({})).status, 200);
    // Until the server has looked at its rows.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let length = |(mut stream, begun): (TcpStream, usize)| {
        let mut rest = Vec::new();
        // Whether it ends or is reset: what came counts.
        let _ = stream.read_to_end(&mut rest);
        begun + rest.len()
    };
    let (cut, whole) = (length(of_revoked), length(of_other));
    assert!(whole > update.len() && cut < update.len(), "{cut} and {whole} of {}", update.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_listed_without_what_opens_anything_and_ask_for_sense() {
    let server = Server::start(Database::sqlite());
    let admin = server.admin();
    let site = admin.enrol("a");
    let (viewer, _) = person(&admin, Role::Viewer);
    assert_eq!(admin.with_token(Some(&viewer)).get("/v1/runs").status, 200);
    let listed = admin.get("/v1/tokens");
    let text = String::from_utf8_lossy(&listed.body).into_owned();
    assert!(!text.contains(&site) && !text.contains(&viewer), "{text}");
    let tokens = listed.json()["tokens"].clone();
    assert_eq!(tokens.as_array().map(Vec::len), Some(2));
    assert_eq!((&tokens[0]["role"], &tokens[0]["state"]), (&json!("viewer"), &json!("alive")));
    assert!(tokens[0]["last_used_at"].is_string(), "{text}");
    assert_eq!(tokens[1]["site"], "a");

    for (body, what) in [
        (json!({ "role": "god" }), "unknown variant"),
        (json!({ "role": "viewer", "expires_in_days": 0 }), "expires_in_days"),
        (json!({ "role": "viewer", "expires_in_days": 367 }), "expires_in_days"),
        (json!({ "role": "viewer", "label": "a\nb" }), "label"),
        (json!({ "role": "viewer", "label": "x".repeat(201) }), "label"),
        (json!({ "role": "viewer", "site": "a" }), "unknown field"),
    ] {
        let detail = admin.post("/v1/tokens", &body).assert_problem(422, "invalid-argument");
        assert!(detail.contains(what), "{body}: {detail}");
    }
    made(&admin, "/v1/sites/a/tokens", &json!({}));
    let third = admin.post("/v1/sites/a/tokens", &json!({}));
    assert!(third.assert_problem(409, "conflict").contains("revoke"));
    admin.post("/v1/sites/b/tokens", &json!({})).assert_problem(404, "not-found");
    admin.post("/v1/tokens/none/revoke", &json!({})).assert_problem(404, "not-found");
}
