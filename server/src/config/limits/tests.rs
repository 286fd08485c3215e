use super::*;
use crate::config::Config;

/// Every limit by name, with its default.
fn named() -> Vec<(String, String)> {
    let text = format!("{:#?}", Limits::default());
    let fields = text.lines().filter_map(|line| line.trim().trim_end_matches(',').split_once(": "));
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_defaults_are_within_what_can_work() {
    assert_eq!(Limits::default().check(), Ok(()));
}

#[test]
fn each_limit_is_a_key_whose_nonsense_is_refused_by_its_name() {
    let named = named();
    assert!(named.len() > 30, "{named:?}");
    for (name, value) in named {
        assert!(Config::from_toml(&format!("[limits]\n{name} = {value}\n")).is_ok(), "{name}");
        for nonsense in ["0", "9223372036854775807", "-1", "1.5", "\"many\"", "true"] {
            // No least rate is sense: then a byte in the time is enough.
            if (name.as_str(), nonsense) == ("min_bytes_per_second", "0") {
                continue;
            }
            let text = format!("[limits]\n{name} = {nonsense}\n");
            let error = Config::from_toml(&text).expect_err(&text);
            assert!(error.contains(&name), "{text}: {error}");
        }
    }
}

#[test]
fn limits_that_contradict_one_another_are_refused_with_both_names() {
    for (text, one, other) in [
        ("max_connections = 10", "max_connections_per_address", "max_connections"),
        ("max_concurrent_uploads = 4", "max_uploads_per_site", "max_concurrent_uploads"),
        ("connection_window_bytes = 1048576", "stream_window_bytes", "connection_window_bytes"),
        ("max_bytes_in_flight = 1048576", "max_bytes_in_flight", "stream_window_bytes"),
    ] {
        let error = Config::from_toml(&format!("[limits]\n{text}\n")).expect_err(text);
        assert!(error.contains(one) && error.contains(other), "{text}: {error}");
    }
}

#[test]
fn an_http2_window_and_frame_fit_into_their_bits() {
    for text in ["stream_window_bytes = 2147483648", "max_frame_bytes = 16777216", "max_frame_bytes = 16383"]
    {
        assert!(Config::from_toml(&format!("[limits]\n{text}\n")).is_err(), "{text}");
    }
}
