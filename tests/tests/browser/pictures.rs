//! Pictures of every page, for people to look at: `tests/run pictures`.

use std::{fs, path::Path};

use fedbasin_tests::{Browser, Database, Server};

use super::scene::course;

#[ignore = "writes docs/screenshots: run by `tests/run pictures`"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_drawn_at_both_widths_in_light_and_dark() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/screenshots");
    fs::create_dir_all(&folder).expect("a folder");
    let server = Server::start(Database::sqlite());
    let run = course(&server).await;
    let browser = Browser::start();
    let at = |path: &str| format!("{}{path}", server.http);
    let draw = |pages: &[(&str, String)]| {
        for (name, path) in pages {
            browser.looks(1440, false);
            browser.go(&at(path));
            for (width, dark) in [(1440, false), (1440, true), (360, false), (360, true)] {
                browser.looks(width, dark);
                let look = if dark { "dark" } else { "light" };
                let file = folder.join(format!("{name}-{width}-{look}.png"));
                fs::write(file, browser.picture()).expect("written");
            }
        }
    };
    draw(&[("signin", "/signin".into())]);
    browser.go(&at("/signin"));
    browser.write("#token", &server.admin_token());
    browser.click("form button");
    browser.says("Overview");
    let site = server.admin().get("/v1/sites/hospital-south").json();
    let token = site["tokens"][0]["id"].as_str().expect("a token's id");
    let revoke = format!("/sites/hospital-south/tokens/{token}/revoke");
    draw(&[
        ("overview", "/".into()),
        ("run", format!("/runs/{run}")),
        ("pause", format!("/runs/{run}/pause")),
        ("resume", format!("/runs/{run}/resume")),
        ("cancel", format!("/runs/{run}/cancel")),
        ("revoke-token", revoke),
        ("round-collecting", format!("/runs/{run}/rounds/4")),
        ("round-published", format!("/runs/{run}/rounds/1")),
        ("sites", "/sites".into()),
        ("site", "/sites/hospital-south".into()),
        ("audit", "/audit".into()),
        ("docs", "/docs".into()),
    ]);
    browser.looks(1440, false);
    browser.go(&at(&format!("/runs/{run}/rounds/1")));
    fs::write(folder.join("paths-1440-light.png"), browser.picture_of(".charts")).expect("written");
}
