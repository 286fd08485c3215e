//! What operators ask of runs, models and sites beside rounds.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Admin, asking, segment,
    types::{MadeToken, Run, Site, SiteCertificate, TokenRecord},
};
use crate::error::{Error, Result};

/// What of a run's clone is not as the run's; absent: as the run's.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CloneRun {
    /// Its id; absent: the server makes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its sites.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cohort: Option<Vec<String>>,
    /// `seed` or `newest`: which checkpoint of the run it starts from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// A stored checkpoint to start from instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed_digest: Option<String>,
    /// What of its policy is not as the run's.
    #[serde(skip)]
    pub policy: OtherPolicy,
}

/// What of a policy is not as another's; absent: as that one's. Each as in [`Policy`](super::types::Policy).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "documented where the policy is")]
pub struct OtherPolicy {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quorum: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_updates: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_rounds_allowed: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_open_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_models: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_updates: Option<u32>,
}

impl OtherPolicy {
    /// A run's policy, as the server wrote it, with what is other here: what this program does not know of it stays.
    fn over(&self, policy: &Value) -> Result<Value> {
        let other =
            serde_json::to_value(self).map_err(|error| Error::failed(error, "the policy", "report it"))?;
        let mut all = policy.clone();
        for (name, value) in other.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        Ok(all)
    }
}

/// A model: bytes that a round published.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Model {
    /// SHA-256 of its bytes, hex.
    pub digest: String,
    /// Their number.
    pub size: u64,
    /// Whether they are kept.
    pub kept: bool,
    /// Since when they are not, ISO 8601 UTC.
    pub let_go_at: Option<String>,
    /// What persons call it.
    pub tags: Vec<String>,
    /// The rounds that published it, the newest first.
    pub published: Vec<Published>,
}

/// A round that published a model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Published {
    /// The run.
    pub run: String,
    /// The round's number.
    pub round: u32,
    /// When, ISO 8601 UTC.
    pub published_at: Option<String>,
    /// Whether it is the one of its run that is in use.
    pub promoted: bool,
    /// Where its signature is.
    pub signature: Option<String>,
}

/// What a site sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Update {
    /// Its id.
    pub id: String,
    /// Its round's number.
    pub round: u32,
    /// Who sent it.
    pub site: String,
    /// `receiving`, `accepted`, `aligned`, `rejected` or `declined`.
    pub state: String,
    /// Why it was rejected or declined.
    pub reason: Option<String>,
    /// Of its checkpoint.
    pub digest: String,
    /// In bytes.
    pub size: u64,
    /// How many examples it was trained on.
    pub num_examples: u64,
    /// The site's own figures.
    pub metrics: BTreeMap<String, f64>,
    /// When it was accepted, ISO 8601 UTC.
    pub accepted_at: Option<String>,
    /// When its site took it back.
    pub withdrawn_at: Option<String>,
}

#[derive(Deserialize)]
struct UpdateList {
    updates: Vec<Update>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct ModelList {
    models: Vec<Model>,
    next: Option<String>,
}

/// A site with what it does and what it holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SiteDetails {
    /// It.
    #[serde(flatten)]
    pub site: Site,
    /// In how many runs of each state it takes part.
    pub runs: BTreeMap<String, u64>,
    /// How many updates of each state it sent.
    pub updates: BTreeMap<String, u64>,
    /// The updates that it sends now.
    pub arriving: Vec<Arriving>,
    /// Its certificates as far as they were seen.
    pub certificates: Vec<SiteCertificate>,
    /// Its tokens; absent for who may not list them.
    pub tokens: Option<Vec<TokenRecord>>,
    /// What it was told when its calls failed, the newest first.
    #[serde(default)]
    pub failed_calls: Vec<FailedCall>,
}

/// What a site was told when calls of its failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FailedCall {
    /// What it called: an rpc's name.
    pub rpc: String,
    /// The stable code.
    pub code: String,
    /// In words.
    pub message: String,
    /// How often, as far as it was counted.
    pub times: u64,
    /// When it was told so first, ISO 8601 UTC.
    pub first_at: String,
    /// And last.
    pub last_at: String,
}

/// An update whose bytes are arriving.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Arriving {
    /// Its id.
    pub update_id: String,
    /// Its run.
    pub run: String,
    /// Its round's number.
    pub round: u32,
    /// Of its checkpoint.
    pub digest: String,
    /// In bytes.
    pub size: u64,
    /// How many of them have arrived.
    pub received_bytes: u64,
    /// That, divided by the time since it was announced.
    pub bytes_per_second: f64,
    /// When it was announced, ISO 8601 UTC.
    pub begun_at: String,
}

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// Its place in the audit log.
    pub id: u64,
    /// What: `round.published` and the like.
    pub event: String,
    /// Of what, when, why.
    pub data: Value,
}

impl Admin {
    /// Extends a run by rounds, by a later deadline of the round that collects, or both.
    ///
    /// # Errors
    /// As the server says: the run is over, no round collects.
    pub fn extend(&self, run: &str, rounds: Option<u32>, deadline_seconds: Option<u64>) -> Result<Run> {
        let body = serde_json::json!({ "rounds": rounds, "deadline_seconds": deadline_seconds });
        self.make(&format!("/v1/runs/{}/extend", segment(run)), &body)
    }

