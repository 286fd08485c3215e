//! A page to read the API by, made from its OpenAPI document when the server starts: no script, and nothing from elsewhere.

use std::collections::BTreeMap;

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, header};
use maud::{DOCTYPE, Markup, html};
use serde_json::Value;

use crate::{auth::access, model::Role};

/// What a browser may load for the page: its style, from here.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const STYLE: &str = include_str!("docs/style.css");

/// The page's style.
pub(super) fn style() -> Response {
    guarded("text/css; charset=utf-8", STYLE.to_owned())
}

/// The page, made once.
pub(super) fn answer(page: String) -> Response {
    guarded("text/html; charset=utf-8", page)
}

fn guarded(kind: &'static str, text: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    ];
    (headers, text).into_response()
}

/// One call of the document.
struct Call<'a> {
    method: String,
    path: &'a str,
    described: &'a Value,
}

impl Call<'_> {
    /// By which it is linked.
    fn id(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        format!("{}{}", self.method.to_lowercase(), self.path.chars().map(plain).collect::<String>())
    }
}

/// The page of a document.
pub(super) fn page(document: &Value) -> String {
    let mut tags: BTreeMap<&str, Vec<Call<'_>>> = BTreeMap::new();
    for (path, methods) in members(&document["paths"]) {
        for (method, described) in members(methods) {
            let call = Call { method: method.to_uppercase(), path, described };
            tags.entry(text(&described["tags"][0])).or_default().push(call);
        }
    }
    let title = text(&document["info"]["title"]);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                link rel="stylesheet" href="/docs/style.css";
            }
            body {
                header {
                    h1 { (title) }
                    p { (prose(text(&document["info"]["description"]))) }
                    p { "For programs: " a href="/openapi.json" { "/openapi.json" } "." }
                }
                nav aria-label="Calls" {
                    @for (tag, calls) in &tags {
                        h2 { a href={ "#tag-" (tag) } { (tag) } }
                        ul { @for call in calls {
                            li { a href={ "#" (call.id()) } { code { (call.method) " " (call.path) } } }
                        } }
                    }
                    h2 { a href="#schemas" { "schemas" } }
                }
                main {
                    @for (tag, calls) in &tags {
                        section id={ "tag-" (tag) } {
                            h2 { (tag) }
                            @for call in calls { (one_call(call)) }
                        }
                    }
                    section id="schemas" {
                        h2 { "schemas" }
                        @for (name, schema) in members(&document["components"]["schemas"]) {
                            (one_schema(name, schema))
                        }
                    }
                }
            }
        }
    };
    page.into_string()
}

fn one_call(call: &Call<'_>) -> Markup {
    let described = call.described;
    let bodies = members(&described["requestBody"]["content"]);
    let parameters = described["parameters"].as_array().cloned().unwrap_or_default();
    html! {
        article id=(call.id()) {
            h3 { code { span class="method" { (call.method) } " " (call.path) } }
            p { (prose(text(&described["summary"]))) " " (prose(text(&described["description"]))) }
            p class="role" { (who(call)) }
            @if !parameters.is_empty() {
                h4 { "Parameters" }
                table {
                    thead { tr { th scope="col" { "name" } th scope="col" { "in" } th scope="col" { "what" } th scope="col" { "type" } } }
                    tbody { @for parameter in &parameters { tr {
                        th scope="row" { code { (text(&parameter["name"])) } @if parameter["required"] == true { " *" } }
                        td { (text(&parameter["in"])) }
                        td { (prose(text(&parameter["description"]))) }
                        td { (kind(&parameter["schema"])) }
                    } } }
                }
            }
            @for (media, body) in bodies {
                h4 { "Body" }
                p { code { (media) } ": " (kind(&body["schema"])) }
            }
            h4 { "Answers" }
            table {
                thead { tr { th scope="col" { "status" } th scope="col" { "what" } th scope="col" { "body" } } }
                tbody { @for (status, answer) in members(&described["responses"]) { tr {
                    th scope="row" { (status) }
                    td { (prose(text(&answer["description"]))) }
                    td { @for (media, body) in members(&answer["content"]) { div { code { (media) } " " (kind(&body["schema"])) } } }
                } } }
            }
            h4 { "Example" }
            pre tabindex="0" { code { (example(call)) } }
        }
    }
}

