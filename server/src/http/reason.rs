//! Why a person acts: one parameter of all calls that change something, read where it is known who calls.

use axum::extract::Query;
use http::{Method, request::Parts};
use serde::Deserialize;
use utoipa::openapi::{
    ObjectBuilder, Required, Type,
    path::{Parameter, ParameterBuilder, ParameterIn},
};

use crate::error::{Error, Result};

/// Its name after a path's `?`.
const NAME: &str = "reason";
/// The methods by which persons change things.
const CHANGING: [Method; 3] = [Method::POST, Method::PUT, Method::DELETE];
/// In characters.
pub(super) const MOST: usize = 500;

#[derive(Deserialize)]
struct Asked {
    reason: Option<String>,
}

/// What a call that changes something says of why; nothing for others.
///
/// # Errors
/// It is empty, too long, holds control characters, or is said twice.
pub(super) fn of(request: &Parts) -> Result<Option<String>> {
    if !CHANGING.contains(&request.method) {
        return Ok(None);
    }
    let asked = Query::<Asked>::try_from_uri(&request.uri);
    let Query(Asked { reason }) =
        asked.map_err(|rejection| Error::invalid(format!("query: {}", rejection.body_text())))?;
    checked(reason)
}

/// A reason, where it can be one.
///
/// # Errors
/// It is empty, too long, or holds control characters.
pub(super) fn checked(reason: Option<String>) -> Result<Option<String>> {
    match reason {
        Some(reason) if !is_one(&reason) => {
            Err(Error::invalid(format!("{NAME}: 1 to {MOST} characters, without control characters")))
        }
        reason => Ok(reason),
    }
}

fn is_one(text: &str) -> bool {
    (1..=MOST).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

/// How the description of the API tells of it.
pub(super) fn parameter() -> Parameter {
    let text = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(MOST))
        .pattern(Some(r"^[^\x00-\x1f\x7f-\x9f]*$"));
    ParameterBuilder::new()
        .name(NAME)
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some(
            "Why, in words. It stays in the audit log, in the records of what this call changes; the site that such a record is of may \
             read it.",
        ))
        .schema(Some(text))
        .build()
}

#[cfg(test)]
mod tests;
