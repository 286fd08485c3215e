use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::*;

fn head(size: u64) -> TreeHead {
    TreeHead { origin: "a log".into(), size, root: [0; 32] }
}

#[tokio::test]
async fn who_asks_while_a_look_is_under_way_is_told_what_it_finds_and_later_ones_look_anew() {
    let (checks, looks, go) = (Checks::default(), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let ask = || {
        let (looks, go) = (looks.clone(), go.clone());
        checks.join(|| async move {
            let number = looks.fetch_add(1, Ordering::SeqCst) as u64;
            go.notified().await;
            Ok(head(number))
        })
    };
    let mut together = [ask(), ask(), ask()];
    tokio::task::yield_now().await;
    assert_eq!(looks.load(Ordering::SeqCst), 1, "one look for all");
    go.notify_one();
    for found in &mut together {
        let found = found.wait_for(Option::is_some).await.expect("a word").clone();
        assert_eq!(found.expect("an end").expect("whole").size, 0);
    }
    go.notify_one();
    let mut later = ask();
    let found = later.wait_for(Option::is_some).await.expect("a word").clone();
    assert_eq!(found.expect("an end").expect("whole").size, 1, "another look");
}

#[tokio::test]
async fn a_look_that_fails_tells_all_why_and_one_that_ends_without_a_word_holds_up_none() {
    let checks = Checks::default();
    let fails = || checks.join(|| async { Err(Error::new(Code::DataLoss, "record 3 is missing")) });
    for mut found in [fails(), fails()] {
        let found = found.wait_for(Option::is_some).await.expect("a word").clone().expect("an end");
        assert_eq!(found.expect_err("broken").message(), "record 3 is missing");
    }
    let mut lost = checks.join(|| async { panic!("a defect") });
    assert!(lost.wait_for(Option::is_some).await.is_err());
    let mut next = checks.join(|| async { Ok(head(5)) });
    assert!(next.wait_for(Option::is_some).await.is_ok());
}
