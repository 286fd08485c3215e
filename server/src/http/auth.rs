//! Who may call: a token with a role, checked against the one table before a body is read.

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{header, request::Parts};
use tokio_util::sync::CancellationToken;

use super::{Api, problem::Problem};
use crate::{
    auth::{self, access},
    error::{Code, Error, Result},
    model::{Holder, Role},
    sessions,
    store::Alive,
};

pub(super) async fn require_role(State(api): State<Api>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match admit(&api, &parts).await {
        Ok(None) => next.run(Request::from_parts(parts, body)).await,
        // A body may take as long as it likes; who sends it must still be let in when it is here.
        Ok(Some(ended)) => tokio::select! {
            biased;
            () = ended.cancelled() => Problem::from(sessions::ended()).into_response(),
            response = next.run(Request::from_parts(parts, body)) => response,
        },
        Err(error) => Problem::from(error).into_response(),
    }
}

/// Whether a call may go on, and what is cancelled when its token ends.
async fn admit(api: &Api, request: &Parts) -> Result<Option<CancellationToken>> {
    let (role, ended) = role_of(api, auth::bearer(request.headers.get(header::AUTHORIZATION))).await?;
    let route = request.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    match access::least_role(request.method.as_str(), route) {
        Some(least) if role >= least => Ok(ended),
        Some(least) => Err(Error::new(
            Code::Forbidden,
            format!(
                "this call takes the role {}, the token has {}; ask an administrator",
                least.name(),
                role.name()
            ),
        )),
        None => Err(Error::new(Code::Forbidden, "nobody may call this")),
    }
}

/// What the holder of a token may do, and what is cancelled when it ends.
async fn role_of(api: &Api, token: Option<&str>) -> Result<(Role, Option<CancellationToken>)> {
    match token {
        Some(token) if api.admin.is(token) => return Ok((Role::Admin, None)),
        Some(token) if auth::is_whole(token, auth::ADMIN_PREFIX) => {
            let found = api.store.token_by_hash(&auth::hash(token)).await?;
            if let Some(Alive { id, holder: Holder::Person(role) }) = found {
                return Ok((role, Some(api.sessions.of(&id))));
            }
        }
        _ => {}
    }
    Err(Error::new(
        Code::Unauthenticated,
        "no token, or one that opens nothing here (unknown, expired or revoked); send `authorization: Bearer <token>`",
    ))
}
