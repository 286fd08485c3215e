//! One site: how it stands, another token for it, and shutting it out.

use std::collections::BTreeMap;

use axum::{Extension, Json, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    Api,
    auth::Acting,
    certificates::Certificate,
    problem::{Body, Path, Problem},
    sites::Site,
    time::iso,
    tokens::{MadeToken, Token, checked_life},
};
use crate::{
    auth,
    error::{Error, Result},
    model::{self, Role},
    round::Millis,
};

/// How long the tokens of before open something beside the new one, in seconds, where nothing else is asked for: a day.
const OLD_TOKENS_SECONDS: u32 = 86_400;
/// And at the most: a month.
const MOST_OLD_TOKENS_SECONDS: u32 = 31 * 86_400;

/// A site with what it does and what it holds.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct SiteDetails {
    #[serde(flatten)]
    site: Site,
    /// In how many runs of each state it takes part: `open`, `complete`, `failed`, `cancelled`.
    runs: BTreeMap<String, u64>,
    /// How many updates of each state it sent: `receiving`, `accepted`, `aligned`, `rejected`, `declined`.
    updates: BTreeMap<String, u64>,
    /// The updates that it sends now, the newest first.
    arriving: Vec<Arriving>,
    /// Its certificates as far as they were seen, the newest first; at most 100.
    certificates: Vec<Certificate>,
    /// Its tokens, the newest first, without what would open anything; at most 100. Absent for who may not list tokens.
    tokens: Option<Vec<Token>>,
    /// What it was told when its calls failed, the newest first; at most 20. Not of calls whose token or certificate opened nothing, nor of
    /// streams that broke off once they had begun.
    failed_calls: Vec<FailedCall>,
}

/// What a site was told when calls of its failed.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct FailedCall {
    /// What it called: an rpc's name.
    rpc: String,
    /// The stable code, for instance `round-closed`.
    code: String,
    /// In words.
    message: String,
    /// How often it was told so, as far as that was counted.
    times: u64,
    first_at: String,
    last_at: String,
}

impl FailedCall {
    fn of(told: model::FailedCall) -> Self {
        Self {
            rpc: told.rpc,
            code: told.code,
            message: told.message,
            times: told.times,
            first_at: iso(told.first_at_ms),
            last_at: iso(told.last_at_ms),
        }
    }
}

/// An update whose bytes are arriving.
#[derive(Serialize, utoipa::ToSchema)]
struct Arriving {
    update_id: String,
    run: String,
    /// Its number.
    round: u32,
    digest: String,
    /// In bytes, as it was announced.
    size: u64,
    /// How many bytes have arrived.
    received_bytes: u64,
    /// That, divided by the time since it was announced.
    bytes_per_second: f64,
    begun_at: String,
}

/// Another token for a site, in the place of those that it has.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotation {
    /// In words; shown in the list.
    #[serde(default)]
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    label: String,
    /// Days until it opens nothing, 1 to 366; absent: 90.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 366)]
    expires_in_days: Option<u32>,
    /// Seconds until the tokens of before open nothing, at most 31 days; 0: from now on. Absent: a day.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 2_678_400)]
    old_tokens_seconds: Option<u32>,
}

impl Rotation {
    /// How long the new token is to open something, and the old ones, in milliseconds.
    pub(super) fn check(&self) -> Result<(Millis, Millis)> {
        let life = checked_life(&self.label, self.expires_in_days)?;
        match self.old_tokens_seconds.unwrap_or(OLD_TOKENS_SECONDS) {
            seconds @ 0..=MOST_OLD_TOKENS_SECONDS => Ok((life, Millis::from(seconds) * 1000)),
            seconds => Err(Error::invalid(format!(
                "old_tokens_seconds: {seconds} is not within 0 and {MOST_OLD_TOKENS_SECONDS} (31 days)"
            ))),
        }
    }
}

/// How fast an update arrives that was announced so many milliseconds ago, over all that time.
#[expect(clippy::cast_precision_loss, reason = "bytes of a checkpoint and milliseconds: exact in an f64")]
pub(super) fn bytes_per_second(received_bytes: u64, for_ms: Millis) -> f64 {
    received_bytes as f64 * 1000.0 / for_ms.max(1) as f64
}

