use std::{io::Read as _, net::TcpListener, thread};

use fedbasin_proto::v1;

use super::*;

fn address(url: &str) -> Address {
    Address { url: url.to_owned(), ca: None, insecure: false, identity: None }
}

#[test]
fn clear_text_stays_on_this_machine() {
    for url in ["http://127.0.0.1:50051", "http://localhost:1", "http://[::1]:50051", "http://127.8.9.1:2"] {
        assert!(address(url).check().is_ok(), "{url}");
    }
    for url in [
        "http://10.0.0.1:50051",
        "http://hospital.example:50051",
        "http://0.0.0.0:1",
        "http://localhost.example:1",
    ] {
        let error = address(url).check().unwrap_err();
        assert_eq!(error.exit_code(), 2, "{url}");
        assert!(error.to_string().contains("--insecure"), "{error}");
    }
}

#[test]
fn clear_text_elsewhere_can_be_asked_for() {
    let asked = Address { insecure: true, ..address("http://server:50051") };
    assert!(asked.check().is_ok());
    assert!(address("https://server:50051").check().is_ok());
}

#[test]
fn an_address_needs_scheme_and_host() {
    for url in ["server:50051", "127.0.0.1:1", "ftp://x", "", "https://"] {
        assert_eq!(address(url).check().unwrap_err().exit_code(), 2, "{url}");
    }
}

#[test]
fn an_authority_without_tls_is_wrong_usage() {
    let wrong = Address { ca: Some("ca.pem".into()), ..address("http://127.0.0.1:1") };
    assert_eq!(wrong.check().unwrap_err().exit_code(), 2);
}

#[test]
fn a_token_is_not_shown() {
    assert!(!format!("{:?}", Token::new("fbs_secret")).contains("secret"));
}

/// The address of something that takes connections, reads what comes and says nothing. Ends with the test's process.
fn silent() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || stream.read_to_end(&mut Vec::new()));
        }
    });
    url
}

#[tokio::test]
async fn a_peer_that_takes_the_connection_and_says_nothing_to_tls_is_not_waited_for_without_end() {
    let mut client = connect_within(Duration::from_millis(200), &address(&silent()), None, None).unwrap();
    let call = client.list_runs(v1::ListRunsRequest::default());
    let status = tokio::time::timeout(Duration::from_secs(60), call).await.expect("an end").unwrap_err();
    assert_eq!(
        crate::retry::verdict(&status),
        crate::retry::Verdict::Retry,
        "it may be a server that restarts"
    );
    let error = Error::from_status(&status, "a call").to_string();
    assert!(error.contains("no connection came about within 10 s, TLS included"), "{error}");
    assert!(error.contains("swallows connections"), "{error}");
}

#[tokio::test]
async fn a_proxy_that_takes_the_connection_and_says_nothing_is_not_waited_for_either() {
    let proxy = silent().replace("https://", "http://");
    let proxy = Proxy::named("HTTPS_PROXY", &proxy).unwrap();
    let server = address("https://fed.example:50051");
    let mut client = connect_within(Duration::from_millis(200), &server, None, Some(proxy)).unwrap();
    let call = client.list_runs(v1::ListRunsRequest::default());
    let status = tokio::time::timeout(Duration::from_secs(60), call).await.expect("an end").unwrap_err();
    let error = Error::from_status(&status, "a call").to_string();
    assert!(error.contains("no connection came about within 10 s, TLS included"), "{error}");
}
