use std::sync::Arc;

use fedbasin_proto::CODE_METADATA_KEY;
use proptest::prelude::*;

use super::*;

fn from_server(code: Code, string: &'static str) -> Status {
    let mut status = Status::new(code, "said so");
    status.metadata_mut().insert(CODE_METADATA_KEY, string.parse().unwrap());
    status
}

fn from_transport(code: Code, cause: &'static str) -> Status {
    let mut status = Status::new(code, "transport error");
    status.set_source(Arc::new(std::io::Error::other(cause)));
    status
}

#[test]
fn what_the_server_decided_is_final() {
    for (code, string) in [
        (Code::InvalidArgument, "invalid-checkpoint"),
        (Code::NotFound, "not-found"),
        (Code::AlreadyExists, "conflict"),
        (Code::FailedPrecondition, "round-closed"),
        (Code::Aborted, "round-full"),
        (Code::ResourceExhausted, "too-large"),
        (Code::Unauthenticated, "unauthenticated"),
        (Code::PermissionDenied, "forbidden"),
        (Code::DataLoss, "data-loss"),
    ] {
        assert_eq!(verdict(&from_server(code, string)), Verdict::Final, "{string}");
    }
}

#[test]
fn a_defect_of_the_server_is_tried_once_more() {
    let defect = from_server(Code::Internal, "internal");
    assert_eq!(verdict(&defect), Verdict::Once);
    let mut backoff = Backoff::seeded(Patience::default(), 1);
    assert!(backoff.allows(&defect) && !backoff.allows(&defect));
    backoff.reset();
    assert!(backoff.allows(&defect));
    assert!(!backoff.allows(&from_server(Code::NotFound, "not-found")));
}

#[test]
fn an_unavailable_server_is_tried_again() {
    assert_eq!(verdict(&from_server(Code::Unavailable, "unavailable")), Verdict::Retry);
    assert_eq!(verdict(&Status::unavailable("connection refused")), Verdict::Retry);
    assert_eq!(verdict(&from_server(Code::ResourceExhausted, "too-many")), Verdict::Retry);
}

#[test]
fn another_offset_is_resumed_from() {
    assert_eq!(verdict(&from_server(Code::Aborted, "offset-mismatch")), Verdict::Resume);
}

#[test]
fn a_broken_connection_is_tried_again_whatever_code_it_was_given() {
    for code in [Code::Unknown, Code::Internal, Code::Cancelled, Code::Unavailable, Code::ResourceExhausted] {
        assert_eq!(verdict(&from_transport(code, "connection reset by peer")), Verdict::Retry, "{code:?}");
    }
}

#[test]
fn a_bad_certificate_is_final() {
    let status = from_transport(Code::Unavailable, "invalid peer certificate: UnknownIssuer");
    assert_eq!(verdict(&status), Verdict::Final);
}

#[test]
fn an_own_certificate_that_ended_is_final_and_says_how_to_get_another() {
    let status = from_transport(Code::Unavailable, "received fatal alert: CertificateExpired");
    assert_eq!(verdict(&status), Verdict::Final);
    let error = Error::from_status(&status, "somewhere").to_string();
    assert!(error.contains("new kit") && !error.contains("--ca"), "{error}");
}

#[test]
fn the_servers_http_port_is_final_and_a_proxys_page_is_not() {
    let answer = |flag: u8, status: &str| {
        Status::internal(format!(
            "protocol error: received message with invalid compression flag: {flag} (valid flags are 0 and 1) while \
             receiving response with status: {status}"
        ))
    };
    assert_eq!(verdict(&answer(b'{', "404 Not Found")), Verdict::Final);
    assert_eq!(verdict(&answer(b'{', "503 Service Unavailable")), Verdict::Retry);
    assert_eq!(verdict(&answer(b'<', "502 Bad Gateway")), Verdict::Retry);
    assert_eq!(verdict(&answer(b'd', "404 Not Found")), Verdict::Retry);
}

#[test]
fn codes_without_a_cause_and_without_a_string_are_final_unless_transient() {
    assert_eq!(verdict(&Status::unimplemented("")), Verdict::Final);
    assert_eq!(verdict(&Status::unauthenticated("")), Verdict::Final);
    assert_eq!(verdict(&Status::aborted("")), Verdict::Final);
}

#[test]
fn patience_ends_and_a_success_renews_it() {
    let patience = Patience::lasting(Duration::from_secs(5));
    let mut backoff = Backoff::seeded(patience, 1);
    let start = Instant::now();
    assert!(backoff.pause(start).is_some());
    assert!(backoff.pause(start + Duration::from_secs(4)).is_some());
    assert!(backoff.pause(start + Duration::from_secs(5)).is_none());
    backoff.reset();
    assert!(backoff.pause(start + Duration::from_secs(60)).is_some());
}

