//! Who may call: a token with a role, checked against the one table before a body is read.

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{header, request::Parts};

use super::{Api, problem::Problem};
use crate::{
    auth::{self, access},
    error::{Code, Error, Result},
    model::{Holder, Role},
};

pub(super) async fn require_role(State(api): State<Api>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match admit(&api, &parts).await {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(error) => Problem::from(error).into_response(),
    }
}

async fn admit(api: &Api, request: &Parts) -> Result<()> {
    let role = role_of(api, auth::bearer(request.headers.get(header::AUTHORIZATION))).await?;
    let route = request.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    match access::least_role(request.method.as_str(), route) {
        Some(least) if role >= least => Ok(()),
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

/// What the holder of a token may do.
async fn role_of(api: &Api, token: Option<&str>) -> Result<Role> {
    match token {
        Some(token) if api.admin.is(token) => return Ok(Role::Admin),
        Some(token) if auth::is_whole(token, auth::ADMIN_PREFIX) => {
            let found = api.store.token_by_hash(&auth::hash(token)).await?;
            if let Some(Holder::Person(role)) = found.map(|alive| alive.holder) {
                return Ok(role);
            }
        }
        _ => {}
    }
    Err(Error::new(
        Code::Unauthenticated,
        "no token, or one that opens nothing here (unknown, expired or revoked); send `authorization: Bearer <token>`",
    ))
}
