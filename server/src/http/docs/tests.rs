use super::*;
use crate::http::openapi_json;

#[test]
fn the_page_has_every_call_and_every_schema_and_loads_nothing_from_elsewhere() {
    let document: Value = serde_json::from_str(&openapi_json().expect("a document")).expect("JSON");
    let page = page(&document);
    for (path, methods) in members(&document["paths"]) {
        for (method, _) in members(methods) {
            let heading = format!("<span class=\"method\">{}</span> {path}</code>", method.to_uppercase());
            assert_eq!(page.matches(&heading).count(), 1, "{heading}");
        }
    }
    for link in page.split("href=\"#").skip(1) {
        let target = link.split('"').next().expect("a value");
        assert_eq!(page.matches(&format!("id=\"{target}\"")).count(), 1, "{target}");
    }
    assert!(page.contains("Role: operator or admin.") && page.contains("Needs no token."));
    for foreign in ["<script", "http://", "https://", "style=", "<img"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
}

#[test]
fn what_the_document_says_is_text_and_never_markup() {
    let document = serde_json::json!({
        "info": { "title": "<b>", "description": "a `code` & <i>" },
        "paths": { "/x": { "get": { "tags": ["t"], "summary": "<script>", "responses": {} } } },
        "components": { "schemas": {} },
    });
    let page = page(&document);
    assert!(
        page.contains("a <code>code</code> &amp; &lt;i&gt;") && page.contains("&lt;script&gt;"),
        "{page}"
    );
    assert!(!page.contains("<script"));
}
