use super::*;

#[test]
fn the_server_s_time_goes_on_from_what_an_answer_said() {
    let clock = Clock::default();
    assert_eq!(clock.now(), None);
    let mut headers = HeaderMap::new();
    headers.insert(DATE, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
    clock.see(&headers);
    let now = clock.now().unwrap().unix_timestamp();
    assert!((784_111_777..784_112_777).contains(&now), "{now}");
    headers.insert(DATE, "yesterday".parse().unwrap());
    clock.see(&headers);
    assert!(clock.now().unwrap().unix_timestamp() >= now, "what cannot be read changes nothing");
}
