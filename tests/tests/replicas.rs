//! Several servers and workers on one Postgres and one storage: a folder that all see, and an S3-compatible bucket.

use fedbasin_proto::v1::RunState;
use fedbasin_tests::{
    Bucket, Database, Options, Server, Site,
    checkpoint::{f32s, file, one_hot, one_hot_spec, read_f32},
    chunks, digest, eventually, server_binary,
};
use serde_json::json;
use tonic::Code;

/// What replicas share besides the database; ends with the value.
enum Storage {
    Folder(tempfile::TempDir),
    Bucket(Bucket),
}

impl Storage {
    fn folder() -> Self {
        Self::Folder(tempfile::tempdir().expect("a folder"))
    }

    fn bucket() -> Self {
        Self::Bucket(Bucket::start())
    }

    /// Options of a server that leaves the work to others.
    fn options(&self, work: &str) -> Options {
        let shared = match self {
            Self::Folder(folder) => Options::in_folder(folder.path()),
            Self::Bucket(bucket) => bucket.options(),
        };
        shared.only_serving(work)
    }
}

macro_rules! on_both_storages {
    ($($claim:ident),+ $(,)?) => {
        $(
            mod $claim {
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn in_a_folder() {
                    super::$claim(super::Storage::folder()).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn in_a_bucket() {
                    super::$claim(super::Storage::bucket()).await;
                }
            }
        )+
    };
}

on_both_storages!(
    an_upload_goes_on_at_another_replica_and_any_worker_merges,
    of_two_replicas_that_write_one_upload_one_goes_on,
);

fn run(server: &Server, sites: &[&Site]) -> String {
    let cohort: Vec<&str> = sites.iter().map(|site| site.id.as_str()).collect();
    server.admin().create_run(&json!({
        "spec": one_hot_spec(), "strategy": "aligned", "cohort": cohort,
        "policy": { "rounds": 1, "quorum": cohort.len(), "deadline_seconds": 600 },
    }))
}

/// 20 MiB, so that the server acknowledges some while the stream is open.
fn large() -> (Vec<f32>, Vec<u8>) {
    let values: Vec<f32> = (0..5 << 20).map(|i| (i % 1000) as f32).collect();
    let bytes = file(&[f32s("counted", &[values.len()], &values)]);
    (values, bytes)
}

async fn an_upload_goes_on_at_another_replica_and_any_worker_merges(storage: Storage) {
    let mut first = Server::start_with(Database::postgres().await, storage.options("lease_seconds = 2"));
    let second = first.beside(false);
    let mut workers = [first.beside(true), first.beside(true)];
    let (a, b) = (first.site("a"), first.site("b"));
    let there = |site: &Site| Site::new(&site.id, &second.grpc, &site.token);
    let id = run(&first, &[&a, &b]);
    let (values, bytes) = large();

    let begun = a.begin(&id, 1, &bytes, 1).await.expect("an update");
    let mut sending = a.open_stream(&chunks(&begun.update_id, &bytes, 0)[..14]).await;
    let durable = sending.acknowledged().await.expect("progress");
    assert!(durable >= 8 << 20, "{durable}");
    first.kill();

    let a = there(&a);
    let resumed = a.begin(&id, 1, &bytes, 1).await.expect("the same update");
    assert_eq!(resumed.update_id, begun.update_id);
    assert!(resumed.offset >= durable, "{} of {durable} acknowledged bytes are there", resumed.offset);
    a.send(chunks(&begun.update_id, &bytes, resumed.offset)).await.expect("the rest");
    let receipt = a.finish(&begun.update_id).await.expect("a receipt");
    assert_eq!((receipt.digest.clone(), receipt.size), (digest(&bytes), bytes.len() as u64));

    // Of two workers one goes without a word, perhaps with a lease in its hands.
    there(&b).upload(&id, 1, &bytes, 1).await.expect("a receipt");
    workers[0].kill();
    second.admin().round_becomes(&id, 1, "published").await;
    assert_eq!(read_f32(&second.admin().model(&id, 1), "counted"), values);
    first.start_again();
    assert_eq!(a.finish(&begun.update_id).await.expect("the receipt"), receipt);
    assert_eq!(
        read_f32(&first.admin().model(&id, 1), "counted"),
        values,
        "the same at a replica that was away"
    );
}

async fn of_two_replicas_that_write_one_upload_one_goes_on(storage: Storage) {
    let first = Server::start_with(Database::postgres().await, storage.options(""));
    let second = first.beside(false);
    let _worker = first.beside(true);
    let a = first.site("a");
    let there = Site::new(&a.id, &second.grpc, &a.token);
    let id = run(&first, &[&a]);
    let (values, bytes) = large();

    let begun = a.begin(&id, 1, &bytes, 1).await.expect("an update");
    let all = chunks(&begun.update_id, &bytes, 0);
    // Its connection hangs: the first replica still waits for more.
    let mut hanging = a.open_stream(&all[..9]).await;
    let durable = hanging.acknowledged().await.expect("progress");

    let resumed = there.begin(&id, 1, &bytes, 1).await.expect("the same update");
    assert_eq!(resumed.offset, durable, "what was acknowledged, wherever");
    let mut going_on = there.open_stream(&chunks(&begun.update_id, &bytes, durable)[..9]).await;
    let further = going_on.acknowledged().await.expect("progress");
    assert!(further > durable);

    // The first one wakes up, sends what it had, and learns that another was there first.
    for chunk in &all[9..18] {
        let _ = hanging.sender.send(chunk.clone()).await;
    }
    let told = hanging.acknowledged().await.expect_err("another went on");
    assert_eq!(told.code(), Code::Aborted, "{told}");

    drop(going_on);
    let rest = there.begin(&id, 1, &bytes, 1).await.expect("the same update").offset;
    there.send(chunks(&begun.update_id, &bytes, rest)).await.expect("the rest");
    let receipt = there.finish(&begun.update_id).await.expect("a receipt");
    assert_eq!(receipt.digest, digest(&bytes));
    second.admin().round_becomes(&id, 1, "published").await;
    assert_eq!(read_f32(&second.admin().model(&id, 1), "counted"), values);
}

#[test]
fn every_command_that_opens_a_bucket_can() {
    let bucket = Bucket::start();
    let options = bucket.options();
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("fedbasin.toml");
    std::fs::write(&config, &options.config).expect("a configuration file");
    for command in ["migrate", "fsck"] {
        let mut program = std::process::Command::new(server_binary());
        program.arg(command).arg("--config").arg(&config).arg("--data-dir").arg(folder.path().join("data"));
        let output = program.envs(options.environment.clone()).output().expect("the program runs");
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replica_commits_wakes_all_others() {
    let storage = Storage::folder();
    // By polling alone each step would take ten minutes.
    let first = Server::start_with(Database::postgres().await, storage.options("poll_ms = 600000"));
    let second = first.beside(false);
    let _worker = first.beside(true);
    let (a, b) = (first.site("a"), first.site("b"));
    let id = run(&first, &[&a, &b]);
    let watching = Site::new(&b.id, &second.grpc, &b.token);
    let run_id = id.clone();
    let end = tokio::spawn(async move {
        watching.watch_until(&run_id, |status| status.state() == RunState::Complete).await.expect("the end")
    });
    a.upload(&id, 1, &one_hot(0, 2), 1).await.expect("a receipt");
    b.upload(&id, 1, &one_hot(1, 2), 3).await.expect("a receipt");
    let status = end.await.expect("the watcher");
    assert_eq!(
        read_f32(&b.download(&status.global_digest, 0).await.expect("the model"), "counted"),
        [0.25, 0.75]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_slept_beyond_its_lease_changes_nothing() {
    let storage = Storage::folder();
    let first = Server::start_with(Database::postgres().await, storage.options("lease_seconds = 1"));
    let mut rows = first.rows().await;
    let (a, b) = (first.site("a"), first.site("b"));
    let n = 4 << 20;
    let [of_a, of_b] = [1.0, 3.0].map(|value| file(&[f32s("counted", &[n], &vec![value; n])]));
    let mut caught = false;
    for _ in 0..10 {
        let mut sleeper = first.beside(true);
        let id = run(&first, &[&a, &b]);
        a.upload(&id, 1, &of_a, 1).await.expect("a receipt");
        b.upload(&id, 1, &of_b, 1).await.expect("a receipt");
        let leased = "SELECT COUNT(*) FROM (SELECT 1 FROM updates WHERE lease_token IS NOT NULL
            UNION ALL SELECT 1 FROM rounds WHERE lease_token IS NOT NULL) AS leased";
        let begun = std::time::Instant::now();
        let mut inside = 0_i64;
        while inside == 0 && begun.elapsed().as_secs() < 5 {
            inside = sqlx::query_scalar(leased).fetch_one(&mut rows).await.expect("an answer");
        }
        sleeper.pause(true);
        let held: i64 = sqlx::query_scalar(leased).fetch_one(&mut rows).await.expect("an answer");
        let other = first.beside(true);
        first.admin().round_becomes(&id, 1, "published").await;
        let before = first.admin().model(&id, 1);
        sleeper.pause(false);
        if held > 0 {
            // It says so itself, and writes nothing: its lease is another's, or its transaction was ended for it.
            let told = || ["lease was lost", "failed"].iter().any(|word| sleeper.log().contains(word));
            eventually("the sleeper's word", || told().then_some(())).await;
            caught = true;
        }
        drop(other);
        let model = first.admin().model(&id, 1);
        assert_eq!(model, before, "published once");
        assert!(read_f32(&model, "counted").iter().all(|value| *value == 2.0), "counted once each");
        let counted: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM updates WHERE state = 'aligned' AND run_id = $1")
                .bind(&id)
                .fetch_one(&mut rows)
                .await
                .expect("an answer");
        assert_eq!(counted, 2);
        sleeper.kill();
        if caught {
            break;
        }
    }
    assert!(caught, "ten times, and no worker was caught with a lease");
}

/// What was altered in a bucket, or removed from it, behind the server's back is never merged: the round fails and says which.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_with_an_object_that_was_altered_or_removed_fails_and_says_so() {
    let bucket = Bucket::start();
    let server = Server::start_with(Database::postgres().await, bucket.options().only_serving(""));
    let (a, b) = (server.site("a"), server.site("b"));
    let admin = server.admin();
    let mut ends = Vec::new();
    for (place, what) in ["altered", "gone"].into_iter().enumerate() {
        let id = admin.create_run(&json!({
            "strategy": "mean", "cohort": ["a", "b"],
            "policy": { "rounds": 1, "quorum": 2, "deadline_seconds": 600 },
        }));
        // Each run's own bytes.
        let bytes = file(&[f32s("counted", &[2], &[1.0, place as f32])]);
        a.upload(&id, 1, &bytes, 1).await.expect("a receipt");
        b.upload(&id, 1, &file(&[f32s("counted", &[2], &[2.0, place as f32])]), 1).await.expect("a receipt");
        let object: String = sqlx::query_scalar("SELECT object FROM checkpoints WHERE digest = $1")
            .bind(digest(&bytes))
            .fetch_one(&mut server.rows().await)
            .await
            .expect("its row");
        let object = format!("all/checkpoints/{object}");
        let mut stored = bucket.get(&object).expect("its bytes");
        assert!(stored.len() == bytes.len() && stored != bytes, "encrypted, byte by byte");
        match what {
            // As valid as before, with another number.
            "altered" => {
                stored[bytes.len() - 6] ^= 0x10;
                bucket.put(&object, &stored);
            }
            _ => bucket.delete(&object),
        }
        ends.push((id, what, digest(&bytes)));
    }
    let _worker = server.beside(true);
    for (id, what, digest) in ends {
        let round = admin.round_becomes(&id, 1, "failed").await;
        let reason = round["reason"].as_str().expect("a reason");
        assert!(reason.contains(&digest) && reason.contains(what) && reason.contains("fsck"), "{reason}");
    }
}
