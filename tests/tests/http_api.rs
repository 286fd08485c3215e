//! The HTTP edge: who may call, how errors look, how a model is fetched, TLS.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    time::Duration,
};

use fedbasin_proto::v1;
use fedbasin_tests::{
    Admin, Database, Options, PATIENCE, SelfSigned, Server, Site, assert_refused,
    checkpoint::{one_hot, one_hot_spec},
    client_binary, digest, on_both_databases, server_binary,
};
use serde_json::{Value, json};
use tonic::Code;

on_both_databases!(
    a_published_model_is_served_in_ranges,
    sites_are_enrolled_once_and_listed_without_their_tokens
);

/// A run of one round and two sites, published; returns its id.
async fn published(server: &Server) -> String {
    let (a, b) = (server.site("a"), server.site("b"));
    let run = server.admin().create_run(&json!({
        "id": "pilot", "spec": one_hot_spec(), "strategy": "aligned", "cohort": ["a", "b"],
        "policy": { "rounds": 1, "quorum": 2, "deadline_seconds": 600 },
    }));
    a.upload(&run, 1, &one_hot(0, 64), 1).await.expect("a receipt");
    b.upload(&run, 1, &one_hot(1, 64), 1).await.expect("a receipt");
    server.admin().round_becomes(&run, 1, "published").await;
    run
}

async fn a_published_model_is_served_in_ranges(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let run = published(&server).await;
    let path = format!("/v1/runs/{run}/rounds/1/model");
    let whole = admin.get(&path);
    let size = whole.body.len();
    assert_eq!((whole.status, whole.header("content-type")), (200, "application/octet-stream"));
    assert_eq!(
        (whole.header("accept-ranges"), whole.header("content-length")),
        ("bytes", size.to_string().as_str())
    );
    assert_eq!(whole.header("etag"), format!("\"{}\"", digest(&whole.body)), "the digest, quoted");
    assert!(whole.header("content-disposition").contains("pilot-round-1.safetensors"), "{:?}", whole.headers);

    let range = |range: &str| admin.request("GET", &path, &[("range", range)], &[]);
    let cases = [
        ("bytes=0-9", 0..10),
        ("bytes=10-10", 10..11),
        ("bytes=100-", 100..size),
        ("bytes=-16", size - 16..size),
        ("bytes=-1000000", 0..size),
        ("bytes=50-1000000", 50..size),
    ];
    for (header, bytes) in cases {
        let part = range(header);
        assert_eq!(part.status, 206, "{header}");
        assert_eq!(part.body, whole.body[bytes.clone()], "{header}");
        let content_range = format!("bytes {}-{}/{size}", bytes.start, bytes.end - 1);
        assert_eq!(part.header("content-range"), content_range, "{header}");
        assert_eq!(part.header("etag"), whole.header("etag"), "{header}");
    }
    for header in [format!("bytes={size}-"), "bytes=1000000-1000001".to_owned(), "bytes=-0".to_owned()] {
        let beyond = range(&header);
        assert_eq!(beyond.status, 416, "{header}");
        assert_eq!(beyond.header("content-range"), format!("bytes */{size}"), "{header}");
        assert_eq!(beyond.header("content-type"), "application/problem+json", "{header}");
    }
    // A range in another unit is ignored; a malformed one is ignored or refused (RFC 9110, section 14.2).
    assert_eq!((range("lines=0-9").status, range("lines=0-9").body.len()), (200, size));
    for header in ["bytes=abc", "bytes=9-0"] {
        let answer = range(header);
        assert!(
            answer.status == 416 || (answer.status, answer.body.len()) == (200, size),
            "{header}: {}",
            answer.status
        );
    }
    admin.get("/v1/runs/pilot/rounds/2/model").assert_problem(404, "not-found");
    admin.get("/v1/runs/none/rounds/1/model").assert_problem(404, "not-found");
    admin.get("/v1/runs/pilot/rounds/x/model").assert_problem(404, "not-found");
}

