//! Calls that make something, sent again by whoever does not know whether they arrived: the header `Idempotency-Key` makes them be made once.

use axum::{
    body::{Bytes, to_bytes},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tracing::Instrument as _;
use utoipa::openapi::{
    ObjectBuilder, Required, Type,
    path::{Parameter, ParameterBuilder, ParameterIn},
};

use super::{
    Api,
    problem::{self, Problem},
};
use crate::{
    error::{Code, Error, Result},
    store::{Actor, MadeCall, Once},
};

/// The header that holds the key.
const NAME: HeaderName = HeaderName::from_static("idempotency-key");
/// In characters.
const MOST: usize = 255;
/// The member of an answer that is a secret: shown once, and kept nowhere.
const SECRET: &str = "token";

/// The key of a call, if it has one.
///
/// # Errors
/// It is empty, too long, not of visible ASCII, or there are two.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<&str>> {
    let mut values = headers.get_all(NAME).iter();
    let (Some(value), more) = (values.next(), values.next()) else { return Ok(None) };
    let key = value.to_str().unwrap_or_default();
    if more.is_some() || !(1..=MOST).contains(&key.len()) || !key.bytes().all(|b| b.is_ascii_graphic()) {
        let what = format!("idempotency-key: not one of 1 to {MOST} visible ASCII characters");
        return Err(Error::invalid(what));
    }
    Ok(Some(key))
}

/// Makes what a call with a key asks for, unless the same was made before: then it is answered as it was.
pub(super) async fn once(State(api): State<Api>, request: Request, next: Next) -> Response {
    let key = match key(request.headers()) {
        Ok(None) => return next.run(request).await,
        Ok(Some(key)) => key.to_owned(),
        Err(error) => return Problem::from(error).into_response(),
    };
    let (parts, body) = request.into_parts();
    match problem::read(&parts, body, &api).await {
        Ok(body) => with_key(api, key, parts, body, next)
            .await
            .unwrap_or_else(|error| Problem::from(error).into_response()),
        Err(problem) => problem.into_response(),
    }
}

async fn with_key(api: Api, key: String, mut parts: Parts, body: Bytes, next: Next) -> Result<Response> {
    let once = Once { request: asked(&parts, &body), key };
    let actor = parts.extensions.get_mut::<Actor>();
    let actor = actor.ok_or_else(|| Error::internal("a call passed without a caller"))?;
    let credential = actor.who.credential.clone().unwrap_or_default();
    if let Some(made) = api.store.made_call(&credential, &once.key).await? {
        return again(&once, made);
    }
    actor.once = Some(once.clone());
    // To its end, also where the caller goes away: who comes again is to be answered.
    let making = async move {
        let response = next.run(Request::from_parts(parts, body.into())).await;
        if response.status().is_success() {
            keep(&api, &credential, &once.key, response).await
        } else {
            Ok(response)
        }
    };
    tokio::spawn(making.in_current_span()).await.map_err(Error::internal)?
}

/// What a call asks for: two of the same digest ask for the same.
fn asked(parts: &Parts, body: &[u8]) -> String {
    let mut hasher = Sha256::new();
    for part in [parts.method.as_str().as_bytes(), parts.uri.path().as_bytes(), body] {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hex::encode(hasher.finalize())
}

/// The answer to a call whose key came before.
fn again(once: &Once, made: MadeCall) -> Result<Response> {
    if made.request != once.request {
        let what = "idempotency-key: came with another call before; each call has a key of its own";
        return Err(Error::new(Code::KeyReused, what));
    }
    let Some((status, answer)) = made.answer else { return Err(crate::store::key_in_use()) };
    let known: Value = serde_json::from_str(&answer).map_err(Error::internal)?;
    if known.get(SECRET).is_some() {
        let id =
            known.get("token_id").or_else(|| known.get("id")).and_then(Value::as_str).unwrap_or_default();
        return Err(Error::new(
            Code::Conflict,
            format!(
                "made already, and its token was shown once: it is {id}; revoke it and make another one, with another key"
            ),
        ));
    }
    let status = StatusCode::from_u16(status).map_err(Error::internal)?;
    let json = HeaderValue::from_static("application/json");
    Ok((status, [(header::CONTENT_TYPE, json)], answer).into_response())
}

/// Keeps what a call is answered, but for secrets.
async fn keep(api: &Api, credential: &str, key: &str, response: Response) -> Result<Response> {
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.map_err(Error::internal)?;
    let mut known: Value = serde_json::from_slice(&body).map_err(Error::internal)?;
    let answer = match known.get_mut(SECRET) {
        Some(secret) => {
            *secret = Value::Null;
            known.to_string()
        }
        None => String::from_utf8_lossy(&body).into_owned(),
    };
    if let Err(error) = api.store.answer_made_call(credential, key, (parts.status.as_u16(), &answer)).await {
        // It is made, and whoever sends it again is told that its answer was lost.
        tracing::warn!(error.message = error.message(), "what a call was answered could not be kept");
    }
    Ok(Response::from_parts(parts, body.into()))
}

/// How the description of the API tells of it.
pub(super) fn parameter() -> Parameter {
    let text = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(MOST))
        .pattern(Some("^[!-~]+$"));
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "Of the caller's choice, for a call that may have to be sent again: with the same key, by the same token and with the same body, within 24 \
             hours, nothing is made twice and the answer is the same again. Where that held a secret, which is shown once, it is 409 (`conflict`) and \
             names the token. With another body: 422 (`idempotency-key-reused`). While the first call is under way, or where its answer was lost with the \
             server: 409 (`idempotency-key-in-use`). A call that failed is not remembered.",
        ))
        .schema(Some(text))
        .build()
}

#[cfg(test)]
mod tests;