#[test]
fn one_retry_is_made_even_without_patience() {
    let mut backoff = Backoff::seeded(Patience::lasting(Duration::ZERO), 1);
    let start = Instant::now();
    assert!(backoff.pause(start).is_some());
    assert!(backoff.pause(start).is_none());
}

/// An error that passes, as the server says it, with so much about another attempt.
fn pushed_back(values: &[&str]) -> Status {
    let mut status = from_server(Code::Unavailable, "unavailable");
    for value in values {
        status.metadata_mut().append(RETRY_METADATA_KEY, value.parse().unwrap());
    }
    status
}

#[test]
fn the_pause_is_what_the_server_says_and_ours_begin_anew_after_it() {
    let patience = Patience::default();
    let mut backoff = Backoff::seeded(patience, 1);
    let now = Instant::now();
    for _ in 0..5 {
        assert!(backoff.allows(&pushed_back(&[])));
        assert!(backoff.pause(now).unwrap() <= patience.longest_pause);
    }
    for said in [1234, 59_000] {
        assert!(backoff.allows(&pushed_back(&[&said.to_string()])));
        assert_eq!(backoff.pause(now), Some(Duration::from_millis(said)));
    }
    assert_eq!(backoff.failures(), 7);
    // Said once, it holds once.
    assert!(backoff.pause(now).unwrap() <= patience.first_pause);
}

#[test]
fn no_server_makes_a_client_spin_or_sleep_for_good() {
    let patience = Patience { total: Duration::MAX, ..Patience::default() };
    for (said, pause) in [("0", patience.first_pause / 2), ("99999999999", LONGEST_ASKED)] {
        let mut backoff = Backoff::seeded(patience, 1);
        assert!(backoff.allows(&pushed_back(&[said])));
        assert_eq!(backoff.pause(Instant::now()), Some(pause), "{said} ms");
    }
}

#[test]
fn a_server_that_wants_no_further_attempt_gets_none() {
    for values in [&["-1"][..], &["soon"], &["1.5"], &[""], &["99999999999999999999999"], &["1", "1"]] {
        let status = pushed_back(values);
        assert_eq!(verdict(&status), Verdict::Final, "{values:?}");
        assert!(!Backoff::seeded(Patience::default(), 1).allows(&status), "{values:?}");
    }
    let mut elsewhere = from_server(Code::Aborted, "offset-mismatch");
    elsewhere.metadata_mut().insert(RETRY_METADATA_KEY, "-1".parse().unwrap());
    assert_eq!(verdict(&elsewhere), Verdict::Final);
}

#[test]
fn no_pause_makes_an_error_pass_that_does_not() {
    let mut status = from_server(Code::NotFound, "not-found");
    status.metadata_mut().insert(RETRY_METADATA_KEY, "10".parse().unwrap());
    assert!(!Backoff::seeded(Patience::default(), 1).allows(&status));
}

#[test]
fn a_pause_that_outlasts_patience_is_not_begun() {
    let patience = Patience::lasting(Duration::from_secs(60));
    let now = Instant::now();
    let pause = |milliseconds: u64, lasted: u64| {
        let mut backoff = Backoff::seeded(patience, 1);
        backoff.pause(now).unwrap();
        assert!(backoff.allows(&pushed_back(&[&milliseconds.to_string()])));
        backoff.pause(now + Duration::from_secs(lasted)).is_some()
    };
    assert!(pause(60_000, 0) && pause(50_000, 10));
    assert!(!pause(60_001, 0) && !pause(50_000, 11) && !pause(u64::MAX, 0));
    // One that could be our own may end after it, as those do.
    assert!(pause(10_000, 59));
    assert!(!pause(0, 60));
}

#[tokio::test]
async fn a_call_is_made_again_after_what_the_server_says_and_not_where_it_says_no() {
    let calls = std::cell::Cell::new(0);
    let answers = ["0", "0", "-1"];
    let answer = patiently(Patience::default(), "here", async || {
        calls.set(calls.get() + 1);
        Err::<Response<()>, _>(pushed_back(&[answers[calls.get() - 1]]))
    });
    assert_eq!(answer.await.unwrap_err().code(), Some("unavailable"));
    assert_eq!(calls.get(), 3);
}

proptest! {
    #[test]
    fn pauses_double_stay_within_their_half_and_never_exceed_the_longest(seed: u64, failures in 1_u32..80) {
        let patience = Patience::default();
        let mut backoff = Backoff::seeded(patience, seed);
        let now = Instant::now();
        for n in 0..failures {
            let full = patience.first_pause.saturating_mul(1_u32.checked_shl(n).unwrap_or(u32::MAX))
                .min(patience.longest_pause);
            let pause = backoff.pause(now).unwrap();
            prop_assert!(pause <= full && pause >= full / 2);
        }
    }
}
