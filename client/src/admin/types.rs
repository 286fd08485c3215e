//! What the admin API says, as it is written in its `OpenAPI` document. Fields that are not known here are left out, so a
//! newer server can be asked.

mod evaluations;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::evaluations::{Evaluations, MeanOfSites, MeanPath, PathPoint, SiteEvaluation};

/// A site just enrolled.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnrolledSite {
    /// Its id.
    pub id: String,
    /// Its token; shown this once.
    pub token: String,
    /// By which the token is revoked.
    pub token_id: String,
    /// When the token opens nothing any more, ISO 8601 UTC.
    pub token_expires_at: String,
    /// When, ISO 8601 UTC.
    pub created_at: String,
}

/// An enrolled site.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Site {
    /// Its id.
    pub id: String,
    /// When it was enrolled, ISO 8601 UTC.
    pub created_at: String,
    /// When it last called.
    pub last_seen_at: Option<String>,
}

/// A token as the server lists it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TokenRecord {
    /// By which it is revoked.
    pub id: String,
    /// Whose it is, if a site's.
    pub site: Option<String>,
    /// What its holder may do, if a person's: `viewer`, `operator` or `admin`.
    pub role: Option<String>,
    /// The administrator's words.
    pub label: String,
    /// `alive`, `expired` or `revoked`.
    pub state: String,
    /// When it was made, ISO 8601 UTC.
    pub created_at: String,
    /// When it opens nothing any more.
    pub expires_at: String,
    /// When it was revoked.
    pub revoked_at: Option<String>,
    /// Its last use, to about half a minute.
    pub last_used_at: Option<String>,
}

/// A notice to a webhook.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Delivery {
    /// By which the receiver knows it, too.
    pub id: String,
    /// The webhook's name in the server's settings.
    pub webhook: String,
    /// What happened.
    pub event: String,
    /// To what.
    pub subject: String,
    /// `pending`, `delivered` or `dead`.
    pub state: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was queued, ISO 8601 UTC.
    pub created_at: String,
    /// When it is tried next, at the earliest.
    pub next_at: Option<String>,
    /// When it was taken.
    pub delivered_at: Option<String>,
    /// Why the last try failed.
    pub last_error: Option<String>,
}

/// Notices to webhooks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeliveryList {
    /// The newest first.
    pub deliveries: Vec<Delivery>,
    /// Where the next page begins, if this is not the last one.
    pub next: Option<String>,
}

/// A token just made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MadeToken {
    /// What its holder authenticates with; shown this once.
    pub token: String,
    /// What the list shows of it.
    #[serde(flatten)]
    pub listed: TokenRecord,
}

/// A site's certificate, as the server saw it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SiteCertificate {
    /// SHA-256 of its signed part, hex; it is revoked by it.
    pub fingerprint: String,
    /// Whom it names; absent where it was revoked before it was seen.
    pub site: Option<String>,
    /// `alive`, `expired` or `revoked`.
    pub state: String,
    /// When it expires, ISO 8601 UTC.
    pub expires_at: Option<String>,
    /// Whole days until then.
    pub days_left: Option<i64>,
    /// When it was first seen, or revoked.
    pub first_seen_at: String,
    /// Its last use, to about half a minute.
    pub last_used_at: Option<String>,
    /// When it was revoked.
    pub revoked_at: Option<String>,
}

/// The server's own certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerCertificate {
    /// When it expires, ISO 8601 UTC.
    pub expires_at: String,
    /// Whole days until then.
    pub days_left: i64,
}

/// The server's certificate and those of sites.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Certificates {
    /// Absent where the server speaks clear text.
    pub server: Option<ServerCertificate>,
    /// The authority that signs those of sites, where there is one; of several the one that ends first.
    #[serde(default)]
    pub authority: Option<ServerCertificate>,
    /// Whether the server speaks clear text beyond its own machine.
    #[serde(default)]
    pub clear_text: bool,
    /// The one that expires first at the beginning.
    pub certificates: Vec<SiteCertificate>,
    /// Where the next page begins, if this is not the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TokenList {
    pub(super) tokens: Vec<TokenRecord>,
    #[serde(default)]
    pub(super) next: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct SiteList {
    pub(super) sites: Vec<Site>,
    #[serde(default)]
    pub(super) next: Option<String>,
}

/// A stored checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Checkpoint {
    /// SHA-256 in hex.
    pub digest: String,
    /// Size in bytes.
    pub size: u64,
    /// Its tensors.
    pub layout: Value,
}

