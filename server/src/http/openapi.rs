//! What holds for all calls, written into the OpenAPI document once: how names look, and what any call may answer.

use serde_json::json;
use utoipa::openapi::{
    Content, OpenApi, Ref, RefOr, ResponseBuilder, Schema,
    path::{Operation, ParameterIn},
};

use super::reason;

/// What the ids of runs and sites look like.
const ID: &str = "^[a-z0-9][a-z0-9-]{0,62}$";
/// A SHA-256, hex.
const SHA_256: &str = "^[0-9a-f]{64}$";
/// What the ids of tokens look like.
const UUID: &str = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$";

/// Adds it to every call that is described.
pub(super) fn complete(document: &mut OpenApi) {
    for item in document.paths.paths.values_mut() {
        // Persons change things by POST alone.
        if let Some(operation) = &mut item.post {
            operation.parameters.get_or_insert_default().push(reason::parameter().into());
            add_answer(operation, "422", "What is asked for cannot be; the detail says which part of it");
        }
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            name_parameters(operation);
            if operation.security.is_some() {
                add_answers(operation);
            }
        }
    }
}

fn name_parameters(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        if parameter.parameter_in != ParameterIn::Path {
            continue;
        }
        let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema else { continue };
        let (pattern, example) = match parameter.name.as_str() {
            "run" => (Some(ID), Some(json!("pilot"))),
            "site" => (Some(ID), Some(json!("hospital-a"))),
            "digest" | "fingerprint" => (Some(SHA_256), None),
            "token" => (Some(UUID), None),
            // Rounds are counted from 1.
            "number" => {
                (schema.minimum, schema.maximum, schema.format) =
                    (Some(1.into()), Some(u32::MAX.into()), None);
                (None, Some(json!(1)))
            }
            _ => continue,
        };
        schema.pattern = pattern.map(str::to_owned);
        schema.examples = example.into_iter().collect();
    }
}

fn add_answers(operation: &mut Operation) {
    let mut answers = vec![
        ("500", "A defect, or stored bytes that are lost; the server's log says more"),
        ("503", "Storage cannot answer now; `retry-after` says when to ask again"),
    ];
    if operation.request_body.is_some() {
        answers.push(("413", "The body is larger than the server takes"));
    }
    for (status, why) in answers {
        add_answer(operation, status, why);
    }
}

/// A problem that a call may answer, unless it says so itself.
fn add_answer(operation: &mut Operation, status: &str, why: &str) {
    let problem = Content::new(Some(Ref::from_schema_name("Problem")));
    let answer = ResponseBuilder::new().description(why).content("application/problem+json", problem);
    operation.responses.responses.entry(status.to_owned()).or_insert_with(|| answer.build().into());
}
