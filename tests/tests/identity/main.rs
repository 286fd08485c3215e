//! Sites that show certificates of the operator's own authority: kits, requests, revocation. When certificates end is in `ends`, what
//! takes another's place while the server runs in `rotation`.

mod ends;
mod pki;
mod rotation;

use std::{fs, process::Command};

use fedbasin_proto::v1;
use fedbasin_tests::{
    Database, Options, PATIENCE, Server, assert_refused, checkpoint::one_hot, client_binary, eventually, last,
};
use serde_json::{Value, json};
use tonic::Code;

use self::pki::{Pki, client, list, run, said};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_takes_part_with_its_kit_alone() {
    let pki = Pki::new();
    let server = Server::start_with(Database::sqlite(), pki.options(true));
    let admin = pki.admin(&server);
    let (_, _) = (admin.enrol("a"), admin.enrol("b"));
    run(&admin, &["a", "b"]);
    admin.round_becomes("pilot", 1, "collecting").await;
    let url = server.grpc.replace("127.0.0.1", "localhost");
    let (kit_a, _) = pki.issue("a", &url, &["--run", "pilot"]);

    // The second site makes its key itself.
    let own = pki.folder.path().join("own");
    let own_text = own.to_str().expect("UTF-8");
    said(&client(&["site", "request", "b", "--output", own_text]));
    assert!(
        client(&["site", "request", "b", "--output", own_text]).status.code() == Some(1),
        "the key stays"
    );
    let request = own.join("site.csr");
    let (kit_b, _) = pki.issue("b", &url, &["--run", "pilot", "--request", request.to_str().expect("UTF-8")]);
    assert!(!kit_b.join("site.key").exists());
    fs::copy(own.join("site.key"), kit_b.join("site.key")).expect("copied");

    for (kit, unit) in [(&kit_a, 0), (&kit_b, 1)] {
        let update = pki.folder.path().join("update.safetensors");
        fs::write(&update, one_hot(unit, 3)).expect("a file");
        let kit = kit.to_str().expect("UTF-8");
        let train = format!("cp {} \"$FEDBASIN_OUTPUT\"", update.display());
        let work = pki.folder.path().join(format!("work-{unit}"));
        let mut program = Command::new(client_binary());
        program.args(["site", "run", "--kit", kit, "--num-examples", "1", "--train", &train, "--work-dir"]);
        let mut program = program.arg(&work).env_remove("FEDBASIN_TOKEN").spawn().expect("it runs");
        if unit == 0 {
            let accepted = || {
                let round = admin.get("/v1/runs/pilot/rounds/1").json();
                let sites = round["sites"].as_array().cloned().unwrap_or_default();
                sites
                    .iter()
                    .any(|site| {
                        site["site"] == "a" && site["state"] != "silent" && site["state"] != "receiving"
                    })
                    .then_some(())
            };
            eventually("the update of a is accepted", accepted).await;
            program.kill().expect("it ran");
            program.wait().expect("it is gone");
        } else {
            assert!(program.wait().expect("it ends").success());
            assert!(work.join("global.safetensors").exists());
        }
    }

    let listed = admin.get("/v1/certificates").json();
    assert_eq!(listed["server"]["days_left"], 89, "{listed}");
    let sites: Vec<&Value> =
        listed["certificates"].as_array().expect("a list").iter().map(|c| &c["site"]).collect();
    assert!(sites.contains(&&json!("a")) && sites.contains(&&json!("b")), "{listed}");
    assert_eq!(listed["certificates"][0]["state"], "alive");
    let metrics = String::from_utf8(admin.get("/metrics").body).expect("text");
    assert!(metrics.contains(r#"fedbasin_certificate_days_left{holder="server",site=""} 89"#), "{metrics}");
    assert!(metrics.contains(r#"fedbasin_certificate_days_left{holder="site",site="a"} "#), "{metrics}");
    let of_authority = listed["authority"]["days_left"].as_i64().expect("days");
    let line = format!(r#"fedbasin_certificate_days_left{{holder="authority",site=""}} {of_authority}"#);
    assert!(of_authority > 89 && metrics.contains(&line), "{metrics}");
    assert!(metrics.contains("\nfedbasin_clear_text 0\n") && listed["clear_text"] == false, "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_certificate_of_the_authority_for_an_enrolled_site_opens_anything() {
    let pki = Pki::new();
    let server = Server::start_with(Database::sqlite(), pki.options(false));
    let admin = pki.admin(&server);
    let (token_a, token_b) = (admin.enrol("a"), admin.enrol("b"));
    run(&admin, &["a"]);
    let (kit, _) = pki.issue("a", &server.grpc, &[]);
    let (stranger, _) = pki.issue("stranger", &server.grpc, &[]);

    let mut a = pki.kit_stub(&server, &kit);
    assert_eq!(list(&mut a, None).await.expect("its certificate is enough"), 1);
    assert_eq!(list(&mut a, Some(&token_a)).await.expect("both are a's"), 1);
    assert_refused(list(&mut a, Some(&token_b)).await, Code::PermissionDenied, "forbidden");
    assert_refused(list(&mut a, Some("x")).await, Code::Unauthenticated, "unauthenticated");
    let mut nobody = pki.stub(&server, None);
    assert_eq!(list(&mut nobody, Some(&token_a)).await.expect("a token is enough here"), 1);
    assert_refused(list(&mut nobody, None).await, Code::Unauthenticated, "unauthenticated");
    let mut not_enrolled = pki.kit_stub(&server, &stranger);
    assert_refused(list(&mut not_enrolled, None).await, Code::Unauthenticated, "unauthenticated");

    // The server's own certificate is of the authority, too, and no site's; it is not even for clients.
    let mut own = pki.stub(&server, Some((&pki.path("server.pem"), &pki.path("server.key"))));
    list(&mut own, None).await.expect_err("not for clients");
    // Another authority's, for the same site.
    let other = Pki::new();
    let (forged, _) = other.issue("a", &server.grpc, &[]);
    let mut forged = pki.kit_stub(&server, &forged);
    list(&mut forged, None).await.expect_err("of another authority");

    // Where a certificate is required there is no call without one, whatever token comes along.
    let strict = Server::start_with(Database::sqlite(), pki.options(true));
    let token = pki.admin(&strict).enrol("a");
    let mut without = pki.stub(&strict, None);
    let refused = list(&mut without, Some(&token)).await.expect_err("no certificate");
    assert_ne!(refused.code(), Code::Unauthenticated, "not the call, the connection: {refused:?}");
    assert!(list(&mut pki.kit_stub(&strict, &kit), None).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_ends_what_it_opened_and_one_never_seen_can_be_revoked() {
    let pki = Pki::new();
    let server = Server::start_with(Database::sqlite(), pki.options(true));
    let admin = pki.admin(&server);
    let _ = admin.enrol("a");
    let run = run(&admin, &["a"]);
    let (kit, fingerprint) = pki.issue("a", &server.grpc, &[]);
    let mut a = pki.kit_stub(&server, &kit);
    let request = v1::WatchRunRequest { run_id: run };
    let mut watched = a.watch_run(request).await.expect("a stream").into_inner();
    let revoked = admin.post(&format!("/v1/certificates/{fingerprint}/revoke"), &json!({})).json();
    assert_eq!((&revoked["state"], &revoked["site"]), (&json!("revoked"), &json!("a")));
    assert_refused(list(&mut a, None).await, Code::Unauthenticated, "unauthenticated");
    assert_refused::<()>(Err(last(&mut watched).await), Code::Unauthenticated, "unauthenticated");

    fs::remove_dir_all(&kit).expect("gone");
    let (kit, fingerprint) = pki.issue("a", &server.grpc, &[]);
    let revoked = admin.post(&format!("/v1/certificates/{fingerprint}/revoke"), &json!({})).json();
    assert_eq!((&revoked["state"], &revoked["site"]), (&json!("revoked"), &Value::Null));
    assert_refused(
        list(&mut pki.kit_stub(&server, &kit), None).await,
        Code::Unauthenticated,
        "unauthenticated",
    );
    admin.post("/v1/certificates/none/revoke", &json!({})).assert_problem(422, "invalid-argument");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_revoked_at_one_replica_ends_what_it_opened_at_another() {
    let pki = Pki::new();
    let folder = tempfile::tempdir().expect("a folder");
    let Options { tls, more_tls, .. } = pki.options(true);
    let options = Options { tls, more_tls, ..Options::in_folder(folder.path()).only_serving("") };
    let first = Server::start_with(Database::postgres().await, options);
    let second = first.beside(false);
    let admin = pki.admin(&first);
    let (_, _) = (admin.enrol("a"), admin.enrol("b"));
    let run = run(&admin, &["a", "b"]);
    let [(kit_a, fingerprint), (kit_b, _)] = ["a", "b"].map(|site| pki.issue(site, &second.grpc, &[]));
    let (mut a, mut b) = (pki.kit_stub(&second, &kit_a), pki.kit_stub(&second, &kit_b));
    let request = v1::WatchRunRequest { run_id: run };
    let mut of_a = a.watch_run(request.clone()).await.expect("a stream").into_inner();
    let mut of_b = b.watch_run(request).await.expect("a stream").into_inner();
    for watched in [&mut of_a, &mut of_b] {
        watched.message().await.expect("a state").expect("a state");
    }

    let revoked = admin.post(&format!("/v1/certificates/{fingerprint}/revoke"), &json!({})).json();
    assert_eq!((&revoked["state"], &revoked["site"]), (&json!("revoked"), &json!("a")));
    assert_refused(list(&mut a, None).await, Code::Unauthenticated, "unauthenticated");
    assert_refused::<()>(Err(last(&mut of_a).await), Code::Unauthenticated, "unauthenticated");
    // Nobody revoked the other one: its stream goes on.
    assert_eq!(admin.post("/v1/runs/pilot/cancel", &json!({})).status, 200);
    let cancelled = async {
        loop {
            let state = of_b.message().await.expect("the stream goes on").expect("a state");
            if state.state() == v1::RunState::Cancelled {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, cancelled).await.expect("in time");
    assert_eq!(list(&mut b, None).await.expect("it is alive"), 1);
}

#[test]
fn a_kit_that_lacks_a_file_says_which() {
    let pki = Pki::new();
    let (kit, _) = pki.issue("a", "https://localhost:1", &[]);
    let path = kit.to_str().expect("UTF-8");
    let ask = || {
        let output = client(&["site", "status", "--kit", path, "--patience-seconds", "0"]);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(ask().contains("does not answer") || ask().contains("https://localhost:1"), "{}", ask());
    fs::remove_file(kit.join("site.key")).expect("gone");
    assert!(ask().contains("site.key"), "{}", ask());
    let run = client(&["site", "run", "--kit", path, "--train", "true"]);
    assert!(String::from_utf8_lossy(&run.stderr).contains("site.key"));
}
