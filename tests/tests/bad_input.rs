//! What a site sends that is wrong, and how it goes on: nothing is lost, and after everything the same site sends a good update, and
//! the round publishes the right model. The table of all that can be sent is in `hostile/`.

use fedbasin_proto::v1::{self, UpdateState};
use fedbasin_tests::{
    Database, Options, Refusal, Server, Site, assert_refused,
    checkpoint::{Entry, f32s, file},
    chunks, digest, on_both_databases,
};
use serde_json::{Value, json};
use tonic::{Code, Status};

on_both_databases!(
    a_founding_round_refuses_what_does_not_fit_its_spec,
    a_second_different_update_conflicts_and_the_same_one_gets_the_same_receipt,
    an_update_for_another_round_or_another_run_is_refused,
    a_full_round_takes_no_more,
);

/// A run with a seed, so that the layout is known, and two sites.
struct Scene {
    server: Server,
    run: String,
    a: Site,
    b: Site,
}

fn entries(weight: f32) -> Vec<Entry> {
    vec![
        f32s("fc.bias", &[2], &[weight, 1.0]),
        f32s("fc.weight", &[2, 3], &[weight, 2.0, 3.0, 4.0, 5.0, 6.0]),
    ]
}

fn good(weight: f32) -> Vec<u8> {
    file(&entries(weight))
}

fn spec() -> Value {
    json!({ "format": "fedbasin.spec/1", "groups": {}, "tensors": { "fc.bias": [null], "fc.weight": [null, null] } })
}

impl Scene {
    fn new(database: Database) -> Self {
        Self::with(database, Some(good(0.0)), 2)
    }

    fn with(database: Database, seed: Option<Vec<u8>>, rounds: u32) -> Self {
        let options =
            Options { config: "[limits]\nmax_checkpoint_bytes = 4194304\n".into(), ..Options::default() };
        let server = Server::start_with(database, options);
        let admin = server.admin();
        let (a, b) = (server.site("a"), server.site("b"));
        let seed = seed.map(|seed| admin.upload(&seed));
        let run = admin.create_run(&json!({
            "spec": spec(), "strategy": "aligned", "cohort": ["a", "b"], "seed_digest": seed,
            "policy": { "rounds": rounds, "quorum": 2, "deadline_seconds": 600 },
        }));
        Self { server, run, a, b }
    }

    /// The round is unharmed: both sites are taken and counted once.
    async fn goes_on(&self) {
        self.a.upload(&self.run, 1, &good(8.0), 1).await.expect("a good update after a bad one");
        self.b.upload(&self.run, 1, &good(4.0), 3).await.expect("another site's update");
        self.server.admin().round_becomes(&self.run, 1, "published").await;
        let model = self.server.admin().model(&self.run, 1);
        assert_eq!(fedbasin_tests::checkpoint::read_f32(&model, "fc.bias"), [5.0, 1.0]);
    }

    /// Asserts that these bytes are refused as a checkpoint and that the update is on record as rejected, with the reason.
    async fn rejects(&self, what: &str, bytes: &[u8]) {
        let begun =
            self.a.begin(&self.run, 1, bytes, 1).await.unwrap_or_else(|status| panic!("{what}: {status}"));
        let sent = self.a.send(chunks(&begun.update_id, bytes, 0)).await;
        let result = match sent {
            Ok(_) => self.a.finish(&begun.update_id).await.map(|_| ()),
            Err(status) => Err(status),
        };
        println!("{what}: {}", refused_as(what, result, Code::InvalidArgument, "invalid-checkpoint"));
        let update = self.a.update(&begun.update_id).await.expect("the update");
        assert_eq!(update.state(), UpdateState::Rejected, "{what}");
        assert!(!update.reason.is_empty(), "{what}: no reason");
        assert!(update.receipt.is_none(), "{what}: a rejected update has no receipt");
        let entry = self.server.admin().round_site(&self.run, 1, "a");
        assert_eq!(
            (&entry["state"], &entry["reason"]),
            (&json!("rejected"), &json!(update.reason)),
            "{what}"
        );
    }
}

fn refused_as<T: std::fmt::Debug>(what: &str, result: Result<T, Status>, code: Code, name: &str) -> String {
    let refusal = match result {
        Ok(answer) => panic!("{what}: was taken: {answer:?}"),
        Err(status) => Refusal::from(status),
    };
    assert_eq!((refusal.code, refusal.name.as_str()), (code, name), "{what}: {}", refusal.message);
    assert!(refusal.message.len() > 15, "{what}: a message says what is wrong: {:?}", refusal.message);
    refusal.message
}

fn with_entries(change: impl FnOnce(&mut Vec<Entry>)) -> Vec<u8> {
    let mut entries = entries(1.0);
    change(&mut entries);
    file(&entries)
}

