use super::*;

fn found(url: &str, variables: &[(&str, &str)]) -> Result<Option<Proxy>> {
    let uri: Uri = url.parse().unwrap();
    Proxy::within(&uri, |name| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    })
}

fn place(url: &str, variables: &[(&str, &str)]) -> Option<String> {
    found(url, variables).unwrap().map(|proxy| format!("{}:{}", proxy.host, proxy.port))
}

const SERVER: &str = "https://fed.example:50051";

#[test]
fn the_first_variable_counts_and_an_address_may_be_short() {
    let all = [
        ("HTTPS_PROXY", "http://a:1"),
        ("https_proxy", "http://b:2"),
        ("ALL_PROXY", "c"),
        ("all_proxy", "d:4/"),
    ];
    for (from, proxy) in ["a:1", "b:2", "c:80", "d:4"].into_iter().enumerate() {
        assert_eq!(place(SERVER, &all[from..]).as_deref(), Some(proxy));
    }
    assert_eq!(place(SERVER, &[("HTTP_PROXY", "http://a:1")]), None, "that is not for TLS");
    assert_eq!(place(SERVER, &[("HTTPS_PROXY", "http://[::1]:3128")]).as_deref(), Some("[::1]:3128"));
}

#[test]
fn this_machine_and_clear_text_are_called_directly() {
    let proxy = [("HTTPS_PROXY", "http://a:1")];
    for url in
        ["https://localhost:50051", "https://127.0.0.1:1", "https://[::1]:1", "http://fed.example:50051"]
    {
        assert_eq!(place(url, &proxy), None, "{url}");
    }
}

#[test]
fn hosts_that_no_proxy_names_are_called_directly() {
    let direct = |list: &str, url: &str| place(url, &[("HTTPS_PROXY", "a:1"), ("no_proxy", list)]).is_none();
    for list in ["fed.example", "other, fed.example", "FED.example", ".example", "example", "*.example", "*"]
    {
        assert!(direct(list, SERVER), "{list}");
    }
    for list in ["ed.example", "fed.example.org", "other", "a.fed.example", ".", ",", "10.0.0.0/8"] {
        assert!(!direct(list, SERVER), "{list}");
    }
    for (list, address) in [
        ("10.0.0.7", "10.0.0.7"),
        ("10.0.0.0/8", "10.1.2.3"),
        ("0.0.0.0/0", "10.1.2.3"),
        ("fd00::/8", "[fd00::7]"),
        ("[fd00::7]", "[fd00::7]"),
    ] {
        assert!(direct(list, &format!("https://{address}:1")), "{list} {address}");
    }
    for (list, address) in [
        ("10.0.0.0/33", "10.1.2.3"),
        ("10.0.0.0/16", "10.1.2.3"),
        ("0.0.7", "10.0.0.7"),
        ("::/0", "10.0.0.7"),
    ] {
        assert!(!direct(list, &format!("https://{address}:1")), "{list} {address}");
    }
}

#[test]
fn user_and_password_are_decoded_and_never_shown() {
    let proxy = found(SERVER, &[("HTTPS_PROXY", "http://ada:p%40ss%3Aword@a:1")]).unwrap().unwrap();
    assert_eq!(proxy.credentials, Some(("ada".into(), "p@ss:word".into())));
    assert_eq!(proxy.of_http().unwrap().password(), Some("p@ss:word"));
    let shown = format!("{proxy} {proxy:?} {} {:?}", proxy.refusal("x:1", 407), proxy.refusal("x:1", 407));
    assert!(!shown.contains("ada") && !shown.contains("word") && shown.contains("a:1"), "{shown}");
    assert_eq!(proxy.to_string(), "the proxy a:1 (HTTPS_PROXY)");
}

#[test]
fn what_is_no_http_proxy_is_wrong_usage_and_not_shown() {
    for value in [
        "https://secret@a:1",
        "socks5://secret:secret@a:1",
        "http://",
        "http://secret@",
        "http://a:port",
        "http://a:0",
        "http://a:99999",
        "http://a:",
        "http://a:1/secret",
        "http://secret%zz@a:1",
        "http://secret%f0@a:1",
        "a b",
    ] {
        let error = found(SERVER, &[("ALL_PROXY", value)]).expect_err(value);
        assert_eq!(error.exit_code(), 2, "{error}");
        let text = error.to_string();
        assert!(text.contains("the variable ALL_PROXY") && !text.contains("secret"), "{text}");
    }
}

#[test]
fn an_answer_is_read_by_its_first_line() {
    for (head, status) in [
        ("HTTP/1.1 200 Connection established\r\n\r\n", Some(200)),
        ("HTTP/1.0 407\r\nProxy-Authenticate: Basic\r\n\r\n", Some(407)),
        ("HTTP/1.1 2000 OK\r\n\r\n", None),
        ("HTTP/2 200\r\n\r\n", None),
        ("HTTP/1.1 20\r\n\r\n", None),
        ("HTTP/1.1  200\r\n\r\n", None),
        ("", None),
    ] {
        assert_eq!(tunnel::status(head.as_bytes()), status, "{head}");
    }
}
