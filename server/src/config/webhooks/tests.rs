use crate::config::Config;

fn webhook(more: &str) -> Result<Config, String> {
    Config::from_toml(&format!("[[webhooks]]\nname = \"ops\"\n{more}\n"))
}

#[test]
fn an_address_of_this_machine_or_of_a_private_network_needs_to_be_allowed() {
    for url in [
        "https://127.0.0.1/x",
        "https://10.1.2.3/x",
        "https://192.168.0.9/x",
        "https://169.254.169.254/latest",
        "https://100.64.1.1/x",
        "https://0x7f.1/x",
        "https://2130706433/x",
        "https://[::1]/x",
        "https://[::ffff:10.0.0.1]/x",
        "https://[fd00::1]/x",
        "https://[fe80::1]/x",
    ] {
        let error = webhook(&format!("url = {url:?}")).expect_err(url);
        assert!(error.contains("private address"), "{url}: {error}");
        assert!(webhook(&format!("url = {url:?}\nallow_private_addresses = true")).is_ok(), "{url}");
    }
    assert!(webhook("url = \"https://hooks.example/x\"").is_ok());
    assert!(webhook("url = \"https://93.184.216.34/x\"").is_ok());
}

#[test]
fn clear_text_and_addresses_with_names_in_them_are_refused_and_not_shown() {
    for url in [
        "http://hooks.example/topsecret",
        "ftp://hooks.example/topsecret",
        "https://u:topsecret@hooks.example/",
        "topsecret",
    ] {
        let error = webhook(&format!("url = {url:?}")).expect_err(url);
        assert!(error.contains("webhooks.url") && !error.contains("topsecret"), "{url}: {error}");
    }
    assert!(webhook("url = \"http://hooks.example/\"\nallow_private_addresses = true").is_ok());
}

#[test]
fn neither_the_address_nor_the_secret_shows_itself() {
    let mut config = webhook("url = \"https://hooks.example/topsecret\"").expect("a webhook");
    config.webhook_secret = Some(crate::config::Secret::new("whsec_topsecret"));
    assert!(!format!("{config:?}").contains("topsecret"));
}

#[test]
fn names_are_ids_and_there_once_and_events_are_known() {
    let twice = "url = \"https://a.example\"\n[[webhooks]]\nname = \"ops\"\nurl = \"https://b.example\"";
    assert!(webhook(twice).expect_err("twice").contains("there twice"));
    let named = |name: &str| {
        Config::from_toml(&format!("[[webhooks]]\nname = {name:?}\nurl = \"https://a.example\""))
    };
    assert!(named("Ops Team").is_err());
    assert!(webhook("url = \"https://a.example\"\nevents = [\"round.opened\"]").is_err());
    let config = webhook("url = \"https://a.example\"\nevents = [\"round.failed\"]\nruns = [\"pilot\"]")
        .expect("known");
    let told = &config.webhooks[0];
    use super::WebhookEvent::{CertificateExpiring, RoundFailed, RoundPublished};
    assert!(told.wants(RoundFailed, Some("pilot")) && !told.wants(RoundFailed, Some("other")));
    assert!(told.wants(RoundFailed, None) && !told.wants(RoundPublished, Some("pilot")));
    assert!(!told.wants(CertificateExpiring, None));
}

#[test]
fn what_cannot_work_is_refused_by_name() {
    for (line, key) in [
        ("quorum_at_risk_fraction = 1.5", "quorum_at_risk_fraction"),
        ("max_attempts = 0", "max_attempts"),
        ("timeout_ms = 0", "timeout_ms"),
    ] {
        let error = Config::from_toml(&format!("[notify]\n{line}")).expect_err(line);
        assert!(error.contains(key), "{error}");
    }
}
