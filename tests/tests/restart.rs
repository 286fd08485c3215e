//! A server that is killed (SIGKILL) and started again on what it left behind, on both databases.

use fedbasin_proto::v1::{self, RunState};
use fedbasin_tests::{
    Database, Options, PATIENCE, Server, Site,
    checkpoint::{f32s, file, one_hot, one_hot_spec, read_f32},
    chunks, digest, on_both_databases,
};
use serde_json::json;
use tokio_stream::wrappers::ReceiverStream;

on_both_databases!(
    an_upload_goes_on_where_a_killed_server_had_stored_it,
    receipts_outlive_a_killed_server_and_the_round_goes_on,
    a_round_that_was_complete_when_the_server_died_is_published_after_it,
    sites_that_wait_see_the_round_go_on_after_a_restart,
    a_server_killed_inside_an_alignment_or_a_merge_does_it_again,
    a_data_folder_is_one_process_s_until_that_ends,
);

fn run(server: &Server, rounds: u32, sites: &[&Site]) -> String {
    let cohort: Vec<&str> = sites.iter().map(|site| site.id.as_str()).collect();
    server.admin().create_run(&json!({
        "spec": one_hot_spec(), "strategy": "aligned", "cohort": cohort,
        "policy": { "rounds": rounds, "quorum": cohort.len(), "deadline_seconds": 600 },
    }))
}

async fn an_upload_goes_on_where_a_killed_server_had_stored_it(database: Database) {
    let mut server = Server::start(database);
    let (a, b) = (server.site("a"), server.site("b"));
    let id = run(&server, 1, &[&a, &b]);
    // 20 MiB, so that the server answers progress while the stream is open.
    let n = 5 << 20;
    let values: Vec<f32> = (0..n).map(|i| (i % 1000) as f32).collect();
    let bytes = file(&[f32s("counted", &[n], &values)]);
    let begun = a.begin(&id, 1, &bytes, 1).await.expect("an update");
    assert_eq!(begun.offset, 0);

    let all = chunks(&begun.update_id, &bytes, 0);
    let sent = all[..14].iter().map(|chunk| chunk.data.len() as u64).sum::<u64>();
    let mut sending = a.open_stream(&all[..14]).await;
    let durable = sending.acknowledged().await.expect("progress");
    assert!(durable > 0 && durable <= sent, "{durable} of {sent}");
    server.kill();
    drop(sending);
    server.start_again();

    let resumed = a.begin(&id, 1, &bytes, 1).await.expect("the same update");
    assert_eq!(resumed.update_id, begun.update_id, "the same site, round and digest: the same update");
    assert!(resumed.offset >= durable && resumed.offset <= sent, "{} of {durable} to {sent}", resumed.offset);
    a.send(chunks(&begun.update_id, &bytes, resumed.offset)).await.expect("the rest");
    let receipt = a.finish(&begun.update_id).await.expect("a receipt");
    assert_eq!((receipt.digest, receipt.size), (digest(&bytes), bytes.len() as u64));

    b.upload(&id, 1, &bytes, 1).await.expect("a receipt");
    server.admin().round_becomes(&id, 1, "published").await;
    assert_eq!(
        read_f32(&server.admin().model(&id, 1), "counted"),
        values,
        "the mean of two equal ones, to the bit"
    );
}

async fn receipts_outlive_a_killed_server_and_the_round_goes_on(database: Database) {
    let mut server = Server::start(database);
    let (a, b) = (server.site("a"), server.site("b"));
    let id = run(&server, 1, &[&a, &b]);
    let receipt = a.upload(&id, 1, &one_hot(0, 2), 3).await.expect("a receipt");
    server.kill();
    server.start_again();
    assert_eq!(a.upload(&id, 1, &one_hot(0, 2), 3).await.expect("the receipt"), receipt, "sent again");
    assert_eq!(a.finish(&receipt.update_id).await.expect("the receipt"), receipt, "ended again");
    b.upload(&id, 1, &one_hot(1, 2), 1).await.expect("a receipt");
    server.admin().round_becomes(&id, 1, "published").await;
    assert_eq!(read_f32(&server.admin().model(&id, 1), "counted"), [0.75, 0.25], "counted once each");
}