async fn sites_are_enrolled_once_and_listed_without_their_tokens(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let answer = admin.post("/v1/sites", &json!({ "id": "hospital-a" }));
    assert_eq!(answer.status, 201);
    let token = answer.json()["token"].as_str().expect("a token").to_owned();
    assert!(token.starts_with("fbs_") && token.len() >= 32, "a token of enough bits");
    admin.post("/v1/sites", &json!({ "id": "hospital-a" })).assert_problem(409, "conflict");
    for id in ["", "Hospital", "a b", "-a", &"x".repeat(64)] {
        admin.post("/v1/sites", &json!({ "id": id })).assert_problem(422, "invalid-argument");
    }
    admin.post("/v1/sites", &json!({ "id": "b", "more": 1 })).assert_problem(422, "invalid-argument");
    let text = String::from_utf8(admin.get("/v1/sites").body).expect("text");
    assert!(text.contains("hospital-a") && !text.contains(&token), "{text}");
    // The token works, and is nowhere on the server's disk in the clear.
    let site = Site::new("hospital-a", &server.grpc, &token);
    assert_eq!(
        site.client.clone().list_runs(v1::ListRunsRequest {}).await.expect("an answer").into_inner().runs,
        []
    );
    assert!(!server.log().contains(&token), "a token in the log");
    let stored = match server.database_url() {
        Some(url) => sites_of_postgres(&url).await.into_bytes(),
        None => ["fedbasin.sqlite", "fedbasin.sqlite-wal"]
            .iter()
            .flat_map(|file| fs::read(server.data_dir().join(file)).expect("SQLite's file"))
            .collect(),
    };
    let holds = |text: &str| stored.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("hospital-a") && holds(&digest(token.as_bytes())), "this is where a token would stand");
    assert!(!holds(&token), "a token in the database");
}

/// All columns of all rows of the sites.
async fn sites_of_postgres(url: &str) -> String {
    use sqlx::{Connection as _, Row as _};
    let mut connection = sqlx::PgConnection::connect(url).await.expect("the test's database");
    let rows = sqlx::query("SELECT CAST(s AS TEXT) AS line FROM sites s").fetch_all(&mut connection).await;
    let lines: Vec<String> = rows.expect("the sites").iter().map(|row| row.get("line")).collect();
    lines.join("\n")
}