async fn describe(api: &Api, site: &str, role: Role) -> Result<SiteDetails> {
    let now = api.store.now().await?;
    let found = api.store.site(site).await?;
    let mut arriving = Vec::with_capacity(found.arriving.len());
    for update in found.arriving {
        let received_bytes = api.store.received_bytes(&update.id).await?;
        arriving.push(Arriving {
            bytes_per_second: bytes_per_second(received_bytes, update.for_ms),
            update_id: update.id,
            run: update.run_id,
            round: update.round,
            digest: update.digest.to_string(),
            size: update.size,
            received_bytes,
            begun_at: iso(update.begun_at_ms),
        });
    }
    let tokens = found.tokens.into_iter().map(|token| Token::of(token, now));
    Ok(SiteDetails {
        site: Site::of(found.site),
        runs: found.runs,
        updates: found.updates,
        arriving,
        certificates: found.certificates.into_iter().map(|held| Certificate::of(held, now)).collect(),
        tokens: (role >= Role::Admin).then(|| tokens.collect()),
        failed_calls: found.failed_calls.into_iter().map(FailedCall::of).collect(),
    })
}

/// One site: when it was last here, what it sends, what it holds and until when.
#[utoipa::path(get, path = "/v1/sites/{site}", tag = "sites", security(("token" = [])),
    params(("site" = String, Path, description = "The site's id.")), responses(
    (status = 200, body = SiteDetails),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(
    State(api): State<Api>,
    Extension(role): Extension<Role>,
    Path(site): Path<String>,
) -> Result<Json<SiteDetails>, Problem> {
    check(&site)?;
    Ok(Json(describe(&api, &site, role).await?))
}

/// Makes another token for a site, gives it once, and lets those that it has open nothing after `old_tokens_seconds`. Where two open something
/// already, only with 0: a site has no third one.
#[utoipa::path(post, path = "/v1/sites/{site}/rotate", tag = "sites", security(("token" = [])),
    params(("site" = String, Path, description = "The site's id.")), request_body = Rotation, responses(
    (status = 201, body = MadeToken),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "Two of its tokens open something, and the old ones are to go on")))]
pub(super) async fn rotate(
    Acting(api): Acting,
    Path(site): Path<String>,
    Body(rotation): Body<Rotation>,
) -> Result<(StatusCode, Json<MadeToken>), Problem> {
    let (life, old) = rotation.check().map_err(Problem::of_body)?;
    check(&site)?;
    let secret = auth::new_token(auth::SITE_PREFIX)?;
    let hash = auth::hash(secret.expose());
    let made = api.store.rotate_token(&site, &hash, &rotation.label, life, old).await?;
    tracing::info!(site.id = site, token.id = made.id, token.old_ms = old, "a site's token is rotated");
    Ok((StatusCode::CREATED, Json(MadeToken::of(&secret, made))))
}

/// Shuts a site out: all its tokens, and its certificates as far as they were seen, open nothing from now on, and streams that they opened end
/// within five seconds, at every replica. A certificate that never came here is not known: revoke it by its fingerprint. The site stays enrolled,
/// and another token lets it in again.
#[utoipa::path(post, path = "/v1/sites/{site}/revoke", tag = "sites", security(("token" = [])),
    params(("site" = String, Path, description = "The site's id.")), responses(
    (status = 200, body = SiteDetails),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn revoke(
    Acting(api): Acting,
    Extension(role): Extension<Role>,
    Path(site): Path<String>,
) -> Result<Json<SiteDetails>, Problem> {
    check(&site)?;
    api.store.revoke_site(&site).await?;
    tracing::info!(site.id = site, "site shut out");
    Ok(Json(describe(&api, &site, role).await?))
}

/// What is no id names nobody.
fn check(site: &str) -> Result<()> {
    model::check_id("site", site).map_err(|error| Error::not_found(error.message()))
}