async fn a_round_that_was_complete_when_the_server_died_is_published_after_it(database: Database) {
    let mut server = Server::start(database);
    let (a, b) = (server.site("a"), server.site("b"));
    let id = run(&server, 1, &[&a, &b]);
    a.upload(&id, 1, &one_hot(0, 2), 1).await.expect("a receipt");
    b.upload(&id, 1, &one_hot(1, 2), 1).await.expect("a receipt");
    server.kill();
    server.start_again();
    server.admin().round_becomes(&id, 1, "published").await;
    assert_eq!(read_f32(&server.admin().model(&id, 1), "counted"), [0.5, 0.5]);
    assert_eq!(server.admin().run_becomes(&id, "complete").await["rounds_published"], 1);
}

async fn sites_that_wait_see_the_round_go_on_after_a_restart(database: Database) {
    let mut server = Server::start(database);
    let (a, b) = (server.site("a"), server.site("b"));
    let id = run(&server, 1, &[&a, &b]);
    let request = v1::WatchRunRequest { run_id: id.clone() };
    let mut waiting = a.client.clone().watch_run(request).await.expect("a stream").into_inner();
    let now = waiting.message().await.expect("the present state").expect("at once");
    assert_eq!((now.state(), now.run_id.as_str()), (RunState::Open, id.as_str()));
    server.kill();
    let lost = tokio::time::timeout(PATIENCE, waiting.message()).await.expect("the loss is noticed");
    assert!(!matches!(lost, Ok(Some(_))), "a killed server says nothing more: {lost:?}");
    server.start_again();

    let watching = a.clone();
    let run_id = id.clone();
    let end = tokio::spawn(async move {
        watching.watch_until(&run_id, |status| status.state() == RunState::Complete).await.expect("the end")
    });
    a.upload(&id, 1, &one_hot(0, 2), 1).await.expect("a receipt");
    b.upload(&id, 1, &one_hot(1, 2), 1).await.expect("a receipt");
    let status = end.await.expect("the watcher");
    assert_eq!(
        read_f32(&b.download(&status.global_digest, 0).await.expect("the model"), "counted"),
        [0.5, 0.5]
    );
}

