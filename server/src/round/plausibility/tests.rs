use super::*;

fn standing(distance_ratio: f64, cosine: f64) -> Standing {
    Standing {
        distance: 1.0,
        distance_ratio: Some(distance_ratio),
        cosine: Some(cosine),
        statistics_ratio: None,
        others: 3,
    }
}

fn rejecting() -> Plausibility {
    Plausibility { action: Implausible::Reject, ..Plausibility::default() }
}

fn rejected(policy: &Plausibility, standings: &[Standing]) -> Vec<bool> {
    policy.judge(standings).iter().map(|verdict| verdict.rejected).collect()
}

#[test]
fn what_lies_within_both_thresholds_is_not_mentioned() {
    for verdict in rejecting().judge(&[standing(8.0, -0.1), standing(0.0, 1.0), standing(1.0, 0.0)]) {
        assert_eq!(verdict, Verdict::default());
    }
}

#[test]
fn a_warning_says_figure_and_threshold() {
    let verdicts = Plausibility::default().judge(&[standing(812.04, 0.3), standing(1.0, 0.2)]);
    assert_eq!(verdicts[0].warnings.len(), 1);
    for part in ["812.0 times", "at most 8", "max_distance_ratio"] {
        assert!(verdicts[0].warnings[0].contains(part), "{:?}", verdicts[0]);
    }
    assert!(!verdicts[0].rejected, "it is merged all the same");
    let three = [standing(1.0, -0.29), standing(1.0, 0.2), standing(1.0, 0.3)];
    let verdicts = Plausibility::default().judge(&three);
    for part in ["-0.290", "at least -0.1", "min_cosine"] {
        assert!(verdicts[0].warnings[0].contains(part), "{:?}", verdicts[0]);
    }
}

#[test]
fn one_that_went_far_does_not_make_the_others_look_as_if_they_went_astray() {
    let all = [standing(1000.0, -0.3), standing(0.001, -0.3), standing(1.0, 0.3), standing(1.0, 0.2)];
    assert_eq!(rejected(&rejecting(), &all), [true, false, false, false]);
    assert_eq!(rejecting().judge(&all)[0].warnings.len(), 2, "its own direction is beside the others'");
}

#[test]
fn where_all_pull_in_different_directions_none_is_astray() {
    let all = [standing(1.0, -0.9), standing(1.1, -1.0), standing(0.9, -0.8)];
    assert_eq!(rejected(&rejecting(), &all), [false; 3]);
    let two = [standing(1.0, -1.0), standing(1.0, -1.0)];
    assert!(rejecting().judge(&two).iter().all(|verdict| verdict.warnings.is_empty()));
    let unknown = [standing(1.0, -1.0), standing(1.0, 0.0), standing(1.0, 0.0)];
    let unknown = unknown.map(|one| Standing { cosine: one.cosine.filter(|&cosine| cosine < 0.0), ..one });
    assert_eq!(rejected(&rejecting(), &unknown), [true, false, false], "the others cancel one another out");
}

#[test]
fn of_two_neither_is_rejected() {
    let two = [standing(1000.0, -0.3), standing(0.001, -0.3)].map(|one| Standing { others: 1, ..one });
    assert_eq!(rejected(&rejecting(), &two), [false, false]);
    assert!(!rejecting().judge(&two)[0].warnings.is_empty(), "yet it is said");
}

#[test]
fn statistics_may_be_the_square_of_the_ratio() {
    let of = |ratio| Standing { statistics_ratio: Some(ratio), ..standing(1.0, 0.5) };
    assert_eq!(rejected(&rejecting(), &[of(64.0), of(65.0)]), [false, true]);
}

#[test]
fn thresholds_that_cannot_be_are_refused_by_name() {
    let refused = |policy: Plausibility| policy.check().expect_err("refused");
    for ratio in [1.0, 0.0, -3.0, f64::NAN, f64::INFINITY] {
        let policy = Plausibility { max_distance_ratio: ratio, ..Plausibility::default() };
        assert!(refused(policy).contains("max_distance_ratio"), "{ratio}");
    }
    for cosine in [-1.1, 1.1, f64::NAN] {
        let policy = Plausibility { min_cosine: cosine, ..Plausibility::default() };
        assert!(refused(policy).contains("min_cosine"), "{cosine}");
    }
    Plausibility::default().check().expect("the default");
}