    /// Creates a run with the settings of another.
    ///
    /// # Errors
    /// As the server says.
    pub fn clone_run(&self, run: &str, new: &CloneRun) -> Result<Run> {
        let mut body = serde_json::json!(new);
        if new.policy != OtherPolicy::default() {
            let run: Value = self.get(&format!("/v1/runs/{}", segment(run)))?;
            body["policy"] = new.policy.over(&run["policy"])?;
        }
        self.make(&format!("/v1/runs/{}/clone", segment(run)), &body)
    }

    /// The models that rounds published, the newest first: those of a run, with a tag, or all.
    ///
    /// # Errors
    /// As the server says.
    pub fn models(&self, run: Option<&str>, tag: Option<&str>) -> Result<Vec<Model>> {
        let path = asking("/v1/models", &[("run", run), ("tag", tag)]);
        self.pages(&path, |list: ModelList| (list.models, list.next))
    }

    /// What sites sent for a run, the newest first: for one round, by one site, in one state, or all.
    ///
    /// # Errors
    /// As the server says.
    pub fn updates(
        &self,
        run: &str,
        round: Option<u32>,
        site: Option<&str>,
        state: Option<&str>,
    ) -> Result<Vec<Update>> {
        let round = round.map(|round| round.to_string());
        let asked = [("round", round.as_deref()), ("site", site), ("state", state)];
        let path = asking(&format!("/v1/runs/{}/updates", segment(run)), &asked);
        self.pages(&path, |list: UpdateList| (list.updates, list.next))
    }

    /// One model.
    ///
    /// # Errors
    /// As the server says.
    pub fn model_by_digest(&self, digest: &str) -> Result<Model> {
        self.get(&format!("/v1/models/{}", segment(digest)))
    }

    /// Marks a model as the one of its run that is in use; of which run is to be said where several published it.
    ///
    /// # Errors
    /// As the server says: it is no longer kept, several runs published it.
    pub fn promote(&self, digest: &str, run: Option<&str>) -> Result<Model> {
        self.order(&asking(&format!("/v1/models/{}/promote", segment(digest)), &[("run", run)]))
    }

    /// Gives a model a tag, or takes it away.
    ///
    /// # Errors
    /// As the server says.
    pub fn tag(&self, digest: &str, tag: &str, give: bool) -> Result<Model> {
        let url = self.begin_change(&format!("/v1/models/{}/tags/{}", segment(digest), segment(tag)))?;
        let answer = match give {
            true => self.agent.put(&url).header("authorization", self.token.bearer()).send_empty(),
            false => self.agent.delete(&url).header("authorization", self.token.bearer()).call(),
        };
        self.decode(&url, answer)
    }

    /// One site, with what it does and what it holds.
    ///
    /// # Errors
    /// As the server says.
    pub fn site(&self, site: &str) -> Result<SiteDetails> {
        self.get(&format!("/v1/sites/{}", segment(site)))
    }

    /// Makes another token for a site, shown this once, and lets those that it has open nothing after so many seconds (a day if none are given).
    ///
    /// # Errors
    /// As the server says.
    pub fn rotate(
        &self,
        site: &str,
        label: &str,
        days: Option<u32>,
        old_seconds: Option<u32>,
    ) -> Result<MadeToken> {
        let body =
            serde_json::json!({ "label": label, "expires_in_days": days, "old_tokens_seconds": old_seconds });
        self.make(&format!("/v1/sites/{}/rotate", segment(site)), &body)
    }

    /// Shuts a site out: its tokens and its certificates as far as they were seen.
    ///
    /// # Errors
    /// As the server says.
    pub fn revoke_site(&self, site: &str) -> Result<SiteDetails> {
        self.order(&format!("/v1/sites/{}/revoke", segment(site)))
    }

    /// Tells `each` what happens, after an event or from now on, of a run or of all, until the stream ends; gives the id of the last event.
    ///
    /// # Errors
    /// As the server says; what `each` fails with.
    pub fn events(
        &self,
        run: Option<&str>,
        after: Option<u64>,
        mut each: impl FnMut(Event) -> Result<()>,
    ) -> Result<Option<u64>> {
        let query = run.map(|run| format!("?run={}", segment(run))).unwrap_or_default();
        let url = self.begin(&format!("/v1/events{query}"))?;
        let mut request = self.agent.get(&url).header("authorization", self.token.bearer());
        if let Some(after) = after {
            request = request.header("last-event-id", after.to_string());
        }
        let response = self.accept(&url, request.call())?;
        let reader = response.into_body().into_with_config().limit(u64::MAX).reader();
        let (mut seen, mut event) = (after, String::new());
        for line in BufReader::new(reader).lines() {
            // Where it broke off, it goes on after the last one.
            let Ok(line) = line else { break };
            match line.split_once(": ") {
                Some(("id", id)) => seen = id.parse().ok(),
                Some(("event", name)) => name.clone_into(&mut event),
                Some(("data", data)) => {
                    let data = serde_json::from_str(data).map_err(|error| {
                        Error::failed(
                            error,
                            &url,
                            "is this address the server's HTTP port, and of this version?",
                        )
                    })?;
                    each(Event { id: seen.unwrap_or_default(), event: event.clone(), data })?;
                }
                _ => {}
            }
        }
        Ok(seen)
    }
}
