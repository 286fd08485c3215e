use super::*;

fn said(method: Method, query: &str) -> Result<Option<String>> {
    let request = http::Request::builder().method(method).uri(format!("/v1/runs/r/cancel{query}"));
    of(&request.body(()).expect("a request").into_parts().0)
}

#[test]
fn a_reason_is_any_text_that_fits_on_a_line() {
    let read = |query: &str| said(Method::POST, query).expect("a reason");
    assert_eq!(read(""), None);
    assert_eq!(read("?other=1"), None);
    assert_eq!(read("?reason=drift+at+site%20a").as_deref(), Some("drift at site a"));
    assert_eq!(
        read("?reason=%C3%BCberpr%C3%BCft%3A%20%E2%9C%93%20%26%20gut").as_deref(),
        Some("überprüft: ✓ & gut")
    );
    let longest = "%F0%9F%A6%80".repeat(500);
    assert_eq!(read(&format!("?reason={longest}")).map(|text| text.chars().count()), Some(500));
}

#[test]
fn what_is_none_is_refused_and_named() {
    let long = format!("?reason={}", "x".repeat(501));
    for query in
        ["?reason=", "?reason", "?reason=a%0Ab", "?reason=%00", "?reason=%C2%85", "?reason=a%7F", &long]
    {
        let error = said(Method::POST, query).expect_err(query);
        assert!(error.message().starts_with("reason: "), "{query}: {}", error.message());
    }
    let twice = said(Method::POST, "?reason=a&reason=b").expect_err("said twice");
    assert!(twice.message().contains("duplicate field `reason`"), "{}", twice.message());
}

#[test]
fn calls_that_change_nothing_are_not_asked_why() {
    assert_eq!(said(Method::GET, "?reason=%00").expect("not read"), None);
}
