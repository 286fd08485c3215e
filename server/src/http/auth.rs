//! Who may call: a token with a role, checked against the one table before a body is read.

use std::time::Duration;

use axum::{
    extract::{FromRequestParts, MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use fedbasin_proof::Who;
use http::{Extensions, HeaderValue, Version, header, request::Parts};
use tokio_util::sync::CancellationToken;

use super::{Api, problem::Problem, reason, until::until};
use crate::{
    admission::{self, Permit},
    auth::{self, access, oidc},
    connections::{Call, Link},
    error::{Code, Error, Result},
    model::{Holder, Role},
    requests, sessions,
    store::{Actor, Alive},
};

/// Lets a call in that needs no token, within the limits of its address.
pub(super) async fn let_in(State(api): State<Api>, request: Request, next: Next) -> Response {
    let admitted = link(request.extensions()).and_then(|link| {
        let permit = api.admission.admit(admission::Caller::Address(link.address()), 0)?;
        hold(request.extensions(), permit)
    });
    match admitted {
        Ok(()) => next.run(request).await,
        Err(error) => Problem::from(error).into_response(),
    }
}

fn link(extensions: &Extensions) -> Result<&Link> {
    extensions.get().ok_or_else(|| Error::internal("a call passed without its connection"))
}

/// Keeps what let a call in for as long as it lasts.
fn hold(extensions: &Extensions, permit: Permit) -> Result<()> {
    let call: Option<&Call> = extensions.get();
    call.ok_or_else(|| Error::internal("a call passed without being counted"))?.hold(permit);
    Ok(())
}

/// The API on behalf of whoever calls: what it changes is recorded as theirs.
pub(super) struct Acting(pub(super) Api);

impl FromRequestParts<Api> for Acting {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let actor = parts.extensions.get::<Actor>().cloned();
        let actor = actor.ok_or_else(|| Error::internal("a call passed without a caller"))?;
        Ok(Self(Api { store: api.store.acting_as(actor), ..api.clone() }))
    }
}

pub(super) async fn require_role(State(api): State<Api>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match enter(&api, &mut parts).await {
        Ok(end) => match go_on(&api, end, Request::from_parts(parts, body), next).await {
            Ok(response) => response,
            Err(error) => Problem::from(error).into_response(),
        },
        Err(error) => turned_away(&parts, error),
    }
}

/// Lets a call in on behalf of whoever holds its token: notes in it who acts and in which role, and tells when that ends.
///
/// # Errors
/// The token opens nothing, or not this; or more calls than the limits let in.
pub(super) async fn enter(api: &Api, parts: &mut Parts) -> Result<End> {
    let caller = admit(api, parts).await?;
    let reason = reason::of(parts)?;
    let who = Who {
        kind: "person".into(),
        name: Some(caller.role.name().to_owned()),
        credential: Some(caller.credential.clone()),
    };
    let known = parts.extensions.get::<requests::Request>().map(requests::Request::id);
    parts.extensions.insert(caller.role);
    parts.extensions.insert(Actor { who, request: known, reason, once: None });
    Ok(caller.end)
}

/// Answers a call that was let in, until what it came with ends.
///
/// # Errors
/// It ended before there was an answer.
pub(super) async fn go_on(api: &Api, end: End, request: Request, next: Next) -> Result<Response> {
    // A body may take as long as it likes; who sends it must still be let in when it is here.
    let mut response = tokio::select! {
        biased;
        () = end.comes() => return Err(sessions::ended()),
        response = next.run(request) => response,
    };
    api.signer.send_head(response.headers_mut());
    Ok(response.map(|body| until(body, async move { end.comes().await })))
}

/// The answer to a call whose body nobody reads. On HTTP/1 that ends the connection: the client is told, or its next call over it would
/// break.
fn turned_away(request: &Parts, error: Error) -> Response {
    let mut response = Problem::from(error).into_response();
    let length = request.headers.get(header::CONTENT_LENGTH);
    let has_body =
        length.is_some_and(|length| length != "0") || request.headers.contains_key(header::TRANSFER_ENCODING);
    if has_body && request.version <= Version::HTTP_11 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Who calls.
pub(super) struct Caller {
    pub(super) role: Role,
    /// The id of the token; `admin-token` for the operator's own, `oidc:` and the subject for an identity provider's.
    credential: String,
    end: End,
}

/// When what a call was opened with opens nothing any more.
pub(super) enum End {
    Never,
    /// When this is cancelled.
    Told(CancellationToken),
    /// After that time.
    In(Duration),
}

impl End {
    async fn comes(&self) {
        match self {
            Self::Never => std::future::pending().await,
            Self::Told(ended) => ended.cancelled().await,
            Self::In(left) => tokio::time::sleep(*left).await,
        }
    }
}

/// Who calls, where they may.
async fn admit(api: &Api, request: &Parts) -> Result<Caller> {
    let token = api.people.bearer(&request.headers).ok_or_else(unknown)?;
    let caller = identify(api, &request.extensions, token).await?;
    let route = request.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let limits = api.admission.limits();
    let bytes = match (request.method.as_str(), route) {
        ("POST" | "PUT" | "DELETE", _) => limits.bytes_of_request(),
        (
            _,
            "/v1/runs/{run}/rounds/{number}/model"
            | "/v1/models/{digest}/content"
            | "/runs/{run}/rounds/{number}/model",
        ) => limits.bytes_of_download(),
        _ => 0,
    };
    // Counted before it is known whether it may be made.
    let permit = api.admission.admit(person(&caller), bytes)?;
    match access::least_role(request.method.as_str(), route) {
        Some(least) if caller.role >= least => {
            hold(&request.extensions, permit)?;
            Ok(caller)
        }
        Some(least) => Err(Error::new(
            Code::Forbidden,
            format!(
                "this call takes the role {}, the token has {}; ask an administrator",
                least.name(),
                caller.role.name()
            ),
        )),
        None => Err(Error::new(Code::Forbidden, "nobody may call this")),
    }
}

fn person(caller: &Caller) -> admission::Caller {
    admission::Caller::Person(caller.credential.clone())
}

/// Whose token that is. What opens nothing counts against the address that it came from.
///
/// # Errors
/// It opens nothing, or too much that came from there did not.
pub(super) async fn identify(api: &Api, extensions: &Extensions, token: &str) -> Result<Caller> {
    let (address, hash) = (link(extensions)?.address(), auth::hash(token));
    api.admission.identify(address, &hash, caller(api, token, &hash), person).await
}

fn unknown() -> Error {
    Error::new(
        Code::Unauthenticated,
        "no token, or one that opens nothing here (unknown, expired or revoked); send `authorization: Bearer <token>`",
    )
}

/// The holder of a token.
async fn caller(api: &Api, token: &str, hash: &str) -> Result<Caller> {
    if api.people.admin.is(token) {
        return Ok(Caller { role: Role::Admin, credential: "admin-token".into(), end: End::Never });
    }
    if auth::is_whole(token, auth::ADMIN_PREFIX)
        && let Some(Alive { id, holder: Holder::Person(role) }) = api.store.token_by_hash(hash).await?
    {
        let end = End::Told(api.sessions.of(&id));
        return Ok(Caller { role, credential: id, end });
    }
    if oidc::is_jwt(token)
        && let Some(oidc) = &api.people.oidc
    {
        // The database is asked for those alone whose signature is right.
        let claims = oidc.claims(token).await?;
        let person = oidc.person(&claims, api.store.now().await?)?;
        tracing::debug!(person.subject, person.role = person.role.name(), "signed in");
        return Ok(Caller {
            role: person.role,
            credential: format!("oidc:{}", person.subject),
            end: End::In(person.left),
        });
    }
    Err(unknown())
}