/// A network's graph, with the spec that the server derived from it and verified.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Graph {
    /// SHA-256 of the ONNX file in hex.
    pub digest: String,
    /// Size in bytes.
    pub size: u64,
    /// The spec's JSON.
    pub spec: Value,
    /// How it was verified.
    pub certificate: Value,
    /// Each axis that stays, and why.
    #[serde(default)]
    pub pinned: Vec<Value>,
    /// When it was first stored, ISO 8601 UTC.
    pub created_at: String,
}

/// How a run proceeds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// How many rounds are to be published.
    pub rounds: u32,
    /// Fewest updates that may be merged.
    pub quorum: u32,
    /// How long a round collects, in seconds.
    pub deadline_seconds: u64,
    /// Most updates that a round takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_updates: Option<u32>,
    /// How many rounds in a row may fail before the run does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_rounds_allowed: Option<u32>,
    /// Once a round has been open for so many seconds, its quorum is enough for it to close.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_open_seconds: Option<u64>,
    /// How many of the newest global models are kept; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_models: Option<u32>,
    /// A global model that is kept beside the newest ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_best: Option<KeepBest>,
    /// Of how many of the newest rounds that are over the updates are kept; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_updates: Option<u32>,
    /// Whether a global model's signature names the sites that it was made from.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub name_participants: bool,
    /// Whether the mean of each round's updates as they came is made too, for sites to try.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub evaluate_naive: bool,
    /// Most magnitude of an update's values, as a multiple of the reference's; 0: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_magnitude_factor: Option<f64>,
    /// Which updates are implausible beside the others, and what becomes of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plausibility: Option<PlausibilityPolicy>,
}

/// When an update is implausible, and what becomes of it; what is absent is the server's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PlausibilityPolicy {
    /// Most that its distance to the reference may be, as a multiple of the median of the others'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_distance_ratio: Option<f64>,
    /// Least cosine between its difference to the reference and the mean of the others'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_cosine: Option<f64>,
    /// `warn` or `reject`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
}

/// The global model of the round whose updates reported the best mean of a metric.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepBest {
    /// The metric's name.
    pub metric: String,
    /// `lowest` or `highest`.
    pub goal: String,
}

/// A run to be created.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewRun {
    /// Its id; the server makes one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The spec's JSON; may be absent only for strategy `mean`, or where a graph is named.
    pub spec: Option<Value>,
    /// Digest of a stored graph to take the spec of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graph_digest: Option<String>,
    /// `aligned`, `mean` or `merge-many`.
    pub strategy: String,
    /// Digest of the stored checkpoint to start from; absent: the first round is a founding round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed_digest: Option<String>,
    /// Ids of the sites that take part.
    pub cohort: Vec<String>,
    /// How it proceeds.
    pub policy: Policy,
}

/// A run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// `open`, `complete`, `failed` or `cancelled`.
    pub state: String,
    /// Why it failed.
    #[serde(default)]
    pub reason: Option<String>,
    /// `aligned`, `mean` or `merge-many`.
    pub strategy: String,
    /// The spec's JSON.
    #[serde(default)]
    pub spec: Option<Value>,
    /// Whether the server verified the spec by running the network.
    #[serde(default)]
    pub spec_verified: bool,
    /// Digest of the graph that the spec comes from.
    #[serde(default)]
    pub graph_digest: Option<String>,
    /// Digest of the layout, once it is fixed.
    #[serde(default)]
    pub layout_digest: Option<String>,
    /// Digest of the checkpoint that it started from.
    #[serde(default)]
    pub seed_digest: Option<String>,
    /// Ids of the sites that take part.
    pub cohort: Vec<String>,
    /// How it proceeds.
    pub policy: Policy,
    /// How many rounds were published.
    pub rounds_published: u32,
    /// Number of the newest round.
    #[serde(default)]
    pub current_round: Option<u32>,
    /// Digest of the newest global model.
    #[serde(default)]
    pub global_digest: Option<String>,
    /// The round of the best global model so far, by what sites reported.
    #[serde(default)]
    pub best_round: Option<u32>,
    /// Since when no further round opens, where it was paused.
    #[serde(default)]
    pub paused_at: Option<String>,
    /// When it was created, ISO 8601 UTC.
    pub created_at: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct RunList {
    pub(super) runs: Vec<Run>,
    #[serde(default)]
    pub(super) next: Option<String>,
}

