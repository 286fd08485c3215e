//! Persons who sign in at an identity provider (OpenID Connect). Their tokens are JWTs: checked by signature against the keys that the
//! issuer publishes, then by what they say.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzed;
mod keys;
pub(crate) mod sign_in;
mod verifier;

use std::{sync::Arc, time::Duration};

use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, errors::ErrorKind};
use serde_json::{Map, Value};

use self::keys::Keys;
use crate::{
    config,
    error::{Code, Error, Result},
    model::Role,
    rates::Rates,
    round::Millis,
};

/// The longest token that is looked at, in bytes.
pub(crate) const MOST_TOKEN_BYTES: usize = 8 << 10;

/// How far clocks may differ, in milliseconds.
const SKEW_MS: Millis = 60_000;

/// An identity provider. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Oidc {
    settings: Arc<config::Oidc>,
    keys: Keys,
    /// Ways that end, of all persons: whoever sends browsers' answers as fast as they like shuts nobody out at the provider.
    ends: Arc<Rates<()>>,
}

/// Who a token is of.
#[derive(Debug)]
pub(crate) struct Person {
    pub(crate) role: Role,
    /// How they are called at the issuer (`sub`).
    pub(crate) subject: String,
    /// How long the token still opens something.
    pub(crate) left: Duration,
}

