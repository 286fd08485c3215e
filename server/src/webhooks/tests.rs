use super::*;

#[test]
fn a_signature_is_that_of_the_standard() {
    // The example of the reference implementations (Standard Webhooks).
    let key = key("ops", &Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).expect("a secret");
    let signed = sign(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
    assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

#[test]
fn a_secret_that_is_none_is_refused_and_not_shown() {
    for text in ["", "whsec_", "whsec_dG9wc2VjcmV0", "topsecret", "whsec_!!"] {
        let error = key("ops", &Secret::new(text)).expect_err(text);
        assert!(error.message().contains("webhooks.secret_file of \"ops\""), "{error}");
        assert!(text.len() < 7 || !error.message().contains(text), "{error}");
    }
}

#[test]
fn pauses_grow_and_end_and_are_not_the_same_for_all() {
    let first = Duration::from_secs(10);
    let of = |id: &str, attempts| {
        pause(&DeliverWork { id: id.into(), body: String::new(), attempts, now: 0 }, first)
    };
    for attempts in 1..=20 {
        let least = first.saturating_mul(GROWTH.saturating_pow(attempts - 1)).min(LONGEST_PAUSE);
        let found = of("a", attempts);
        assert!(found >= least && found <= least * 5 / 4, "{attempts}: {found:?}");
    }
    assert_ne!(of("a", 1), of("b", 1));
    assert_eq!(of("a", 1), of("a", 1));
}
