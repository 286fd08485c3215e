//! Everything a site or an operator can send that is wrong. Each case: a clear error of the right code, nothing lost,
//! and the round goes on: after every one the same site sends a good update, and the round publishes the right model.

use fedbasin_proto::v1::{self, UpdateState};
use fedbasin_tests::{
    Database, Options, Refusal, Server, Site, assert_refused,
    checkpoint::{Entry, f32s, file, with_header},
    chunks, digest, on_both_databases,
};
use serde_json::{Value, json};
use tonic::{Code, Status};

on_both_databases!(
    every_bad_checkpoint_is_rejected_and_a_good_one_is_taken_after_it,
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

/// An announcement of these bytes, to be changed.
fn announce(run: &str, bytes: &[u8]) -> v1::BeginUpdateRequest {
    v1::BeginUpdateRequest {
        run_id: run.to_owned(),
        round: 1,
        digest: digest(bytes),
        size: bytes.len() as u64,
        num_examples: 1,
        ..v1::BeginUpdateRequest::default()
    }
}

fn with_entries(change: impl FnOnce(&mut Vec<Entry>)) -> Vec<u8> {
    let mut entries = entries(1.0);
    change(&mut entries);
    file(&entries)
}

/// Every way a file can be wrong for a run whose layout is known.
fn bad_checkpoints() -> Vec<(&'static str, Vec<u8>)> {
    let whole = good(1.0);
    let cut = |n: usize| whole[..whole.len() - n].to_vec();
    let with_value = |value: f32, at: usize| {
        with_entries(|entries| entries[1].data[at * 4..][..4].copy_from_slice(&value.to_le_bytes()))
    };
    let header = |text: &str| with_header(text, &[0; 32]);
    vec![
        ("truncated by one byte", cut(1)),
        ("truncated within the header", whole[..20].to_vec()),
        ("bytes behind the data", [&whole[..], &[0; 4]].concat()),
        ("text", b"this is not a safetensors file at all".to_vec()),
        ("zeros", vec![0; 64]),
        ("a pickled PyTorch file's first bytes", [b"PK\x03\x04".as_slice(), &[0; 60]].concat()),
        ("a header longer than the file", [&u64::MAX.to_le_bytes()[..], &[b'{'; 32]].concat()),
        ("a header that is no JSON", header("{\"fc.bias\": ")),
        ("a header that is a list", header("[1, 2, 3]")),
        ("no tensor", header("{}")),
        ("a missing tensor", with_entries(|entries| drop(entries.remove(0)))),
        ("an extra tensor", with_entries(|entries| entries.push(f32s("fc.more", &[1], &[1.0])))),
        ("a duplicate tensor", with_entries(|entries| entries.push(f32s("fc.bias", &[2], &[1.0, 1.0])))),
        ("a renamed tensor", with_entries(|entries| entries[0].name = "fc.bios".into())),
        (
            "a name that looks like a path",
            with_entries(|entries| entries[0].name = "../../etc/passwd".into()),
        ),
        ("another shape of the same size", with_entries(|entries| entries[1].shape = vec![3, 2])),
        ("another rank", with_entries(|entries| entries[1].shape = vec![6])),
        ("another size", with_entries(|entries| entries[0] = f32s("fc.bias", &[3], &[1.0; 3]))),
        (
            "another dtype",
            with_entries(|entries| {
                entries[0] = Entry { dtype: "F16".into(), data: vec![0; 4], ..entries[0].clone() };
            }),
        ),
        ("an unknown dtype", with_entries(|entries| entries[0].dtype = "Q4".into())),
        ("a shape that does not fit the data", with_entries(|entries| entries[1].data.truncate(20))),
        ("a shape whose size overflows", with_entries(|entries| entries[1].shape = vec![usize::MAX, 3])),
        ("NaN in the first element", with_value(f32::NAN, 0)),
        ("NaN in the last element", with_value(f32::NAN, 5)),
        ("infinity", with_value(f32::INFINITY, 2)),
        ("minus infinity", with_value(f32::NEG_INFINITY, 3)),
        (
            "overlapping tensors",
            header(
                r#"{"fc.bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"fc.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]}}"#,
            ),
        ),
        (
            "a gap between tensors",
            header(
                r#"{"fc.bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"fc.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[8,32]},"x":{"dtype":"F32","shape":[0],"data_offsets":[40,40]}}"#,
            ),
        ),
    ]
}

async fn every_bad_checkpoint_is_rejected_and_a_good_one_is_taken_after_it(database: Database) {
    let scene = Scene::new(database);
    for (what, bytes) in bad_checkpoints() {
        scene.rejects(what, &bytes).await;
    }
    scene.goes_on().await;
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
async fn each_bad_checkpoint_alone_leaves_its_site_able_to_go_on() {
    // The cases before share one round; here a few stand alone, so that none hides behind another.
    for (what, bytes) in bad_checkpoints().into_iter().step_by(7) {
        let scene = Scene::new(Database::sqlite());
        scene.rejects(what, &bytes).await;
        scene.goes_on().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_digest_that_is_not_that_of_the_bytes_is_found_at_the_end() {
    let scene = Scene::new(Database::sqlite());
    let bytes = good(1.0);
    let announced = announce(&scene.run, &good(2.0));
    let begun = scene.a.begin_as(announced).await.expect("an update");
    scene.a.send(chunks(&begun.update_id, &bytes, 0)).await.expect("the bytes are a checkpoint");
    let message =
        assert_refused(scene.a.finish(&begun.update_id).await, Code::InvalidArgument, "invalid-checkpoint");
    assert!(message.contains("digest"), "{message}");
    assert_eq!(scene.a.update(&begun.update_id).await.expect("the update").state(), UpdateState::Rejected);
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
async fn more_bytes_than_announced_are_rejected() {
    let scene = Scene::new(Database::sqlite());
    let bytes = good(1.0);
    let mut announced = announce(&scene.run, &bytes);
    announced.size -= 4;
    let begun = scene.a.begin_as(announced).await.expect("an update");
    let sent = scene.a.send(chunks(&begun.update_id, &bytes, 0)).await;
    assert_refused(sent, Code::InvalidArgument, "invalid-checkpoint");
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
async fn a_chunk_of_more_than_a_mebibyte_is_too_large() {
    let scene = Scene::new(Database::sqlite());
    let bytes = file(&[f32s("fc.bias", &[500_000], &vec![0.5; 500_000])]);
    let begun = scene.a.begin(&scene.run, 1, &bytes, 1).await.expect("an update");
    let crc32c = crc32c::crc32c(&bytes);
    let chunk = v1::UpdateChunk { update_id: begun.update_id, offset: 0, data: bytes.into(), crc32c };
    let refusal = Refusal::from(scene.a.send(vec![chunk]).await.expect_err("too large"));
    assert_eq!(
        (refusal.code, refusal.name.as_str()),
        (Code::ResourceExhausted, "too-large"),
        "{}",
        refusal.message
    );
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_larger_than_the_server_takes_is_refused_before_its_bytes() {
    let scene = Scene::new(Database::sqlite());
    for size in [4_194_305, u64::MAX] {
        let announced = v1::BeginUpdateRequest { size, ..announce(&scene.run, &good(1.0)) };
        let message = assert_refused(scene.a.begin_as(announced).await, Code::ResourceExhausted, "too-large");
        assert!(message.contains("4194304"), "a message says what is taken: {message}");
    }
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_announcements_are_invalid_arguments() {
    let scene = Scene::new(Database::sqlite());
    let announced = || announce(&scene.run, &good(1.0));
    let metric = |name: &str, value: f64| v1::BeginUpdateRequest {
        metrics: [(name.to_owned(), value)].into(),
        ..announced()
    };
    let many = (0..65).map(|i| (format!("m{i}"), 0.0)).collect();
    let cases = [
        ("num_examples of 0", v1::BeginUpdateRequest { num_examples: 0, ..announced() }),
        (
            "num_examples just absurd",
            v1::BeginUpdateRequest { num_examples: 1_000_000_000_001, ..announced() },
        ),
        // What -1 becomes in a program that casts it.
        ("num_examples below 0", v1::BeginUpdateRequest { num_examples: u64::MAX, ..announced() }),
        ("no digest", v1::BeginUpdateRequest { digest: String::new(), ..announced() }),
        ("a digest that is none", v1::BeginUpdateRequest { digest: "g".repeat(64), ..announced() }),
        ("a short digest", v1::BeginUpdateRequest { digest: "ab".repeat(31), ..announced() }),
        (
            "a digest in upper case",
            v1::BeginUpdateRequest { digest: digest(b"x").to_uppercase(), ..announced() },
        ),
        ("size 0", v1::BeginUpdateRequest { size: 0, ..announced() }),
        ("a NaN metric", metric("loss", f64::NAN)),
        ("an infinite metric", metric("loss", f64::INFINITY)),
        ("a metric without a name", metric("", 0.0)),
        ("a metric with a long name", metric(&"x".repeat(65), 0.0)),
        ("too many metrics", v1::BeginUpdateRequest { metrics: many, ..announced() }),
    ];
    for (what, request) in cases {
        refused_as(what, scene.a.begin_as(request).await, Code::InvalidArgument, "invalid-argument");
    }
    let most = v1::BeginUpdateRequest { num_examples: 1_000_000_000_000, ..announced() };
    scene.a.begin_as(most).await.expect("10^12 examples are just within the limit");
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_or_missing_token_is_unauthenticated_on_every_call() {
    let scene = Scene::new(Database::sqlite());
    let url = &scene.server.grpc;
    for token in [None, Some("wrong"), Some(""), Some("fbs_wrong"), Some(&*scene.server.admin_token())] {
        let stranger = scene.a.with_token(url, token);
        let refused =
            |status: Status| assert_refused(Err::<(), _>(status), Code::Unauthenticated, "unauthenticated");
        let mut client = stranger.client.clone();
        refused(client.list_runs(v1::ListRunsRequest {}).await.expect_err("no token"));
        refused(
            client.watch_run(v1::WatchRunRequest { run_id: scene.run.clone() }).await.expect_err("no token"),
        );
        refused(stranger.download(&digest(&good(0.0)), 0).await.expect_err("no token"));
        refused(stranger.begin(&scene.run, 1, &good(1.0), 1).await.expect_err("no token"));
        refused(stranger.send(chunks("x", &good(1.0), 0)).await.expect_err("no token"));
        refused(stranger.finish("x").await.expect_err("no token"));
        refused(stranger.update("x").await.expect_err("no token"));
    }
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
async fn a_run_that_cannot_work_is_not_created() {
    let scene = Scene::new(Database::sqlite());
    let admin = scene.server.admin();
    let policy = |change: &str, value: Value| {
        let mut policy = json!({ "rounds": 1, "quorum": 2, "deadline_seconds": 600 });
        policy[change] = value;
        policy
    };
    let run = |change: &str, value: Value| {
        let mut run = json!({
            "spec": spec(), "strategy": "aligned", "cohort": ["a", "b"],
            "policy": policy("quorum", 2.into()), "seed_digest": digest(&good(0.0)),
        });
        run[change] = value;
        run
    };
    let misfit = json!({ "format": "fedbasin.spec/1", "groups": {}, "tensors": { "fc.bias": [null] } });
    let wrong_size = json!({ "format": "fedbasin.spec/1", "groups": { "h": { "size": 5, "kind": "symmetric" } },
        "tensors": { "fc.bias": ["h"], "fc.weight": ["h", null] } });
    let cases = [
        ("a spec that lacks a tensor of the seed", run("spec", misfit), 422),
        ("a spec of another size", run("spec", wrong_size), 422),
        ("a spec that is none", run("spec", json!({ "format": "fedbasin.spec/1" })), 422),
        ("no spec, but a strategy that aligns", run("spec", Value::Null), 422),
        ("an unknown strategy", run("strategy", "median".into()), 422),
        ("an empty cohort", run("cohort", json!([])), 422),
        ("a site twice", run("cohort", json!(["a", "a"])), 422),
        ("an unknown site", run("cohort", json!(["a", "nobody"])), 404),
        ("an unknown seed", run("seed_digest", digest(b"nothing").into()), 404),
        ("a seed digest that is none", run("seed_digest", "abc".into()), 422),
        ("an id that is no slug", run("id", "../x".into()), 422),
        ("no rounds", run("policy", policy("rounds", 0.into())), 422),
        ("a quorum above the cohort", run("policy", policy("quorum", 3.into())), 422),
        ("a quorum of 0", run("policy", policy("quorum", 0.into())), 422),
        ("a deadline of 0", run("policy", policy("deadline_seconds", 0.into())), 422),
        ("a negative deadline", run("policy", policy("deadline_seconds", (-1).into())), 422),
        ("a misspelt policy", run("policy", policy("qourum", 1.into())), 422),
        ("a misspelt field", run("polizy", json!({})), 422),
    ];
    for (what, body, status) in cases {
        let answer = admin.post("/v1/runs", &body);
        assert_eq!(answer.status, status, "{what}: {}", String::from_utf8_lossy(&answer.body));
        let code = answer.json()["code"].as_str().unwrap_or_default().to_owned();
        let known = match (status, what) {
            (404, _) => code == "not-found",
            // The spec and the seed do not fit each other: whose fault that is, who can say.
            (_, "a spec that lacks a tensor of the seed" | "a spec of another size") => {
                code.starts_with("invalid-")
            }
            _ => code == "invalid-argument",
        };
        assert!(known, "{what}: the code is {code:?}");
        answer.assert_problem(status, &code);
    }
    assert_eq!(admin.get("/v1/runs").json()["runs"].as_array().map(Vec::len), Some(1), "none of them exists");
    let taken = admin.post("/v1/runs", &run("id", scene.run.as_str().into()));
    taken.assert_problem(409, "conflict");
    scene.goes_on().await;
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
