//! Webhooks: whom the server tells what happens, and of what.

use std::{collections::HashSet, fmt, net::IpAddr, path::PathBuf, time::Duration};

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::Secret;
use crate::{addresses::is_public, model::check_id};

/// A receiver of notices. All processes of one database need the same ones.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// By which lists and commands name it: as the id of a run.
    pub name: String,
    /// Where to post: `https://…`; `http://` only with [`Webhook::allow_private_addresses`]. Never shown: it may hold a secret.
    pub url: Secret,
    /// File with the secret that notices are signed with (`whsec_` and base64); absent: [`super::Config::webhook_secret`].
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// Of which events it is told; absent: of all.
    #[serde(default)]
    pub events: Option<HashSet<WebhookEvent>>,
    /// Only what happens in these runs; empty: in all. What is of no run, as a certificate is, it is told in any case.
    #[serde(default)]
    pub runs: HashSet<String>,
    /// Whether the address may be one of this machine or of a network of one's own.
    #[serde(default)]
    pub allow_private_addresses: bool,
    /// Authorities that vouch for the receiver's certificate, PEM; absent: the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// What a webhook may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WebhookEvent {
    /// A round's model is there.
    #[serde(rename = "round.published")]
    RoundPublished,
    /// A round failed.
    #[serde(rename = "round.failed")]
    RoundFailed,
    /// A round's deadline comes near, and it holds fewer updates than its quorum.
    #[serde(rename = "round.quorum-at-risk")]
    QuorumAtRisk,
    /// A site of a round that collects, of which nothing came yet, has not called for long.
    #[serde(rename = "site.silent")]
    SiteSilent,
    /// A certificate, of a site or of the server, expires soon.
    #[serde(rename = "certificate.expiring")]
    CertificateExpiring,
    /// An operator asked for it. Every webhook is told of its own.
    #[serde(rename = "test")]
    Test,
}

impl fmt::Display for WebhookEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RoundPublished => "round.published",
            Self::RoundFailed => "round.failed",
            Self::QuorumAtRisk => "round.quorum-at-risk",
            Self::SiteSilent => "site.silent",
            Self::CertificateExpiring => "certificate.expiring",
            Self::Test => "test",
        })
    }
}

impl Webhook {
    /// Whether it is told of an event, of a run or of none.
    #[must_use]
    pub fn wants(&self, event: WebhookEvent, run: Option<&str>) -> bool {
        self.events.as_ref().is_none_or(|events| events.contains(&event))
            && run.is_none_or(|run| self.runs.is_empty() || self.runs.contains(run))
    }

    /// Where to post, if that may be.
    ///
    /// # Errors
    /// A sentence that names the key; it does not show the address.
    pub fn address(&self) -> Result<Url, String> {
        let wrong = |what: &str| Err(format!("webhooks.url of {:?}: {what}", self.name));
        let Ok(url) = Url::parse(self.url.expose()) else { return wrong("is no URL") };
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return wrong("has a name, a password or a fragment in it");
        }
        match url.scheme() {
            "https" => {}
            "http" if self.allow_private_addresses => {}
            _ => return wrong("must begin with https:// (http:// only with allow_private_addresses = true)"),
        }
        let Some(host) = url.host_str() else { return wrong("names no host") };
        // A name is looked up, and what it leads to is checked, whenever something is sent.
        let literal = host.trim_matches(['[', ']']).parse::<IpAddr>();
        if !self.allow_private_addresses && literal.is_ok_and(|address| !is_public(address)) {
            return wrong(
                "is a private address; allow_private_addresses = true lets the server call this machine, or a network of your own",
            );
        }
        Ok(url)
    }

    fn check(&self) -> Result<(), String> {
        check_id("webhooks.name", &self.name).map_err(|error| error.message().to_owned())?;
        self.address().map(drop)
    }
}

/// When webhooks are told something, and how often that is tried.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Notify {
    /// The quorum of a round is at risk in the last part of its time, which this is, 0 to 1.
    pub quorum_at_risk_fraction: f64,
    /// A site is silent after so many seconds without a call, in a round that has collected for as long. Calls are noted twice a minute.
    pub site_silent_seconds: u64,
    /// How often a notice is sent at the most before it is given up (a dead letter), 1 to 20.
    pub max_attempts: u32,
    /// The pause after the first failed try, in milliseconds; each next one is four times as long, at most six hours.
    pub first_retry_ms: u64,
    /// So long a receiver may take to answer, in milliseconds.
    pub timeout_ms: u64,
}

impl Default for Notify {
    fn default() -> Self {
        Self {
            quorum_at_risk_fraction: 0.25,
            // A site that waits for a round calls once an hour at least (limits.max_connection_age_seconds).
            site_silent_seconds: 7200,
            max_attempts: 8,
            first_retry_ms: 10_000,
            timeout_ms: 10_000,
        }
    }
}

/// A receiver that takes longer is as good as away; well within a delivery's lease.
const MAX_TIMEOUT_MS: u64 = 30_000;

impl Notify {
    /// [`Notify::timeout_ms`].
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// Whether these settings, and those of the webhooks, can work.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub(super) fn check(&self, webhooks: &[Webhook]) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.quorum_at_risk_fraction) {
            return Err(format!(
                "notify.quorum_at_risk_fraction: {} is not within 0 and 1",
                self.quorum_at_risk_fraction
            ));
        }
        if !(1..=20).contains(&self.max_attempts) {
            return Err(format!("notify.max_attempts: {} is not within 1 and 20", self.max_attempts));
        }
        if !(1..=MAX_TIMEOUT_MS).contains(&self.timeout_ms) {
            return Err(format!(
                "notify.timeout_ms: {} is not within 1 and {MAX_TIMEOUT_MS}",
                self.timeout_ms
            ));
        }
        let mut names = HashSet::new();
        for webhook in webhooks {
            webhook.check()?;
            if !names.insert(&webhook.name) {
                return Err(format!("webhooks.name: {:?} is there twice", webhook.name));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
