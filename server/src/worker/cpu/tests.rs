use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use super::*;
use crate::error::Code;

#[tokio::test]
async fn what_is_computed_comes_back_and_a_panic_is_an_error() {
    assert_eq!(run(|_| 6 * 7).await.expect("an answer"), 42);
    let error = run(|_| -> u8 { panic!("on purpose") }).await.expect_err("a panic");
    assert_eq!(error.code(), Code::Internal);
}

#[tokio::test]
async fn a_computation_learns_that_nobody_waits_any_more() {
    let (send, receive) = mpsc::channel();
    let (begun, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
    let work = run(move |halt| {
        let waited_for = halt.flow() == ControlFlow::Continue(());
        begun.send(()).expect("somebody listens");
        // Long enough for any machine; a computation that is not told ends without success.
        let until = Instant::now() + Duration::from_secs(20);
        while halt.flow() == ControlFlow::Continue(()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        send.send((waited_for, halt.flow())).expect("somebody listens");
    });
    tokio::select! {
        _ = work => panic!("it goes on until it is told"),
        _ = has_begun.recv() => {}
    }
    let heard = tokio::task::spawn_blocking(move || receive.recv()).await.expect("joined");
    assert_eq!(heard.expect("an answer"), (true, ControlFlow::Break(())));
}
