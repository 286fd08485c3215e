//! The dashboard as people see it: a real browser before a real server.

mod pictures;
mod provider;
mod scene;

use fedbasin_server::model::Role;
use fedbasin_tests::{
    Browser, Database, Options, Server,
    checkpoint::{Mlp, mlp},
    chunks, digest, eventually,
};
use serde_json::json;

use self::scene::{create, upload};

/// Every page there is something to see on, of a server with a run `name` that is open and a site `a`.
fn pages(run: &str) -> Vec<String> {
    [
        "/",
        &format!("/runs/{run}"),
        &format!("/runs/{run}/cancel"),
        &format!("/runs/{run}/rounds/1"),
        &format!("/runs/{run}/rounds/2"),
        "/sites",
        "/sites/a",
        "/audit",
        "/runs/none",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// The console said nothing, but of an answer that was meant to be refused, and that it did say.
fn is_quiet(browser: &Browser, meant: Option<&str>) {
    let mut complaints = browser.complaints();
    if let Some(meant) = meant {
        assert!(complaints.iter().any(|complaint| complaint.contains(meant)), "{meant}: {complaints:?}");
    }
    complaints.retain(|complaint| meant.is_none_or(|meant| !complaint.contains(meant)));
    assert_eq!(complaints, Vec::<String>::new(), "{}", browser.url());
}

fn has_no_barriers(browser: &Browser, page: &str) {
    assert_eq!(browser.barriers(), Vec::<String>::new(), "{page}");
    // What axe itself tries meanwhile, and the page's policy refuses it, is no page's fault.
    _ = browser.complaints();
}

/// What looks for barriers finds one: an image that says nothing to who does not see it.
fn finds_a_planted_barrier(browser: &Browser) {
    let plant = "const image = document.createElement('img'); image.id = 'planted'; image.src = document.querySelector('link[rel=icon]').href;
                 document.getElementById('main').append(image); return 0";
    _ = browser.run(plant);
    let found = browser.barriers();
    assert!(found.iter().any(|barrier| barrier.starts_with("image-alt: ")), "{found:?}");
    _ = browser.run("document.getElementById('planted').remove(); return 0");
    _ = browser.complaints();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_watches_a_round_takes_its_model_and_cancels_the_run() {
    let server = Server::start(Database::sqlite());
    let (a, b) = (server.site("a"), server.site("b"));
    let run = create(&server, "watched", &["a", "b"]);
    let browser = Browser::start();
    let at = |path: &str| format!("{}{path}", server.http);

    // Who has not signed in is asked to, and then led to where they wanted to go.
    browser.looks(1440, false);
    browser.go(&at(&format!("/runs/{run}/rounds/1")));
    assert!(browser.url().contains("/signin?next="), "{}", browser.url());
    is_quiet(&browser, None);
    has_no_barriers(&browser, "/signin");
    finds_a_planted_barrier(&browser);
    browser.write("#token", "fba_wrong");
    browser.click("form button");
    browser.says("opens nothing here");
    is_quiet(&browser, Some("status of 401"));
    browser.write("#token", &server.admin_token());
    browser.click("form button");
    browser.says("takes updates");
    assert!(browser.url().ends_with("/rounds/1"));

    // From here on the page is never loaded again.
    _ = browser.run("window.here = true; return 0");
    browser.says("0 of 2, quorum 2");
    let bad = mlp(3).changed(|_| f32::NAN).file();
    upload(&b, &run, 1, &bad, 10).await.expect_err("no number");
    browser.says("rejected");
    browser.says("is NaN");
    upload(&a, &run, 1, &mlp(1).file(), 30).await.expect("a receipt");
    browser.says("1 of 2, quorum 2");
    let good = mlp(2).permuted([[1, 0, 3, 2], [3, 2, 1, 0]]).file();
    let begun = b.begin_as(scene::announcement(&run, 1, &good, 10)).await.expect("begun");
    browser.says("receiving");
    browser.says("0 B of");
    // It sends a part, and then nothing for a while.
    let part = &good[..good.len() / 4];
    let durable = b.send(chunks(&begun.update_id, part, 0)).await.expect("taken");
    assert_eq!(durable, part.len() as u64);
    browser.says("/s since it began");
    let shown = browser.run("const bar = document.querySelector('progress'); return [bar.value, bar.max, bar.parentElement.innerText]");
    assert_eq!((&shown[0], &shown[1]), (&json!(part.len()), &json!(good.len())), "a quarter of it");
    let text = shown[2].as_str().expect("text");
    assert!(text.starts_with(" 25") || text.trim().starts_with("25"), "{text}");
    upload(&b, &run, 1, &good, 10).await.expect("a receipt");
    browser.says("the model is ready");
    browser.says("Similarity before");
    is_quiet(&browser, None);
    assert_eq!(browser.run("return window.here"), true, "nobody loaded it again");

    // The model: what is shown, what is downloaded and what the API gives are one.
    browser.click("#download");
    let model = browser.downloaded(&format!("{run}-round-1.safetensors"));
    let shown = browser.run("return document.querySelector('code#digest').innerText");
    assert_eq!(shown.as_str(), Some(digest(&model).as_str()));
    assert_eq!(model, server.admin().model(&run, 1));
    browser.says("What its signature says");
    browser.says("2, not named");
    browser.says(&format!("fedbasin-server {}", env!("CARGO_PKG_VERSION")));

    // How good sites find it, and the way to it, comes by itself, too.
    for (place, site) in (0..).zip([&a, &b]) {
        scene::evaluate(site, &run, 1, place).await;
    }
    browser.says("On the way to the global model");
    browser.says("mean of 2 sites");

    // Nobody meets a barrier on any page, in light and dark, and no page is wider than a telephone.
    server.admin().round_becomes(&run, 2, "collecting").await;
    for (width, dark) in [(360, false), (1440, true)] {
        browser.looks(width, dark);
        for page in pages(&run) {
            browser.go(&at(&page));
            is_quiet(&browser, (page == "/runs/none").then_some("status of 404"));
            has_no_barriers(&browser, &page);
            assert!(browser.fits(), "{page} is wider than {width}");
        }
    }

    // To cancel takes two steps and says why.
    browser.looks(1440, false);
    browser.go(&at(&format!("/runs/{run}")));
    browser.click("a.danger");
    browser.says("This cannot be undone");
    assert_eq!(server.admin().run(&run)["state"], "open");
    browser.write("#reason", "the end of a test");
    browser.click("button.danger");
    browser.says("cancelled");
    assert_eq!(server.admin().run(&run)["state"], "cancelled");
    browser.go(&at("/audit"));
    browser.says("the end of a test");
    browser.click("form[action='/audit/verify'] button");
    browser.says("Whole: all");

    // Once signed out, nothing is shown.
    browser.click("form.out button");
    browser.go(&at("/"));
    assert!(browser.url().contains("/signin"), "{}", browser.url());
    is_quiet(&browser, None);
    let (own, others): (Vec<String>, Vec<String>) =
        browser.requests().into_iter().partition(|url| url.starts_with(&server.http));
    for page in ["/signin", "/audit"] {
        assert!(own.iter().any(|url| url.contains(page)), "{page} is not among what was asked for: {own:?}");
    }
    let foreign: Vec<String> = others.into_iter().filter(|url| url.starts_with("http")).collect();
    assert_eq!(foreign, Vec::<String>::new(), "no request leaves the host");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_only_look_is_offered_nothing_else_and_a_name_is_never_run() {
    let server = Server::start(Database::sqlite());
    let a = server.site("a");
    let run = create(&server, "shown", &["a"]);
    let hostile = "<img src=x onerror=alert(1)>";
    let mut request = scene::announcement(&run, 1, &mlp(1).file(), 5);
    request.metrics = [(hostile.to_owned(), 1.0)].into();
    a.begin_as(request).await.expect("begun");
    a.upload(&run, 1, &mlp(1).file(), 5).await.expect("a receipt");
    let made = server.admin().post("/v1/tokens", &json!({ "role": Role::Viewer.name() })).json();
    let token = made["token"].as_str().expect("a token").to_owned();
    let admin = server.admin().with_token(None);
    let cookie = admin.sign_in(&token);
    // A proxy ended TLS before it: the browser is to send the cookie over nothing else.
    let over = |scheme| {
        let form = ("content-type", "application/x-www-form-urlencoded");
        let headers = [form, ("sec-fetch-site", "same-origin"), ("x-forwarded-proto", scheme)];
        let body = format!("token={token}");
        admin.without_redirects().request("POST", "/signin", &headers, body.as_bytes())
    };
    assert!(over("https").header("set-cookie").contains("; Secure"));
    assert!(!over("http").header("set-cookie").contains("; Secure"));
    for page in ["/", "/runs/shown", "/runs/shown/rounds/1", "/sites/a", "/audit"] {
        let answer = admin.request("GET", page, &[("cookie", &cookie)], &[]);
        let html = String::from_utf8(answer.body).expect("text");
        assert_eq!(answer.status, 200, "{page}: {html}");
        assert!(!html.contains("<img"), "{page}: {html}");
        for offered in ["/cancel", "/pause", "/tokens", "/verify", "Download"] {
            assert!(!html.contains(offered), "{offered} on {page}: {html}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_page_names_silent_sites_quorums_at_risk_and_webhooks_that_took_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").expect("a file");
    // Nobody listens there.
    let config = format!(
        "[notify]\nfirst_retry_ms = 50\nmax_attempts = 1\nsite_silent_seconds = 1\nquorum_at_risk_fraction = 1.0\n\
         [work]\npoll_ms = 100\n[[webhooks]]\nname = \"ops\"\nurl = \"http://127.0.0.1:1/hook\"\nsecret_file = {secret:?}\n\
         allow_private_addresses = true\nevents = [\"round.failed\"]\n"
    );
    let server = Server::start_with(Database::sqlite(), Options { config, ..Options::default() });
    let (a, _b) = (server.site("a"), server.site("b"));
    let run = create(&server, "waiting", &["a", "b"]);
    let enough = server.admin().create_run(&json!({
        "id": "enough", "spec": Mlp::spec(), "strategy": "aligned", "cohort": ["a", "b"],
        "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 3600 },
    }));
    for run in [run, enough] {
        upload(&a, &run, 1, &mlp(1).file(), 30).await.expect("a receipt");
    }
    let asked = server.admin().post("/v1/webhooks/ops/test", &json!({}));
    assert_eq!(asked.status, 202, "{}", String::from_utf8_lossy(&asked.body));
    let admin = server.admin().with_token(None);
    let cookie = admin.sign_in(&server.admin_token());
    let told = [
        "<a href=\"/sites/b\">b</a> (never seen)",
        "the quorum is at risk, 1 of 2 updates",
        "The webhook ops did not take 1 notice, the newest test",
    ];
    let page = eventually("all is told", || {
        let html = String::from_utf8(admin.request("GET", "/", &[("cookie", &cookie)], &[]).body).ok()?;
        told.iter().all(|told| html.contains(told)).then_some(html)
    })
    .await;
    assert!(!page.contains("href=\"/sites/a\""), "its update is here: {page}");
    for updates in ["1 of 2, quorum 2<", "1 of 2, quorum 1 reached<"] {
        assert!(page.contains(updates), "{updates}: {page}");
    }
}
