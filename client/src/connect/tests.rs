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
