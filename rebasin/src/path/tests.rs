use super::*;

#[test]
fn both_barriers_are_as_defined() {
    let found = barrier(&[1.0, 4.0, 3.0]);
    assert!((found.against_mean - 2.0).abs() < 1e-12, "4 less the mean of 1 and 3");
    assert!((found.against_chord - 2.0).abs() < 1e-12, "4 less the chord's 2");
    let sloped = barrier(&[0.0, 1.0, 2.0]);
    assert!((sloped.against_mean - 1.0).abs() < 1e-12, "the higher end counts against the mean");
    assert!(sloped.against_chord.abs() < 1e-12, "a straight slope has no barrier above its chord");
}
