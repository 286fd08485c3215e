use super::*;
use crate::report;

#[test]
fn each_round_has_a_table_with_every_model() {
    let text = tables(&report::tests::usual());
    assert_eq!(text.matches("\nRound ").count(), 2);
    for name in
        ["site-0", "naive mean", "aligned mean", "MergeMany", "logit ensemble", "one model on all data"]
    {
        assert!(text.matches(name).count() >= 2, "{name}");
    }
    assert!(text.contains("500 of 512") && text.contains("0.840"));
    // Only the second round moved nothing, and says so.
    assert_eq!(text.matches("(nothing moved)").count(), 1);
}
