//! The audit log: read, export, prove; and the keys that it is signed with.

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use fedbasin_proof::export;
use http::header;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Api,
    problem::{Problem, Query},
    time::iso,
};
use crate::{
    error::{Error, Result},
    model::check_id,
    store::MOST_RECORDS,
};

/// Which records.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// The place of the first one; absent: 0, the oldest.
    #[serde(default)]
    from: u64,
    /// At most so many, 1 to 1000; absent: 100.
    limit: Option<u32>,
    /// Only those of this run.
    run: Option<String>,
    /// Only those of this site.
    site: Option<String>,
    /// Only those of this action, such as `round.published`.
    action: Option<String>,
}

/// So often the log is read for one page that is filtered, [`MOST_RECORDS`] at a time.
const MOST_READS: u32 = 10;

impl Page {
    /// How many records are asked for, of a server that gives no more than `most` entries at once.
    pub(super) fn check(&self, most: usize) -> Result<u32> {
        let most = MOST_RECORDS.min(u32::try_from(most).unwrap_or(MOST_RECORDS));
        let limit = self.limit.unwrap_or(100.min(most));
        if limit == 0 || limit > most {
            return Err(Error::invalid(format!("limit: {limit} is not within 1 and {most}")));
        }
        if let Some(run) = &self.run {
            check_id("run", run)?;
        }
        if let Some(site) = &self.site {
            check_id("site", site)?;
        }
        Ok(limit)
    }

    /// Whether a record is one of those of the site and the action.
    fn takes(&self, record: &Value) -> bool {
        let is = |name: &str, asked: &Option<String>| {
            asked.as_deref().is_none_or(|asked| record[name].as_str() == Some(asked))
        };
        is("site", &self.site) && is("action", &self.action)
    }
}

/// One record of the audit log: who did what to which objects, when, why.
#[derive(utoipa::ToSchema)]
#[expect(
    dead_code,
    reason = "records are given as they were written; this tells the description of the API what they hold"
)]
struct AuditRecord {
    /// Its place in the log, from 0 without gaps.
    seq: u64,
    /// When, by the database's clock: milliseconds since the Unix epoch.
    at_ms: i64,
    /// What: an object and what became of it, such as `round.published`.
    action: String,
    who: AuditWho,
    /// The call that it was done for: all that one call did has one id.
    request: Option<String>,
    /// The run, where it is of one.
    run: Option<String>,
    /// The round's number, where it is of one.
    round: Option<u32>,
    /// The site, where it is of one.
    site: Option<String>,
    /// The id of what it is about: an update, a token, a certificate, a checkpoint, a graph.
    object: Option<String>,
    /// Digest of the bytes that stood there before, or were to come.
    before: Option<String>,
    /// Digest of the bytes that stand there now.
    after: Option<String>,
    /// Why, in words.
    reason: Option<String>,
    /// What else is to be known.
    #[schema(value_type = Option<Object>)]
    details: Option<Value>,
}

/// Who did something.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "as of the record")]
struct AuditWho {
    /// `site`, `person`, or `server` for what the server does by itself.
    kind: String,
    /// The site's id, or the person's role. Absent for the server.
    name: Option<String>,
    /// The id of the token, or the fingerprint of the certificate, that it was done with.
    credential: Option<String>,
}

/// Records of the audit log.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct RecordList {
    /// How many records the log has in all.
    size: u64,
    /// The signed head, a note; absent for some seconds after a start.
    head: Option<String>,
    #[schema(value_type = Vec<AuditRecord>)]
    records: Vec<Value>,
    /// When each of them was written, in the same order, ISO 8601 UTC: beside the records, which are as their hashes cover them.
    at: Vec<String>,
    /// Where the next page begins; absent on the last one. A page of some site's or some action's records may hold fewer than were asked for,
    /// or none, and not be the last one.
    next: Option<u64>,
}

/// Records of the audit log, the oldest first: all, or those of a run, a site, an action.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", security(("token" = [])), params(Page), responses(
    (status = 200, body = RecordList),
    (status = 422, body = Problem, content_type = "application/problem+json"),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    State(api): State<Api>,
    Query(page): Query<Page>,
) -> Result<Json<RecordList>, Problem> {
    let limit = page.check(api.admission.limits().max_page_size)?;
    let head = api.store.log_head().await?;
    let (records, next) = find(&api, &page, limit).await?;
    let at = records.iter().filter_map(|record| record["at_ms"].as_i64()).map(iso).collect();
    let next = next.filter(|next| *next < head.size);
    let signed = api.signer.head().map(|head| head.note().to_owned());
    Ok(Json(RecordList { size: head.size, head: signed, records, at, next }))
}

