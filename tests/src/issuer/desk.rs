//! Where persons sign in at an identity provider: the authorization code flow with PKCE, held to the letter.

use std::{collections::HashMap, fmt};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use reqwest::Url;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::IssuerKey;

pub(super) const AUTHORIZE: &str = "/authorize";
pub(super) const TOKEN: &str = "/token";

/// One client's desk, where one person signs in.
pub struct Desk {
    /// The client's id.
    pub client: String,
    /// And its secret, if it has one.
    pub secret: Option<String>,
    /// Where it may send persons back to.
    pub redirect: String,
    /// Where its page leads instead, for a server whose address is known only once it runs.
    pub lands: Option<String>,
    /// What the person's ID token says; `nonce` is added.
    pub claims: Value,
    /// Said in place of the nonce that was asked for.
    pub nonce: Option<String>,
    key: IssuerKey,
    /// What was asked for last, and has not been given.
    asked: Option<HashMap<String, String>>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "desk for {}", self.client)
    }
}

/// What is answered.
pub(super) struct Reply {
    status: &'static str,
    kind: &'static str,
    body: String,
}

impl Reply {
    pub(super) fn missing() -> Self {
        Self { status: "404 Not Found", kind: "text/plain", body: String::new() }
    }

    fn json(status: &'static str, body: &Value) -> Self {
        Self { status, kind: "application/json", body: body.to_string() }
    }

    pub(super) fn text(&self) -> String {
        let Self { status, kind, body } = self;
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    }
}

fn pairs(url: &Url) -> HashMap<String, String> {
    url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

impl Desk {
    /// A desk that signs tokens with that key.
    #[must_use]
    pub fn new(redirect: &str, key: IssuerKey, claims: Value) -> Self {
        let client = claims["aud"].as_str().unwrap_or_default().to_owned();
        Self {
            client,
            secret: None,
            redirect: redirect.to_owned(),
            lands: None,
            claims,
            nonce: None,
            key,
            asked: None,
        }
    }

    /// A page with one link, back to where the person came from; or what is wrong with the question.
    pub(super) fn page(&mut self, path: &str) -> Reply {
        let asked = Url::parse(&format!("http://localhost{path}")).map(|url| pairs(&url)).unwrap_or_default();
        let is = |name: &str, value: &str| asked.get(name).is_some_and(|found| found == value);
        let right = is("response_type", "code")
            && is("client_id", &self.client)
            && is("redirect_uri", &self.redirect)
            && is("code_challenge_method", "S256")
            && asked.get("scope").is_some_and(|scope| scope.split(' ').any(|name| name == "openid"))
            && ["state", "nonce", "code_challenge"]
                .iter()
                .all(|name| asked.get(*name).is_some_and(|it| it.len() >= 43));
        if !right {
            return Reply { status: "400 Bad Request", kind: "text/plain", body: format!("{asked:?}") };
        }
        let issuer = self.claims["iss"].as_str().unwrap_or_default().to_owned();
        let code = self.code(&asked);
        let back = [("code", code.as_str()), ("state", &asked["state"]), ("iss", &issuer)];
        let back =
            Url::parse_with_params(self.lands.as_ref().unwrap_or(&self.redirect), back).expect("an address");
        self.asked = Some(asked);
        let body = format!(
            "<!doctype html><html lang=en><title>Provider</title><main id=main><h1>Provider</h1><a id=in href=\"{}\">Sign in as Ada</a></main></html>",
            back.as_str().replace('&', "&amp;")
        );
        Reply { status: "200 OK", kind: "text/html", body }
    }

    fn code(&self, asked: &HashMap<String, String>) -> String {
        format!("code-{}", &asked["code_challenge"][..8])
    }

    /// The tokens for a code: once, to the client that asked, who shows what the challenge was made of.
    pub(super) fn token(&mut self, authorization: Option<&str>, body: &str) -> Reply {
        let form = Url::parse(&format!("http://localhost?{body}")).map(|url| pairs(&url)).unwrap_or_default();
        let text = |name: &str| form.get(name).map_or("", String::as_str);
        let known = match &self.secret {
            Some(secret) => {
                let both = format!("{}:{}", encoded(&self.client), encoded(secret));
                authorization == Some(&format!("Basic {}", STANDARD.encode(both)))
            }
            None => authorization.is_none() && text("client_id") == self.client,
        };
        if !known {
            return Reply::json("401 Unauthorized", &json!({ "error": "invalid_client" }));
        }
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(text("code_verifier")));
        let asked = self.asked.take().filter(|asked| {
            text("grant_type") == "authorization_code"
                && text("code") == self.code(asked)
                && text("redirect_uri") == self.redirect
                && challenge == asked["code_challenge"]
        });
        let Some(asked) = asked else {
            return Reply::json("400 Bad Request", &json!({ "error": "invalid_grant" }));
        };
        let mut claims = self.claims.clone();
        claims["nonce"] = json!(self.nonce.as_ref().unwrap_or(&asked["nonce"]));
        let token = self.key.token(&claims);
        Reply::json("200 OK", &json!({ "id_token": token, "access_token": "none", "token_type": "Bearer" }))
    }
}

/// One value as forms have it.
fn encoded(value: &str) -> String {
    let url = Url::parse_with_params("http://localhost", [("v", value)]).expect("an address");
    url.query().unwrap_or_default().trim_start_matches("v=").to_owned()
}
