use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::error::Code;

#[tokio::test]
async fn whoever_asks_storage_is_asked_once_while_its_answer_is_fresh() {
    let (ready, asked) = (Ready::default(), AtomicUsize::new(0));
    let look = async || {
        let count = asked.fetch_add(1, Ordering::Relaxed);
        if count == 0 { Err(Error::new(Code::Unavailable, "away")) } else { Ok(()) }
    };
    let all = futures::future::join_all((0..100).map(|_| ready.ask(Duration::MAX, look()))).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert!(all.iter().all(|answer| answer.as_ref().is_err_and(|error| error.code() == Code::Unavailable)));
    assert!(ready.ask(Duration::ZERO, look()).await.is_ok(), "asked again");
    assert!(ready.ask(Duration::MAX, look()).await.is_ok());
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}