/// Who may call it.
fn who(call: &Call<'_>) -> String {
    match access::least_role(&call.method, call.path) {
        Some(Role::Viewer) => "Role: viewer, operator or admin.".to_owned(),
        Some(Role::Operator) => "Role: operator or admin.".to_owned(),
        Some(Role::Admin) => "Role: admin.".to_owned(),
        None => "Needs no token.".to_owned(),
    }
}

/// A call as somebody would type it.
fn example(call: &Call<'_>) -> String {
    let path = call.path.replace("{run}", "pilot").replace("{site}", "hospital-a").replace("{number}", "1");
    let path = path.replace("{digest}", "$DIGEST").replace("{fingerprint}", "$FINGERPRINT");
    let path = path.replace("{token}", "$TOKEN_ID").replace("{tag}", "best");
    let mut lines = vec![format!("curl --fail-with-body \"$FEDBASIN_ADMIN_SERVER{path}\"")];
    if call.method != "GET" {
        lines.push(format!("--request {}", call.method));
    }
    if access::least_role(&call.method, call.path).is_some() {
        lines.push("--header \"authorization: Bearer $FEDBASIN_ADMIN_TOKEN\"".to_owned());
    }
    for (media, _) in members(&call.described["requestBody"]["content"]) {
        let file = if media == "application/json" { "--data @body.json" } else { "--upload-file FILE" };
        lines.push(format!("--header \"content-type: {media}\""));
        lines.push(file.to_owned());
    }
    lines.join(" \\\n  ")
}

fn one_schema(name: &str, schema: &Value) -> Markup {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    // Flattened ones stand in an `allOf`.
    let parts = schema["allOf"].as_array().cloned().unwrap_or_else(|| vec![schema.clone()]);
    html! {
        article id={ "schema-" (name) } {
            h3 { code { (name) } }
            p { (prose(text(&schema["description"]))) }
            @for part in &parts {
                @if part.get("$ref").is_some() { p { "All of " (kind(part)) ", and:" } }
                @if part.get("properties").is_some() {
                    table {
                        thead { tr { th scope="col" { "member" } th scope="col" { "what" } th scope="col" { "type" } } }
                        tbody { @for (member, of) in members(&part["properties"]) { tr {
                            th scope="row" { code { (member) } @if required.contains(&member) { " *" } }
                            td { (prose(text(&of["description"]))) }
                            td { (kind(of)) }
                        } } }
                    }
                } @else if part.get("$ref").is_none() { p { (kind(part)) } }
            }
        }
    }
}

/// The type of a value, in words; another schema as a link.
fn kind(schema: &Value) -> Markup {
    if let Some(name) = schema["$ref"].as_str().and_then(|to| to.rsplit('/').next()) {
        return html! { a href={ "#schema-" (name) } { (name) } };
    }
    if let Some(choices) = ["oneOf", "anyOf"].iter().find_map(|of| schema[*of].as_array()) {
        return html! { @for (place, choice) in choices.iter().enumerate() { @if place > 0 { " or " } (kind(choice)) } };
    }
    if let Some(values) = schema["enum"].as_array() {
        return html! { @for (place, value) in values.iter().enumerate() { @if place > 0 { ", " } code { (value) } } };
    }
    let names: Vec<&str> = match &schema["type"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        name => vec![text(name)],
    };
    let mut words = names.join(" or ");
    for (name, word) in [
        ("minimum", "at least"),
        ("maximum", "at most"),
        ("maxLength", "characters at most:"),
        ("pattern", "as"),
    ] {
        match &schema[name] {
            Value::Null => {}
            Value::String(value) => words = format!("{words}, {word} {value}"),
            value => words = format!("{words}, {word} {value}"),
        }
    }
    html! { (words) @if schema["items"].is_object() { " of " (kind(&schema["items"])) } }
}

/// A sentence of the document, in which backquotes stand around code.
fn prose(text: &str) -> Markup {
    html! { @for (place, part) in text.split('`').enumerate() { @if place % 2 == 1 { code { (part) } } @else { (part) } } }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn members(value: &Value) -> Vec<(&str, &Value)> {
    let all = value.as_object().into_iter().flatten();
    all.map(|(name, value)| (name.as_str(), value)).collect()
}

#[cfg(test)]
mod tests;
