//! Errors as `application/problem+json` (RFC 9457).

use std::{fmt, marker::PhantomData, time::Duration};

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header, request::Parts};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::Api;
use crate::error::{Code, Error};

/// An error as the API answers it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Problem {
    /// Always `about:blank`: the code below tells the kind.
    r#type: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// Stable string, the same as on the gRPC edge.
    code: &'static str,
    /// What was wrong, with what, and what to do.
    detail: String,
    /// When to ask again: goes into a header.
    #[serde(skip)]
    retry_after: Option<Duration>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: String) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Self { r#type: "about:blank", title, status: status.as_u16(), code, detail, retry_after: None }
    }

    pub(super) fn method_not_allowed() -> Self {
        let detail = "this page does not take that method; the API is described at /openapi.json";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail.to_owned())
    }

    pub(super) fn range_not_satisfiable(size: u64) -> Response {
        let detail = format!("the range lies outside the {size} bytes");
        let mut response =
            Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "range-not-satisfiable", detail).into_response();
        if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let problem =
            Self::new(error.code().http(), error.code().as_str(), error.public_message().to_owned());
        Self { retry_after: error.retry_after(), ..problem }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.retry_after;
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = retry_after {
            // Whole seconds, never too early.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// So much is said of what is wrong with a body.
const MOST_CHARACTERS: usize = 500;

/// A JSON body whose faults are answered as problems.
pub(super) struct Body<T>(pub(super) T);

impl<T> FromRequest<Api> for Body<T>
where
    T: DeserializeOwned,
{
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes = Bytes::from_request(Request::from_parts(parts.clone(), body), api).await;
        let bytes = bytes.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                Error::new(Code::TooLarge, format!("body: {}", rejection.body_text()))
            }
            _ => broke_off(&rejection),
        })?;
        let most = api.admission.limits().max_json_depth;
        if json_depth(&bytes) > most {
            let detail = format!("body: nests deeper than the {most} of limits.max_json_depth");
            return Err(Error::invalid(detail).into());
        }
        match Json::<Object<T>>::from_request(Request::from_parts(parts, bytes.into()), api).await {
            Ok(Json(Object(value))) => Ok(Self(value)),
            Err(rejection) => {
                // It may quote what was sent, whatever its size.
                let mut text = rejection.body_text();
                if let Some((end, _)) = text.char_indices().nth(MOST_CHARACTERS) {
                    text.truncate(end);
                    text.push('…');
                }
                Err(Error::invalid(format!("body: {text}")).into())
            }
        }
    }
}

/// The error of a body that did not come to its end: the server's own where it waited too long.
pub(super) fn broke_off(error: &(dyn std::error::Error + 'static)) -> Error {
    let mut cause = Some(error);
    while let Some(now) = cause {
        if let Some(own) = now.downcast_ref::<Error>() {
            return Error::new(own.code(), own.message());
        }
        cause = now.source();
    }
    Error::invalid(format!("body: broke off: {error}"))
}

/// How deep a text nests if it is JSON; brackets within strings do not count.
pub(super) fn json_depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// A value that stands as an object: derived readers take a list for one, too, by the order of its fields.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer).map(Self)
    }
}

/// Reads a value that stands as an object.
pub(super) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Fields<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_map(Fields(PhantomData))
}

/// The parts of a path, whose faults are answered as problems: one that is no text names nothing, nor does one with a zero, which
/// Postgres takes for no text.
pub(super) struct Path<T>(pub(super) T);

impl<T, S> FromRequestParts<S> for Path<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        if parts.uri.path().contains("%00") {
            return Err(Error::not_found("the path holds a zero: nothing has such a name").into());
        }
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(_) => Err(Error::not_found("the path is not valid UTF-8: nothing has such a name").into()),
        }
    }
}

/// The parameters after a path's `?`, whose faults are answered as problems.
pub(super) struct Query<T>(pub(super) T);

impl<T, S> FromRequestParts<S> for Query<T>
where
    T: serde::de::DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Error::invalid(format!("query: {}", rejection.body_text())).into()),
        }
    }
}
