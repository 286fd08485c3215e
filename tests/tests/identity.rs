//! Sites that show certificates of the operator's own authority: kits, requests, revocation, a certificate that takes another's place.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fedbasin_proto::v1::{self, fed_basin_client::FedBasinClient};
use fedbasin_tests::{
    Admin, Database, Options, PATIENCE, Server, assert_refused, checkpoint::one_hot, client_binary,
    eventually, last, now, server_binary,
};
use serde_json::{Value, json};
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// An authority, the server's certificate, and what else its folder comes to hold.
struct Pki {
    folder: tempfile::TempDir,
}

/// A program's whole answer, where all went well.
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Pki {
    fn new() -> Self {
        let pki = Self { folder: tempfile::tempdir().expect("a folder") };
        let hosts = ["--host", "localhost", "--host", "127.0.0.1"];
        let text = said(&pki.pki("init", &hosts));
        assert!(text.contains("[tls]") && text.contains("client_ca_file"), "{text}");
        pki
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("pki").join(name)
    }

    fn pki(&self, command: &str, arguments: &[&str]) -> Output {
        let mut program = Command::new(server_binary());
        program.args(["pki", command, "--dir"]).arg(self.path("")).args(arguments);
        program.output().expect("it runs")
    }

    /// A kit for a site; gives its folder and the certificate's fingerprint.
    fn issue(&self, site: &str, server: &str, more: &[&str]) -> (PathBuf, String) {
        let folder = self.folder.path().join(format!("kit-{site}"));
        let output = folder.to_str().expect("UTF-8");
        let text =
            said(&self.pki("issue", &[&[site, "--server", server, "--output", output], more].concat()));
        let print =
            text.split("certificate ").nth(1).and_then(|rest| rest.split(',').next()).expect("a fingerprint");
        (folder, print.to_owned())
    }

    fn options(&self, required: bool) -> Options {
        let certificates = if required { "required" } else { "accepted" };
        Options {
            tls: Some((self.path("server.pem"), self.path("server.key"))),
            more_tls: format!(
                "client_ca_file = {:?}\nclient_certificates = \"{certificates}\"\n",
                self.path("authority.pem")
            ),
            ..Options::default()
        }
    }

    fn authority(&self) -> String {
        fs::read_to_string(self.path("authority.pem")).expect("a file")
    }

    fn admin(&self, server: &Server) -> Admin {
        server.admin().trusting(&self.authority())
    }

    /// The stub of whoever shows these files, or nothing.
    fn stub(&self, server: &Server, shown: Option<(&Path, &Path)>) -> FedBasinClient<Channel> {
        let authority = Certificate::from_pem(self.authority());
        let mut tls = ClientTlsConfig::new().ca_certificate(authority).domain_name("localhost");
        if let Some((cert, key)) = shown {
            let read = |path| fs::read(path).expect("a file");
            tls = tls.identity(Identity::from_pem(read(cert), read(key)));
        }
        let endpoint = Endpoint::from_shared(server.grpc.clone()).expect("a URL").connect_timeout(PATIENCE);
        FedBasinClient::new(endpoint.tls_config(tls).expect("settings").connect_lazy())
    }

    fn kit_stub(&self, server: &Server, kit: &Path) -> FedBasinClient<Channel> {
        self.stub(server, Some((&kit.join("site.pem"), &kit.join("site.key"))))
    }
}

fn client(arguments: &[&str]) -> Output {
    let mut program = Command::new(client_binary());
    // What a shell may still hold from before: the kit goes before it.
    program.env_remove("FEDBASIN_TOKEN").env("FEDBASIN_SERVER", "http://127.0.0.1:1").args(arguments);
    program.output().expect("it runs")
}

fn run(admin: &Admin, sites: &[&str]) -> String {
    admin.create_run(&json!({
        "id": "pilot", "spec": null, "strategy": "mean", "cohort": sites,
        "policy": { "rounds": 1, "quorum": sites.len(), "deadline_seconds": 600 },
    }))
}

async fn list(stub: &mut FedBasinClient<Channel>, token: Option<&str>) -> Result<usize, Status> {
    let mut request = tonic::Request::new(v1::ListRunsRequest {});
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ASCII"));
    }
    Ok(stub.list_runs(request).await?.into_inner().runs.len())
}

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

    // An authority with few days left, of which no site came yet.
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let seconds = u64::try_from(now()).expect("after 1970") + 10 * 86_400 + 3_600;
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let certificate = params.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("signed");
    let file = pki.path("old-authority.pem");
    fs::write(&file, certificate.pem()).expect("written");
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
    assert_eq!(warnings(&server).len(), 2, "and nobody else meanwhile: {}", server.log());
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
