//! What an identity provider and its tokens say, for fuzzing.

use std::sync::OnceLock;

use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::{checked, header, is_jwt, keys, person, verifier};
use crate::{
    config::{self, Config},
    error::Result,
    round::Millis,
};

/// Public keys of each kind that is taken. What was signed with them is of one `sub` alone, and the private ones are gone.
const KEYS: &[u8] = include_bytes!("fuzzed/keys.json");
/// The one whose tokens they signed.
const SUBJECT: &str = "ada";
/// The database's clock; what is signed ends in the year 2100.
const NOW: Millis = 1_800_000_000_000;

fn settings() -> &'static config::Oidc {
    static SETTINGS: OnceLock<config::Oidc> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        let text = "[oidc]\nissuer = \"https://id.example\"\naudience = \"fedbasin\"\n\
                    roles_claim = [\"realm_access\", \"roles\"]\n\
                    [oidc.roles]\nsee = \"viewer\"\nrun = \"operator\"\nall = \"admin\"\n";
        verifier::install();
        Config::from_toml(text).expect("settings").oidc.expect("set")
    })
}

/// A token as it stands in a header (the first byte is even), or the claims of one that was signed rightly.
///
/// # Panics
/// Where a token opens something that the issuer's keys did not sign, or a person is taken whom the claims do not make one.
#[must_use]
pub fn token(bytes: &[u8]) -> bool {
    let Some((which, bytes)) = bytes.split_first() else { return false };
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let claims = match which % 2 {
        0 => signed(text),
        _ => serde_json::from_str(text).ok(),
    };
    let Some(claims) = claims else { return false };
    let Ok(person) = person(settings(), &claims, NOW) else { return false };
    assert!((1..=255).contains(&person.subject.len()) && !person.subject.contains(char::is_control));
    assert!(claims["sub"] == *person.subject && !person.left.is_zero());
    let roles = &claims["realm_access"]["roles"];
    let names = roles.as_array().map_or(std::slice::from_ref(roles), Vec::as_slice);
    let of = |name: &Value| settings().roles.get(name.as_str()?).copied();
    assert_eq!(names.iter().filter_map(of).max(), Some(person.role), "{roles}");
    true
}

fn signed(text: &str) -> Option<Map<String, Value>> {
    let settings = settings();
    let claims = (|| -> Result<_> {
        let header = header(text)?;
        let known = keys::key_set("", KEYS).expect("keys");
        let key = keys::meant(&known, header.kid.as_deref(), header.alg);
        checked(settings, text, header.alg, key)
    })();
    let claims = claims.ok()?;
    assert!(is_jwt(text), "only what looks like one is asked");
    assert_eq!(claims["sub"], SUBJECT, "nothing else was ever signed");
    Some(claims)
}

/// A set of keys (the first byte is even), or how an issuer describes itself.
///
/// # Panics
/// Where a key takes a signature that nobody made, or keys are to come from where nobody may listen in.
#[must_use]
pub fn key_set(bytes: &[u8]) -> bool {
    let Some((which, bytes)) = bytes.split_first() else { return false };
    let settings = settings();
    if which % 2 == 1 {
        let Ok(place) = keys::jwks_uri(&settings.issuer, "", bytes) else { return false };
        let begin = place.trim_start().get(..6).map(str::to_ascii_lowercase);
        assert_eq!(begin.as_deref(), Some("https:"), "{place:?}");
        if let Some(at) = keys::sign_in_at(&settings.issuer, bytes) {
            assert_eq!((at.authorization.scheme(), at.token.scheme()), ("https", "https"));
        }
        return true;
    }
    let Ok(found) = keys::key_set("", bytes) else { return false };
    assert!(found.len() <= 64);
    for key in &found {
        for &algorithm in key.algorithms {
            let length =
                if algorithm == Algorithm::RS256 || algorithm == Algorithm::PS256 { 256 } else { 64 };
            let signature =
                base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, vec![7; length]);
            let taken = jsonwebtoken::crypto::verify(&signature, b"nobody signed this", &key.key, algorithm);
            assert!(!matches!(taken, Ok(true)), "{algorithm:?}");
        }
    }
    !found.is_empty()
}
