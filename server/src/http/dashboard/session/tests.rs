use http::{HeaderMap, HeaderValue, Uri};

use super::{COOKIE, cookie, encode, is_own, local, query_of, says_tls, token};

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_str(value).expect("a value"));
    }
    headers
}

#[test]
fn only_what_a_page_of_this_server_sends_is_its_own() {
    let here = Uri::from_static("/signin");
    let own = |pairs: &[(&'static str, &str)]| is_own(&headers(pairs), &here);
    assert!(own(&[("sec-fetch-site", "same-origin")]));
    assert!(own(&[("host", "fed.example:8443"), ("origin", "https://fed.example:8443")]));
    assert!(own(&[("host", "Fed.example"), ("origin", "http://fed.example")]));
    for foreign in [
        &[][..],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "none")],
        // What a browser says of how it came stands above what a proxy may have made of the rest.
        &[("sec-fetch-site", "cross-site"), ("host", "a"), ("origin", "http://a")],
        &[("host", "fed.example"), ("origin", "https://evil.example")],
        &[("host", "fed.example"), ("origin", "https://fed.example.evil")],
        &[("host", "fed.example"), ("origin", "https://fed.example:444")],
        &[("host", "fed.example"), ("origin", "null")],
        &[("host", "fed.example")],
        &[("origin", "https://fed.example")],
    ] {
        assert!(!own(foreign), "{foreign:?}");
    }
    // HTTP/2 names the host in the call itself.
    let whole = Uri::from_static("https://fed.example/signin");
    assert!(is_own(&headers(&[("origin", "https://fed.example"), ("host", "evil.example")]), &whole));
}

#[test]
fn a_person_is_led_back_to_paths_of_this_server_alone() {
    for path in ["/", "/runs/a/rounds/1", "/audit?run=a&from=3"] {
        assert_eq!(local(path), path);
    }
    let long = format!("/{}", "a".repeat(3000));
    for foreign in [
        "",
        "runs",
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "/a b",
        "/a\r\nb",
        "/é",
        &long,
    ] {
        assert_eq!(local(foreign), "/", "{foreign:?}");
    }
    assert_eq!(query_of("/audit?run=a&from=3", true), "next=/audit%3Frun%3Da%26from%3D3&ended=true");
}

#[test]
fn a_cookie_gives_back_the_token_it_was_made_of_and_of_two_none_counts() {
    for secret in ["fba_abc", "a;b=c d\"ü"] {
        let line = format!("other=1; {COOKIE}={}; more=2", encode(secret));
        assert_eq!(token(&headers(&[("cookie", &line)])).as_deref(), Some(secret));
    }
    let (one, other) = (format!("{COOKIE}={}", encode("a")), format!("{COOKIE}={}", encode("b")));
    assert_eq!(token(&headers(&[("cookie", &one), ("cookie", &other)])), None);
    assert_eq!(token(&headers(&[("cookie", &format!("{one}; {other}"))])), None);
    for bad in ["", "fedbasin_session=", "fedbasin_session=!!", "fedbasin_session=_w", "x=y"] {
        assert_eq!(token(&headers(&[("cookie", bad)])), None, "{bad}");
    }
}

#[test]
fn a_cookie_that_came_over_tls_goes_over_nothing_else_though_a_proxy_ended_it() {
    let set = |pairs: &[(&'static str, &str)], token| {
        let value = cookie(says_tls(&headers(pairs)), token).expect("a cookie");
        value.to_str().expect("text").split("; ").any(|part| part == "Secure")
    };
    for secured in [
        &[("origin", "https://fed.example")][..],
        &[("origin", "HTTPS://fed.example:8443")],
        &[("x-forwarded-proto", "https")],
        &[("x-forwarded-proto", "https, http"), ("origin", "http://fed.example")],
    ] {
        assert!(set(secured, Some("a")) && set(secured, None), "{secured:?}");
    }
    for clear in [
        &[][..],
        &[("origin", "http://https.example")],
        &[("origin", "null")],
        &[("x-forwarded-proto", "http, https")],
    ] {
        assert!(!set(clear, Some("a")) && !set(clear, None), "{clear:?}");
    }
}
