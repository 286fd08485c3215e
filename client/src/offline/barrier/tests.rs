use super::*;

#[test]
fn cross_entropy_and_accuracy_are_those_of_the_formula() {
    let goal = Goal::Labels(vec![0, 2]);
    let output = Output { width: 3, values: vec![1.0, 2.0, 3.0, 0.0, 0.0, 4.0] };
    let score = goal.score(&output).unwrap();
    let sums = [1_f64.exp() + 2_f64.exp() + 3_f64.exp(), 2.0 + 4_f64.exp()];
    let expected = (sums[0].ln() - 1.0 + sums[1].ln() - 4.0) / 2.0;
    assert!((score.loss - expected).abs() < 1e-6, "{score:?}");
    assert_eq!(score.accuracy, Some(0.5));
    assert!(Goal::Labels(vec![0, 3]).score(&output).is_err());
}

#[test]
fn large_logits_do_not_overflow() {
    let output = Output { width: 2, values: vec![1e30, 0.0] };
    let score = Goal::Labels(vec![0]).score(&output).unwrap();
    assert!(score.loss.abs() < 1e-9, "{score:?}");
}

#[test]
fn squared_error_is_the_mean_over_all_numbers() {
    let goal = Goal::Targets(vec![1.0, 2.0, 3.0, 4.0]);
    let score = goal.score(&Output { width: 2, values: vec![1.0, 4.0, 3.0, 1.0] }).unwrap();
    assert_eq!(score, Score { loss: (4.0 + 9.0) / 4.0, accuracy: None });
    assert!(goal.score(&Output { width: 3, values: vec![0.0; 6] }).is_err());
    assert!(goal.fits(3, Path::new("data")).is_err() && goal.fits(2, Path::new("data")).is_ok());
}