async fn a_founding_round_refuses_what_does_not_fit_its_spec(database: Database) {
    let scene = Scene::with(database, None, 1);
    scene
        .rejects(
            "a tensor that the spec does not know",
            &with_entries(|entries| {
                entries.push(f32s("fc.more", &[1], &[1.0]));
            }),
        )
        .await;
    scene.rejects("a rank that is not the spec's", &with_entries(|entries| entries[1].shape = vec![6])).await;
    assert!(
        scene.server.admin().run(&scene.run)["layout_digest"].is_null(),
        "a rejected update fixes no layout"
    );
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fewer_bytes_than_announced_are_incomplete_and_can_be_sent_on() {
    let scene = Scene::new(Database::sqlite());
    let bytes = good(8.0);
    let begun = scene.a.begin(&scene.run, 1, &bytes, 1).await.expect("an update");
    let half = bytes.len() / 2;
    let durable = scene.a.send(chunks(&begun.update_id, &bytes[..half], 0)).await.expect("half of it");
    assert_eq!(durable, half as u64);
    assert_refused(scene.a.finish(&begun.update_id).await, Code::FailedPrecondition, "incomplete");
    let again = scene.a.begin(&scene.run, 1, &bytes, 1).await.expect("the same update");
    assert_eq!((again.update_id, again.offset), (begun.update_id, half as u64), "nothing is lost");
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_out_of_place_or_damaged_is_sent_again_from_the_offset_given() {
    let scene = Scene::new(Database::sqlite());
    let bytes = good(8.0);
    let begun = scene.a.begin(&scene.run, 1, &bytes, 1).await.expect("an update");
    let out_of_place = chunks(&begun.update_id, &bytes, 8);
    assert_refused(scene.a.send(out_of_place).await, Code::Aborted, "offset-mismatch");
    let mut damaged = chunks(&begun.update_id, &bytes, 0);
    damaged[0].crc32c ^= 1;
    assert_refused(scene.a.send(damaged).await, Code::Aborted, "offset-mismatch");
    assert_eq!(scene.a.begin(&scene.run, 1, &bytes, 1).await.expect("the same update").offset, 0);
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_site_cannot_touch_the_update_of_another() {
    let scene = Scene::new(Database::sqlite());
    let bytes = good(8.0);
    let begun = scene.a.begin(&scene.run, 1, &bytes, 1).await.expect("an update");
    let id = &begun.update_id;
    assert_refused(scene.b.send(chunks(id, &good(1.0), 0)).await, Code::NotFound, "not-found");
    assert_refused(scene.b.finish(id).await, Code::NotFound, "not-found");
    assert_refused(scene.b.update(id).await, Code::NotFound, "not-found");
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_checkpoints_of_a_sites_own_runs_can_be_downloaded() {
    let scene = Scene::new(Database::sqlite());
    let stranger = scene.server.site("stranger");
    let seed = digest(&good(0.0));
    assert_eq!(scene.a.download(&seed, 0).await.expect("the seed"), good(0.0));
    assert_refused(stranger.download(&seed, 0).await, Code::NotFound, "not-found");
    assert_refused(scene.a.download(&digest(b"nothing"), 0).await, Code::NotFound, "not-found");
    assert_refused(scene.a.download("../../etc/passwd", 0).await, Code::InvalidArgument, "invalid-argument");
    let size = good(0.0).len() as u64;
    let beyond = Refusal::from(scene.a.download(&seed, size + 1).await.expect_err("beyond the end"));
    assert_eq!(beyond.code, Code::OutOfRange, "{}", beyond.message);
    // Another site's update is nobody else's to read.
    scene.b.upload(&scene.run, 1, &good(4.0), 3).await.expect("a receipt");
    assert_refused(scene.a.download(&digest(&good(4.0)), 0).await, Code::NotFound, "not-found");
    scene.goes_on().await;
}

async fn a_second_different_update_conflicts_and_the_same_one_gets_the_same_receipt(database: Database) {
    let scene = Scene::new(database);
    let under_way =
        scene.a.begin(&scene.run, 1, &good(7.0), 1).await.expect("an update that is not finished");
    scene.a.send(chunks(&under_way.update_id, &good(7.0), 0)).await.expect("its bytes");
    let receipt = scene.a.upload(&scene.run, 1, &good(8.0), 1).await.expect("a receipt");
    let second = scene.a.begin(&scene.run, 1, &good(9.0), 1).await;
    assert_refused(second, Code::AlreadyExists, "conflict");
    assert_refused(scene.a.finish(&under_way.update_id).await, Code::AlreadyExists, "conflict");
    let again = scene.a.begin(&scene.run, 1, &good(8.0), 1).await.expect("the same update");
    assert_eq!(
        (again.update_id.as_str(), again.receipt.as_ref()),
        (receipt.update_id.as_str(), Some(&receipt))
    );
    assert_eq!(scene.a.finish(&receipt.update_id).await.expect("the receipt"), receipt);
    scene.goes_on().await;
}

async fn an_update_for_another_round_or_another_run_is_refused(database: Database) {
    let scene = Scene::new(database);
    let admin = scene.server.admin();
    let stranger = scene.server.site("stranger");
    assert_refused(stranger.begin(&scene.run, 1, &good(1.0), 1).await, Code::NotFound, "not-found");
    assert_refused(scene.a.begin("no-such-run", 1, &good(1.0), 1).await, Code::NotFound, "not-found");
    for round in [0, 2, u32::MAX] {
        assert_refused(scene.a.begin(&scene.run, round, &good(1.0), 1).await, Code::NotFound, "not-found");
    }
    assert_refused(scene.a.finish("no-such-update").await, Code::NotFound, "not-found");
    let watched = stranger.client.clone().watch_run(v1::WatchRunRequest { run_id: scene.run.clone() }).await;
    assert_refused(watched, Code::NotFound, "not-found");
    scene.goes_on().await;

    // Round 1 is over now, and a is in it already. Round 2 is open.
    assert_refused(scene.a.begin(&scene.run, 1, &good(9.0), 1).await, Code::AlreadyExists, "conflict");
    fedbasin_tests::eventually("round 2 opens", || {
        (admin.run(&scene.run)["current_round"] == 2).then_some(())
    })
    .await;
    scene.a.upload(&scene.run, 2, &good(9.0), 1).await.expect("a receipt");
}

async fn a_full_round_takes_no_more(database: Database) {
    let server = Server::start(database);
    let sites = ["a", "b", "c"].map(|id| server.site(id));
    let admin = server.admin();
    let run = admin.create_run(&json!({
        "spec": spec(), "strategy": "aligned", "cohort": ["a", "b", "c"],
        "policy": { "rounds": 1, "quorum": 2, "max_updates": 2, "deadline_seconds": 600 },
    }));
    let late = sites[2].begin(&run, 1, &good(1.0), 1).await.expect("an update");
    sites[2].send(chunks(&late.update_id, &good(1.0), 0)).await.expect("its bytes");
    sites[0].upload(&run, 1, &good(8.0), 1).await.expect("a receipt");
    sites[1].upload(&run, 1, &good(4.0), 3).await.expect("a receipt");
    // The round holds all it takes, and may have left collecting already: both answers are the truth at their moment.
    let refusal = Refusal::from(sites[2].finish(&late.update_id).await.expect_err("a full round"));
    let possible = [(Code::Aborted, "round-full"), (Code::FailedPrecondition, "round-closed")];
    assert!(possible.contains(&(refusal.code, refusal.name.as_str())), "{refusal:?}");
    admin.round_becomes(&run, 1, "published").await;
    assert_eq!(admin.round_site(&run, 1, "c")["state"], "declined", "good, but not needed");
    assert_eq!(fedbasin_tests::checkpoint::read_f32(&admin.model(&run, 1), "fc.bias"), [5.0, 1.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_are_declined_or_abandoned_do_not_stay_open() {
    let options = Options { config: "[limits]\nidle_timeout_seconds = 1\n".into(), ..Options::default() };
    let server = Server::start_with(Database::sqlite(), options);
    let sites = ["a", "b", "c"].map(|id| server.site(id));
    let admin = server.admin();
    let policy = json!({ "rounds": 1, "quorum": 1, "max_updates": 1, "deadline_seconds": 600 });
    let run = admin.create_run(&json!({
        "spec": null, "strategy": "mean", "cohort": ["a", "b", "c"], "policy": policy,
    }));
    // One is whole and never finished, one ends in the middle.
    let whole = sites[1].begin(&run, 1, &good(1.0), 1).await.expect("an update");
    sites[1].send(chunks(&whole.update_id, &good(1.0), 0)).await.expect("its bytes");
    let bytes = good(2.0);
    let half = sites[2].begin(&run, 1, &bytes, 1).await.expect("an update");
    let mut cut = chunks(&half.update_id, &bytes, 0).remove(0);
    cut.data = cut.data.slice(..bytes.len() / 2);
    cut.crc32c = crc32c::crc32c(&cut.data);
    sites[2].send(vec![cut]).await.expect("half of its bytes");
    fedbasin_tests::eventually("abandoned uploads are closed", || {
        server.open_uploads().is_empty().then_some(())
    })
    .await;
    // They can still be gone on with.
    let again = sites[2].begin(&run, 1, &bytes, 1).await.expect("the same update");
    assert_eq!(again.offset, bytes.len() as u64 / 2);
    sites[2].send(chunks(&half.update_id, &bytes, again.offset)).await.expect("the rest");
    sites[0].upload(&run, 1, &good(8.0), 1).await.expect("a receipt");
    admin.round_becomes(&run, 1, "published").await;
    assert_eq!(admin.round_site(&run, 1, "c")["state"], "declined");
    fedbasin_tests::eventually("declined uploads are closed", || {
        server.open_uploads().is_empty().then_some(())
    })
    .await;
}
