use std::collections::BTreeSet;

use serde_json::Value;

use crate::{auth::access::ROUTES, http::openapi_json};

#[test]
fn each_call_has_a_name_of_its_own_and_says_what_it_answers_to_those_who_may_not() {
    let document: Value = serde_json::from_str(&openapi_json().expect("a document")).expect("JSON");
    let mut names = BTreeSet::new();
    for (method, path, _) in ROUTES {
        let call = &document["paths"][path][method.to_lowercase()];
        let name = call["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no name"));
        assert!(names.insert(name.to_owned()), "{name} twice");
        let answers = call["responses"].as_object().expect("answers");
        for (status, answer) in answers {
            assert!(answer["description"].as_str().is_some_and(|text| !text.is_empty()), "{name}: {status}");
        }
        for status in ["401", "403", "500", "503"] {
            assert!(answers.contains_key(status), "{name}: {status}");
        }
        let takes_key = call["parameters"].to_string().contains("Idempotency-Key");
        let makes =
            answers.contains_key("201") && call["requestBody"]["content"]["application/json"].is_object();
        // Twice would be two times as much.
        let makes = makes || path.ends_with("/extend");
        assert_eq!(takes_key, makes, "{name}");
        if makes {
            assert!(answers.contains_key("409"), "{name}");
        }
    }
}
