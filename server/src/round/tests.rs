use super::*;

const OPENED: Millis = 1_000;
const DEADLINE: Millis = 61_000;

fn policy() -> Policy {
    Policy {
        rounds: 2,
        quorum: 2,
        deadline_seconds: 60,
        max_updates: None,
        failed_rounds_allowed: 1,
        min_open_seconds: None,
        keep_models: None,
        keep_best: None,
        keep_updates: None,
        name_participants: false,
        evaluate_naive: false,
        max_magnitude_factor: default_max_magnitude_factor(),
        plausibility: Plausibility::default(),
    }
}

fn round(state: State, accepted: u32) -> Round {
    Round { state, accepted, ..Round::open(1, policy().window(4, OPENED)) }
}

fn loss() -> KeepBest {
    KeepBest { metric: "loss".into(), goal: Goal::Lowest }
}

fn digest() -> Digest {
    Digest::of(b"global")
}

fn failed() -> State {
    State::Failed { reason: "x".into() }
}

fn all_states() -> Vec<State> {
    vec![State::Collecting, State::Merging, State::Published { global: digest() }, failed(), State::Cancelled]
}

#[test]
fn the_window_comes_from_the_policy() {
    let window = policy().window(4, OPENED);
    assert_eq!((window.quorum, window.full_at, window.deadline_at_ms), (2, 4, DEADLINE));
    let capped = Policy { max_updates: Some(3), ..policy() }.window(4, OPENED);
    assert_eq!(capped.full_at, 3);
}

#[test]
fn collecting_ends_when_the_cohort_is_complete() {
    let before = round(State::Collecting, 3);
    assert_eq!(before.clone().apply(Event::Tick, OPENED).expect("legal"), before, "one is missing");
    assert_eq!(round(State::Collecting, 4).apply(Event::Tick, OPENED).expect("legal").state, State::Merging);
}

#[test]
fn collecting_ends_at_the_deadline_with_a_quorum() {
    let early = round(State::Collecting, 2).apply(Event::Tick, DEADLINE - 1).expect("legal");
    assert_eq!(early.state, State::Collecting);
    assert_eq!(early.apply(Event::Tick, DEADLINE).expect("legal").state, State::Merging);
}

#[test]
fn a_quorum_is_enough_once_the_round_was_open_long_enough() {
    let window = Policy { min_open_seconds: Some(10), ..policy() }.window(4, OPENED);
    let round = |accepted| Round { accepted, ..Round::open(1, window) };
    let after = |accepted, now| round(accepted).apply(Event::Tick, now).expect("legal").state;
    assert_eq!(after(2, OPENED + 9_999), State::Collecting);
    assert_eq!(after(2, OPENED + 10_000), State::Merging);
    assert_eq!(after(1, OPENED + 10_000), State::Collecting, "no quorum");
    assert_eq!(after(4, OPENED), State::Merging, "all are there: nothing to wait for");
    assert_eq!(round(1).next_deadline(), Some(DEADLINE));
    assert_eq!(round(2).next_deadline(), Some(OPENED + 10_000));
}

#[test]
fn a_deadline_without_quorum_fails_and_says_how_many_came() {
    let round = round(State::Collecting, 1).apply(Event::Tick, DEADLINE).expect("legal");
    let State::Failed { reason } = round.state else { panic!("{:?}", round.state) };
    assert!(reason.contains("1 of at least 2"), "{reason}");
}

#[test]
fn a_tick_changes_nothing_in_every_other_state() {
    for state in all_states().into_iter().filter(|state| *state != State::Collecting) {
        let before = round(state, 4);
        assert_eq!(before.clone().apply(Event::Tick, DEADLINE * 9).expect("a late tick is legal"), before);
    }
}

#[test]
fn an_update_is_counted_only_while_collecting_in_time_and_with_room() {
    let counted = round(State::Collecting, 0).apply(Event::UpdateAccepted, DEADLINE - 1).expect("in time");
    assert_eq!(
        (counted.accepted, &counted.state),
        (1, &State::Collecting),
        "uploads record, they do not decide"
    );
    assert!(matches!(
        round(State::Collecting, 0).apply(Event::UpdateAccepted, DEADLINE),
        Err(InvalidTransition::Closed { .. })
    ));
    assert_eq!(
        round(State::Collecting, 4).apply(Event::UpdateAccepted, OPENED),
        Err(InvalidTransition::Full { round: 1, full_at: 4 })
    );
    for state in all_states().into_iter().filter(|state| *state != State::Collecting) {
        let name = state.name();
        assert_eq!(
            round(state, 0).apply(Event::UpdateAccepted, OPENED),
            Err(InvalidTransition::Closed { round: 1, state: name })
        );
    }
}

