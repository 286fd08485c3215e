//! Of the protocol: what takes several steps to go wrong.

use fedbasin_proto::v1;
use fedbasin_tests::{chunks, digest, eventually};

use crate::{
    corpus::{Answer, Case, Ground, Steps, case, of_kind},
    protocol::{How, begun, chunk, in_parts, other, uuid},
};

pub(crate) fn cases() -> Vec<Case<How>> {
    let mut cases = of_kind("ends: too early, too often, at once", ends());
    cases.extend(of_kind("times: too late, too early", times()));
    cases.extend(of_kind("questions", questions()));
    cases
}

/// One case of several steps.
fn steps(name: &'static str, steps: for<'a> fn(&'a Ground) -> Steps<'a>, code: &'static str) -> Case<How> {
    case(name, How::Steps(steps), code, "")
}

/// Ends that come too early, too often, or at once.
fn ends() -> Vec<Case<How>> {
    vec![
        steps(
            "a million empty chunks",
            |g| {
                Box::pin(async move {
                    let (update, _) = begun(g).await;
                    let empty = std::iter::repeat_n(chunk(&update, 0, &[]), 1_000_000);
                    let stream = g.x.client.clone().send_update(tokio_stream::iter(empty)).await;
                    match stream {
                        Ok(answer) => answer.into_inner().message().await.into(),
                        Err(status) => Answer::from(Err::<(), _>(status)),
                    }
                })
            },
            "invalid-argument",
        ),
        steps(
            "finished before anything was sent",
            |g| {
                Box::pin(async move {
                    let (update, _) = begun(g).await;
                    g.x.finish(&update).await.into()
                })
            },
            "incomplete",
        ),
        steps(
            "finished again after it was rejected",
            |g| {
                Box::pin(async move {
                    let (update, _) = rejected(g).await;
                    g.x.finish(&update).await.into()
                })
            },
            "invalid-checkpoint",
        ),
        steps(
            "sent again after it was rejected",
            |g| {
                Box::pin(async move {
                    let (update, bytes) = rejected(g).await;
                    g.x.send(chunks(&update, &bytes, 0)).await.into()
                })
            },
            "invalid-checkpoint",
        ),
        steps(
            "finished twice at once",
            |g| {
                Box::pin(async move {
                    let run = g.run_of(&["x", "y"], 1);
                    let bytes = other(250);
                    let begun = g.x.begin(&run, 1, &bytes, 1).await.expect("an update");
                    g.x.send(chunks(&begun.update_id, &bytes, 0)).await.expect("its bytes");
                    let (one, two) = tokio::join!(g.x.finish(&begun.update_id), g.x.finish(&begun.update_id));
                    assert_eq!(one.as_ref().expect("a receipt"), two.as_ref().expect("the same receipt"));
                    one.into()
                })
            },
            "taken",
        ),
        steps(
            "two streams of one update: the older one ends",
            |g| {
                Box::pin(async move {
                    let (update, bytes) = begun(g).await;
                    let mut older = g.x.open_stream(&in_parts(&update, &bytes)[..2]).await;
                    let received = || g.admin.round_site(&g.run, 1, "x")["received_bytes"] == 100;
                    eventually("two chunks are there", || received().then_some(())).await;
                    let newer = g.x.send(in_parts(&update, &bytes)[2..].to_vec()).await;
                    newer.expect("it goes on where the other one was");
                    older.acknowledged().await.into()
                })
            },
            "offset-mismatch",
        ),
        steps(
            "a stream that ends before its first chunk",
            |g| Box::pin(async move { g.x.send(Vec::new()).await.into() }),
            "taken",
        ),
    ]
}

/// An update of which one byte is wrong.
async fn rejected(ground: &Ground) -> (String, Vec<u8>) {
    let (update, bytes) = begun(ground).await;
    let mut wrong = bytes.clone();
    wrong[8] = b'[';
    ground.x.send(chunks(&update, &wrong, 0)).await.expect_err("no header");
    (update, bytes)
}

/// What comes for a round that is not, or no longer, the one.
fn times() -> Vec<Case<How>> {
    vec![
        steps(
            "another update after an accepted one",
            |g| {
                Box::pin(async move {
                    let run = g.run_of(&["x", "y"], 1);
                    g.x.upload(&run, 1, &other(1), 1).await.expect("a receipt");
                    g.x.begin(&run, 1, &other(2), 1).await.into()
                })
            },
            "conflict",
        ),
        steps(
            "an accepted update announced with other examples",
            |g| {
                Box::pin(async move {
                    let run = g.run_of(&["x", "y"], 1);
                    g.x.upload(&run, 1, &other(1), 1).await.expect("a receipt");
                    g.x.begin(&run, 1, &other(1), 2).await.into()
                })
            },
            "conflict",
        ),
        steps(
            "chunks for an accepted update",
            |g| {
                Box::pin(async move {
                    let run = g.run_of(&["x", "y"], 1);
                    let receipt = g.x.upload(&run, 1, &other(1), 1).await.expect("a receipt");
                    g.x.send(chunks(&receipt.update_id, &other(2), 0)).await.into()
                })
            },
            "conflict",
        ),
        steps(
            "an update under way announced with another size",
            |g| {
                Box::pin(async move {
                    let (update, bytes) = begun(g).await;
                    g.x.send(in_parts(&update, &bytes)[..2].to_vec()).await.expect("some of it");
                    let request = v1::BeginUpdateRequest {
                        run_id: g.run.clone(),
                        round: 1,
                        digest: digest(&bytes),
                        size: bytes.len() as u64 + 1,
                        num_examples: 1,
                        ..v1::BeginUpdateRequest::default()
                    };
                    g.x.begin_as(request).await.into()
                })
            },
            "conflict",
        ),
        steps(
            "a third update under way: the first one is given up",
            |g| {
                Box::pin(async move {
                    let (first, bytes) = begun(g).await;
                    let _ = (begun(g).await, begun(g).await);
                    g.x.send(chunks(&first, &bytes, 0)).await.into()
                })
            },
            "round-closed",
        ),
        steps(
            "an announcement for a cancelled run",
            |g| {
                Box::pin(async move {
                    let run = cancelled(g);
                    g.x.begin(&run, 1, &other(1), 1).await.into()
                })
            },
            "round-closed",
        ),
        steps(
            "chunks for a cancelled run",
            |g| {
                Box::pin(async move {
                    let run = g.run_of(&["x", "y"], 1);
                    let begun = g.x.begin(&run, 1, &other(1), 1).await.expect("an update");
                    cancel(g, &run);
                    g.x.send(chunks(&begun.update_id, &other(1), 0)).await.into()
                })
            },
            "round-closed",
        ),
        steps(
            "the end of an update for a cancelled run",
            |g| {
                Box::pin(async move {
                    let run = g.run_of(&["x", "y"], 1);
                    let begun = g.x.begin(&run, 1, &other(1), 1).await.expect("an update");
                    g.x.send(chunks(&begun.update_id, &other(1), 0)).await.expect("its bytes");
                    cancel(g, &run);
                    g.x.finish(&begun.update_id).await.into()
                })
            },
            "round-closed",
        ),
        steps(
            "an announcement for a round that is over",
            |g| {
                Box::pin(async move {
                    let run = published(g).await;
                    g.x.begin(&run, 1, &other(2), 1).await.into()
                })
            },
            "conflict",
        ),
        steps(
            "an update of the round before, finished again",
            |g| {
                Box::pin(async move {
                    let run = g.run_of(&["x"], 2);
                    let first = g.x.upload(&run, 1, &other(1), 1).await.expect("a receipt");
                    eventually("round 2 opens", || (g.admin.run(&run)["current_round"] == 2).then_some(()))
                        .await;
                    let again = g.x.finish(&first.update_id).await.expect("the receipt of round 1");
                    assert_eq!(again, first);
                    let round = g.admin.round_site(&run, 2, "x");
                    Answer::taken(
                        round["state"]
                            .as_str()
                            .filter(|state| *state == "silent")
                            .expect("nothing of round 2"),
                    )
                })
            },
            "taken",
        ),
    ]
}

fn cancelled(ground: &Ground) -> String {
    let run = ground.run_of(&["x", "y"], 1);
    cancel(ground, &run);
    run
}

fn cancel(ground: &Ground, run: &str) {
    let answer = ground.admin.post(&format!("/v1/runs/{run}/cancel"), &serde_json::json!({}));
    assert_eq!(answer.status, 200);
}

async fn published(ground: &Ground) -> String {
    let run = ground.run_of(&["x"], 1);
    ground.x.upload(&run, 1, &other(1), 1).await.expect("a receipt");
    ground.admin.round_becomes(&run, 1, "published").await;
    run
}

/// What is asked for and is not there.
fn questions() -> Vec<Case<How>> {
    vec![
        steps(
            "a download of no digest",
            |g| Box::pin(async move { g.x.download("", 0).await.into() }),
            "invalid-argument",
        ),
        steps(
            "a download that climbs",
            |g| Box::pin(async move { g.x.download("../../etc/passwd", 0).await.into() }),
            "invalid-argument",
        ),
        steps(
            "a download of nothing",
            |g| Box::pin(async move { g.x.download(&digest(b"nothing"), 0).await.into() }),
            "not-found",
        ),
        steps(
            "a download from beyond the end",
            |g| {
                Box::pin(async move {
                    let (seed, size) = seed(g).await;
                    g.x.download(&seed, size + 1).await.into()
                })
            },
            "out-of-range",
        ),
        steps(
            "a download from the largest offset",
            |g| {
                Box::pin(async move {
                    let (seed, _) = seed(g).await;
                    g.x.download(&seed, u64::MAX).await.into()
                })
            },
            "out-of-range",
        ),
        steps(
            "a download of one's own update",
            |g| {
                Box::pin(async move {
                    let run = g.run_of(&["x", "y"], 1);
                    let receipt = g.x.upload(&run, 1, &other(99), 1).await.expect("a receipt");
                    g.x.download(&receipt.digest, 0).await.into()
                })
            },
            "not-found",
        ),
        steps("a watch of no run", |g| Box::pin(async move { watched(g, "").await }), "not-found"),
        steps(
            "a watch of a run with a zero",
            |g| Box::pin(async move { watched(g, "a\0b").await }),
            "not-found",
        ),
        steps(
            "a watch of a run of another site",
            |g| {
                Box::pin(async move {
                    let run = g.run_of(&["y"], 1);
                    watched(g, &run).await
                })
            },
            "not-found",
        ),
        steps(
            "an update that there is not",
            |g| Box::pin(async move { g.x.update(&uuid(9)).await.into() }),
            "not-found",
        ),
        steps("an update of no id", |g| Box::pin(async move { g.x.update("").await.into() }), "not-found"),
        steps(
            "an update of a million characters",
            |g| Box::pin(async move { g.x.update(&"0".repeat(1_000_000)).await.into() }),
            "not-found",
        ),
    ]
}

async fn seed(ground: &Ground) -> (String, u64) {
    let round = ground.x.status(&ground.run).await.expect("its run").round.expect("a round");
    (round.reference_digest, round.reference_size)
}

async fn watched(ground: &Ground, run: &str) -> Answer {
    let request = v1::WatchRunRequest { run_id: run.into() };
    ground.x.client.clone().watch_run(request).await.map(|_| ()).into()
}
