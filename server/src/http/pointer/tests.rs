use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only read")]
struct Whole {
    list: Vec<u32>,
    part: Part,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only read")]
struct Part {
    count: u32,
}

#[test]
fn a_body_that_cannot_be_read_is_pointed_at_where_it_cannot() {
    let at = |body: &str| of_reading::<Whole>(body.as_bytes());
    assert_eq!(at(r#"{"list":[1],"part":{"count":1}}"#), None);
    assert_eq!(at(r#"{"list":[1,-1],"part":{"count":1}}"#).as_deref(), Some("/list/1"));
    assert_eq!(at(r#"{"list":[1],"part":{"count":"x"}}"#).as_deref(), Some("/part/count"));
    assert_eq!(at(r#"{"list":[1],"part":{}}"#).as_deref(), Some("/part"));
    assert_eq!(at(r#"{"list":[1],"part":{"a/b~":1}}"#).as_deref(), Some("/part/a~1b~0"));
    assert_eq!(at(r#"[]"#).as_deref(), Some(""));
    assert_eq!(at(r#"{"list":"#), None, "no JSON");
}

#[test]
fn a_message_that_names_a_field_points_at_it() {
    assert_eq!(
        of_message("policy.quorum: 0 is too few"),
        Some(("/policy/quorum".to_owned(), "0 is too few"))
    );
    assert_eq!(of_message("label: too long"), Some(("/label".to_owned(), "too long")));
    for other in ["there is no run", "site a: unknown", "run x: is open", "a..b: x", ": x", "Policy: x"] {
        assert_eq!(of_message(other), None, "{other}");
    }
}
