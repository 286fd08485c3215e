//! An identity provider whose tokens open the HTTP edge to persons.

use std::{collections::BTreeMap, path::PathBuf};

use reqwest::Url;
use serde::Deserialize;

use crate::model::Role;

/// Where in the dashboard a person comes back to from the provider.
pub const RETURN: &str = "/signin/return";

/// Longer pauses only leave withdrawn keys in force.
const MAX_REFRESH_SECONDS: u64 = 3600;

/// An identity provider (OpenID Connect) of the operator's organisation.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oidc {
    /// Its name, as its tokens say it in `iss`: an `https://` URL; `http://` on this machine alone.
    pub issuer: String,
    /// What tokens must be for, as they say in `aud`.
    pub audience: String,
    /// The programs that persons may have got a token by, as tokens say in `azp` where they do; absent: the audience.
    #[serde(default)]
    pub authorized_parties: Vec<String>,
    /// Where in a token its holder's roles or groups stand.
    pub roles_claim: Claim,
    /// Which of those gives which role here. The highest counts; whoever has none of them may nothing.
    pub roles: BTreeMap<String, Role>,
    /// Authorities that vouch for the issuer's certificate, PEM; absent: the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The issuer is asked for its keys no more often than this, in seconds: at least 1. Keys five times as old are asked for again.
    #[serde(default = "a_minute")]
    pub refresh_seconds: u64,
    /// How persons get there from the dashboard and back; absent: they bring a token.
    #[serde(default)]
    pub sign_in: Option<SignIn>,
}

/// The way from the dashboard to the provider and back (authorization code with PKCE). The provider knows the dashboard as a client whose id is the
/// audience.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// Where the provider sends persons back to: this server as their browsers reach it, and the path `/signin/return`. The same to the
    /// letter there.
    pub redirect_url: String,
    /// File that holds the secret that the client has there; absent: it has none (a public client).
    #[serde(default)]
    pub client_secret_file: Option<PathBuf>,
    /// What the provider is asked to tell of a person; `openid` among it.
    #[serde(default = "openid")]
    pub scopes: Vec<String>,
}

fn openid() -> Vec<String> {
    vec!["openid".into()]
}

fn a_minute() -> u64 {
    60
}

/// A claim by its name, or by the names on the way to it where it stands within others.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Claim {
    /// `"groups"`
    Name(String),
    /// `["realm_access", "roles"]`
    Way(Vec<String>),
}

impl Claim {
    /// The names on the way.
    #[must_use]
    pub fn way(&self) -> &[String] {
        match self {
            Self::Name(name) => std::slice::from_ref(name),
            Self::Way(way) => way,
        }
    }
}

impl Oidc {
    /// Whether these settings can open anything, and only what is meant.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn check(&self) -> Result<(), String> {
        allowed(&self.issuer, true).map_err(|what| format!("oidc.issuer: {:?} {what}", self.issuer))?;
        if self.refresh_seconds == 0 || self.refresh_seconds > MAX_REFRESH_SECONDS {
            return Err(format!(
                "oidc.refresh_seconds: {} is not within 1 and {MAX_REFRESH_SECONDS}",
                self.refresh_seconds
            ));
        }
        if self.audience.is_empty() {
            return Err("oidc.audience: is empty; name what the tokens are for".into());
        }
        if self.roles_claim.way().is_empty() || self.roles_claim.way().iter().any(String::is_empty) {
            return Err("oidc.roles_claim: is empty; name the claim, for instance \"groups\"".into());
        }
        if self.roles.is_empty() {
            return Err("oidc.roles: is empty, so nobody could do anything; for instance \"fedbasin-admins\" = \"admin\"".into());
        }
        self.sign_in.as_ref().map_or(Ok(()), SignIn::check)
    }

    /// Whether a program may have got the token.
    #[must_use]
    pub fn is_authorized_party(&self, party: &str) -> bool {
        match self.authorized_parties.is_empty() {
            true => party == self.audience,
            false => self.authorized_parties.iter().any(|known| known == party),
        }
    }
}

impl SignIn {
    fn check(&self) -> Result<(), String> {
        let url = allowed(&self.redirect_url, true)
            .map_err(|what| format!("oidc.sign_in.redirect_url: {:?} {what}", self.redirect_url))?;
        if url.path() != RETURN || url.query().is_some() {
            return Err(format!(
                "oidc.sign_in.redirect_url: {:?} does not end with {RETURN}",
                self.redirect_url
            ));
        }
        let token = |scope: &String| {
            !scope.is_empty()
                && scope.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
        };
        if !self.scopes.iter().all(token) || !self.scopes.iter().any(|scope| scope == "openid") {
            return Err(
                "oidc.sign_in.scopes: is no list of names with \"openid\" among them; for instance [\"openid\", \"groups\"]".into()
            );
        }
        Ok(())
    }
}

/// An address that keys may come from: `https`, or, where `clear_text` may be, `http` on this machine.
pub(crate) fn allowed(url: &str, clear_text: bool) -> Result<Url, &'static str> {
    let url = Url::parse(url).map_err(|_| "is no URL")?;
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err("has a name, a password or a fragment in it");
    }
    let here = match url.host_str().unwrap_or_default() {
        "localhost" => true,
        host => host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if here && clear_text => Ok(url),
        _ => Err("must begin with https:// (http:// is taken for this machine alone)"),
    }
}

#[cfg(test)]
mod tests;
