use serde_json::json;

use super::*;
use crate::config::Config;

const NOW: Millis = 1_800_000_000_000;

fn settings(more: &str) -> config::Oidc {
    let text = format!(
        "[oidc]\nissuer = \"https://id.example\"\naudience = \"fedbasin\"\n{more}\n[oidc.roles]\nsee = \"viewer\"\nrun = \"operator\"\nall = \"admin\"\n"
    );
    Config::from_toml(&text).expect("settings").oidc.expect("set")
}

fn plain() -> config::Oidc {
    settings("roles_claim = \"groups\"")
}

/// What the settings make of a token's claims; `change` is put over a good one's.
fn of(settings: &config::Oidc, change: &Value) -> Result<Person> {
    let mut claims = json!({ "sub": "ada", "exp": NOW / 1000 + 300, "groups": ["run"] });
    let claims = claims.as_object_mut().expect("an object");
    for (name, value) in change.as_object().expect("an object") {
        claims.insert(name.clone(), value.clone());
    }
    person(settings, claims, NOW)
}

fn code(result: Result<Person>) -> Code {
    result.expect_err("refused").code()
}

#[test]
fn the_highest_role_of_a_list_counts_and_what_is_not_mapped_gives_none() {
    let role = |groups: Value| of(&plain(), &json!({ "groups": groups })).map(|person| person.role);
    assert_eq!(role(json!(["see"])).expect("a role"), Role::Viewer);
    assert_eq!(role(json!(["all", "see"])).expect("a role"), Role::Admin);
    assert_eq!(role(json!(["see", 7, null, ["all"], {"all": 1}, "run"])).expect("a role"), Role::Operator);
    assert_eq!(role(json!("all")).expect("a role"), Role::Admin);
    for none in [
        json!([]),
        json!(null),
        json!(["All"]),
        json!("all see"),
        json!("admin"),
        json!({ "all": true }),
        json!(true),
    ] {
        assert_eq!(role(none.clone()).expect_err("no role").code(), Code::Forbidden, "{none}");
    }
}

#[test]
fn roles_are_found_where_the_settings_say_and_nowhere_else() {
    let nested = settings("roles_claim = [\"realm_access\", \"roles\"]");
    assert_eq!(
        of(&nested, &json!({ "realm_access": { "roles": ["all"] } })).expect("a role").role,
        Role::Admin
    );
    for elsewhere in [
        json!({}),
        json!({ "realm_access": ["all"] }),
        json!({ "realm_access.roles": ["all"] }),
        json!({ "roles": ["all"] }),
    ] {
        assert_eq!(code(of(&nested, &elsewhere)), Code::Forbidden, "{elsewhere}");
    }
    let dotted = settings("roles_claim = \"https://x.example/roles\"");
    assert_eq!(of(&dotted, &json!({ "https://x.example/roles": "see" })).expect("a role").role, Role::Viewer);
}

#[test]
fn times_hold_to_the_second_with_a_minute_for_clocks() {
    let now = NOW / 1000;
    let at = |change: Value| of(&plain(), &change);
    assert_eq!(at(json!({ "exp": now + 100 })).expect("alive").left, Duration::from_secs(160));
    assert_eq!(at(json!({ "exp": now - 59 })).expect("alive").left, Duration::from_secs(1));
    assert_eq!(at(json!({ "exp": now as f64 + 0.5 })).expect("alive").left, Duration::from_millis(60_500));
    assert!(at(json!({ "nbf": now + 60 })).is_ok());
    assert!(at(json!({ "exp": 1e300 })).is_ok());
    for bad in [
        json!({ "exp": now - 60 }),
        json!({ "exp": -1e300 }),
        json!({ "exp": null }),
        json!({ "exp": (now + 300).to_string() }),
        json!({ "nbf": now + 61 }),
        json!({ "nbf": 1e300 }),
        json!({ "nbf": "soon" }),
    ] {
        assert_eq!(code(at(bad.clone())), Code::Unauthenticated, "{bad}");
    }
}

#[test]
fn a_token_that_another_program_got_opens_nothing() {
    assert!(of(&plain(), &json!({ "azp": "fedbasin" })).is_ok());
    assert_eq!(code(of(&plain(), &json!({ "azp": "other" }))), Code::Unauthenticated);
    assert_eq!(code(of(&plain(), &json!({ "azp": ["fedbasin"] }))), Code::Unauthenticated);
    let named = settings("roles_claim = \"groups\"\nauthorized_parties = [\"cli\"]");
    assert!(of(&named, &json!({ "azp": "cli" })).is_ok());
    assert_eq!(code(of(&named, &json!({ "azp": "fedbasin" }))), Code::Unauthenticated);
}

#[test]
fn a_token_of_nobody_opens_nothing() {
    for nobody in [
        json!({ "sub": "" }),
        json!({ "sub": "a\nb" }),
        json!({ "sub": "ä" }),
        json!({ "sub": "x".repeat(256) }),
        json!({ "sub": 7 }),
        json!({ "sub": null }),
    ] {
        assert_eq!(code(of(&plain(), &nobody)), Code::Unauthenticated, "{nobody}");
    }
}

#[test]
fn a_header_asks_for_nothing_that_is_not_understood() {
    let header = |text: Value| serde_json::from_value::<Header>(text).expect("a header");
    for good in [
        json!({ "alg": "RS256" }),
        json!({ "alg": "ES256", "typ": "at+jwt" }),
        json!({ "alg": "EdDSA", "typ": "application/AT+JWT" }),
    ] {
        assert!(check_header(&header(good.clone())).is_ok(), "{good}");
    }
    for bad in [
        json!({ "alg": "HS256" }),
        json!({ "alg": "RS512" }),
        json!({ "alg": "RS256", "crit": ["b64"] }),
        json!({ "alg": "RS256", "crit": [] }),
        json!({ "alg": "RS256", "typ": "logout+jwt" }),
        json!({ "alg": "RS256", "typ": "dpop+jwt" }),
    ] {
        assert_eq!(
            check_header(&header(bad.clone())).expect_err("refused").code(),
            Code::Unauthenticated,
            "{bad}"
        );
    }
    assert!(serde_json::from_value::<Header>(json!({ "alg": "none" })).is_err());
}
