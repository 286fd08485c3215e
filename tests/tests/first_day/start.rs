//! What a server says that cannot start, word for word: the setting, what is wrong with it, and what to do; one line, and exit code 1. What
//! passes by itself, or can be mended while it runs, it starts with, and says so.

use std::{fs, net::TcpListener, path::Path, process::Output, time::Duration};

use fedbasin_tests::{Database, Options, Server, eventually};
use serde_json::Value;
use sqlx::{Connection as _, Executor as _, sqlite::SqliteConnection};

use crate::place::{Place, said};

/// A folder that `init` made, and whose settings name nothing outside of it.
fn made() -> (Place, String) {
    let place = Place::new();
    said(&place.types("fedbasin-server init \"$PLACE/server\""));
    // A test chooses ports that are free.
    let settings = place.path("server/fedbasin.toml");
    let text = fs::read_to_string(&settings).expect("settings");
    let text = text.replace("127.0.0.1:50051", "127.0.0.1:0").replace("127.0.0.1:8080", "127.0.0.1:0");
    fs::write(&settings, text).expect("written");
    let folder = place.path("server").display().to_string();
    (place, folder)
}

fn serve(place: &Place, more: &str) -> Output {
    place.types(&format!("timeout 60 fedbasin-server serve --config \"$PLACE/server/fedbasin.toml\" {more}"))
}

/// The one line of a server that did not start; `DIR` stands for the folder.
fn refused(output: &Output, folder: &str) -> String {
    let all = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{all}");
    assert!(output.stdout.is_empty(), "it says that it listens, and ends");
    let lines: Vec<&str> = all.lines().filter(|line| !line.contains(" INFO ")).collect();
    let [line] = lines[..] else { panic!("one line: {all}") };
    line.strip_prefix("fedbasin-server: ").expect("its name").replace(folder, "DIR")
}

#[test]
fn secrets_that_are_missing_or_not_what_they_should_be_are_named() {
    let (place, folder) = made();
    let gone = |name: &str| {
        let (here, away) = (place.path("server").join(name), place.path("away"));
        fs::rename(&here, &away).expect("moved");
        let line = refused(&serve(&place, ""), &folder);
        fs::rename(&away, &here).expect("moved back");
        line
    };
    let missing = "No such file or directory (os error 2); put it there, or correct the path";
    for (name, setting) in [
        ("admin-token", "admin_token_file"),
        ("signing-key.pem", "signing_key_file"),
        ("pki/server.pem", "tls.cert_file"),
        ("pki/server.key", "tls.key_file"),
        ("pki/authority.pem", "tls.client_ca_file"),
    ] {
        assert_eq!(gone(name), format!("{setting}: cannot read DIR/{name}: {missing}"));
    }
    let line =
        refused(&serve(&place, "--database-url-file \"$PLACE/none\""), &place.path("").display().to_string());
    assert_eq!(line, format!("--database-url-file: cannot read DIR/none: {missing}").replace("DIR/", "DIR"));

    let instead = |name: &str, text: &str| {
        let file = place.path("server").join(name);
        let before = fs::read(&file).expect("a file");
        fs::write(&file, text).expect("written");
        let line = refused(&serve(&place, ""), &folder);
        fs::write(&file, before).expect("written");
        line
    };
    assert_eq!(
        instead("admin-token", "short\n"),
        "admin token: that in DIR/admin-token has fewer than 16 characters; use a long random one"
    );
    assert_eq!(
        instead("signing-key.pem", "nothing"),
        "signing_key_file: DIR/signing-key.pem: a file of signing keys: holds no Ed25519 key"
    );
    let other_key = fs::read_to_string(place.path("server/pki/authority.key")).expect("a key");
    assert_eq!(
        instead("pki/server.key", &other_key),
        "tls: the key in DIR/pki/server.key (tls.key_file) is not of the certificate in DIR/pki/server.pem (tls.cert_file); give the one that was made with it"
    );
    assert_eq!(
        instead("pki/server.pem", &other_key),
        "tls.cert_file: cannot use DIR/pki/server.pem: no certificate in it"
    );
}

