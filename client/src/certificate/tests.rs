use std::cell::{Cell, RefCell};

use super::*;

/// A certificate that ends so many days after the epoch.
fn ending(days: i64) -> Certificate {
    Certificate { path: PathBuf::from("site.pem"), ends_at_ms: days * DAY_MS }
}

#[test]
fn the_end_is_read_from_the_first_certificate_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("site.pem");
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.not_after = OffsetDateTime::from_unix_timestamp(1_000_000_000).unwrap();
    let made = params.self_signed(&key).unwrap();
    // A key before it is not what is meant.
    fs::write(&path, format!("{}{}", key.serialize_pem(), made.pem())).unwrap();
    let read = Certificate::read(&path).unwrap();
    assert_eq!(read.ends_at_ms, 1_000_000_000_000);
    assert_eq!(read.left_at(0).expires_at, "2001-09-09T01:46:40Z");
    let error = read.check().unwrap_err().to_string();
    assert!(error.contains("ended at 2001-09-09T01:46:40Z") && error.contains("site request"), "{error}");
}

#[test]
fn what_is_no_certificate_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("site.pem");
    assert!(Certificate::read(&path).is_err());
    for (text, what) in [
        ("", "holds no certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read"),
    ] {
        fs::write(&path, text).unwrap();
        let error = Certificate::read(&path).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("site.pem"), "{error}");
    }
}

#[test]
fn days_are_whole_and_below_0_once_it_ended() {
    let certificate = ending(40);
    assert_eq!(certificate.left_at(0).days_left, 40);
    assert_eq!(certificate.left_at(1).days_left, 39);
    assert_eq!(certificate.left_at(40 * DAY_MS).days_left, 0);
    assert_eq!(certificate.left_at(40 * DAY_MS + 1).days_left, -1);
    assert!(certificate.check_at(40 * DAY_MS - 1).is_ok());
    assert!(certificate.check_at(40 * DAY_MS).is_err());
}

#[test]
fn one_with_fewer_than_thirty_days_left_is_warned_of_and_no_other() {
    let certificate = ending(40);
    assert_eq!(certificate.warning_at(10 * DAY_MS), None);
    assert!(!certificate.left_at(10 * DAY_MS).to_string().contains("new kit"));
    let warning = certificate.warning_at(10 * DAY_MS + 1).unwrap();
    assert!(warning.contains("days left: 29") && warning.contains("new kit"), "{warning}");
    assert!(certificate.warning_at(41 * DAY_MS).unwrap().contains("days left: -1"));
}

#[tokio::test]
async fn a_site_that_lives_on_is_warned_again() {
    let (certificate, day, said) = (ending(32), Cell::new(0), RefCell::new(Vec::new()));
    let now = || {
        day.set(day.get() + 1);
        day.get() * DAY_MS
    };
    let warned = async {
        while said.borrow().len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        never = certificate.warn_every(Duration::ZERO, now, |text| said.borrow_mut().push(text)) => match never {},
        () = warned => {}
    }
    let said = said.into_inner();
    // On the first and the second day enough are left.
    for (text, days) in said.iter().zip([29, 28, 27]) {
        assert!(text.contains(&format!("days left: {days};")), "{said:?}");
    }
}
