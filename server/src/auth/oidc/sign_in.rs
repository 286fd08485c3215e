//! The way to the provider and back: the authorization code flow of OpenID Connect Core 1.0, section 3.1, with PKCE (RFC 7636).
//!
//! Nothing is kept here between the two: what a way began with is one random secret that the person's browser carries in a cookie, and
//! `state`, `nonce` and PKCE's verifier are made from it. So any replica can end what another one began.

use std::path::Path;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use reqwest::Url;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::Oidc;
use crate::{
    config::{Secret, SignIn},
    error::{Code, Error, Result},
};

/// So many codes are taken to the provider within a minute, of all persons.
pub(super) const MOST_A_MINUTE: u32 = 300;
/// The longest code that is taken to the provider, in bytes.
const MOST_CODE_BYTES: usize = 2048;

/// What a way began with.
pub(crate) struct Way(Secret);

impl Way {
    /// A new one.
    ///
    /// # Errors
    /// [`Code::Internal`] when the system gives no randomness.
    pub(crate) fn new() -> Result<Self> {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes).map_err(Error::internal)?;
        Ok(Self(Secret::new(URL_SAFE_NO_PAD.encode(bytes))))
    }

    /// The one that a browser brings back.
    pub(crate) fn of(secret: &str) -> Self {
        Self(Secret::new(secret.to_owned()))
    }

    /// What the browser is to bring back.
    pub(crate) fn secret(&self) -> &str {
        self.0.expose()
    }

    /// One of the values that travel. Who sees one can tell neither the others nor the secret.
    fn value(&self, what: &str) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(format!("fedbasin sign-in {what}\n{}", self.secret())))
    }

    /// Whether what came back belongs to it.
    pub(crate) fn is_state(&self, state: &str) -> bool {
        bool::from(self.value("state").as_bytes().ct_eq(state.as_bytes()))
    }

    fn is_nonce(&self, nonce: &str) -> bool {
        bool::from(self.value("nonce").as_bytes().ct_eq(nonce.as_bytes()))
    }
}

/// What the provider says to a code; or why it gives nothing for it (RFC 6749, section 5.2).
#[derive(Deserialize)]
struct Given {
    id_token: Option<String>,
    error: Option<String>,
}

impl Oidc {
    /// Whether persons can get there from here.
    pub(crate) fn signs_in(&self) -> bool {
        self.settings.sign_in.is_some()
    }

    /// Whether persons come back over TLS, as the settings say.
    pub(crate) fn comes_back_over_tls(&self) -> bool {
        self.settings.sign_in.as_ref().is_some_and(|sign_in| sign_in.redirect_url.starts_with("https:"))
    }

    /// Whether an answer names another issuer than this one (RFC 9207).
    pub(crate) fn is_other(&self, issuer: &str) -> bool {
        issuer != self.settings.issuer
    }

    fn sign_in(&self) -> Result<&SignIn> {
        let set = self.settings.sign_in.as_ref();
        set.ok_or_else(|| {
            Error::new(Code::NotFound, "this server sends nobody to an identity provider; use a token")
        })
    }

