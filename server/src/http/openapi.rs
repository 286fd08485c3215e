//! What holds for all calls, written into the OpenAPI document once: how names look, and what any call may answer.

use serde_json::json;
use utoipa::openapi::{
    Content, OpenApi, Ref, RefOr, ResponseBuilder, Schema,
    path::{Operation, ParameterIn},
};

use super::{once, reason};

/// What the ids of runs and sites look like.
const ID: &str = "^[a-z0-9][a-z0-9-]{0,62}$";
/// A SHA-256, hex.
const SHA_256: &str = "^[0-9a-f]{64}$";
/// What the tags of models look like.
const TAG: &str = "^[a-z0-9][a-z0-9._-]{0,63}$";
/// What the ids of tokens and notices look like.
const UUID: &str = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$";

/// Adds it to every call that is described; `making` describes those that take a key.
pub(super) fn complete(document: &mut OpenApi, making: &OpenApi) {
    for path in making.paths.paths.keys() {
        let operation = document.paths.paths.get_mut(path).and_then(|item| item.post.as_mut());
        if let Some(operation) = operation {
            operation.parameters.get_or_insert_default().push(once::parameter().into());
            add_answer(
                operation,
                "409",
                "What is to be made is there already, or the key's first call is under way",
            );
        }
    }
    for item in document.paths.paths.values_mut() {
        // By these methods persons change things.
        for operation in [&mut item.post, &mut item.put, &mut item.delete].into_iter().flatten() {
            operation.parameters.get_or_insert_default().push(reason::parameter().into());
            add_answer(operation, "422", "What is asked for cannot be; the detail says which part of it");
        }
        let all = [&mut item.get, &mut item.post, &mut item.put, &mut item.delete];
        for operation in all.into_iter().flatten() {
            name_parameters(operation);
            name_operation(operation);
            if operation.security.is_some() {
                add_answers(operation);
            }
            describe_answers(operation);
        }
    }
}

/// Two of the same name would be none: it is said of what the call is.
fn name_operation(operation: &mut Operation) {
    let tag = operation.tags.as_ref().and_then(|tags| tags.first());
    if let (Some(tag), Some(id)) = (tag, &mut operation.operation_id) {
        *id = format!("{tag}_{id}");
    }
}

/// Says what answers mean of which the call says nothing itself: the form of the document wants it.
fn describe_answers(operation: &mut Operation) {
    for (status, answer) in &mut operation.responses.responses {
        let RefOr::T(answer) = answer else { continue };
        if answer.description.is_empty() {
            answer.description = meaning(status).to_owned();
        }
    }
}

fn meaning(status: &str) -> &'static str {
    match status {
        "200" => "Here it is, or it is done",
        "201" => "It is made",
        "206" => "The range that was asked for",
        "304" => "The caller has it already",
        "401" => "No token, or one that opens nothing here",
        "403" => "The token's role may not do that",
        "404" => "There is no such thing",
        "409" => "Not as things stand; the detail says why",
        "413" => "The body is larger than the server takes",
        "416" => "The range lies outside of it",
        "422" => "What is asked for cannot be; the detail says which part of it",
        "503" => "Storage cannot answer now",
        _ => "See the detail",
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
            "webhook" => (Some(ID), Some(json!("ops"))),
            "site" => (Some(ID), Some(json!("hospital-a"))),
            "digest" | "fingerprint" => (Some(SHA_256), None),
            "token" | "delivery" => (Some(UUID), None),
            "tag" => (Some(TAG), Some(json!("best"))),
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

#[cfg(test)]
mod tests;
