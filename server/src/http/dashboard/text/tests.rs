use super::{ago, bytes, left, millis, number, percent, span};
use crate::http::time::iso;

#[test]
fn times_are_read_as_they_are_written() {
    for at in [0, 1, 1_700_000_000_123, -5000] {
        assert_eq!(millis(&iso(at)), Some(at));
    }
    assert_eq!(millis("yesterday"), None);
}

#[test]
fn lengths_of_time_are_told_in_a_unit_that_tells_enough() {
    let shown = [0, 61_000, 120_000, 7_199_000, 7_200_000, 172_800_000].map(span);
    assert_eq!(shown, ["0 s", "61 s", "2 min", "119 min", "2 h", "2 days"]);
    assert_eq!(ago(0, 59_999), "less than a minute ago");
    assert_eq!(ago(0, 180_000), "3 min ago");
    assert_eq!(left(0, 1), "no time left");
    assert_eq!(left(31_000, 0), "35 s left");
    assert_eq!(left(600_000, 0), "10 min left");
}

#[test]
fn sizes_and_numbers_keep_their_digits() {
    assert_eq!(
        [0, 999, 1000, 9_994, 12_345_678, 999_499_999].map(bytes),
        ["0 B", "999 B", "1.00 kB", "9.99 kB", "12.3 MB", "999 MB"]
    );
    assert_eq!(
        [0.0, 0.123_456, 12.345_6, 123.456, 12_345.6, 1e-9].map(number),
        ["0", "0.1235", "12.35", "123.5", "12346", "1.000e-9"]
    );
    assert_eq!([0.0, 0.5, 0.123_4, 0.999_9, 1.0].map(percent), ["0 %", "50 %", "12.3 %", "99.9 %", "100 %"]);
}
