//! `fedbasin-server init` as a person uses it: the commands that it prints are typed as they are printed.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use fedbasin_tests::Database;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::place::{Foreground, Place, free_port, said};

/// The commands among what was printed: the lines that are set off.
fn commands(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("    ")).collect()
}

/// The gRPC edge of a server, as the settings in its folder have it.
fn grpc(folder: &Path) -> String {
    let settings = fs::read_to_string(folder.join("fedbasin.toml")).expect("settings");
    let listen = settings.lines().find_map(|line| line.strip_prefix("listen = \"")).expect("an address");
    format!("https://{}", listen.trim_end_matches('"'))
}

/// All files below a folder.
fn files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

fn init(place: &Place, program: &str, name: &str, more: &str) -> String {
    let (folder, grpc, http) = (place.path(name), free_port(), free_port());
    let listen = format!("--grpc-listen 127.0.0.1:{grpc} --http-listen 127.0.0.1:{http}");
    said(&place.types(&format!("{program} init '{}' {listen} {more}", folder.display())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_commands_work_as_they_are_from_any_folder() {
    let place = Place::new();
    let text = init(&place, "fedbasin-server", "my server", "--host fed.example");
    let [serve, enrol] = commands(&text)[..] else { panic!("two commands: {text}") };
    assert!(serve.starts_with("fedbasin-server serve ") && enrol.starts_with("fedbasin admin "), "{text}");
    assert!(enrol.contains("https://127.0.0.1:"), "{text}");

    let server = Foreground::serves(place.shell(&place.path("elsewhere"), serve));
    said(&place.types(enrol));
    let token = place.path("my server/hospital-a.token");
    assert_eq!(fs::metadata(&token).expect("the token").permissions().mode() & 0o777, 0o600);
    // By the name that others use, once that leads here: the certificate has it.
    let authority = fs::read_to_string(place.path("my server/pki/authority.pem")).expect("an authority");
    for (name, is_its_own) in [("fed.example", true), ("localhost", true), ("other.example", false)] {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&authority)).domain_name(name);
        let endpoint = Endpoint::from_shared(grpc(&place.path("my server"))).expect("a URL");
        let connected = endpoint.tls_config(tls).expect("settings").connect().await;
        assert_eq!(connected.is_ok(), is_its_own, "{name}: {connected:?}");
    }
    drop(server);

    // Nothing secret was said, and every secret is its owner's alone, also those that the server made.
    let secret = |name: &str| fs::read_to_string(place.path("my server").join(name)).expect(name);
    for name in ["admin-token", "hospital-a.token"] {
        assert!(!text.contains(secret(name).trim()), "{name} is printed");
    }
    assert!(!text.contains("PRIVATE KEY") && !text.contains("fba_"), "{text}");
    let mut all = Vec::new();
    files(&place.path("my server"), &mut all);
    for file in all.iter().filter(|file| !file.starts_with(place.path("my server/data"))) {
        let text = fs::read_to_string(file).expect("a text");
        let is_secret = ["PRIVATE KEY", "fba_", "fbs_"].iter().any(|sign| text.contains(sign));
        let mode = fs::metadata(file).expect("a file").permissions().mode() & 0o777;
        assert!(!is_secret || mode == 0o600, "{}: {mode:o}", file.display());
    }
    assert_eq!(all.iter().filter(|file| file.extension().is_some_and(|end| end == "key")).count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_init_changes_nothing_and_says_why() {
    let place = Place::new();
    init(&place, "fedbasin-server", "server", "--host fed.example");
    let read = || {
        let mut all = Vec::new();
        files(&place.path("server"), &mut all);
        all.sort();
        all.into_iter().map(|file| (fs::read(&file).expect("a file"), file)).collect::<Vec<_>>()
    };
    let before = read();
    let again = place.types(&format!("fedbasin-server init '{}'", place.path("server").display()));
    assert_eq!(again.status.code(), Some(1));
    let why = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        why.starts_with("fedbasin-server: DIR: ")
            && why.ends_with(
                "already, and nothing is overwritten; name a folder that is not there, or an empty one\n"
            ),
        "{why}"
    );
    assert_eq!(read(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_proxy_and_on_postgres_the_printed_commands_work_too() {
    let place = Place::new();
    let database = Database::postgres().await;
    let url_file = place.path("database-url");
    fs::write(&url_file, format!("{}\n", database.url().expect("its URL"))).expect("a file");
    let more = format!("--behind-proxy --database-url-file '{}'", url_file.display());
    // By its place: the shell does not find it by its name.
    let program = format!("'{}'", place.path("bin/fedbasin-server").display());
    let text = init(&place, &program, "server", &more);
    assert!(!place.path("server/pki").exists() && text.contains("http://127.0.0.1:"), "{text}");
    let [serve, enrol] = commands(&text)[..] else { panic!("two commands: {text}") };
    let named = |name: &str| format!("'{}'", place.path("bin").join(name).display());
    assert!(serve.starts_with(&named("fedbasin-server")) && enrol.starts_with(&named("fedbasin")), "{text}");
    let _server = Foreground::serves(place.shell(&place.path("elsewhere"), serve));
    said(&place.types(enrol));
    assert!(!place.path("server/data/fedbasin.sqlite").exists(), "its rows are in Postgres");
}
