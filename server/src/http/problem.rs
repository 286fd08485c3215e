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

use super::{Api, pointer};
use crate::error::{Code, Error};

/// An error as the API answers it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Problem {
    /// Always `about:blank`: the code below tells the kind.
    r#type: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    pub(super) status: u16,
    /// Stable string, the same as on the gRPC edge.
    code: &'static str,
    /// What was wrong, with what, and what to do.
    pub(super) detail: String,
    /// Which places of a JSON body are at fault, where that is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<Fault>,
    /// When to ask again: goes into a header.
    #[serde(skip)]
    retry_after: Option<Duration>,
}

/// A place of a JSON body that is at fault.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Fault {
    /// Where (RFC 6901): `/policy/quorum`; empty: the whole.
    pointer: String,
    /// What is wrong with it.
    detail: String,
}

impl Problem {
    /// An error of a body's reader or of what checks its fields: where the message names a field, as all do that are of one, it is
    /// pointed at.
    pub(super) fn of_body(error: Error) -> Self {
        let fault = pointer::of_message(error.public_text()).filter(|_| {
            matches!(error.code(), Code::InvalidArgument | Code::InvalidCheckpoint | Code::NotFound)
        });
        let fault = fault.map(|(pointer, detail)| Fault { pointer, detail: detail.to_owned() });
        Self { errors: fault.into_iter().collect(), ..Self::from(error) }
    }

    fn new(status: StatusCode, code: &'static str, detail: String) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Self {
            r#type: "about:blank",
            title,
            status: status.as_u16(),
            code,
            detail,
            errors: Vec::new(),
            retry_after: None,
        }
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
        let bytes = read(&parts, body, api).await?;
        let most = api.admission.limits().max_json_depth;
        if json_depth(&bytes) > most {
            let detail = format!("body: nests deeper than the {most} of limits.max_json_depth");
            return Err(Error::invalid(detail).into());
        }
        let request = Request::from_parts(parts, bytes.clone().into());
        match Json::<Object<T>>::from_request(request, api).await {
            Ok(Json(Object(value))) => Ok(Self(value)),
            Err(rejection) => {
                // It may quote what was sent, whatever its size.
                let mut text = rejection.body_text();
                if let Some((end, _)) = text.char_indices().nth(MOST_CHARACTERS) {
                    text.truncate(end);
                    text.push('…');
                }
                let fault = pointer::of_reading::<Object<T>>(&bytes);
                let errors = fault.map(|pointer| Fault { pointer, detail: text.clone() });
                let problem = Problem::from(Error::invalid(format!("body: {text}")));
                Err(Problem { errors: errors.into_iter().collect(), ..problem })
            }
        }
    }
}

/// A whole body, of no more bytes than the limits let one have.
pub(super) async fn read(parts: &Parts, body: axum::body::Body, api: &Api) -> Result<Bytes, Problem> {
    let read = Bytes::from_request(Request::from_parts(parts.clone(), body), api).await;
    Ok(read.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Error::new(Code::TooLarge, format!("body: {}", rejection.body_text()))
        }
        _ => broke_off(&rejection),
    })?)
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
