//! Who may call: the admin token, checked before a body is read.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::header;

use super::{Api, problem::Problem};
use crate::{
    auth,
    error::{Code, Error},
};

pub(super) async fn require_admin(State(api): State<Api>, request: Request, next: Next) -> Response {
    match auth::bearer(request.headers().get(header::AUTHORIZATION)) {
        Some(token) if api.admin.is(token) => next.run(request).await,
        _ => {
            let detail = "no token, or not the admin token; send `authorization: Bearer <admin token>`";
            Problem::from(Error::new(Code::Unauthenticated, detail)).into_response()
        }
    }
}
