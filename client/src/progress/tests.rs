use super::*;

#[test]
fn the_time_left_is_that_of_the_starts_that_are_left() {
    let seconds = Duration::from_secs;
    assert_eq!(time_left(seconds(3), 0, 4), None, "nothing is known before one ended");
    assert_eq!(time_left(seconds(3), 1, 4), Some(seconds(9)));
    assert_eq!(time_left(seconds(9), 3, 4), Some(seconds(3)));
    assert_eq!(time_left(seconds(9), 4, 4), Some(seconds(0)));
}

#[test]
fn nobody_hears_a_silent_screen() {
    let screen = Screen::silent();
    screen.say("nothing");
    let mut asked = false;
    screen
        .answer(&1, || {
            asked = true;
            String::new()
        })
        .unwrap();
    assert!(!asked, "an answer that nobody reads is not made");
}

#[test]
fn bytes_read_well_at_every_size() {
    for (count, text) in
        [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_999, "1.0 MB"), (102_400_000, "102.4 MB")]
    {
        assert_eq!(super::bytes(count), text);
    }
    assert_eq!(super::bytes(u64::MAX), "18446744.1 TB");
}