/// A round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Round {
    /// Its number, from 1.
    pub number: u32,
    /// `collecting`, `merging`, `published`, `failed` or `cancelled`.
    pub state: String,
    /// Why it failed.
    #[serde(default)]
    pub reason: Option<String>,
    /// Digest of the reference.
    #[serde(default)]
    pub reference_digest: Option<String>,
    /// Digest of what it published.
    #[serde(default)]
    pub global_digest: Option<String>,
    /// Size of that in bytes.
    #[serde(default)]
    pub global_size: Option<u64>,
    /// Since when its model is no longer kept, by the run's policy.
    #[serde(default)]
    pub model_retired_at: Option<String>,
    /// Whether its model is the best of the run so far, by what sites reported.
    #[serde(default)]
    pub best: bool,
    /// How good its models are, by what sites reported.
    #[serde(default)]
    pub evaluations: Evaluations,
    /// When it opened, ISO 8601 UTC.
    pub opened_at: String,
    /// From when on its quorum is enough to close it.
    #[serde(default)]
    pub quorum_closes_at: Option<String>,
    /// When collecting ends at the latest.
    pub deadline_at: String,
    /// When it ended.
    #[serde(default)]
    pub closed_at: Option<String>,
    /// Every site of the cohort.
    pub sites: Vec<RoundSite>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RoundList {
    pub(super) rounds: Vec<Round>,
    #[serde(default)]
    pub(super) next: Option<String>,
}

/// A site in a round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RoundSite {
    /// Its id.
    pub site: String,
    /// `silent`, `receiving`, `accepted`, `rejected`, `declined` or `aligned`.
    pub state: String,
    /// When it last called, ISO 8601 UTC, to about half a minute; absent: never.
    #[serde(default)]
    pub last_seen_at: Option<String>,
    /// Its update's id.
    #[serde(default)]
    pub update_id: Option<String>,
    /// Its update's digest.
    #[serde(default)]
    pub digest: Option<String>,
    /// Its update's size in bytes.
    #[serde(default)]
    pub size: Option<u64>,
    /// How many examples it trained on.
    #[serde(default)]
    pub num_examples: Option<u64>,
    /// Its share of the merged model, from 0 to 1.
    #[serde(default)]
    pub share: Option<f64>,
    /// Its own figures.
    #[serde(default)]
    pub metrics: Option<BTreeMap<String, f64>>,
    /// Why it was rejected or declined.
    #[serde(default)]
    pub reason: Option<String>,
    /// How many bytes were received so far.
    #[serde(default)]
    pub received_bytes: Option<u64>,
    /// That, divided by the time since it was announced, while it arrives.
    #[serde(default)]
    pub bytes_per_second: Option<f64>,
    /// When its update was announced, ISO 8601 UTC.
    #[serde(default)]
    pub begun_at: Option<String>,
    /// When it was accepted, ISO 8601 UTC.
    #[serde(default)]
    pub accepted_at: Option<String>,
    /// How it was aligned.
    #[serde(default)]
    pub alignment: Option<AlignReport>,
    /// How its update stood beside the others.
    #[serde(default)]
    pub plausibility: Option<Plausibility>,
}

/// How an update stood beside the reference and the others of its round.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Plausibility {
    /// Euclidean distance to the reference, aligned.
    pub distance: f64,
    /// That, divided by the median of the others'.
    pub distance_ratio: Option<f64>,
    /// Cosine of the difference to the reference with the mean of the others'.
    pub cosine: Option<f64>,
    /// As the ratio, over BatchNorm's statistics.
    pub statistics_ratio: Option<f64>,
    /// How many others it is compared with.
    pub others: u32,
    /// What lies beyond the policy's thresholds, in sentences.
    pub warnings: Vec<String>,
}

/// How an update was brought into the reference's frame.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AlignReport {
    /// Sum over tensors of the inner product with the reference.
    pub objective_before: f64,
    /// The same after.
    pub objective_after: f64,
    /// Euclidean distance to the reference.
    pub l2_before: f64,
    /// The same after.
    pub l2_after: f64,
    /// Fraction of units that moved, 0 to 1.
    pub moved: f64,
    /// Sweeps over the groups.
    pub sweeps: u32,
    /// How often the matcher started.
    pub starts: u32,
    /// Whether it was proved that nothing need move.
    pub identity_certified: bool,
    /// Each group's part.
    pub groups: Vec<GroupReport>,
}

/// One group's part of an alignment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupReport {
    /// The group's name.
    pub name: String,
    /// Its units.
    pub size: usize,
    /// Fraction of them that moved, 0 to 1.
    pub moved: f64,
    /// As for the whole.
    pub objective_before: f64,
    /// As for the whole.
    pub objective_after: f64,
    /// As for the whole.
    pub l2_before: f64,
    /// As for the whole.
    pub l2_after: f64,
    /// As for the whole.
    pub sweeps: u32,
    /// How surely its units have their partners, where a search matched them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margins: Option<rebasin::Margins>,
}
