//! Certificates and authorities that take another's place while the server runs.

use std::{fs, path::Path};

use fedbasin_proto::v1;
use fedbasin_tests::{Database, PATIENCE, Server, eventually};
use serde_json::json;

use super::pki::{Pki, client, list, run, said};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_of_the_server_is_taken_while_it_runs() {
    let pki = Pki::new();
    let server = Server::start_with(Database::sqlite(), pki.options(false));
    let admin = pki.admin(&server);
    let _ = admin.enrol("a");
    let run = run(&admin, &["a"]);
    let (kit, _) = pki.issue("a", &server.grpc, &[]);
    let mut a = pki.kit_stub(&server, &kit);
    let request = v1::WatchRunRequest { run_id: run };
    let mut watched = a.watch_run(request).await.expect("a stream").into_inner();
    watched.message().await.expect("a state").expect("a state");

    said(&pki.pki("server", &["--host", "localhost", "--host", "127.0.0.1", "--days", "7"]));
    let renewed = || {
        // A connection of its own each time: an old one keeps the old certificate.
        let days = pki.admin(&server).get("/v1/certificates").json()["server"]["days_left"].clone();
        (days == 6).then_some(())
    };
    eventually("the file is read", renewed).await;
    eventually("the edges took it", || {
        server.log().matches("the certificate was read again").count().ge(&2).then_some(())
    })
    .await;
    assert_eq!(list(&mut pki.kit_stub(&server, &kit), None).await.expect("a new connection"), 1);
    assert_eq!(list(&mut a, None).await.expect("the old one goes on"), 1);
    let _ = admin.post("/v1/runs/pilot/cancel", &json!({}));
    let next = tokio::time::timeout(PATIENCE, watched.message()).await.expect("in time");
    next.expect("the stream goes on").expect("a state");

    fs::write(pki.path("server.pem"), "nonsense").expect("written");
    eventually("the server says so", || server.log().contains("cannot be used").then_some(())).await;
    assert_eq!(list(&mut pki.kit_stub(&server, &kit), None).await.expect("the one before stays"), 1);
}

/// What a site's program says, with this kit.
fn status(kit: &Path) -> Result<(), String> {
    let kit = kit.to_str().expect("UTF-8");
    let output = client(&["site", "status", "--kit", kit, "--patience-seconds", "0"]);
    output.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_takes_the_place_of_another_while_the_server_runs_and_sites_go_on() {
    let (old, new) = (Pki::new(), Pki::new());
    let server = Server::start_with(Database::sqlite(), old.options(true));
    let admin = old.admin(&server);
    for site in ["early", "late", "next", "alone"] {
        let _ = admin.enrol(site);
    }
    let run = run(&admin, &["early", "late", "next"]);
    let (early, _) = old.issue("early", &server.grpc, &[]);
    let of_old = old.path("authority.pem");
    let (next, _) = new.issue("next", &server.grpc, &["--also-trust", of_old.to_str().expect("UTF-8")]);
    let (alone, _) = new.issue("alone", &server.grpc, &[]);
    status(&early).expect("the one authority's");
    let mut stub = old.kit_stub(&server, &early);
    let mut watched =
        stub.watch_run(v1::WatchRunRequest { run_id: run }).await.expect("a stream").into_inner();
    watched.message().await.expect("a state").expect("a state");
    status(&next).expect_err("its authority is not in the file");

    // Both.
    fs::write(&of_old, old.authority() + &new.authority()).expect("written");
    eventually("the new authority's site comes in", || status(&next).ok()).await;
    status(&early).expect("so does the old one's");
    status(&alone).expect_err("it does not trust the server's certificate, which is of the old authority");
    let (late, _) = old.issue("late", &server.grpc, &[]);

    // The server's certificate is of the new one.
    for file in ["server.key", "server.pem"] {
        fs::copy(new.path(file), old.path(file)).expect("copied");
    }
    eventually("the new certificate is shown", || status(&alone).ok()).await;
    for kit in [&next, &late] {
        status(kit).expect("it trusts both");
    }
    status(&early).expect_err("it trusts the old one alone");

    // The new one alone: its folder takes the place of the old one's.
    fs::rename(old.path(""), old.folder.path().join("pki-old")).expect("moved");
    fs::rename(new.path(""), old.path("")).expect("moved");
    // Now and then the connection is gone before the reason is read.
    let says_why = |said: &String| said.contains("certificate") || said.contains("alert");
    eventually("the old authority's site is refused", || status(&late).err().filter(says_why)).await;
    for kit in [&next, &alone] {
        status(kit).expect("the new authority's");
    }
    assert_eq!(list(&mut old.kit_stub(&server, &next), None).await.expect("another program's, too"), 1);

    // What was open all the time still is.
    let _ = old.admin(&server).post("/v1/runs/pilot/cancel", &json!({}));
    let state = tokio::time::timeout(PATIENCE, watched.message()).await.expect("in time");
    state.expect("the stream goes on").expect("a state");
}
