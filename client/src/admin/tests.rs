use super::{
    problem::{again, problem_error},
    *,
};

#[test]
fn a_problem_becomes_one_line_and_keeps_its_code() {
    let text = r#"{"type":"about:blank","title":"Conflict","status":409,"code":"conflict","detail":"there is a run r\nalready"}"#;
    let error = problem_error(409, "Conflict", text, "http://h/v1/runs");
    assert_eq!(error.code(), Some("conflict"));
    assert!(error.to_string().starts_with("there is a run r already: http://h/v1/runs: "), "{error}");
}

#[test]
fn a_conflict_points_at_the_list_that_shows_it() {
    let error = |url| problem_error(409, "Conflict", "", url).to_string();
    assert!(error("http://h/v1/sites").contains("admin sites"));
    assert!(error("http://h/v1/runs").contains("admin runs"));
}

#[test]
fn an_answer_that_is_no_problem_document_still_says_its_status() {
    let error = problem_error(502, "Bad Gateway", "<html>", "http://h/");
    assert!(error.to_string().starts_with("502 Bad Gateway: http://h/: "), "{error}");
    assert_eq!(error.code(), None);
}

#[test]
fn a_wrong_token_says_where_the_token_comes_from() {
    let error = problem_error(401, "Unauthorized", "", "http://h/");
    assert!(error.to_string().contains("FEDBASIN_ADMIN_TOKEN"), "{error}");
}

#[test]
fn a_name_stays_one_segment_of_a_path() {
    assert_eq!(segment("run-1_a"), "run-1_a");
    assert_eq!(segment("../sites?x"), "%2E%2E%2Fsites%3Fx");
}

#[test]
fn what_is_asked_of_a_list_stays_one_value() {
    let asked = [("state", Some("open")), ("site", None), ("q", Some("a&b=c"))];
    assert_eq!(asking("/v1/runs", &asked), "/v1/runs?state=open&q=a%26b%3Dc");
    assert_eq!(asking("/v1/runs", &[("state", None)]), "/v1/runs");
}

#[test]
fn a_run_of_a_newer_server_is_still_read() {
    let text = r#"{"id":"r","state":"open","strategy":"mean","cohort":["a"],"policy":{"rounds":1,"quorum":1,"deadline_seconds":9,"new":1},
        "rounds_published":0,"created_at":"2024-01-01T00:00:00Z","future":true}"#;
    let run: Run = serde_json::from_str(text).unwrap();
    assert_eq!(run.policy.rounds, 1);
}

#[test]
fn a_peer_that_says_nothing_to_tls_is_not_waited_for_without_end() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    // The system takes the connection; nobody ever answers.
    let address = Address { url, ca: None, insecure: false, identity: None };
    let admin = Admin::connecting_within(Duration::from_millis(200), address, Token::new("fba_x")).unwrap();
    let error = admin.taken_from(Some("by profile p of FILE".into())).runs(None, None).unwrap_err();
    assert_eq!(error.again(), crate::retry::Again::Soon);
    let text = error.to_string();
    assert!(text.contains("no connection came about within 10 s, TLS included"), "{text}");
    assert!(text.contains("(by profile p of FILE)"), "{text}");
}

#[test]
fn what_a_busy_or_restarting_server_says_may_be_asked_again_and_nothing_else() {
    use crate::retry::Again;
    let wait = Some(Duration::from_secs(7));
    for status in [408, 429, 502, 503, 504] {
        assert_eq!(again(status, None), Again::Soon, "{status}");
        assert_eq!(again(status, wait), Again::After(Duration::from_secs(7)), "{status}");
    }
    for status in [400, 401, 403, 404, 409, 413, 422, 500, 501] {
        assert_eq!(again(status, wait), Again::Never, "{status}");
    }
}
