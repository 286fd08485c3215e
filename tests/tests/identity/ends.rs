//! Certificates that have few days left, or none.

use std::{
    fs,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fedbasin_tests::{Database, Options, Server, eventually, now};
use serde_json::{Value, json};

use super::pki::{Pki, client, list, run, said};

/// The lines of a server's log that warn of a certificate's end.
fn warnings(server: &Server) -> Vec<String> {
    server
        .log()
        .lines()
        .filter(|line| line.contains("expires soon, or has expired"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_warns_of_certificates_that_have_few_days_left_and_of_no_others() {
    let pki = Pki::new();
    let mut server = Server::start_with(Database::sqlite(), pki.options(true));
    let admin = pki.admin(&server);
    let mut fingerprints = Vec::new();
    for (site, days) in [("short", "5"), ("long", "90"), ("revoked", "5")] {
        let _ = admin.enrol(site);
        let (kit, fingerprint) = pki.issue(site, &server.grpc, &["--days", days]);
        list(&mut pki.kit_stub(&server, &kit), None).await.expect("its certificate is enough");
        fingerprints.push(fingerprint);
    }
    let _ = admin.post(&format!("/v1/certificates/{}/revoke", fingerprints[2]), &json!({})).json();
    assert_eq!(warnings(&server), [""; 0], "at its start there was nothing to say");

    // What a day does, a start does too.
    said(&pki.pki("server", &["--host", "localhost", "--host", "127.0.0.1", "--days", "7"]));
    server.terminate();
    server.start_again();
    let found = eventually("both are named", || {
        let found = warnings(&server);
        (found.len() >= 2).then_some(found)
    })
    .await;
    let [own, site] = &found[..] else { panic!("no others: {found:#?}") };
    assert!(own.contains("WARN") && own.contains("the server's certificate"), "{own}");
    assert!(own.contains("tls.days_left=6"), "{own}");
    for words in ["WARN", "a site's certificate", "short", &*fingerprints[0], "certificate.days_left=4"] {
        assert!(site.contains(words), "{words}: {site}");
    }

    // An authority with few days left, of which no site came yet, beside one that takes its place.
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let seconds = u64::try_from(now()).expect("after 1970") + 10 * 86_400 + 3_600;
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let certificate = params.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("signed");
    let file = pki.path("old-authority.pem");
    fs::write(&file, certificate.pem() + &pki.authority()).expect("written");
    said(&pki.pki("server", &["--host", "localhost", "--host", "127.0.0.1", "--days", "90"]));
    let options = Options { more_tls: format!("client_ca_file = {file:?}\n"), ..pki.options(false) };
    let other = Server::start_with(Database::sqlite(), options);
    let found = eventually("it is named", || {
        let found = warnings(&other);
        (!found.is_empty()).then_some(found)
    })
    .await;
    let [authority] = &found[..] else { panic!("no others: {found:#?}") };
    assert!(authority.contains("WARN") && authority.contains("authority.days_left=10"), "{authority}");
    assert_eq!(pki.admin(&other).get("/v1/certificates").json()["authority"]["days_left"], 10);
    assert_eq!(warnings(&server).len(), 2, "and nobody else meanwhile: {}", server.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_learns_how_many_days_its_certificate_has_and_is_warned_of_few() {
    let pki = Pki::new();
    let server = Server::start_with(Database::sqlite(), pki.options(false));
    let admin = pki.admin(&server);
    let (token, _) = (admin.enrol("a"), admin.enrol("b"));
    run(&admin, &["a", "b"]);
    let [long, short] = [("a", "90"), ("b", "20")].map(|(site, days)| {
        let (kit, _) = pki.issue(site, &server.grpc, &["--days", days]);
        kit.to_str().expect("UTF-8").to_owned()
    });
    let text = said(&client(&["site", "status", "--kit", &long]));
    assert!(text.contains("days left: 89") && !text.contains("new kit"), "{text}");
    let text = said(&client(&["site", "status", "--kit", &short]));
    assert!(text.contains("days left: 19; ask") && text.contains("fedbasin site request"), "{text}");
    let told = |output: Output| -> Value { serde_json::from_str(&said(&output)).expect("JSON") };
    let certificate = &told(client(&["site", "status", "--json", "--kit", &short]))["certificate"];
    assert_eq!(certificate["days_left"], 19, "{certificate}");
    assert!(certificate["expires_at"].as_str().is_some_and(|end| end.ends_with('Z')), "{certificate}");

    // Of a token only the server knows the end.
    let file = pki.folder.path().join("token");
    fs::write(&file, token).expect("a file");
    let (file, ca) = (file.to_str().expect("UTF-8"), pki.path("authority.pem"));
    let with_token = ["--server", &server.grpc, "--ca", ca.to_str().expect("UTF-8"), "--token-file", file];
    let answer = told(client(&[&["site", "status", "--json"][..], &with_token].concat()));
    assert_eq!((&answer["certificate"], &answer["runs"][0]["run_id"]), (&Value::Null, &json!("pilot")));

    let runs = |kit| {
        let nowhere = ["--run", "none", "--wait-for-run-seconds", "0", "--train", "true"];
        let output = client(&[&["site", "run", "--kit", kit][..], &nowhere].concat());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(runs(&short).contains("days left: 19; ask"), "{}", runs(&short));
    assert!(!runs(&long).contains("days left"), "{}", runs(&long));
}

#[test]
fn a_site_whose_certificate_has_ended_says_so_and_sends_nothing() {
    let pki = Pki::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("https://{}", listener.local_addr().expect("an address"));
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    // Whoever calls is hung up on.
    std::thread::spawn(move || {
        listener.incoming().for_each(|_| _ = counted.fetch_add(1, Ordering::Relaxed));
    });
    let (kit, _) = pki.issue("a", &url, &["--run", "pilot"]);
    let mut params = rcgen::CertificateParams::default();
    params.not_after = rcgen::date_time_ymd(2024, 2, 29);
    let key = rcgen::KeyPair::generate().expect("a key");
    fs::write(kit.join("site.pem"), params.self_signed(&key).expect("a certificate").pem()).expect("written");
    fs::write(kit.join("site.key"), key.serialize_pem()).expect("written");
    let kit = kit.to_str().expect("UTF-8");
    for command in [&["site", "status"][..], &["site", "run", "--train", "true"]] {
        let output = client(&[command, &["--kit", kit, "--patience-seconds", "0"]].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("certificate ended at 2024-02-29T00:00:00Z"), "{text}");
        assert!(text.contains("site.pem") && text.contains("fedbasin site request"), "{text}");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}