/// Whether a bearer token has a JWT's form; whether it is one is seen later.
pub(crate) fn is_jwt(token: &str) -> bool {
    token.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl Oidc {
    /// Asks the issuer nothing yet: a server starts while it is away.
    ///
    /// # Errors
    /// Says which setting cannot be used.
    pub(crate) fn from_config(settings: &config::Oidc) -> Result<Self> {
        settings.check().map_err(Error::invalid)?;
        settings.sign_in.as_ref().map_or(Ok(()), sign_in::check_secret).map_err(Error::invalid)?;
        verifier::install();
        Ok(Self {
            settings: Arc::new(settings.clone()),
            keys: Keys::new(settings)?,
            ends: Arc::new(Rates::new(sign_in::MOST_A_MINUTE)),
        })
    }

    /// What a token says that this issuer signed, for this server.
    ///
    /// # Errors
    /// [`Code::Unauthenticated`] and why, for any other.
    pub(crate) async fn claims(&self, token: &str) -> Result<Map<String, Value>> {
        let header = header(token)?;
        let key = self.keys.find(header.kid.as_deref(), header.alg).await;
        checked(&self.settings, token, header.alg, key.as_ref())
    }

    /// Who it is that a token's claims speak of. `now` is the database's clock.
    ///
    /// # Errors
    /// [`Code::Unauthenticated`] and why, for a token that opens nothing now; [`Code::Forbidden`] for one whose holder has no role here.
    pub(crate) fn person(&self, claims: &Map<String, Value>, now: Millis) -> Result<Person> {
        person(&self.settings, claims, now)
    }
}

/// What a token says of how it is signed.
fn header(token: &str) -> Result<Header> {
    let header = jsonwebtoken::decode_header(token).map_err(|error| refused(&error))?;
    check_header(&header)?;
    Ok(header)
}

/// The claims of a token that the key signed, by this issuer and for this server. Its times are held against the database's clock
/// instead of this machine's.
fn checked(
    settings: &config::Oidc,
    token: &str,
    algorithm: Algorithm,
    key: Option<&DecodingKey>,
) -> Result<Map<String, Value>> {
    let key = key
        .ok_or_else(|| unauthenticated("it is signed by no key that the issuer publishes; sign in again"))?;
    let mut validation = Validation::new(algorithm);
    validation.set_issuer(&[&settings.issuer]);
    validation.set_audience(&[&settings.audience]);
    validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
    validation.validate_exp = false;
    let token = jsonwebtoken::decode(token, key, &validation).map_err(|error| refused(&error))?;
    Ok(token.claims)
}

/// Keys and addresses that a header names itself are never used.
fn check_header(header: &Header) -> Result<()> {
    if !verifier::ALGORITHMS.contains(&header.alg) {
        return Err(unauthenticated("its algorithm is none of RS256, PS256, ES256, EdDSA"));
    }
    if header.crit.is_some() {
        return Err(unauthenticated("its header asks for an extension (crit) that is not understood here"));
    }
    // A token for another purpose is no proof of who calls.
    let kind = header.typ.as_deref().unwrap_or("JWT").to_ascii_lowercase();
    if !matches!(kind.trim_start_matches("application/"), "jwt" | "at+jwt") {
        return Err(unauthenticated("its type (typ) is neither JWT nor at+jwt"));
    }
    Ok(())
}

/// Who a token is of whose signature, issuer and audience are right.
fn person(settings: &config::Oidc, claims: &Map<String, Value>, now: Millis) -> Result<Person> {
    let expires = time(claims, "exp")?.ok_or_else(|| unauthenticated("it has no end (exp)"))?;
    let left = expires.saturating_add(SKEW_MS).saturating_sub(now);
    if left <= 0 {
        return Err(unauthenticated("it has expired; sign in again"));
    }
    if time(claims, "nbf")?.is_some_and(|begins| begins.saturating_sub(SKEW_MS) > now) {
        return Err(unauthenticated("it is not valid yet (nbf); do the clocks agree?"));
    }
    match claims.get("azp") {
        None | Some(Value::Null) => {}
        Some(Value::String(party)) if settings.is_authorized_party(party) => {}
        Some(_) => {
            return Err(unauthenticated(
                "it was given to another program (azp) than oidc.authorized_parties",
            ));
        }
    }
    let subject = match claims.get("sub") {
        // It goes on record: no more than OpenID Connect allows.
        Some(Value::String(subject))
            if (1..=255).contains(&subject.len()) && subject.bytes().all(is_printable) =>
        {
            subject.clone()
        }
        _ => return Err(unauthenticated("it does not say whose it is (sub: 1 to 255 of printable ASCII)")),
    };
    let role = role(settings, claims).ok_or_else(|| {
        Error::new(
            Code::Forbidden,
            format!(
                "the identity provider's token gives no role here: {} holds none of oidc.roles; ask an administrator",
                settings.roles_claim.way().join(".")
            ),
        )
    })?;
    Ok(Person { role, subject, left: Duration::from_millis(left.unsigned_abs()) })
}

/// The highest role that a claim's text, or one in its list of texts, stands for.
fn role(settings: &config::Oidc, claims: &Map<String, Value>) -> Option<Role> {
    let (first, rest) = settings.roles_claim.way().split_first()?;
    let found = rest.iter().try_fold(claims.get(first)?, |value, name| value.get(name.as_str()))?;
    let texts = match found {
        Value::Array(values) => values.as_slice(),
        value => std::slice::from_ref(value),
    };
    texts.iter().filter_map(Value::as_str).filter_map(|text| settings.roles.get(text)).max().copied()
}

/// A time of a token (NumericDate: seconds, which may have a fraction), in milliseconds.
#[expect(clippy::cast_possible_truncation, reason = "saturates, and to the millisecond")]
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<Millis>> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(seconds) if seconds.is_finite() => Ok(Some((seconds * 1000.0) as Millis)),
            _ => Err(unauthenticated(&format!("its {name} is no number of seconds"))),
        },
    }
}

fn is_printable(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte)
}

fn refused(error: &jsonwebtoken::errors::Error) -> Error {
    unauthenticated(match error.kind() {
        ErrorKind::InvalidSignature => "its signature is wrong",
        ErrorKind::InvalidIssuer => "it is of another issuer (iss) than oidc.issuer",
        ErrorKind::InvalidAudience => "it is for another audience (aud) than oidc.audience",
        ErrorKind::MissingRequiredClaim(_) => "it lacks one of iss, aud, exp, sub",
        _ => "it is no JWT that can be read here",
    })
}

fn unauthenticated(what: &str) -> Error {
    Error::new(Code::Unauthenticated, format!("the token opens nothing here: {what}"))
}

#[cfg(test)]
mod tests;