async fn a_server_killed_inside_an_alignment_or_a_merge_does_it_again(database: Database) {
    // Short, so that the test need not wait; long enough that a busy machine renews it in time.
    let options = Options { config: "[work]\nlease_seconds = 2\n".into(), ..Options::default() };
    let mut server = Server::start_with(database, options);
    let (a, b) = (server.site("a"), server.site("b"));
    let mut rows = server.rows().await;
    let n = 4 << 20;
    let [of_a, of_b] = [1.0, 3.0].map(|value| file(&[f32s("counted", &[n], &vec![value; n])]));
    for leased in [
        "SELECT 1 FROM updates WHERE lease_token IS NOT NULL",
        "SELECT 1 FROM rounds WHERE lease_token IS NOT NULL",
    ] {
        let mut inside = false;
        for _ in 0..10 {
            let id = run(&server, 1, &[&a, &b]);
            a.upload(&id, 1, &of_a, 1).await.expect("a receipt");
            b.upload(&id, 1, &of_b, 1).await.expect("a receipt");
            let begun = std::time::Instant::now();
            while sqlx::query(leased).fetch_optional(&mut rows).await.expect("an answer").is_none() {
                if begun.elapsed() > std::time::Duration::from_secs(5) {
                    break;
                }
            }
            server.kill();
            inside = sqlx::query(leased).fetch_optional(&mut rows).await.expect("an answer").is_some();
            server.start_again();
            server.admin().round_becomes(&id, 1, "published").await;
            let model = read_f32(&server.admin().model(&id, 1), "counted");
            assert!(model.len() == n && model.iter().all(|value| *value == 2.0), "counted once each");
            if inside {
                break;
            }
        }
        assert!(inside, "ten kills and none while a lease was held: {leased}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_upload_that_is_broken_off_again_and_again_keeps_every_byte() {
    let server = Server::start(Database::sqlite());
    let a = server.site("a");
    let id = server.admin().create_run(&json!({
        "spec": null, "strategy": "mean", "cohort": ["a"],
        "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 600 },
    }));
    // Every element differs from every other, so that a chunk in a wrong place shows. Exact in an f32 up to 2^24.
    let n = 6 << 20;
    let values: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let bytes = file(&[f32s("counted", &[n], &values)]);
    for attempt in 0..60_u64 {
        let begun = a.begin(&id, 1, &bytes, 1).await.expect("the update");
        if begun.offset + (4 << 20) > bytes.len() as u64 {
            break;
        }
        let some = chunks(&begun.update_id, &bytes, begun.offset).into_iter().take(3).collect::<Vec<_>>();
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let stream = a.client.clone().send_update(ReceiverStream::new(receiver)).await.expect("a stream");
        let mut taken = true;
        for chunk in some {
            taken = taken && sender.send(chunk).await.is_ok();
        }
        if !taken {
            // The stream before is still ending, and this one was refused.
            let refused = stream.into_inner().message().await.expect_err("a reason");
            assert_eq!(refused.code(), tonic::Code::Aborted, "{refused}");
            continue;
        }
        // At another moment each time: while a chunk is on its way, is being written, or is written.
        tokio::time::sleep(std::time::Duration::from_micros(attempt * 137 % 3000)).await;
        drop((stream, sender));
    }
    // The last broken stream may still be ending when the next begins: then the server says so, and a site tries again.
    let mut tries = 0;
    let receipt = loop {
        match a.upload(&id, 1, &bytes, 1).await {
            Ok(receipt) => break receipt,
            Err(status) if status.code() == tonic::Code::Aborted && tries < 20 => tries += 1,
            Err(status) => panic!("{status}"),
        }
    };
    assert_eq!(receipt.digest, digest(&bytes));
    server.admin().round_becomes(&id, 1, "published").await;
    let model = read_f32(&server.admin().model(&id, 1), "counted");
    let wrong = model.iter().zip(&values).position(|(found, wanted)| found != wanted);
    assert_eq!((model.len(), wrong), (n, None), "what a receipt was given for is what was merged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_read_keeps_no_server_from_ending() {
    let mut server = Server::start(Database::sqlite());
    let a = server.site("a");
    let n = 8 << 20;
    let seed = server.admin().upload(&file(&[f32s("counted", &[n], &vec![1.0; n])]));
    let id = server.admin().create_run(&json!({
        "spec": null, "strategy": "mean", "cohort": ["a"], "seed_digest": seed,
        "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 600 },
    }));
    a.status(&id).await.expect("a status");
    let request = v1::DownloadRequest { digest: seed, offset: 0 };
    let mut unread = a.client.clone().download(request).await.expect("a stream").into_inner();
    unread.message().await.expect("a chunk").expect("the first chunk");
    let begun = std::time::Instant::now();
    let status = server.terminate();
    assert!(status.success(), "{status}: {}", server.log());
    assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_row_is_broken_stops_no_other() {
    let server = Server::start(Database::sqlite());
    let (a, b) = (server.site("a"), server.site("b"));
    let broken = run(&server, 1, &[&a]);
    let mut rows = server.rows().await;
    sqlx::query("UPDATE runs SET policy = '{}' WHERE id = $1")
        .bind(&broken)
        .execute(&mut rows)
        .await
        .expect("the row is changed");
    let id = run(&server, 1, &[&a, &b]);
    a.upload(&id, 1, &one_hot(0, 2), 1).await.expect("a receipt");
    b.upload(&id, 1, &one_hot(1, 2), 1).await.expect("a receipt");
    server.admin().round_becomes(&id, 1, "published").await;
    assert!(server.log().contains(&broken), "the log names the run that cannot go on");
}

async fn a_data_folder_is_one_process_s_until_that_ends(database: Database) {
    let mut server = Server::start(database);
    let (code, said) = server.start_another();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another process of fedbasin-server uses it"), "{said}");
    server.kill();
    server.start_again();
    assert_eq!(server.admin().get("/v1/runs").status, 200, "the dead one's hold is gone");
}
