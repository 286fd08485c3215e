//! Certificates: the server's own and those of sites, and how long they last.

use axum::{Json, extract::State};
use serde::Serialize;

use super::{
    Api,
    auth::Acting,
    page::{Asked, Page},
    problem::{Path, Problem},
    time::iso,
};
use crate::{
    error::{Error, Result},
    model::{self, days_left, standing},
    round::Millis,
    tls,
};

/// A certificate.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Certificate {
    /// SHA-256 of its signed part, hex.
    pub(super) fingerprint: String,
    /// Whom it names; absent where it was revoked before it was seen.
    pub(super) site: Option<String>,
    /// `alive`, `expired` or `revoked`.
    pub(super) state: &'static str,
    pub(super) expires_at: Option<String>,
    /// Whole days until it expires; below 0 once it has.
    pub(super) days_left: Option<i64>,
    pub(super) first_seen_at: String,
    /// To about half a minute.
    pub(super) last_used_at: Option<String>,
    pub(super) revoked_at: Option<String>,
}

/// The server's own certificate, or its authority's.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct OwnCertificate {
    expires_at: String,
    /// Whole days until it expires; below 0 once it has.
    days_left: i64,
}

/// All certificates.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct CertificateList {
    /// The server's own, as its file is now; absent where it speaks clear text or the file cannot be read.
    server: Option<OwnCertificate>,
    /// The authority that signs those of sites, of several the one that ends first; absent where there is none.
    authority: Option<OwnCertificate>,
    /// Whether the server speaks clear text beyond its own machine (`allow_clear_text`).
    clear_text: bool,
    /// Those that sites came with, the one that expires first at the beginning.
    certificates: Vec<Certificate>,
    /// Where the next page begins (`after`), if this is not the last one.
    next: Option<String>,
}

impl OwnCertificate {
    fn until(expires: Millis, now: Millis) -> Self {
        Self { expires_at: iso(expires), days_left: days_left(expires, now) }
    }
}

/// When the server's own certificate ends, and the first of its authorities, as their files are now.
pub(super) fn ends(api: &Api) -> (Option<Millis>, Option<Millis>) {
    let Some(tls) = &api.tls else { return (None, None) };
    let read = |end: Result<Option<Millis>>| {
        end.unwrap_or_else(|error| {
            tracing::warn!(
                error.message = error.message(),
                "a certificate of the server's settings cannot be read"
            );
            None
        })
    };
    (read(tls::expires_at(tls).map(Some)), read(tls::authority_expires_at(tls)))
}

impl Certificate {
    pub(super) fn of(certificate: model::Certificate, now: Millis) -> Self {
        Self {
            fingerprint: certificate.fingerprint,
            site: certificate.site,
            state: standing(certificate.revoked_at_ms, certificate.expires_at_ms, now),
            expires_at: certificate.expires_at_ms.map(iso),
            days_left: certificate.expires_at_ms.map(|expires| days_left(expires, now)),
            first_seen_at: iso(certificate.first_seen_at_ms),
            last_used_at: certificate.last_used_at_ms.map(iso),
            revoked_at: certificate.revoked_at_ms.map(iso),
        }
    }
}

/// The certificates of the server and of sites, and how many days each has left.
#[utoipa::path(get, path = "/v1/certificates", tag = "certificates", security(("token" = [])), params(Asked), responses(
    (status = 200, body = CertificateList),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(State(api): State<Api>, page: Page) -> Result<Json<CertificateList>, Problem> {
    let now = api.store.now().await?;
    let (server, authority) = ends(&api);
    let certificates = api.store.certificates().await?;
    let (certificates, next) = page.of(certificates, |certificate| certificate.fingerprint.clone())?;
    Ok(Json(CertificateList {
        server: server.map(|expires| OwnCertificate::until(expires, now)),
        authority: authority.map(|expires| OwnCertificate::until(expires, now)),
        clear_text: api.clear_text,
        certificates: certificates.into_iter().map(|certificate| Certificate::of(certificate, now)).collect(),
        next,
    }))
}

/// Revokes a site's certificate, whether it was ever seen here or not: it opens nothing from now on, and streams that it opened end
/// within five seconds, at every replica.
#[utoipa::path(post, path = "/v1/certificates/{fingerprint}/revoke", tag = "certificates", security(("token" = [])),
    params(("fingerprint" = String, Path, description = "SHA-256 of its signed part, hex.")), responses(
    (status = 200, body = Certificate),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn revoke(
    Acting(api): Acting,
    Path(fingerprint): Path<String>,
) -> Result<Json<Certificate>, Problem> {
    let is_one =
        fingerprint.len() == 64 && fingerprint.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !is_one {
        let what = "fingerprint: not a SHA-256 in lower-case hex, 64 characters; `pki issue` prints it";
        return Err(Error::invalid(what).into());
    }
    let revoked = api.store.revoke_certificate(&fingerprint).await?;
    tracing::info!(certificate.fingerprint = fingerprint, "certificate revoked");
    let now = api.store.now().await?;
    Ok(Json(Certificate::of(revoked, now)))
}
