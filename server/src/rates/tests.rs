use super::*;

#[test]
fn a_minutes_worth_is_saved_up_and_then_given_bit_by_bit() {
    let (rates, start) = (Rates::new(60), Instant::now());
    for _ in 0..60 {
        assert_eq!(rates.take_at("a", start), Ok(()));
    }
    assert_eq!(rates.take_at("a", start), Err(Duration::from_secs(1)));
    assert_eq!(rates.take_at("b", start), Ok(()), "another one's");
    assert_eq!(rates.take_at("a", start + Duration::from_secs(1)), Ok(()));
    assert!(rates.take_at("a", start + Duration::from_secs(1)).is_err());
    // Never more than a minute's worth.
    let later = start + Duration::from_secs(3600);
    assert_eq!((0..100).filter(|_| rates.take_at("a", later).is_ok()).count(), 60);
}

#[test]
fn who_has_a_whole_minutes_worth_is_forgotten() {
    let (rates, start) = (Rates::new(60), Instant::now());
    for key in 0..REMEMBERED {
        assert_eq!(rates.take_at(key, start), Ok(()));
    }
    let soon = start + Duration::from_secs(2);
    assert_eq!(rates.take_at(REMEMBERED, soon), Ok(()));
    assert_eq!(rates.buckets().len(), 1);
}

#[test]
fn addresses_of_one_network_are_one() {
    let same = |a: &str, b: &str| network(a.parse().expect("a")) == network(b.parse().expect("b"));
    assert!(same("2001:db8::1", "2001:db8::ffff:1") && !same("2001:db8::1", "2001:db8:0:1::1"));
    assert!(same("::ffff:192.0.2.1", "192.0.2.1") && !same("192.0.2.1", "192.0.2.2"));
}
