//! The issuer's public keys: fetched when they are needed, kept while it is away.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use reqwest::{Client, RequestBuilder, Url, redirect};
use serde::Deserialize;
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::Instant,
};

use crate::{
    authorities,
    config::{self, allowed},
    error::{Error, Result},
};

/// The longest that one answer of the issuer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest answer of the issuer, in bytes.
const MOST_BYTES: usize = 256 << 10;
const MOST_KEYS: usize = 64;
/// Keys that were fetched so many pauses ago are fetched again: what the issuer withdrew opens nothing for longer.
const OLD_PAUSES: u32 = 5;

/// The keys of one issuer. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(super) struct Keys {
    issuer: String,
    client: Client,
    /// The issuer is asked no more often, whoever sends what.
    pause: Duration,
    known: Arc<RwLock<Known>>,
    /// Held by who asks the issuer; when that was done last.
    asked: Arc<Mutex<Option<Instant>>>,
}

#[derive(Default)]
struct Known {
    keys: Vec<Key>,
    sign_in: Option<SignInAt>,
    fetched: Option<Instant>,
}

/// Where an issuer signs persons in, as it says of itself.
#[derive(Clone)]
pub(super) struct SignInAt {
    /// Where a person's browser is sent.
    pub(super) authorization: Url,
    /// Where what the browser brings back is changed for tokens.
    pub(super) token: Url,
}

pub(super) struct Key {
    id: Option<String>,
    pub(super) algorithms: &'static [Algorithm],
    pub(super) key: DecodingKey,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

impl Keys {
    /// Asks nothing yet.
    pub(super) fn new(settings: &config::Oidc) -> Result<Self> {
        let mut client = Client::builder()
            .timeout(PATIENCE)
            .redirect(redirect::Policy::none())
            .user_agent("fedbasin-server");
        if let Some(path) = &settings.ca_file {
            let found =
                authorities::read(path).map_err(|what| Error::invalid(format!("oidc.ca_file: {what}")))?;
            client = client.tls_certs_only(found);
        }
        let client = client.build().map_err(|error| {
            Error::invalid(format!(
                "oidc: no HTTPS client can be made: {}; name an oidc.ca_file",
                chain(&error)
            ))
        })?;
        Ok(Self {
            issuer: settings.issuer.clone(),
            client,
            pause: Duration::from_secs(settings.refresh_seconds),
            known: Arc::default(),
            asked: Arc::default(),
        })
    }

    /// The key that a token says it is signed by.
    pub(super) async fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
        self.ask_for(|known| meant(&known.keys, id, algorithm).cloned()).await
    }

    /// Where persons sign in.
    pub(super) async fn sign_in_at(&self) -> Option<SignInAt> {
        self.ask_for(|known| known.sign_in.clone()).await
    }

    /// Something that the issuer says. Where it is not known, or what is known is old, the issuer is asked, by one call at a time and after a
    /// pause at the least.
    async fn ask_for<T>(&self, look: impl Fn(&Known) -> Option<T>) -> Option<T> {
        let look = || {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            let old = known.fetched.is_none_or(|when| when.elapsed() > self.pause * OLD_PAUSES);
            (look(&known), old)
        };
        let (found, old) = look();
        if found.is_some() && !old {
            return found;
        }
        let asked = match &found {
            // Another call asks already, and what is known will do.
            Some(_) => match self.asked.clone().try_lock_owned() {
                Ok(asked) => asked,
                Err(_) => return found,
            },
            None => self.asked.clone().lock_owned().await,
        };
        let (found, old) = look();
        if found.is_some() && !old || asked.is_some_and(|when| when.elapsed() < self.pause) {
            return found;
        }
        self.renew_as(asked).await;
        look().0
    }

    /// Asks the issuer, in a task of its own: who hangs up does not break it off, and so cannot keep newer keys away.
    async fn renew_as(&self, mut asked: OwnedMutexGuard<Option<Instant>>) {
        let keys = self.clone();
        let asking = tokio::spawn(async move {
            keys.renew().await;
            *asked = Some(Instant::now());
        });
        let _ = asking.await;
    }

    async fn renew(&self) {
        match self.fetch().await {
            Ok((keys, sign_in)) => {
                tracing::debug!(oidc.issuer = self.issuer, oidc.keys = keys.len(), "the issuer's keys");
                if keys.is_empty() {
                    tracing::warn!(
                        oidc.issuer = self.issuer,
                        "the issuer publishes no key that can be used here"
                    );
                }
                *self.known.write().unwrap_or_else(PoisonError::into_inner) =
                    Known { keys, sign_in, fetched: Some(Instant::now()) };
            }
            Err(what) => {
                tracing::warn!(
                    oidc.issuer = self.issuer,
                    error.message = what,
                    "the issuer's keys cannot be had; those known stay"
                );
            }
        }
    }