#[test]
fn a_taken_port_is_named() {
    let (place, folder) = made();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = taken.local_addr().expect("its address");
    for edge in ["grpc", "http"] {
        assert_eq!(
            refused(&serve(&place, &format!("--{edge}-listen {at}")), &folder),
            format!(
                "{edge}.listen: cannot listen on {at}: Address already in use (os error 98); choose another address or port"
            )
        );
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let (place, folder) = made();
    for (flag, line) in [
        (
            "--data-dir /proc/none",
            "data_dir: /proc/none: cannot be made: No such file or directory (os error 2)",
        ),
        (
            "--objects-url file:///proc/none",
            "objects.url: cannot make /proc/none: No such file or directory (os error 2)",
        ),
        (
            "--objects-url ftp://x",
            "objects.url: \"ftp://x\" is neither s3://bucket/prefix nor file:///folder",
        ),
    ] {
        assert_eq!(refused(&serve(&place, flag), &folder), line);
    }
}

/// Changes the rows by which the schema's steps are known.
async fn steps(data: &Path, statement: &str) {
    let url = format!("sqlite://{}", data.join("fedbasin.sqlite").display());
    let mut rows = SqliteConnection::connect(&url).await.expect("the database");
    rows.execute(sqlx::AssertSqlSafe(statement.to_owned())).await.expect("changed");
    rows.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_a_newer_program_or_half_a_step_is_refused_and_works_once_mended() {
    let (place, folder) = made();
    let data = place.path("server/data");
    said(&place.types("fedbasin-server migrate --config \"$PLACE/server/fedbasin.toml\""));
    let newest = "(SELECT MAX(version) FROM _sqlx_migrations)";
    let both = || {
        let migrate = place.types("fedbasin-server migrate --config \"$PLACE/server/fedbasin.toml\"");
        [refused(&serve(&place, ""), &folder), refused(&migrate, &folder)]
    };
    let shown = |lines: [String; 2], begin: &str, end: &str| {
        for line in lines {
            assert!(line.starts_with(begin) && line.ends_with(end), "{line}");
        }
    };

    let columns = "description, installed_on, success, checksum, execution_time FROM _sqlx_migrations";
    let future = format!("INSERT INTO _sqlx_migrations SELECT 9999, {columns} WHERE version = {newest}");
    steps(&data, &future).await;
    // A step that only added is nobody's trouble.
    said(&place.types("fedbasin-server migrate --config \"$PLACE/server/fedbasin.toml\""));
    steps(&data, "UPDATE schema_floor SET oldest = oldest + 9999").await;
    shown(
        both(),
        "database: its schema is of version 9999, this program's of version ",
        "; use the newer program that serves it",
    );
    steps(&data, "DELETE FROM _sqlx_migrations WHERE version = 9999").await;
    steps(&data, "UPDATE schema_floor SET oldest = oldest - 9999").await;

    steps(&data, &format!("UPDATE _sqlx_migrations SET success = FALSE WHERE version = {newest}")).await;
    shown(
        both(),
        "database: step ",
        " of its schema was begun and did not end; restore the backup of before the upgrade, then start again",
    );
    steps(&data, "UPDATE _sqlx_migrations SET success = TRUE").await;
    said(&place.types("fedbasin-server migrate --config \"$PLACE/server/fedbasin.toml\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_away_is_said_by_readyz_until_it_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let shared = folder.path().join("shared");
    let options = Options {
        config: format!("[objects]\nurl = \"file://{}\"\n", shared.display()),
        ..Options::default()
    };
    let server = Server::start_with(Database::sqlite(), options);
    let admin = server.admin();
    let check = |what: &str| {
        let answer = admin.get("/readyz").json();
        let checks = answer["checks"].as_array().cloned().unwrap_or_default();
        checks.into_iter().find(|check| check["what"] == what).expect(what)
    };
    assert_eq!(check("objects")["ok"], true);
    fs::rename(&shared, folder.path().join("unmounted")).expect("moved");
    let said: Value =
        eventually("readyz says it", || Some(check("objects")).filter(|found| found["ok"] == false)).await;
    assert!(
        said["detail"].as_str().is_some_and(|detail| detail.contains("storage cannot answer now")),
        "{said}"
    );
    fs::rename(folder.path().join("unmounted"), &shared).expect("moved back");
    eventually("it is there again", || Some(()).filter(|()| check("objects")["ok"] == true)).await;
    tokio::time::sleep(Duration::ZERO).await;
}
