//! A disk that is full or broken for a while, on both databases: sites are told to try again, nothing half-written counts, and all
//! goes on once the disk does.

use std::{fs, path::PathBuf, time::Duration};

use fedbasin_proto::v1::UpdateState;
use fedbasin_tests::{
    Database, Options, Server, Site, assert_refused,
    checkpoint::{f32s, file, read_f32},
    chunks, digest, eventually, on_both_databases,
};
use serde_json::json;
use tonic::Code;

on_both_databases!(
    a_full_disk_refuses_bytes_and_takes_them_once_there_is_room,
    what_a_disk_did_not_sync_is_not_acknowledged,
    a_merge_waits_for_room_on_the_disk,
    a_merge_waits_for_a_disk_that_syncs,
);

/// 4 MiB of numbers: several chunks.
const NUMBERS: usize = 1 << 20;

/// A server with a disk that fails when a test says so.
struct World {
    server: Server,
    fails: PathBuf,
    _folder: tempfile::TempDir,
}

impl World {
    /// With two sites and a run of theirs.
    fn new(database: Database) -> (Self, [Site; 2], String) {
        let folder = tempfile::tempdir().expect("a folder");
        let fails = folder.path().join("fails");
        let environment = vec![("FEDBASIN_DISK_FAILS", fails.display().to_string())];
        let server = Server::start_with(database, Options { environment, ..Options::default() });
        let sites = ["a", "b"].map(|id| server.site(id));
        let id = server.admin().create_run(&json!({
            "strategy": "mean", "cohort": ["a", "b"],
            "policy": { "rounds": 1, "quorum": 2, "deadline_seconds": 600 },
        }));
        (Self { server, fails, _folder: folder }, sites, id)
    }

    /// From now on the disk fails so: an action and how the files' names begin.
    fn fail(&self, how: &str) {
        fs::write(&self.fails, how).expect("written");
    }

    fn mend(&self) {
        fs::remove_file(&self.fails).expect("removed");
    }

    /// How many tries at merging count, once the last one is given back.
    async fn tries_that_count(&self, run: &str) -> i64 {
        let mut rows = self.server.rows().await;
        for _ in 0..100 {
            let tries =
                "SELECT CAST(attempts AS BIGINT) FROM rounds WHERE run_id = $1 AND lease_token IS NULL";
            let tries =
                sqlx::query_scalar(tries).bind(run).fetch_optional(&mut rows).await.expect("the round");
            if let Some(tries) = tries {
                return tries;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the try is never given back");
    }

    /// Nobody was lost, nobody counted twice, every byte is what its row says.
    async fn ends(&self, run: &str, value: f32) {
        self.server.admin().round_becomes(run, 1, "published").await;
        let merged = read_f32(&self.server.admin().model(run, 1), "counted");
        assert_eq!(merged.len(), NUMBERS);
        assert!(
            merged.iter().all(|&number| number.to_bits() == value.to_bits()),
            "{} is not {value}",
            merged[0]
        );
        let (clean, said) = self.server.fsck();
        assert!(clean, "{said}");
    }
}

fn model(value: f32) -> Vec<u8> {
    file(&[f32s("counted", &[NUMBERS], &vec![value; NUMBERS])])
}

/// The refusal that a client may answer by trying again, with the time after which gRPC's own retries do.
fn told_to_try_again<T: std::fmt::Debug>(result: Result<T, tonic::Status>) {
    let hint =
        result.as_ref().err().and_then(|status| status.metadata().get("grpc-retry-pushback-ms").cloned());
    let said = assert_refused(result, Code::Unavailable, "unavailable");
    assert!(said.contains("try again"), "{said}");
    assert_eq!(hint.expect("a hint"), "2000");
}

async fn a_full_disk_refuses_bytes_and_takes_them_once_there_is_room(database: Database) {
    let (world, [a, b], id) = World::new(database);
    let bytes = model(1.0);
    let begun = a.begin(&id, 1, &bytes, 1).await.expect("an update");
    let all = chunks(&begun.update_id, &bytes, 0);
    let held = a.send(all[..2].to_vec()).await.expect("room for two");
    assert_eq!(held, all[2].offset);

    world.fail(&format!("write {}", begun.update_id));
    told_to_try_again(a.send(all[2..].to_vec()).await);
    let again = a.begin(&id, 1, &bytes, 1).await.expect("the same update");
    assert!(again.offset >= held && again.offset < bytes.len() as u64, "{} of {held}", again.offset);
    b.upload(&id, 1, &model(3.0), 1).await.expect("another's file has room");
    world.mend();

    let receipt = a.upload(&id, 1, &bytes, 1).await.expect("a receipt");
    assert_eq!(receipt.update_id, begun.update_id);
    world.ends(&id, 2.0).await;
}

async fn what_a_disk_did_not_sync_is_not_acknowledged(database: Database) {
    let (world, [a, b], id) = World::new(database);
    let bytes = model(1.0);
    let begun = a.begin(&id, 1, &bytes, 1).await.expect("an update");
    world.fail(&format!("sync {}", begun.update_id));
    told_to_try_again(a.send(chunks(&begun.update_id, &bytes, 0)).await);
    assert_eq!(a.begin(&id, 1, &bytes, 1).await.expect("the same update").offset, 0, "nothing is trusted");
    world.mend();
    a.send(chunks(&begun.update_id, &bytes, 0)).await.expect("sent again");

    // All bytes are here; what makes them a checkpoint fails.
    world.fail(&format!("sync {}", digest(&bytes)));
    told_to_try_again(a.finish(&begun.update_id).await);
    let update = a.update(&begun.update_id).await.expect("the update");
    assert_eq!(update.state(), UpdateState::Receiving, "{update:?}");
    world.mend();
    a.upload(&id, 1, &bytes, 1).await.expect("a receipt");
    b.upload(&id, 1, &model(3.0), 1).await.expect("a receipt");
    world.ends(&id, 2.0).await;
}

async fn a_merge_waits_for_room_on_the_disk(database: Database) {
    a_merge_waits(database, "write merge-").await;
}

async fn a_merge_waits_for_a_disk_that_syncs(database: Database) {
    a_merge_waits(database, "sync merge-").await;
}

async fn a_merge_waits(database: Database, fails: &str) {
    let (world, [a, b], id) = World::new(database);
    world.fail(fails);
    a.upload(&id, 1, &model(1.0), 1).await.expect("a receipt");
    b.upload(&id, 1, &model(3.0), 1).await.expect("a receipt");
    let tried = || world.server.log().contains("merging a round failed").then_some(());
    eventually("the merge is tried", tried).await;
    assert_eq!(world.server.admin().round(&id, 1)["state"], "merging", "neither failed nor published");
    assert_eq!(world.tries_that_count(&id).await, 0, "the disk's failure is not the round's");
    world.mend();
    world.ends(&id, 2.0).await;
}
