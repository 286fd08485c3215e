//! Tells webhooks what the rows say they are to be told: lease, sign, post, note. Every webhook has a loop of its own, so that one which is
//! slow, or away, keeps no other waiting.
//!
//! Notices are signed as Standard Webhooks has it (<https://www.standardwebhooks.com>): HMAC-SHA256 over id, time and body. A receiver is
//! told at least once, and knows by `webhook-id` what it was told before.

mod client;

use std::{path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::hmac;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::client::Client;
use crate::{
    config::{Config, Secret, Webhook},
    error::{Error, Result},
    round::Millis,
    store::{DeliverWork, Store},
    telemetry::{Leased, Outcome},
};

/// How long a notice is one process's own: longer than any receiver may take.
const LEASE: Duration = Duration::from_secs(60);
/// Each pause is so many times the one before.
const GROWTH: u32 = 4;
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);
/// What a secret begins with.
const PREFIX: &str = "whsec_";

/// Those whom this process tells what happens.
pub(crate) struct Receivers {
    receivers: Vec<Receiver>,
    first_retry: Duration,
    poll: Duration,
}

struct Receiver {
    name: String,
    key: hmac::Key,
    client: Client,
}

impl Receivers {
    /// Calls nobody yet; nothing where the settings name no webhook.
    ///
    /// # Errors
    /// Says which webhook's address, secret or authorities cannot be used.
    pub(crate) fn from_config(config: &Config) -> Result<Option<Self>> {
        if config.webhooks.is_empty() {
            return Ok(None);
        }
        let mut receivers = Vec::new();
        for webhook in &config.webhooks {
            let key = key(&webhook.name, &secret(webhook, config.webhook_secret.as_ref())?)?;
            let client = Client::new(webhook, config.notify.timeout())?;
            receivers.push(Receiver { name: webhook.name.clone(), key, client });
        }
        let first_retry = Duration::from_millis(config.notify.first_retry_ms);
        Ok(Some(Self { receivers, first_retry, poll: config.work.poll() }))
    }

    /// Tells them until `stop` is cancelled. A notice under way then is another's once its lease has ended.
    pub(crate) async fn tell(self, store: Store, stop: CancellationToken) {
        let (poll, first_retry) = (self.poll, self.first_retry);
        let mut loops = JoinSet::new();
        for receiver in self.receivers {
            let (store, stop) = (store.clone(), stop.clone());
            loops.spawn(async move {
                stop.run_until_cancelled(receiver.tell(&store, first_retry, poll)).await;
            });
        }
        while loops.join_next().await.is_some() {}
    }
}

impl Receiver {
    async fn tell(&self, store: &Store, first_retry: Duration, poll: Duration) {
        let mut changes = store.changes();
        loop {
            changes.mark_unchanged();
            let pause = match self.step(store, first_retry).await {
                Ok(true) => continue,
                Ok(false) => poll,
                Err(error) => {
                    tracing::warn!(
                        webhook.name = self.name,
                        error.message = error.message(),
                        "notices cannot be read or noted"
                    );
                    poll.max(Duration::from_secs(1))
                }
            };
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Sends one notice; tells whether there was one.
    async fn step(&self, store: &Store, first_retry: Duration) -> Result<bool> {
        let Some(lease) = store.lease_delivery(&self.name, LEASE).await? else { return Ok(false) };
        let work = &lease.work;
        match self.client.post(self.signed(work), work.body.clone()).await {
            Ok(()) => {
                let held = store.finish_delivery(&lease).await?;
                store.telemetry().leased(Leased::deliver, if held { Outcome::done } else { Outcome::lost });
                if held {
                    tracing::info!(webhook.name = self.name, delivery.id = work.id, "notice delivered");
                }
            }
            Err(why) => {
                store.telemetry().leased(Leased::deliver, Outcome::failed);
                let dead = store.fail_delivery(&lease, &why, pause(work, first_retry)).await?;
                tracing::warn!(
                    webhook.name = self.name,
                    delivery.id = work.id,
                    delivery.attempts = work.attempts,
                    error.message = why,
                    "{}",
                    if dead {
                        "a notice is given up"
                    } else {
                        "a notice was not delivered and is tried again"
                    }
                );
            }
        }
        Ok(true)
    }

    /// The headers that say who sent what, and when.
    fn signed(&self, work: &DeliverWork) -> [(&'static str, String); 3] {
        let seconds = work.now / 1000;
        let signature = sign(&self.key, &work.id, seconds, &work.body);
        [
            ("webhook-id", work.id.clone()),
            ("webhook-timestamp", seconds.to_string()),
            ("webhook-signature", signature),
        ]
    }
}

fn sign(key: &hmac::Key, id: &str, seconds: Millis, body: &str) -> String {
    let tag = hmac::sign(key, format!("{id}.{seconds}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(tag.as_ref()))
}

/// How long nobody tries again: each time longer, and by up to a quarter more, so that what failed together does not come back together.
/// By a hash: the same for all who compute it.
fn pause(work: &DeliverWork, first: Duration) -> Duration {
    let growth = GROWTH.saturating_pow(work.attempts.saturating_sub(1));
    let pause = first.saturating_mul(growth).min(LONGEST_PAUSE);
    let hash = Sha256::digest(format!("{}/{}", work.id, work.attempts));
    pause + pause / 4 * u32::from(hash[0]) / 255
}

/// A webhook's own secret, or the one of all.
fn secret(webhook: &Webhook, of_all: Option<&Secret>) -> Result<Secret> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map(|text| Secret::new(text.trim())).map_err(|error| {
            Error::invalid(format!(
                "webhooks.secret_file of {:?}: cannot read {}: {error}",
                webhook.name,
                path.display()
            ))
        })
    };
    match (&webhook.secret_file, of_all) {
        (Some(path), _) => read(path),
        (None, Some(secret)) => Ok(secret.clone()),
        (None, None) => Err(Error::invalid(format!(
            "webhooks.secret_file of {:?}: notices must be signed; name a file, or set FEDBASIN_WEBHOOK_SECRET",
            webhook.name
        ))),
    }
}

fn key(name: &str, secret: &Secret) -> Result<hmac::Key> {
    let bytes = secret.expose().strip_prefix(PREFIX).and_then(|text| STANDARD.decode(text).ok());
    match bytes {
        Some(bytes) if (24..=64).contains(&bytes.len()) => Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes)),
        _ => Err(Error::invalid(format!(
            "webhooks.secret_file of {name:?}: the secret is not {PREFIX} and 24 to 64 bytes in base64; make one: \
             echo {PREFIX}$(head -c 32 /dev/urandom | base64)"
        ))),
    }
}

#[cfg(test)]
mod tests;