    /// Where the browser is sent to sign a person in.
    ///
    /// # Errors
    /// [`Code::NotFound`] where the settings name no way; [`Code::Unavailable`] where the provider does not answer, or tells none.
    pub(crate) async fn begin(&self, way: &Way) -> Result<Url> {
        let sign_in = self.sign_in()?;
        let mut url = self.keys.sign_in_at().await.ok_or_else(away)?.authorization;
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(way.value("verifier")));
        url.query_pairs_mut().extend_pairs([
            ("response_type", "code"),
            ("client_id", &self.settings.audience),
            ("redirect_uri", &sign_in.redirect_url),
            ("scope", &sign_in.scopes.join(" ")),
            ("state", &way.value("state")),
            ("nonce", &way.value("nonce")),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]);
        Ok(url)
    }

    /// The ID token that the provider gives for the code which a browser brought back. It was given for this way; who it speaks of, and what
    /// they may, is seen like that of any other token.
    ///
    /// # Errors
    /// [`Code::Unauthenticated`] and why, where it gives none, or another one; [`Code::Unavailable`] where it does not answer;
    /// [`Code::TooMany`] where too many come at once.
    pub(crate) async fn end(&self, way: &Way, code: &str) -> Result<String> {
        let sign_in = self.sign_in()?;
        if code.is_empty() || code.len() > MOST_CODE_BYTES {
            return Err(Error::invalid("code: is none that the identity provider gave; sign in again"));
        }
        self.ends.take(()).map_err(|wait| {
            Error::too_many(
                "too many persons sign in at the identity provider at once; try again, or use a token",
                wait,
            )
        })?;
        let at = self.keys.sign_in_at().await.ok_or_else(away)?;
        let verifier = way.value("verifier");
        let mut body = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &sign_in.redirect_url),
            ("code_verifier", &verifier),
        ];
        let mut request = self.keys.post(&at.token).header("accept", "application/json");
        match client_secret(sign_in).await? {
            // RFC 6749, section 2.3.1: both as in a form.
            Some(secret) => {
                let both = format!("{}:{}", encoded(&self.settings.audience), encoded(secret.expose()));
                request = request.header("authorization", format!("Basic {}", STANDARD.encode(both)));
            }
            None => body.push(("client_id", &self.settings.audience)),
        }
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(form(&body));
        let (status, text) = self.keys.ask(request).await.map_err(|what| {
            tracing::warn!(
                oidc.issuer = self.settings.issuer,
                error.message = what,
                "the issuer takes no code"
            );
            away()
        })?;
        let given: Option<Given> = serde_json::from_slice(&text).ok();
        let token = match given {
            Some(Given { id_token: Some(token), error: None }) if status == http::StatusCode::OK => token,
            given => {
                let said = said(given.and_then(|given| given.error).as_deref());
                tracing::warn!(
                    oidc.issuer = self.settings.issuer,
                    http.status = status.as_u16(),
                    oidc.error = said,
                    "the issuer gave no ID token"
                );
                return Err(not_signed_in(
                    "the identity provider gave no ID token for this sign-in; sign in again",
                ));
            }
        };
        let claims = self.claims(&token).await?;
        match claims.get("nonce").and_then(serde_json::Value::as_str) {
            Some(nonce) if way.is_nonce(nonce) => Ok(token),
            _ => Err(not_signed_in("the ID token was given for another sign-in (nonce); sign in again")),
        }
    }
}

/// Read when it is needed, so that it can be changed while the server runs.
async fn client_secret(sign_in: &SignIn) -> Result<Option<Secret>> {
    let Some(path) = &sign_in.client_secret_file else { return Ok(None) };
    let text = tokio::fs::read_to_string(path).await;
    secret_of(path, text).map(Some).map_err(Error::internal)
}

/// Whether the file of the client's secret, if there is one, holds any.
///
/// # Errors
/// A sentence that names the setting and the file.
pub(super) fn check_secret(sign_in: &SignIn) -> std::result::Result<(), String> {
    let Some(path) = &sign_in.client_secret_file else { return Ok(()) };
    secret_of(path, std::fs::read_to_string(path)).map(|_| ())
}

fn secret_of(path: &Path, text: std::io::Result<String>) -> std::result::Result<Secret, String> {
    let wrong = |what: String| {
        format!("oidc.sign_in.client_secret_file: {what}; name the file that holds what the provider gave")
    };
    match text {
        Ok(text) if !text.trim().is_empty() => Ok(Secret::new(text.trim())),
        Ok(_) => Err(wrong(format!("{} is empty", path.display()))),
        Err(error) => Err(wrong(format!("cannot read {}: {error}", path.display()))),
    }
}

/// What is logged of a provider's error: its code, as the standard has it.
pub(crate) fn said(error: Option<&str>) -> String {
    let letters =
        error.unwrap_or_default().chars().filter(|letter| letter.is_ascii_lowercase() || *letter == '_');
    letters.take(64).collect()
}

fn not_signed_in(what: &str) -> Error {
    Error::new(Code::Unauthenticated, what)
}

/// As forms are sent.
fn form(pairs: &[(&str, &str)]) -> String {
    let url = Url::parse_with_params("http://localhost", pairs);
    url.ok().and_then(|url| url.query().map(str::to_owned)).unwrap_or_default()
}

/// One value as forms have it.
fn encoded(value: &str) -> String {
    form(&[("", value)]).split_off(1)
}

fn away() -> Error {
    Error::new(
        Code::Unavailable,
        "the identity provider does not answer, or does not say where persons sign in; try again, or use a token",
    )
}
