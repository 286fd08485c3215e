use super::*;

#[test]
fn the_greatest_share_is_told_in_tenths_and_never_less_than_it_is() {
    for (part, whole, wanted) in [
        (1, 1, 1.0),
        (6, 10, 0.6),
        (601, 1000, 0.7),
        (1, 1000, 0.1),
        (0, 0, 0.0),
        (u64::MAX, u64::MAX, 1.0),
        (u64::MAX / 2, u64::MAX, 0.5),
    ] {
        assert!((tenths(part, whole) - wanted).abs() < f64::EPSILON, "{part} of {whole}");
    }
}

#[test]
fn figures_have_four_digits_and_what_is_no_number_is_null() {
    for (figure, wanted) in [
        (0.0, json!(0.0)),
        (0.123_456_7, json!(0.1235)),
        (1.0, json!(1.0)),
        (2.345_678e-9, json!(2.346e-9)),
        (f64::INFINITY, Value::Null),
        (f64::NAN, Value::Null),
    ] {
        assert_eq!(short(figure), wanted, "{figure}");
    }
}
