use super::*;
use crate::config::Config;

fn read(lines: &str) -> Result<Config, String> {
    Config::from_toml(&format!(
        "[oidc]\naudience = \"fedbasin\"\nroles_claim = \"groups\"\nroles = {{ ops = \"operator\" }}\n{lines}\n"
    ))
}

#[test]
fn an_issuer_speaks_tls_unless_it_is_on_this_machine() {
    for good in [
        "https://id.example",
        "https://id.example/realms/x",
        "http://127.0.0.1:8080",
        "http://[::1]:1/x",
        "http://localhost",
    ] {
        assert!(read(&format!("issuer = {good:?}")).is_ok(), "{good}");
    }
    for bad in [
        "http://id.example",
        "http://127.0.0.1.example",
        "http://localhost.example",
        "ftp://id.example",
        "id.example",
        "",
        "https://u:p@id.example",
        "https://id.example#x",
    ] {
        let error = read(&format!("issuer = {bad:?}")).expect_err(bad);
        assert!(error.contains("oidc.issuer"), "{bad}: {error}");
    }
}

#[test]
fn an_issuer_that_speaks_tls_cannot_send_for_keys_in_clear_text() {
    assert!(allowed("http://127.0.0.1/keys", false).is_err());
    assert!(allowed("https://keys.example/x?v=1", false).is_ok());
}

#[test]
fn settings_that_open_nothing_or_that_nobody_meant_are_refused() {
    for (from, to) in [
        ("audience = \"fedbasin\"", "audience = \"\""),
        ("roles_claim = \"groups\"", "roles_claim = \"\""),
        ("roles_claim = \"groups\"", "roles_claim = []"),
        ("roles = { ops = \"operator\" }", "roles = {}"),
        ("roles = { ops = \"operator\" }", "roles = { ops = \"god\" }"),
        ("audience = \"fedbasin\"", "audience = \"fedbasin\"\nclient_secret = \"x\""),
    ] {
        let text = "[oidc]\nissuer = \"https://id.example\"\naudience = \"fedbasin\"\nroles_claim = \"groups\"\nroles = { ops = \"operator\" }\n";
        assert!(Config::from_toml(text).is_ok() && text.contains(from));
        assert!(Config::from_toml(&text.replace(from, to)).is_err(), "{to}");
    }
}

#[test]
fn the_sample_with_its_comments_taken_away_is_understood() {
    let sample = include_str!("../../../../deploy/fedbasin.toml");
    let commented = sample.split("# [oidc]\n").nth(1).expect("a sample of [oidc]");
    let lines = commented.lines().map_while(|line| line.strip_prefix("# "));
    let text = format!("[oidc]\n{}", lines.collect::<Vec<_>>().join("\n"));
    let oidc = Config::from_toml(&text).expect("reads").oidc.expect("set");
    assert_eq!((oidc.refresh_seconds, oidc.roles.len()), (60, 3));
    assert!(oidc.is_authorized_party("fedbasin-cli") && oidc.ca_file.is_some());
    let sign_in = oidc.sign_in.expect("set");
    assert!(sign_in.client_secret_file.is_some() && sign_in.scopes == ["openid"]);
}

#[test]
fn a_claim_may_stand_within_others() {
    let text = "[oidc]\nissuer = \"https://id.example\"\naudience = \"fedbasin\"\nroles_claim = [\"realm_access\", \"roles\"]\n[oidc.roles]\n\"fedbasin/admins\" = \"admin\"\n";
    let oidc = Config::from_toml(text).expect("reads").oidc.expect("set");
    assert_eq!(oidc.roles_claim.way(), ["realm_access", "roles"]);
    assert!(oidc.is_authorized_party("fedbasin") && !oidc.is_authorized_party("other"));
}

#[test]
fn a_person_is_sent_back_to_this_server_over_tls_and_asked_for_who_they_are() {
    let with = |lines: &str| read(&format!("issuer = \"https://id.example\"\n[oidc.sign_in]\n{lines}"));
    let url = "redirect_url = \"https://fed.example/signin/return\"";
    assert!(with(url).is_ok() && with(&format!("{url}\nscopes = [\"groups\", \"openid\"]")).is_ok());
    assert!(with("redirect_url = \"http://127.0.0.1:8080/signin/return\"").is_ok());
    for (bad, named) in [
        ("", "redirect_url"),
        ("redirect_url = \"http://fed.example/signin/return\"", "oidc.sign_in.redirect_url"),
        ("redirect_url = \"https://fed.example/\"", "oidc.sign_in.redirect_url"),
        ("redirect_url = \"https://fed.example/signin/return?a=b\"", "oidc.sign_in.redirect_url"),
        (&format!("{url}\nscopes = []"), "oidc.sign_in.scopes"),
        (&format!("{url}\nscopes = [\"groups\"]"), "oidc.sign_in.scopes"),
        (&format!("{url}\nscopes = [\"openid groups\"]"), "oidc.sign_in.scopes"),
        (&format!("{url}\nclient_secret = \"x\""), "client_secret"),
    ] {
        let error = with(bad).expect_err(bad);
        assert!(error.contains(named), "{bad}: {error}");
    }
}
