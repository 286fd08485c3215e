//! The dashboard as people see it: a real browser before a real server.

mod pictures;
mod scene;

use fedbasin_server::model::Role;
use fedbasin_tests::{Browser, Database, Server, checkpoint::mlp, digest};
use serde_json::json;

use self::scene::{create, sign_in, upload};

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

/// The console said nothing, but for an answer that was meant to be refused.
fn is_quiet(browser: &Browser, meant: Option<&str>) {
    let mut complaints = browser.complaints();
    complaints.retain(|complaint| meant.is_none_or(|meant| !complaint.contains(meant)));
    assert_eq!(complaints, Vec::<String>::new(), "{}", browser.url());
}

fn has_no_barriers(browser: &Browser, page: &str) {
    assert_eq!(browser.barriers(), Vec::<String>::new(), "{page}");
    // What axe itself tries meanwhile, and the page's policy refuses it, is no page's fault.
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
    b.begin_as(scene::announcement(&run, 1, &good, 10)).await.expect("begun");
    browser.says("receiving");
    browser.says("0 B of");
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
    let foreign: Vec<String> = browser
        .requests()
        .into_iter()
        .filter(|url| url.starts_with("http") && !url.starts_with(&server.http))
        .collect();
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
    let cookie = sign_in(&admin, &token);
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