/// At most `limit` records that are asked for, and the place to go on from where there may be more.
async fn find(api: &Api, page: &Page, limit: u32) -> Result<(Vec<Value>, Option<u64>)> {
    let is_filtered = page.site.is_some() || page.action.is_some();
    let at_once = if is_filtered { MOST_RECORDS } else { limit };
    let (mut found, mut from) = (Vec::new(), page.from);
    for _ in 0..MOST_READS {
        let lines = api.store.log_lines(from, at_once, page.run.as_deref()).await?;
        for line in &lines {
            let record: Value = serde_json::from_str(line).map_err(Error::internal)?;
            from = record["seq"].as_u64().map_or(from, |seq| seq + 1);
            if page.takes(&record) {
                found.push(record);
            }
            if found.len() == limit as usize {
                return Ok((found, Some(from)));
            }
        }
        if lines.len() < at_once as usize {
            return Ok((found, None));
        }
    }
    Ok((found, Some(from)))
}

/// The whole log as JSON lines: which log it is, each record, the signed head. `fedbasin audit verify` checks it, with nothing else at
/// hand than the server's public keys.
#[utoipa::path(get, path = "/v1/audit/export", tag = "audit", security(("token" = [])), responses(
    (status = 200, body = String, content_type = "application/jsonl"),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn export(State(api): State<Api>) -> Result<Response, Problem> {
    let head = api.signer.sign_head(api.store.log_head().await?);
    let first = export::First::line(&head.head.origin, &api.signer.public()).map_err(Error::internal)? + "\n";
    let last = export::Last::line(&head).map_err(Error::internal)? + "\n";
    let size = head.head.size;
    let pages = futures::stream::try_unfold((api.store.clone(), 0), move |(store, from)| async move {
        if from >= size {
            return Ok::<_, std::io::Error>(None);
        }
        let lines = store.log_page(from, size).await.map_err(std::io::Error::other)?;
        let next = from + lines.len() as u64;
        let text: String = lines.into_iter().map(|line| line + "\n").collect();
        Ok(Some((text, (store, next))))
    });
    let begin = futures::stream::iter([Ok(first)]);
    let end = futures::stream::iter([Ok(last)]);
    let body = futures::StreamExt::chain(futures::StreamExt::chain(begin, pages), end);
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], Body::from_stream(body)).into_response())
}

/// Two sizes of the log.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Sizes {
    /// That of an earlier head.
    pub(super) first: u64,
    /// That of a later one.
    pub(super) second: u64,
}

/// What shows that the log only grew.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Growth {
    /// Roots in hex (RFC 9162, section 2.1.4.1).
    hashes: Vec<String>,
}

/// Shows that the log of `first` records is the beginning of that of `second`.
#[utoipa::path(get, path = "/v1/audit/growth", tag = "audit", security(("token" = [])), params(Sizes), responses(
    (status = 200, body = Growth),
    (status = 422, body = Problem, content_type = "application/problem+json"),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn growth(
    State(api): State<Api>,
    Query(sizes): Query<Sizes>,
) -> Result<Json<Growth>, Problem> {
    let hashes = api.store.prove_growth(sizes.first, sizes.second).await?;
    Ok(Json(Growth { hashes: hashes.iter().map(hex::encode).collect() }))
}

/// What this server signs with.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Keys {
    /// PEM: a P-256 key for models, an Ed25519 key for receipts and the audit log.
    keys: String,
    /// By which people compare them.
    fingerprint: String,
    /// The audit log's name.
    log_origin: String,
}

/// The public keys of this server.
#[utoipa::path(get, path = "/v1/keys", tag = "audit", security(("token" = [])), responses(
    (status = 200, body = Keys),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn keys(State(api): State<Api>) -> Result<Json<Keys>, Problem> {
    let public = api.signer.public();
    let log_origin = api.store.log_head().await?.origin;
    Ok(Json(Keys { keys: public.to_pem(), fingerprint: public.fingerprint(), log_origin }))
}
