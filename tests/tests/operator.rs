//! `fedbasin admin`, an operator's calls: the real program against the real server.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
};

use fedbasin_tests::{Database, Server, client_binary};

/// `fedbasin admin ...` in `folder`, which holds the admin token.
fn admin(server: &Server, address: &str, folder: &Path, arguments: &[&str]) -> Output {
    let token = server.data_dir().join("admin-token");
    Command::new(client_binary())
        .args(["admin", "--server", address, "--token-file"])
        .arg(token)
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the client's program runs")
}

fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_goes_into_a_new_private_file_or_nowhere() {
    let server = Server::start(Database::sqlite());
    let folder = tempfile::tempdir().expect("a folder");
    let enrol =
        |site: &str, file: &str| admin(&server, &server.http, folder.path(), &["enrol", site, "-o", file]);
    let output = enrol("a", "a.token");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("fbs_"), "the token is shown too");
    let file = folder.path().join("a.token");
    let token = fs::read_to_string(&file).expect("the token");
    assert_eq!(fs::metadata(&file).expect("the file").permissions().mode() & 0o777, 0o600);

    // The same again: neither is the file touched, nor a second site enrolled under another name.
    assert!(error(&enrol("a", "a.token")).contains("a.token"));
    assert!(error(&enrol("b", "a.token")).contains("move this one away"));
    assert_eq!(fs::read_to_string(&file).expect("the token"), token);
    assert!(enrol("b", "b.token").status.success(), "b was not enrolled before");
    // What the server refuses leaves no file.
    assert!(error(&enrol("a", "again.token")).contains("fedbasin admin sites"));
    assert!(!folder.path().join("again.token").exists());

    let status = Command::new(client_binary())
        .args(["site", "status", "--server", &server.grpc, "--token-file", "a.token"])
        .current_dir(folder.path())
        .output()
        .expect("the client's program runs");
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grpc_port_is_named_where_the_http_port_is_meant() {
    let server = Server::start(Database::sqlite());
    let folder = tempfile::tempdir().expect("a folder");
    let output = admin(&server, &server.grpc, folder.path(), &["runs"]);
    assert!(error(&output).contains("is this the server's gRPC port?"), "{}", error(&output));
}
