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
    let verdict = verdict(&from_server(Code::Internal, "internal"));
    assert_eq!(verdict, Verdict::Once);
    let mut backoff = Backoff::seeded(Patience::default(), 1);
    assert!(backoff.allows(verdict) && !backoff.allows(verdict));
    backoff.reset();
    assert!(backoff.allows(verdict));
    assert!(!backoff.allows(Verdict::Final));
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
