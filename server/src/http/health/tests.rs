use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt as _;

use super::*;
use crate::error::Code;

#[tokio::test]
async fn whoever_asks_storage_is_asked_once_while_its_answer_is_fresh() {
    let (ready, asked) = (Ready::default(), Arc::new(AtomicUsize::new(0)));
    let look = || {
        let asked = Arc::clone(&asked);
        async move || {
            let count = asked.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            let found = if count == 0 { Err(Error::new(Code::Unavailable, "away")) } else { Ok(()) };
            vec![Check::of("database", &found)]
        }
    };
    // Who goes away before there is an answer does not make the next one ask again.
    assert!(ready.ask(Duration::MAX, look()).now_or_never().is_none());
    let all = futures::future::join_all((0..100).map(|_| ready.ask(Duration::MAX, look()))).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert!(all.iter().all(|checks| !checks[0].ok && checks[0].detail.as_deref() == Some("away")), "{all:?}");
    assert!(ready.ask(Duration::ZERO, look()).await[0].ok, "asked again");
    assert!(ready.ask(Duration::MAX, look()).await[0].ok);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[test]
fn a_clock_may_be_apart_by_a_minute_and_by_the_time_that_asking_took() {
    assert!(clock(1_000_000, 1_000_500, 1_001_000).is_ok());
    assert!(clock(1_000_000, 1_061_000, 1_001_000).is_ok());
    assert!(clock(1_000_000, 940_000, 1_001_000).is_ok());
    let error = clock(1_000_000, 1_061_001, 1_001_000).expect_err("ahead");
    assert!(error.message().contains("60 s ahead of"), "{error}");
    let error = clock(1_000_000, 900_000, 1_001_000).expect_err("behind");
    assert!(error.message().contains("100 s behind"), "{error}");
}

#[test]
fn what_is_wrong_within_is_not_told() {
    let check = Check::of("database", &Err(Error::internal("password of the database")));
    assert!(check.detail.is_some_and(|detail| !detail.contains("password")));
}