#[test]
fn merging_publishes_or_fails_after_the_attempts_are_spent() {
    let published = round(State::Merging, 2).apply(Event::Merged { global: digest() }, 0).expect("legal");
    assert_eq!(published.state, State::Published { global: digest() });

    // A try counts when it begins: the lease does that.
    for attempts in 1..MAX_ATTEMPTS {
        let begun = Round { attempts, ..round(State::Merging, 2) };
        let failed = begun.apply(Event::AttemptFailed { reason: "disk".into() }, 0).expect("legal");
        assert_eq!((failed.attempts, &failed.state), (attempts, &State::Merging));
    }
    let last = Round { attempts: MAX_ATTEMPTS, ..round(State::Merging, 2) };
    let spent = last.apply(Event::AttemptFailed { reason: "disk".into() }, 0).expect("legal");
    assert!(
        matches!(&spent.state, State::Failed { reason } if reason.contains("3 times") && reason.contains("disk"))
    );
}

#[test]
fn a_withdrawn_update_can_cost_the_quorum() {
    let still = round(State::Merging, 3).apply(Event::UpdateWithdrawn, 0).expect("legal");
    assert_eq!((still.accepted, &still.state), (2, &State::Merging));
    let lost = still.apply(Event::UpdateWithdrawn, 0).expect("legal");
    assert!(matches!(lost.state, State::Failed { .. }));
}

#[test]
fn cancelling_is_possible_from_open_states_only() {
    for state in [State::Collecting, State::Merging] {
        assert_eq!(round(state, 0).apply(Event::Cancel, 0).expect("open").state, State::Cancelled);
    }
    for state in all_states().into_iter().filter(State::is_terminal) {
        assert!(round(state, 0).apply(Event::Cancel, 0).is_err());
    }
}

#[test]
fn nothing_is_published_or_tried_outside_merging() {
    for state in all_states().into_iter().filter(|state| *state != State::Merging) {
        for event in [Event::Merged { global: digest() }, Event::AttemptFailed { reason: String::new() }] {
            let result = round(state.clone(), 2).apply(event, 0);
            assert!(matches!(result, Err(InvalidTransition::OutOfPlace { .. })), "{state:?}: {result:?}");
        }
    }
}

#[test]
fn only_collecting_waits_for_a_time() {
    for state in all_states() {
        let expected = (state == State::Collecting).then_some(DEADLINE);
        assert_eq!(round(state, 0).next_deadline(), expected);
    }
}

#[test]
fn a_run_goes_on_until_its_rounds_are_published() {
    let policy = policy();
    assert_eq!(next(&policy, None, 0, 0), Next::Open(1));
    assert_eq!(next(&policy, Some(&round(State::Collecting, 0)), 0, 0), Next::Wait);
    assert_eq!(next(&policy, Some(&round(State::Cancelled, 0)), 0, 0), Next::Wait);
    let published = round(State::Published { global: digest() }, 2);
    assert_eq!(next(&policy, Some(&published), 1, 0), Next::Open(2));
    assert_eq!(next(&policy, Some(&published), 2, 0), Next::Complete);
}

#[test]
fn a_run_survives_as_many_failed_rounds_as_its_policy_allows() {
    let last = round(failed(), 0);
    assert_eq!(next(&policy(), Some(&last), 0, 1), Next::Open(2));
    assert!(
        matches!(next(&policy(), Some(&last), 0, 2), Next::Fail { reason } if reason.contains("2 rounds in a row"))
    );
}

#[test]
fn a_policy_that_cannot_work_is_refused_by_field() {
    let cases = [
        (Policy { rounds: 0, ..policy() }, "rounds"),
        (Policy { quorum: 0, ..policy() }, "quorum"),
        (Policy { quorum: 5, ..policy() }, "quorum"),
        (Policy { deadline_seconds: 0, ..policy() }, "deadline_seconds"),
        (Policy { deadline_seconds: u64::MAX, ..policy() }, "deadline_seconds"),
        (Policy { max_updates: Some(1), ..policy() }, "max_updates"),
        (Policy { max_updates: Some(5), ..policy() }, "max_updates"),
        (Policy { min_open_seconds: Some(61), ..policy() }, "min_open_seconds"),
        (Policy { keep_models: Some(0), ..policy() }, "keep_models"),
        (Policy { keep_best: Some(loss()), ..policy() }, "keep_best"),
        (Policy { max_magnitude_factor: 0.5, ..policy() }, "max_magnitude_factor"),
        (Policy { max_magnitude_factor: f64::INFINITY, ..policy() }, "max_magnitude_factor"),
        (
            Policy { plausibility: Plausibility { min_cosine: 2.0, ..Plausibility::default() }, ..policy() },
            "plausibility.min_cosine",
        ),
        (
            Policy {
                keep_models: Some(1),
                keep_best: Some(KeepBest { metric: String::new(), ..loss() }),
                ..policy()
            },
            "metric",
        ),
    ];
    for (bad, field) in cases {
        let message = bad.check(4).expect_err(field);
        assert!(message.contains(field), "{message}");
    }
    assert!(policy().check(0).expect_err("no cohort").contains("cohort"));
    assert_eq!(policy().check(4), Ok(()));
}
