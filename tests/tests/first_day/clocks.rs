//! Clocks that are an hour apart, and certificates of another name: what is said on the site's side, on the operator's, and by the server.

use std::{fs, process::Command, time::Duration};

use fedbasin_tests::{Database, Options, Server, client_binary, now};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

/// A server whose certificate is for this name, from and to so many seconds from now; with the folder where the certificate is.
fn server(name: &str, from: i64, to: i64) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |offset: i64| {
        let seconds = u64::try_from(now() + offset).expect("after 1970");
        date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
    (params.not_before, params.not_after) = (at(from), at(to));
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    let files = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    fs::write(&files.0, certificate.pem()).expect("a file");
    fs::write(&files.1, key.serialize_pem()).expect("a file");
    let options = Options { tls: Some(files), ..Options::default() };
    (Server::start_with(Database::sqlite(), options), folder)
}

/// The errors of a site's call and of an operator's.
fn errors(server: &Server, folder: &tempfile::TempDir) -> [String; 2] {
    fs::write(folder.path().join("token"), "fbs_of_nobody_at_all").expect("a file");
    let ask = |what: &[&str], url: &str| {
        let url = url.replace("127.0.0.1", "localhost");
        let output = Command::new(client_binary())
            .args(what)
            .args(["--server", &url, "--ca", "cert.pem", "--token-file", "token"])
            .env("FEDBASIN_STATE_DIR", folder.path())
            .current_dir(folder.path())
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    [ask(&["site", "status"], &server.grpc), ask(&["admin", "sites"], &server.http)]
}

const COMPARE: &str = ": compare this machine's clock with the server's; where both are right, that certificate is at its end: ask whoever runs the server for the next one\n";

#[test]
fn a_clock_that_is_an_hour_off_is_named_at_once() {
    for (from, to, what) in [(3600, 7200, "certificate not valid yet"), (-7200, -3600, "certificate expired")]
    {
        let (server, folder) = server("localhost", from, to);
        for error in errors(&server, &folder) {
            assert!(error.contains(what) && error.ends_with(COMPARE), "{error}");
        }
    }
}

#[test]
fn a_certificate_of_another_name_is_told_with_that_name() {
    let (server, folder) = server("other.example", -60, 3600);
    for error in errors(&server, &folder) {
        assert!(
            error.contains("certificate not valid for name \"localhost\"") && error.contains("other.example"),
            "{error}"
        );
        assert!(
            error.ends_with(
                ": name the authority that signed it with --ca, and the host as the certificate does\n"
            ),
            "{error}"
        );
    }
}

#[test]
fn a_server_whose_certificate_is_not_valid_yet_says_it_is_not_ready() {
    let (server, folder) = server("localhost", 3600, 7200);
    // A health check trusts that one certificate, whatever its dates: it asks whether the server is ready.
    let at = server.http.trim_start_matches("https://").to_owned();
    let cert = folder.path().join("cert.pem").display().to_string();
    let (ready, said) = {
        let output = Command::new(fedbasin_tests::server_binary())
            .args(["healthcheck", "--address", &at, "--tls-cert", &cert])
            .output()
            .expect("it runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert!(!ready && said.contains("is not ready: it answered \"HTTP/1.1 503"), "{said}");
}