/// Sends the head of a request that announces a large body, and no body; returns what the server answers.
fn head_only(server: &Server, head: &str) -> String {
    let address = server.http.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.write_all(head.as_bytes()).expect("the head is sent");
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).expect("an answer before the body");
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_admin_token_is_refused_before_the_body_is_read() {
    let server = Server::start(Database::sqlite());
    for path in ["/v1/checkpoints", "/v1/runs", "/v1/sites"] {
        for token in ["", "authorization: Bearer wrong\r\n", "authorization: Basic d3Jvbmc6d3Jvbmc=\r\n"] {
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{token}content-length: 1000000000\r\n\r\n"
            );
            let answer = head_only(&server, &head);
            assert!(answer.starts_with("HTTP/1.1 401"), "{path}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_site_token_is_refused_before_a_message_is_read() {
    let server = Server::start(Database::sqlite());
    let stranger = server.site("a").with_token(&server.grpc, Some("fbs_wrong"));
    // A stream that never sends anything.
    let mut client = stranger.client;
    let sending = client.send_update(tokio_stream::pending::<v1::UpdateChunk>());
    let answer = tokio::time::timeout(PATIENCE, sending).await.expect("an answer without a message");
    assert_refused(answer, Code::Unauthenticated, "unauthenticated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_admin_call_needs_the_admin_token_and_says_so_as_a_problem() {
    let options = Options { admin_token: Some("a-token-from-a-file".into()), ..Options::default() };
    let server = Server::start_with(Database::sqlite(), options);
    let admin = server.admin();
    assert_eq!(admin.get("/v1/runs").status, 200, "the token of the file is in force");
    let site_token = admin.enrol("a");
    let calls = [
        ("GET", "/v1/sites"),
        ("POST", "/v1/sites"),
        ("POST", "/v1/checkpoints"),
        ("GET", "/v1/runs"),
        ("POST", "/v1/runs"),
        ("GET", "/v1/runs/x"),
        ("POST", "/v1/runs/x/pause"),
        ("POST", "/v1/runs/x/resume"),
        ("POST", "/v1/runs/x/cancel"),
        ("GET", "/v1/runs/x/rounds"),
        ("GET", "/v1/runs/x/rounds/1"),
        ("GET", "/v1/runs/x/rounds/1/model"),
    ];
    for token in [None, Some("wrong"), Some(site_token.as_str())] {
        for (method, path) in calls {
            let answer = admin.with_token(token).request(method, path, &[], b"{}");
            answer.assert_problem(401, "unauthenticated");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
        }
    }
    for path in ["/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(admin.with_token(None).get(path).status, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generated_admin_token_is_readable_only_by_its_owner() {
    let server = Server::start(Database::sqlite());
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = fs::metadata(server.data_dir().join("admin-token")).expect("the file");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert!(server.admin_token().len() >= 32);
    assert!(!server.log().contains(&server.admin_token()), "the token stands in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_error_is_a_problem() {
    let server = Server::start_with(
        Database::sqlite(),
        Options {
            config: "[limits]\nmax_checkpoint_bytes = 1024\nmax_json_bytes = 512\n".into(),
            ..Options::default()
        },
    );
    let admin = server.admin();
    admin.get("/v1/nothing").assert_problem(404, "not-found");
    admin.get("/v1/runs/none").assert_problem(404, "not-found");
    admin.request("DELETE", "/v1/runs", &[], &[]).assert_problem(405, "method-not-allowed");
    let json = [("content-type", "application/json")];
    let large = format!("{{\"id\": \"{}\"}}", "x".repeat(1000));
    admin.request("POST", "/v1/sites", &json, large.as_bytes()).assert_problem(413, "too-large");
    let broken = admin.request("POST", "/v1/sites", &json, b"{\"id\": ");
    broken.assert_problem(422, "invalid-argument");
    admin.request("POST", "/v1/checkpoints", &[], &[0; 2000]).assert_problem(413, "too-large");
    let detail =
        admin.request("POST", "/v1/checkpoints", &[], &[1; 100]).assert_problem(422, "invalid-checkpoint");
    assert!(!detail.is_empty());
    let nan = fedbasin_tests::checkpoint::file(&[fedbasin_tests::checkpoint::f32s("x", &[1], &[f32::NAN])]);
    admin.request("POST", "/v1/checkpoints", &[], &nan).assert_problem(422, "invalid-checkpoint");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_seed_twice_is_one_checkpoint() {
    let server = Server::start(Database::sqlite());
    let (admin, seed) = (server.admin(), one_hot(0, 3));
    assert_eq!((admin.upload(&seed), admin.upload(&seed)), (digest(&seed), digest(&seed)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_edges_speak_tls_where_a_certificate_is_configured() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = SelfSigned::in_folder(folder.path());
    let server = Server::start_with(Database::sqlite(), Options { tls: made.files(), ..Options::default() });
    assert!(
        server.grpc.starts_with("https://") && server.http.starts_with("https://"),
        "{} {}",
        server.grpc,
        server.http
    );

    let SelfSigned { cert, pem, .. } = made;
    let admin = Admin::new(&server.http, &server.admin_token()).trusting(&pem);
    let token = admin.enrol("a");
    let site = Site::new("a", "http://127.0.0.1:1", &token).trusting(&server.grpc, &pem);
    let run = admin.create_run(&json!({
        "spec": null, "strategy": "mean", "cohort": ["a"],
        "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 600 },
    }));
    site.upload(&run, 1, &one_hot(0, 3), 1).await.expect("a receipt over TLS");
    let round = admin.round_becomes(&run, 1, "published").await;
    let global = round["global_digest"].as_str().expect("a digest");
    assert_eq!(site.download(global, 0).await.expect("the model"), admin.model(&run, 1));

    // The image's health check finds the certificate in the settings, or is told it.
    let check = |arguments: &[&std::ffi::OsStr]| {
        let mut program = Command::new(server_binary());
        program.args(["healthcheck", "--address", server.http.trim_start_matches("https://")]);
        let output = program.args(arguments).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let config = server.folder.path().join("fedbasin.toml");
    assert_eq!(check(&["--config".as_ref(), config.as_ref()]), (Some(0), String::new()));
    assert_eq!(check(&["--tls-cert".as_ref(), cert.as_ref()]), (Some(0), String::new()));
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let other_file = folder.path().join("other.pem");
    fs::write(&other_file, other.cert.pem()).expect("a file");
    assert_eq!(check(&["--tls-cert".as_ref(), other_file.as_ref()]).0, Some(1), "another certificate");
    assert_eq!(check(&[]).0, Some(1), "in the clear");

    // Not without the certificate, and not in the clear.
    let distrusting = Admin::new(&server.http, &server.admin_token());
    assert!(distrusting.try_request("GET", "/v1/runs", &[], &[]).is_err());
    let clear = Admin::new(&server.http.replace("https", "http"), &server.admin_token());
    assert!(!clear.try_request("GET", "/v1/runs", &[], &[]).is_ok_and(|answer| answer.status == 200));
    let clear = Site::new("a", &server.grpc.replace("https", "http"), &token);
    assert!(clear.status(&run).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_standard_health_and_reflection_services_answer_without_a_token() {
    let server = Server::start(Database::sqlite());
    let endpoint = tonic::transport::Endpoint::from_shared(server.grpc.clone()).expect("a URL");
    let channel = endpoint.connect().await.expect("a connection");
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    for service in ["", "fedbasin.v1.FedBasin"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.into() };
        let answer = health.check(request).await.expect("an answer").into_inner();
        assert_eq!(
            answer.status(),
            tonic_health::pb::health_check_response::ServingStatus::Serving,
            "{service:?}"
        );
    }
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let answers = reflection.server_reflection_info(tokio_stream::iter([request])).await;
    let answer =
        answers.expect("a stream").into_inner().message().await.expect("an answer").expect("one answer");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("another answer: {answer:?}");
    };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"fedbasin.v1.FedBasin") && names.contains(&"grpc.health.v1.Health"), "{names:?}");
}

/// Compares with a file in git. Where it differs, the new text is left in the target folder.
fn assert_snapshot(name: &str, text: &str) {
    let room = Path::new(env!("CARGO_MANIFEST_DIR"));
    let snapshot = fs::read_to_string(room.join("snapshots").join(name)).unwrap_or_default();
    if snapshot.trim_end() != text.trim_end() {
        let new = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&new, format!("{}\n", text.trim_end())).expect("the new text");
        panic!(
            "tests/snapshots/{name} differs: look at\n  diff tests/snapshots/{name} {0}\nand if it is meant\n  cp {0} tests/snapshots/{name}",
            new.display()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openapi_document_is_the_one_in_git() {
    let server = Server::start(Database::sqlite());
    let answer = server.admin().with_token(None).get("/openapi.json");
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let document = answer.json();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
    assert_snapshot("openapi.json", &serde_json::to_string_pretty(&document).expect("JSON"));
}

// The client's help texts are kept in its own room.
#[test]
fn the_servers_command_line_is_the_one_in_git() {
    let mut text = String::new();
    for command in [
        "",
        "init",
        "serve",
        "work",
        "migrate",
        "fsck",
        "pki",
        "pki init",
        "pki server",
        "pki issue",
        "audit",
        "audit verify",
        "audit export",
        "healthcheck",
    ] {
        let mut program = Command::new(server_binary());
        program.args(command.split_whitespace()).arg("--help");
        let output = program.output().expect("the program runs");
        assert!(output.status.success(), "{command} --help: {}", String::from_utf8_lossy(&output.stderr));
        let words = format!("$ fedbasin-server {command}");
        text.push_str(&format!(
            "{} --help\n{}\n",
            words.trim_end(),
            String::from_utf8_lossy(&output.stdout).replace("server-under-test", "fedbasin-server")
        ));
    }
    assert_snapshot("fedbasin-server.txt", &text);
}

#[test]
fn a_wrong_command_line_exits_with_2_and_a_failure_with_1() {
    for binary in [server_binary(), client_binary()] {
        let output = Command::new(&binary).arg("--no-such-option").output().expect("the program runs");
        assert_eq!(output.status.code(), Some(2), "{}", binary.display());
    }
    let folder = tempfile::tempdir().expect("a folder");
    let absent = folder.path().join("absent.toml");
    let output =
        Command::new(server_binary()).args(["serve", "--config"]).arg(&absent).output().expect("it runs");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), message.contains("absent.toml")), (Some(1), true), "{message}");

    fs::write(&absent, "data_dri = \"x\"\n").expect("a file");
    let output =
        Command::new(server_binary()).args(["serve", "--config"]).arg(&absent).output().expect("it runs");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        (output.status.code(), message.contains("data_dri")),
        (Some(1), true),
        "unknown keys: {message}"
    );

    let output = Command::new(client_binary())
        .args(["spec", "mlp", "absent.safetensors", "-o", "spec.json"])
        .current_dir(folder.path())
        .output()
        .expect("it runs");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), message.trim().lines().count()), (Some(1), 1), "{message}");
    assert!(message.contains("absent.safetensors"), "{message}");
}

#[test]
fn a_healthcheck_of_nothing_fails() {
    let output = Command::new(server_binary())
        .args(["healthcheck", "--address", "127.0.0.1:1"])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthcheck_of_a_running_server_succeeds() {
    let server = Server::start(Database::sqlite());
    let output = Command::new(server_binary())
        .args(["healthcheck", "--address", server.http.trim_start_matches("http://")])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(server.admin().get("/readyz").json()["status"], Value::from("ok"));
}

#[test]
fn clear_text_beyond_this_machine_is_allowed_by_the_settings_or_there_is_no_server_and_all_say_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let serve = |more: &[&str]| {
        let mut program = Command::new(server_binary());
        program.args(["serve", "--grpc-listen", "0.0.0.0:0", "--http-listen", "127.0.0.1:0", "--data-dir"]);
        program.arg(folder.path()).args(more);
        program
    };
    let refused = serve(&[]).output().expect("it runs");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("allow_clear_text"), "{said}");

    let log = fs::File::create(folder.path().join("log")).expect("a file");
    let mut allowed = serve(&["--allow-clear-text"]);
    let mut allowed = allowed.stdout(std::process::Stdio::piped()).stderr(log).spawn().expect("it runs");
    let mut line = String::new();
    let stdout = allowed.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
    let url = line.trim().rsplit_once("http=").map(|(_, url)| url.to_owned());
    let token = fs::read_to_string(folder.path().join("admin-token")).expect("the token it made");
    let admin = Admin::new(&url.unwrap_or_else(|| panic!("it listens: {line:?}")), token.trim());
    let metrics = String::from_utf8(admin.get("/metrics").body).expect("text");
    let certificates = admin.get("/v1/certificates").json();
    allowed.kill().expect("it ran");
    allowed.wait().expect("it is gone");
    assert!(metrics.contains("\nfedbasin_clear_text 1\n"), "{metrics}");
    assert_eq!(certificates["clear_text"], true);
    let said = fs::read_to_string(folder.path().join("log")).expect("its log");
    assert!(said.contains("in clear text, as allow_clear_text says"), "{said}");
}
