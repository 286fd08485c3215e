use super::*;

#[test]
fn a_key_is_visible_ascii_and_there_is_one() {
    let read = |values: &[&'static str]| {
        let mut headers = HeaderMap::new();
        values.iter().for_each(|value| _ = headers.append(NAME, HeaderValue::from_static(value)));
        key(&headers).map(|key| key.map(str::to_owned)).map_err(|error| error.code())
    };
    assert_eq!(read(&[]), Ok(None));
    assert_eq!(read(&["a-key_1~"]), Ok(Some("a-key_1~".to_owned())));
    for bad in [&[""][..], &["two words"], &["a", "a"], &["\t"]] {
        assert_eq!(read(bad), Err(Code::InvalidArgument), "{bad:?}");
    }
    let mut headers = HeaderMap::new();
    headers.insert(NAME, HeaderValue::from_str(&"x".repeat(256)).expect("a value"));
    assert!(key(&headers).is_err(), "too long");
}

#[test]
fn calls_that_differ_in_path_or_body_ask_for_different_things() {
    let of = |path: &str, body: &str| {
        let request = http::Request::builder().method("POST").uri(path).body(()).expect("a request");
        asked(&request.into_parts().0, body.as_bytes())
    };
    assert_eq!(of("/v1/runs?reason=a", "{}"), of("/v1/runs", "{}"), "why is not what");
    assert_ne!(of("/v1/runs", "{}"), of("/v1/runs", "{ }"));
    assert_ne!(of("/v1/runs", "s{}"), of("/v1/runss", "{}"));
}