    async fn fetch(&self) -> Result<(Vec<Key>, Option<SignInAt>), String> {
        let issuer = self.issuer.trim_end_matches('/');
        let place = format!("{issuer}/.well-known/openid-configuration");
        let text = self.get(&place).await?;
        let jwks_uri = jwks_uri(&self.issuer, &place, &text)?;
        Ok((key_set(&jwks_uri, &self.get(&jwks_uri).await?)?, sign_in_at(&self.issuer, &text)))
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, String> {
        match self.ask(self.client.get(url)).await? {
            (http::StatusCode::OK, text) => Ok(text),
            (status, _) => Err(format!("{url}: status {status}")),
        }
    }

    /// What changes a code for tokens.
    pub(super) fn post(&self, url: &Url) -> RequestBuilder {
        self.client.post(url.clone())
    }

    /// One answer, of little size and in little time.
    pub(super) async fn ask(&self, request: RequestBuilder) -> Result<(http::StatusCode, Vec<u8>), String> {
        let failed = |error: reqwest::Error| chain(&error);
        let mut answer = request.send().await.map_err(failed)?;
        let mut text = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(failed)? {
            if text.len() + part.len() > MOST_BYTES {
                return Err(format!("{}: more than {MOST_BYTES} bytes", answer.url()));
            }
            text.extend_from_slice(&part);
        }
        Ok((answer.status(), text))
    }
}

/// Where an issuer signs persons in, where it says so: over TLS, unless it is on this machine itself.
pub(super) fn sign_in_at(issuer: &str, text: &[u8]) -> Option<SignInAt> {
    let found: Discovery = serde_json::from_slice(text).ok()?;
    let place = |url: Option<String>| allowed(&url?, issuer.starts_with("http:")).ok();
    Some(SignInAt {
        authorization: place(found.authorization_endpoint)?,
        token: place(found.token_endpoint)?,
    })
}

fn read<'t, T: Deserialize<'t>>(url: &str, text: &'t [u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|error| format!("{url}: {error}"))
}

/// Where the keys are, as an issuer says of itself at `url`.
pub(super) fn jwks_uri(issuer: &str, url: &str, text: &[u8]) -> Result<String, String> {
    let found: Discovery = read(url, text)?;
    if found.issuer != issuer {
        return Err(format!(
            "the issuer calls itself {:?}; oidc.issuer must be the same to the letter",
            found.issuer
        ));
    }
    let clear_text = issuer.starts_with("http:");
    allowed(&found.jwks_uri, clear_text).map_err(|what| format!("jwks_uri: {:?} {what}", found.jwks_uri))?;
    Ok(found.jwks_uri)
}

/// The keys of a set that may check signatures here.
pub(super) fn key_set(url: &str, text: &[u8]) -> Result<Vec<Key>, String> {
    let set: KeySet = read(url, text)?;
    if set.keys.len() > MOST_KEYS {
        return Err(format!("{url}: {} keys are more than {MOST_KEYS}", set.keys.len()));
    }
    Ok(set.keys.into_iter().filter_map(usable).collect())
}

/// The key that a token means. One without a key's id can only mean the one key that there is.
pub(super) fn meant<'k>(keys: &'k [Key], id: Option<&str>, algorithm: Algorithm) -> Option<&'k DecodingKey> {
    let found = match id {
        Some(id) => {
            keys.iter().find(|key| key.id.as_deref() == Some(id) && key.algorithms.contains(&algorithm))
        }
        None if keys.len() == 1 => keys.first().filter(|key| key.algorithms.contains(&algorithm)),
        None => None,
    };
    found.map(|key| &key.key)
}

/// A key of the set that may check signatures here; others are passed over.
fn usable(key: serde_json::Value) -> Option<Key> {
    use Algorithm as A;
    let jwk: Jwk = serde_json::from_value(key).ok()?;
    let signs = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
    let verifies = jwk.common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
    if !signs || !verifies {
        return None;
    }
    let algorithms: &'static [A] = match (&jwk.algorithm, jwk.common.key_algorithm) {
        (AlgorithmParameters::RSA(_), None) => &[A::RS256, A::PS256],
        (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::RS256)) => &[A::RS256],
        (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::PS256)) => &[A::PS256],
        (AlgorithmParameters::EllipticCurve(key), None | Some(KeyAlgorithm::ES256))
            if key.curve == EllipticCurve::P256 =>
        {
            &[A::ES256]
        }
        (AlgorithmParameters::OctetKeyPair(key), None | Some(KeyAlgorithm::EdDSA))
            if key.curve == EllipticCurve::Ed25519 =>
        {
            &[A::EdDSA]
        }
        _ => return None,
    };
    Some(Key { key: DecodingKey::from_jwk(&jwk).ok()?, id: jwk.common.key_id, algorithms })
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
