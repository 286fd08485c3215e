//! The same behaviours of both databases: each claim below runs against SQLite, and against the Postgres that
//! `FEDBASIN_TEST_POSTGRES_URL` names (`tests/run` starts it). A fresh database a test.

use std::{collections::BTreeMap, time::Duration};

use rebasin::{AlignReport, Alignment, Checkpoint, Digest, Dtype, Layout, Spec, Tensor, TensorInfo};
use tempfile::TempDir;

use super::*;
use crate::{
    config::Secret,
    model::{NewRun, NewUpdate, Receipt, RunState, Strategy, Update, UpdateState},
    round::{Policy, State},
};

struct World {
    store: Store,
    config: Config,
    _folder: TempDir,
}

const LEASE: Duration = Duration::from_secs(60);

/// Runs `claim` against each database.
fn on_both<F: AsyncFn(World)>(claim: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        claim(world(None).await).await;
        match postgres_url() {
            Some(url) => claim(world(Some(&url)).await).await,
            // A note on standard error would be shown by no test runner.
            None => panic!(
                "it holds on SQLite, and was NOT RUN against Postgres: FEDBASIN_TEST_POSTGRES_URL is not set; \
                 run `tests/run tests`, which starts a Postgres, or name one of your own"
            ),
        }
    });
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test command tells by the environment where its Postgres is"
)]
fn postgres_url() -> Option<String> {
    std::env::var("FEDBASIN_TEST_POSTGRES_URL").ok()
}

async fn world(postgres: Option<&str>) -> World {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = Config { data_dir: folder.path().to_owned(), ..Config::default() };
    if let Some(url) = postgres {
        let name = format!("t{}", uuid::Uuid::now_v7().simple());
        sqlx::any::install_default_drivers();
        let admin = AnyPool::connect(url).await.expect("the test Postgres");
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&admin)
            .await
            .expect("a database");
        let (before, query) = url.split_once('?').map_or((url, ""), |(before, query)| (before, query));
        let base = before.rsplit_once('/').expect("a database in the URL").0;
        config.database_url = Some(Secret::new(format!("{base}/{name}?{query}")));
    }
    World { store: Store::open(&config).await.expect("a store"), config, _folder: folder }
}

fn layout() -> Layout {
    let tensor = |name: &str, shape: &[usize]| TensorInfo {
        name: name.into(),
        dtype: Dtype::F32,
        shape: shape.into(),
    };
    Layout::new(vec![
        tensor("fc1.weight", &[2, 3]),
        tensor("fc1.bias", &[2]),
        tensor("fc2.weight", &[1, 2]),
        tensor("fc2.bias", &[1]),
    ])
    .expect("a layout")
}

fn checkpoint(value: f32) -> Vec<u8> {
    let layout = layout();
    let tensors = layout
        .tensors()
        .iter()
        .map(|info| Tensor::from_f32(info, &vec![value; info.num_elements()]).expect("fits"));
    Checkpoint::new(layout.clone(), tensors.collect()).expect("fits").to_bytes()
}

impl World {
    async fn run(&self, cohort: &[&str], policy: Policy) -> crate::model::Run {
        for site in cohort {
            self.store.create_site(site, &format!("hash-{site}")).await.expect("enrolled");
        }
        let new = NewRun {
            id: "run".into(),
            strategy: Strategy::Aligned,
            spec: Some(Spec::mlp(&layout()).expect("a chain")),
            policy,
            seed: None,
            cohort: cohort.iter().map(ToString::to_string).collect(),
        };
        let run = self.store.create_run(new).await.expect("created");
        assert!(self.tick().await, "the first round opens");
        run
    }

    async fn tick(&self) -> bool {
        let run = self.store.run("run").await.expect("read").expect("there");
        self.store.reconcile_run(&run).await.expect("reconciled").changed
    }

    async fn begin(&self, site: &str, round: u32, bytes: &[u8]) -> Result<Update> {
        let new = NewUpdate {
            run_id: "run".into(),
            round,
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            num_examples: 10,
            metrics: BTreeMap::from([("loss".into(), 0.5)]),
        };
        self.store.begin_update(site, &new).await
    }

    async fn accept(&self, update: &Update, bytes: &[u8]) -> Result<Receipt> {
        let mut staging = self.store.staging(&update.id, update.size, Some(layout()))?;
        let held = usize::try_from(staging.written()).expect("small");
        staging.append(&bytes[held..])?;
        self.store.accept_update(update, staging.seal(Some(update.digest))?).await
    }

    async fn upload(&self, site: &str, round: u32, value: f32) -> Result<Receipt> {
        let bytes = checkpoint(value);
        let update = self.begin(site, round, &bytes).await?;
        self.accept(&update, &bytes).await
    }

    async fn round(&self, number: u32) -> crate::model::RoundRecord {
        self.store.round("run", number).await.expect("read").expect("there")
    }

    /// Aligns all that is due to the identity and publishes `value` as the model.
    async fn publish(&self, value: f32) -> Digest {
        while let Some(lease) = self.store.lease_alignment(LEASE).await.expect("leased") {
            assert!(self.store.finish_alignment(&lease, &identity(), &report()).await.expect("finished"));
        }
        let lease = self.store.lease_merge(LEASE).await.expect("leased").expect("a round to merge");
        let model = self.sealed("model", value);
        self.store.finish_merge(&lease, &model, &[]).await.expect("published").expect("the lease is held")
    }

    fn sealed(&self, name: &str, value: f32) -> Sealed {
        let bytes = checkpoint(value);
        let mut staging = self.store.staging(name, bytes.len() as u64, None).expect("opened");
        staging.append(&bytes).expect("fits");
        staging.seal(None).expect("whole")
    }
}

fn identity() -> Alignment {
    Alignment::identity(&Spec::mlp(&layout()).expect("a chain").check(&layout()).expect("fits"))
}

fn report() -> AlignReport {
    let spec = Spec::mlp(&layout()).expect("a chain").check(&layout()).expect("fits");
    let same = Checkpoint::from_bytes(&checkpoint(1.0)).expect("valid");
    rebasin::report(&spec, &same, &same, &Alignment::identity(&spec)).expect("a report")
}

fn policy(rounds: u32, quorum: u32) -> Policy {
    Policy { rounds, quorum, deadline_seconds: 3600, max_updates: None, failed_rounds_allowed: 0 }
}

#[test]
fn a_site_is_known_by_its_token_and_enrolled_once() {
    on_both(async |world| {
        world.store.create_site("a", "hash-a").await.expect("enrolled");
        assert_eq!(world.store.create_site("a", "other").await.expect_err("taken").code(), Code::Conflict);
        for bad in ["", "A", "-a", "a b", "a/b", &"a".repeat(64)] {
            assert_eq!(world.store.create_site(bad, "h").await.expect_err(bad).code(), Code::InvalidArgument);
        }
        assert_eq!(world.store.site_by_token_hash("hash-a").await.expect("read").as_deref(), Some("a"));
        assert_eq!(world.store.site_by_token_hash("hash-b").await.expect("read"), None);
        assert!(world.store.sites().await.expect("read")[0].last_seen_at_ms.is_some(), "the call was noted");
    });
}

#[test]
fn a_run_that_cannot_work_is_refused() {
    on_both(async |world| {
        world.run(&["a", "b"], policy(1, 1)).await;
        let good = NewRun {
            id: "other".into(),
            strategy: Strategy::Aligned,
            spec: Some(Spec::mlp(&layout()).expect("a chain")),
            policy: policy(1, 1),
            seed: None,
            cohort: vec!["a".into()],
        };
        let cases = [
            (NewRun { id: "run".into(), ..good.clone() }, Code::Conflict),
            (NewRun { cohort: vec!["nobody".into()], ..good.clone() }, Code::NotFound),
            (NewRun { cohort: vec!["a".into(), "a".into()], ..good.clone() }, Code::InvalidArgument),
            (NewRun { cohort: vec![], ..good.clone() }, Code::InvalidArgument),
            (NewRun { spec: None, ..good.clone() }, Code::InvalidArgument),
            (NewRun { policy: policy(1, 2), ..good.clone() }, Code::InvalidArgument),
            (NewRun { seed: Some(Digest::of(b"nothing")), ..good.clone() }, Code::NotFound),
        ];
        for (new, code) in cases {
            assert_eq!(world.store.create_run(new.clone()).await.expect_err("bad").code(), code, "{new:?}");
        }
        assert!(world.store.run("other").await.expect("read").is_none(), "nothing half-made");
        world.store.create_run(good).await.expect("a good one still works");
    });
}

#[test]
fn a_founding_round_takes_the_largest_update_as_reference_and_publishes() {
    on_both(async |world| {
        world.run(&["a", "b"], policy(2, 2)).await;
        assert_eq!(world.round(1).await.reference, None, "nothing to start from");
        world.upload("b", 1, 2.0).await.expect("accepted");
        assert!(world.store.lease_alignment(LEASE).await.expect("asked").is_none(), "no reference yet");
        assert!(!world.tick().await, "one is missing");
        world.upload("a", 1, 1.0).await.expect("accepted");
        assert!(world.tick().await);
        let record = world.round(1).await;
        assert_eq!(record.round.state, State::Merging);
        assert_eq!(record.reference, Some(Digest::of(&checkpoint(1.0))), "a tie goes to the first id");

        let global = world.publish(3.0).await;
        let run = world.store.run("run").await.expect("read").expect("there");
        assert_eq!((run.global, run.rounds_published), (Some(global), 1));
        assert!(world.tick().await, "round 2 opens");
        assert_eq!(world.round(2).await.reference, Some(global));
    });
}

#[test]
fn a_run_is_complete_when_its_rounds_are_published() {
    on_both(async |world| {
        world.run(&["a"], policy(1, 1)).await;
        world.upload("a", 1, 1.0).await.expect("accepted");
        assert!(world.tick().await);
        world.publish(1.0).await;
        assert!(world.tick().await);
        assert_eq!(world.store.run("run").await.expect("read").expect("there").state, RunState::Complete);
        assert!(!world.tick().await, "nothing more happens");
    });
}

#[test]
fn the_same_update_again_gives_the_same_receipt_and_another_is_a_conflict() {
    on_both(async |world| {
        world.run(&["a", "b"], policy(1, 2)).await;
        let bytes = checkpoint(1.0);
        let first = world.begin("a", 1, &bytes).await.expect("begun");
        let again = world.begin("a", 1, &bytes).await.expect("begun");
        assert_eq!(first.id, again.id, "idempotent while receiving");
        let other = world.begin("a", 1, &checkpoint(9.0)).await.expect("another may begin until one is held");
        let receipt = world.accept(&first, &bytes).await.expect("accepted");
        let held = world.begin("a", 1, &bytes).await.expect("begun");
        assert_eq!(held.receipt().as_ref(), Some(&receipt));
        assert_eq!(world.accept(&held, &bytes).await.expect("again"), receipt);
        let late = world.accept(&other, &checkpoint(9.0)).await.expect_err("second");
        assert_eq!(late.code(), Code::Conflict);
        let other = world.store.update_of_site("a", &other.id).await.expect("read");
        assert!(matches!(other.state, UpdateState::Declined { .. }), "{:?}", other.state);
        assert_eq!(world.begin("a", 1, &checkpoint(8.0)).await.expect_err("third").code(), Code::Conflict);
        assert_eq!(world.round(1).await.round.accepted, 1);
    });
}

#[test]
fn a_receipt_says_what_the_row_says_and_neither_changes() {
    on_both(async |world| {
        world.run(&["a"], policy(1, 1)).await;
        let bytes = checkpoint(1.0);
        let announce = async |size: u64, num_examples| {
            let (run_id, digest) = ("run".into(), Digest::of(&bytes));
            let metrics = BTreeMap::new();
            let new = NewUpdate { run_id, round: 1, digest, size, num_examples, metrics };
            world.store.begin_update("a", &new).await
        };
        let size = bytes.len() as u64;
        let stale = announce(size + 5, 3).await.expect("begun");
        let first = announce(size, 3).await.expect("corrected before a byte came");
        assert_eq!(first.id, stale.id);
        let mut staging = world.store.staging(&first.id, size, None).expect("opened");
        staging.append(&bytes).expect("fits");
        for (size, examples) in [(size + 5, 3), (size, 4)] {
            assert_eq!(announce(size, examples).await.expect_err("bytes are here").code(), Code::Conflict);
        }
        // Whoever finishes may have read the row before it was corrected.
        let receipt = world.store.accept_update(&stale, staging.seal(None).expect("whole")).await;
        let receipt = receipt.expect("accepted");
        assert_eq!((receipt.size, receipt.num_examples), (size, 3));
        let held = announce(size, 3).await.expect("the same");
        assert_eq!(held.receipt(), Some(receipt), "the row and the receipt are one");
        assert_eq!(announce(size, 4).await.expect_err("accepted").code(), Code::Conflict);
    });
}

#[test]
fn what_does_not_fit_the_spec_is_not_accepted_whoever_asks() {
    on_both(async |world| {
        world.run(&["a"], policy(1, 1)).await;
        let info = TensorInfo { name: "w".into(), dtype: Dtype::F32, shape: vec![1] };
        let tensor = Tensor::from_f32(&info, &[1.0]).expect("fits");
        let other = Layout::new(vec![info]).expect("a layout");
        let bytes = Checkpoint::new(other, vec![tensor]).expect("fits").to_bytes();
        let update = world.begin("a", 1, &bytes).await.expect("begun");
        let mut staging = world.store.staging(&update.id, update.size, None).expect("opened");
        staging.append(&bytes).expect("a checkpoint");
        let sealed = staging.seal(Some(update.digest)).expect("sealed");
        let error = world.store.accept_update(&update, sealed).await.expect_err("no tensor of the spec");
        assert!(error.code() == Code::InvalidCheckpoint && error.message().contains("spec"), "{error}");
        assert_eq!(
            world.store.run("run").await.expect("read").expect("there").layout,
            None,
            "not fixed by it"
        );
        world.upload("a", 1, 1.0).await.expect("a good one is taken");
    });
}

#[test]
fn of_a_sites_updates_the_held_one_counts_and_else_the_newest() {
    on_both(async |world| {
        world.run(&["a", "b"], policy(1, 2)).await;
        let all = async || world.store.updates_that_count("run", 1).await.expect("read");
        let of_a = async || {
            let found =
                world.store.update_that_counts("run", 1, "a").await.expect("read").map(|update| update.id);
            let among = all().await.into_iter().find(|update| update.site_id == "a").map(|update| update.id);
            assert_eq!(found, among, "asked for one site or for all");
            found
        };
        assert_eq!(of_a().await, None);
        let old = world.begin("a", 1, &checkpoint(1.0)).await.expect("begun");
        tokio::time::sleep(Duration::from_millis(3)).await;
        let new = world.begin("a", 1, &checkpoint(2.0)).await.expect("begun");
        assert_eq!(of_a().await.as_ref(), Some(&new.id));
        world.accept(&old, &checkpoint(1.0)).await.expect("accepted");
        assert_eq!(of_a().await.as_ref(), Some(&old.id));
        world.upload("b", 1, 3.0).await.expect("accepted");
        let sites: Vec<String> = all().await.into_iter().map(|update| update.site_id).collect();
        assert_eq!(sites, ["a", "b"], "one a site");
    });
}

#[test]
fn an_upload_goes_on_where_its_bytes_ended() {
    on_both(async |world| {
        world.run(&["a"], policy(1, 1)).await;
        let bytes = checkpoint(1.0);
        let update = world.begin("a", 1, &bytes).await.expect("begun");
        let mut staging = world.store.staging(&update.id, update.size, None).expect("opened");
        staging.append(&bytes[..100]).expect("fits");
        drop(staging);
        assert_eq!(world.store.staged_bytes(&update.id), 100);
        world.accept(&update, &bytes).await.expect("the rest completes it");
        assert_eq!(world.store.staged_bytes(&update.id), 0, "the upload's file is gone");
        let stored = world.store.checkpoint(&update.digest).await.expect("read").expect("stored");
        assert_eq!((stored.size, stored.layout), (bytes.len() as u64, layout()));
    });
}

#[test]
fn too_few_too_many_and_other_bytes_are_told_apart() {
    on_both(async |world| {
        world.run(&["a"], policy(1, 1)).await;
        let bytes = checkpoint(1.0);
        let seal = |bytes: &[u8], size: usize, digest: Digest| -> Result<Sealed> {
            let name = uuid::Uuid::now_v7().to_string();
            let mut staging = world.store.staging(&name, size as u64, None)?;
            staging.append(bytes)?;
            staging.seal(Some(digest))
        };
        let digest = Digest::of(&bytes);
        let last = bytes.len() - 1;
        assert_eq!(seal(&bytes[..last], bytes.len(), digest).expect_err("short").code(), Code::Incomplete);
        assert_eq!(seal(&bytes, last, digest).expect_err("long").code(), Code::InvalidCheckpoint);
        let wrong = seal(&checkpoint(2.0), bytes.len(), digest).expect_err("other bytes");
        assert!(wrong.message().contains("digest mismatch"), "{wrong}");
        assert!(seal(&bytes, bytes.len(), digest).is_ok());
    });
}

#[test]
fn a_closed_or_full_round_and_a_stranger_are_refused() {
    on_both(async |world| {
        world.store.create_site("stranger", "hash-stranger").await.expect("enrolled");
        world.run(&["a", "b", "c"], Policy { max_updates: Some(1), ..policy(1, 1) }).await;
        let b = world.begin("b", 1, &checkpoint(2.0)).await.expect("room yet");
        world.upload("a", 1, 1.0).await.expect("accepted");
        assert_eq!(world.begin("c", 1, &checkpoint(3.0)).await.expect_err("full").code(), Code::RoundFull);
        assert_eq!(world.accept(&b, &checkpoint(2.0)).await.expect_err("full").code(), Code::RoundFull);
        assert!(world.tick().await);
        assert_eq!(
            world.begin("c", 1, &checkpoint(3.0)).await.expect_err("closed").code(),
            Code::RoundClosed
        );
        assert_eq!(world.begin("c", 7, &checkpoint(3.0)).await.expect_err("no such").code(), Code::NotFound);
        let stranger = world.begin("stranger", 1, &checkpoint(3.0)).await.expect_err("not in the cohort");
        assert_eq!(stranger.code(), Code::NotFound);
    });
}

#[test]
fn uploads_under_way_are_declined_when_the_round_closes() {
    on_both(async |world| {
        world.run(&["a", "b"], Policy { max_updates: Some(1), ..policy(1, 1) }).await;
        let slow = world.begin("b", 1, &checkpoint(2.0)).await.expect("begun");
        drop(world.store.staging(&slow.id, slow.size, None).expect("opened"));
        world.upload("a", 1, 1.0).await.expect("accepted");
        assert!(world.tick().await);
        let slow = world.store.update_of_site("b", &slow.id).await.expect("read");
        assert!(matches!(slow.state, UpdateState::Declined { .. }));
        world.store.sweep_staging().await.expect("swept");
        assert!(!world.store.staged_names().expect("listed").contains(&slow.id), "its bytes are gone");
    });
}

#[test]
fn what_a_killed_process_left_in_the_staging_folder_is_swept_and_what_is_in_use_is_not() {
    on_both(async |world| {
        let old = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let write = |name: &str, modified: Option<std::time::SystemTime>| {
            let file = std::fs::File::create(world.store.staging_dir.join(name)).expect("a file");
            if let Some(modified) = modified {
                file.set_modified(modified).expect("set");
            }
        };
        let mine = world.store.scratch(Kind::Merge);
        for name in ["merge-old", "seed-old", mine.name()] {
            write(name, Some(old));
        }
        write("seed-new", None);
        world.store.sweep_staging().await.expect("swept");
        let mut names = world.store.staged_names().expect("listed");
        names.sort();
        assert_eq!(names, [mine.name(), "seed-new"], "that of this process, and one that may be another's");
        drop(mine);
        assert_eq!(world.store.staged_names().expect("listed"), ["seed-new"], "it goes with its guard");
    });
}

#[test]
fn the_first_update_fixes_the_layout() {
    on_both(async |world| {
        world.run(&["a", "b"], policy(1, 2)).await;
        world.upload("a", 1, 1.0).await.expect("accepted");
        assert_eq!(world.store.run("run").await.expect("read").expect("there").layout, Some(layout()));
        let info = TensorInfo { name: "w".into(), dtype: Dtype::F32, shape: vec![1] };
        let tensor = Tensor::from_f32(&info, &[1.0]).expect("fits");
        let layout = Layout::new(vec![info]).expect("a layout");
        let bytes = Checkpoint::new(layout, vec![tensor]).expect("fits").to_bytes();
        let update = world.begin("b", 1, &bytes).await.expect("begun");
        let mut staging = world.store.staging(&update.id, update.size, None).expect("opened");
        staging.append(&bytes).expect("a checkpoint");
        let sealed = staging.seal(Some(update.digest)).expect("sealed");
        let error = world.store.accept_update(&update, sealed).await.expect_err("another layout");
        assert_eq!(error.code(), Code::InvalidCheckpoint);
        let update = world.store.update_of_site("b", &update.id).await.expect("read");
        assert!(matches!(update.state, UpdateState::Rejected { .. }));
        world.upload("b", 1, 2.0).await.expect("a corrected update is taken");
    });
}

#[test]
fn a_lease_is_exclusive_until_it_expires_and_an_old_fence_cannot_write() {
    on_both(async |world| {
        world.run(&["a"], policy(1, 1)).await;
        world.upload("a", 1, 1.0).await.expect("accepted");
        world.tick().await;
        let lost = world.store.lease_alignment(Duration::ZERO).await.expect("asked").expect("leased");
        tokio::time::sleep(Duration::from_millis(5)).await;
        let held = world.store.lease_alignment(LEASE).await.expect("asked").expect("it had expired");
        assert!(world.store.lease_alignment(LEASE).await.expect("asked").is_none(), "exclusive");
        assert!(!world.store.renew(lost.token(), LEASE).await.expect("asked"), "the old lease is gone");
        assert!(world.store.renew(held.token(), LEASE).await.expect("asked"));
        let finish = async |lease| world.store.finish_alignment(lease, &identity(), &report()).await;
        assert!(!finish(&lost).await.expect("asked"), "an old fence");
        assert!(finish(&held).await.expect("asked"), "the holder writes");

        let lost = world.store.lease_merge(Duration::ZERO).await.expect("asked").expect("leased");
        tokio::time::sleep(Duration::from_millis(5)).await;
        let held = world.store.lease_merge(LEASE).await.expect("asked").expect("it had expired");
        let (late, model) = (world.sealed("zombie", 7.0), world.sealed("model", 1.0));
        let finish = async |lease, model| world.store.finish_merge(lease, model, &[]).await.expect("asked");
        assert_eq!(finish(&lost, &late).await, None, "an old fence");
        assert!(!world.store.fail_merge(&lost, "late").await.expect("asked"), "nor does its failure count");
        assert_eq!(world.round(1).await.round.state, State::Merging);
        assert!(finish(&held, &model).await.is_some(), "the holder publishes");
    });
}

#[test]
fn two_processes_on_one_database_do_each_piece_of_work_once() {
    on_both(async |world| {
        let sites = ["a", "b", "c", "d", "e"];
        world.run(&sites, policy(1, 5)).await;
        for (site, value) in sites.iter().zip([1.0, 2.0, 3.0, 4.0, 5.0]) {
            world.upload(site, 1, value).await.expect("accepted");
        }
        let second = Store::open(&world.config).await.expect("another on the same database");
        let done = std::cell::RefCell::new(Vec::new());
        let work = async |store: &Store| {
            let over = async || store.run("run").await.expect("read").expect("there").state != RunState::Open;
            while !over().await {
                let run = store.run("run").await.expect("read").expect("there");
                store.reconcile_run(&run).await.expect("reconciled");
                if let Some(lease) = store.lease_alignment(LEASE).await.expect("asked") {
                    done.borrow_mut().push(lease.work.update.id.clone());
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    assert!(store.finish_alignment(&lease, &identity(), &report()).await.expect("finished"));
                }
                if let Some(lease) = store.lease_merge(LEASE).await.expect("asked") {
                    done.borrow_mut().push("the merge".to_owned());
                    assert_eq!(lease.work.inputs.len(), 5, "all of them");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    let model = world.sealed("model", 3.0);
                    assert!(store.finish_merge(&lease, &model, &[]).await.expect("finished").is_some());
                }
            }
        };
        tokio::join!(work(&world.store), work(&second));
        let mut done = done.into_inner();
        done.sort();
        assert_eq!(done.len(), 6, "five alignments and a merge: {done:?}");
        done.dedup();
        assert_eq!(done.len(), 6, "each once: {done:?}");
        assert_eq!(world.store.run("run").await.expect("read").expect("there").rounds_published, 1);
    });
}

#[test]
fn both_databases_have_the_same_schema() {
    // One set of statements is for both: a migration is written twice, and differs in its comments at the most.
    let read = |dialect: &str| -> Vec<(String, String)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations").join(dialect);
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .expect("migrations")
            .map(|entry| {
                let path = entry.expect("a file").path();
                let text = std::fs::read_to_string(&path).expect("text");
                let code = text.lines().map(|line| line.split("--").next().unwrap_or_default());
                let words: Vec<&str> = code.flat_map(str::split_whitespace).collect();
                (path.file_name().expect("a name").to_string_lossy().into_owned(), words.join(" "))
            })
            .collect();
        files.sort();
        files
    };
    assert_eq!(read("postgres"), read("sqlite"));
}

#[test]
fn a_round_fails_when_its_merge_failed_too_often_and_the_run_with_it() {
    on_both(async |world| {
        world.run(&["a"], policy(1, 1)).await;
        world.upload("a", 1, 1.0).await.expect("accepted");
        world.tick().await;
        let lease = world.store.lease_alignment(LEASE).await.expect("asked").expect("leased");
        world.store.finish_alignment(&lease, &identity(), &report()).await.expect("finished");
        for _ in 0..crate::round::MAX_ATTEMPTS {
            let lease = loop {
                match world.store.lease_merge(LEASE).await.expect("asked") {
                    Some(lease) => break lease,
                    None => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            };
            world.store.fail_merge(&lease, "no room on the disk").await.expect("recorded");
        }
        assert!(
            matches!(world.round(1).await.round.state, State::Failed { reason } if reason.contains("no room"))
        );
        assert!(world.tick().await);
        let run = world.store.run("run").await.expect("read").expect("there");
        assert!(matches!(run.state, RunState::Failed { .. }));
    });
}

#[test]
fn a_merge_or_an_alignment_that_ends_the_process_each_time_is_given_up() {
    on_both(async |world| {
        let policy = Policy { failed_rounds_allowed: 9, ..policy(1, 1) };
        world.run(&["a"], policy).await;
        let receipt = world.upload("a", 1, 1.0).await.expect("accepted");
        world.tick().await;
        let begin = async || {
            tokio::time::sleep(Duration::from_millis(5)).await;
            world.store.lease_alignment(Duration::ZERO).await.expect("asked").is_some()
        };
        assert!(begin().await && begin().await && begin().await, "each is begun and never ends");
        assert!(!begin().await, "three times and no more");
        let update = world.store.update_of_site("a", &receipt.update_id).await.expect("read");
        assert!(update.state.reason().is_some_and(|reason| reason.contains("begun 3 times")), "{update:?}");
        assert!(matches!(world.round(1).await.round.state, State::Failed { .. }), "below its quorum");

        assert!(world.tick().await, "round 2 opens");
        world.upload("a", 2, 2.0).await.expect("accepted");
        world.tick().await;
        let lease = world.store.lease_alignment(LEASE).await.expect("asked").expect("leased");
        assert!(world.store.finish_alignment(&lease, &identity(), &report()).await.expect("finished"));
        let begin = async || {
            tokio::time::sleep(Duration::from_millis(5)).await;
            world.store.lease_merge(Duration::ZERO).await.expect("asked").is_some()
        };
        assert!(begin().await && begin().await && begin().await, "each is begun and never ends");
        assert!(!begin().await, "three times and no more");
        let State::Failed { reason } = world.round(2).await.round.state else { panic!("not failed") };
        assert!(reason.contains("begun 3 times"), "{reason}");
    });
}

#[test]
fn work_that_is_given_back_was_not_tried() {
    on_both(async |world| {
        world.run(&["a"], policy(1, 1)).await;
        world.upload("a", 1, 1.0).await.expect("accepted");
        world.tick().await;
        for _ in 0..5 {
            let lease = world.store.lease_alignment(LEASE).await.expect("asked").expect("still tried");
            world.store.give_back(lease.token(), Duration::ZERO).await.expect("given back");
        }
        let lease = world.store.lease_alignment(LEASE).await.expect("asked").expect("leased");
        world.store.finish_alignment(&lease, &identity(), &report()).await.expect("finished");
        for _ in 0..5 {
            let lease = world.store.lease_merge(LEASE).await.expect("asked").expect("still tried");
            world.store.give_back(lease.token(), Duration::ZERO).await.expect("given back");
        }
        let lease = world.store.lease_merge(LEASE).await.expect("asked").expect("leased");
        world.store.give_back(lease.token(), LEASE).await.expect("given back");
        assert!(
            world.store.lease_merge(LEASE).await.expect("asked").is_none(),
            "not before its pause is over"
        );
        assert_eq!(world.round(1).await.round.attempts, 0);
    });
}

#[test]
fn cancelling_ends_the_round_and_a_run_that_is_over_cannot_be_cancelled() {
    on_both(async |world| {
        world.run(&["a"], policy(1, 1)).await;
        world.begin("a", 1, &checkpoint(1.0)).await.expect("begun");
        world.store.cancel_run("run").await.expect("cancelled");
        world.store.cancel_run("run").await.expect("again changes nothing");
        assert_eq!(world.round(1).await.round.state, State::Cancelled);
        assert_eq!(world.begin("a", 1, &checkpoint(2.0)).await.expect_err("over").code(), Code::RoundClosed);
        assert_eq!(world.store.cancel_run("nothing").await.expect_err("none").code(), Code::NotFound);
    });
}

#[test]
fn a_site_reads_references_and_global_models_but_not_anothers_update() {
    on_both(async |world| {
        world.store.create_site("stranger", "hash-stranger").await.expect("enrolled");
        world.run(&["a", "b"], policy(2, 2)).await;
        world.upload("a", 1, 1.0).await.expect("accepted");
        world.upload("b", 1, 2.0).await.expect("accepted");
        world.tick().await;
        let global = world.publish(3.0).await;
        world.tick().await;
        let may = async |site, digest| world.store.site_may_read(site, &digest).await.expect("asked");
        assert!(may("a", global).await && may("b", global).await);
        assert!(!may("stranger", global).await);
        let of_a = Digest::of(&checkpoint(1.0));
        assert_eq!(world.round(1).await.reference, Some(of_a), "it was the founding reference");
        assert!(!may("b", of_a).await, "yet another site's update is not for download");
    });
}

#[test]
fn what_is_stored_under_a_digest_has_it_whatever_became_of_the_file() {
    on_both(async |world| {
        let sealed = world.sealed("model", 1.0);
        let (digest, size) = (sealed.digest, sealed.size);
        std::fs::write(&sealed.path, checkpoint(2.0)).expect("another writer");
        let error = world.store.put_checkpoint(sealed).await.expect_err("other bytes of the same size");
        assert_eq!(error.code(), Code::Internal, "{error}");
        assert!(world.store.checkpoint(&digest).await.expect("read").is_none(), "no row");
        assert!(world.store.object(&digest, 0..size).await.is_err(), "no bytes");

        world.store.discard_staging("model");
        let sealed = world.sealed("model", 1.0);
        let mut longer = checkpoint(1.0);
        longer.extend_from_slice(b"late");
        std::fs::write(&sealed.path, longer).expect("another writer");
        world.store.put_checkpoint(sealed).await.expect("the sealed bytes are there");
        assert_eq!(world.store.object(&digest, 0..size).await.expect("there").size, size, "and only they");
    });
}

#[test]
fn a_site_has_two_updates_of_a_round_under_way_and_the_older_ones_are_declined() {
    on_both(async |world| {
        world.run(&["a", "b"], policy(1, 2)).await;
        let others = world.begin("b", 1, &checkpoint(1.0)).await.expect("begun");
        let mut begun = Vec::new();
        for value in [1.0, 2.0, 3.0, 4.0] {
            let update = world.begin("a", 1, &checkpoint(value)).await.expect("begun");
            world.store.staging(&update.id, update.size, None).expect("opened");
            begun.push(update.id);
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        let mut states = Vec::new();
        for id in &begun {
            states.push(world.store.update_of_site("a", id).await.expect("read").state.name());
        }
        assert_eq!(states, ["declined", "declined", "receiving", "receiving"]);
        assert_eq!(world.store.staged_names().expect("read").len(), 2, "their bytes are gone");
        let of_b = world.store.update_of_site("b", &others.id).await.expect("read");
        assert_eq!(of_b.state.name(), "receiving", "another site's is left alone");
    });
}

#[test]
fn a_layout_that_takes_too_much_memory_to_align_is_refused_with_the_figures() {
    on_both(async |mut world| {
        world.run(&["a"], policy(1, 1)).await;
        // 11 parameters of 32 bytes, and one group of 2 units.
        world.store.max_align_memory = 11 * 32 + 4 * 8 - 1;
        let error = world.upload("a", 1, 1.0).await.expect_err("one byte too much");
        assert_eq!(error.code(), Code::InvalidCheckpoint);
        assert!(error.message().contains("about 384 bytes"), "{error}");
        let run = world.store.run("run").await.expect("read").expect("there");
        assert_eq!(run.layout, None, "not fixed by it");
        world.store.max_align_memory += 1;
        world.upload("a", 1, 2.0).await.expect("it just fits");
    });
}

#[test]
fn a_layout_is_free_again_when_its_founding_round_fails_and_a_refusal_names_who_fixed_it() {
    on_both(async |world| {
        for site in ["a", "b"] {
            world.store.create_site(site, &format!("hash-{site}")).await.expect("enrolled");
        }
        let policy = Policy { deadline_seconds: 1, failed_rounds_allowed: 1, ..policy(1, 2) };
        let (strategy, cohort) = (Strategy::Mean, vec!["a".into(), "b".into()]);
        let new = NewRun { id: "run".into(), strategy, spec: None, policy, seed: None, cohort };
        world.store.create_run(new).await.expect("created");
        assert!(world.tick().await, "the first round opens");
        world.upload("a", 1, 1.0).await.expect("accepted");

        let info = TensorInfo { name: "w".into(), dtype: Dtype::F32, shape: vec![1] };
        let tensor = Tensor::from_f32(&info, &[1.0]).expect("fits");
        let other = Layout::new(vec![info]).expect("a layout");
        let bytes = Checkpoint::new(other.clone(), vec![tensor]).expect("fits").to_bytes();
        let send = async |round| {
            let update = world.begin("b", round, &bytes).await.expect("begun");
            let mut staging = world.store.staging(&update.id, update.size, None).expect("opened");
            staging.append(&bytes).expect("a checkpoint");
            world.store.accept_update(&update, staging.seal(None).expect("sealed")).await
        };
        let error = send(1).await.expect_err("another layout");
        assert!(error.message().contains("of site a") && error.message().contains("seed"), "{error}");

        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(world.tick().await, "without its quorum the round fails, and the next one opens");
        send(2).await.expect("nothing is fixed any more");
        let run = world.store.run("run").await.expect("read").expect("there");
        assert_eq!(run.layout, Some(other));
    });
}

#[test]
fn another_update_takes_the_place_of_a_reference_that_is_withdrawn() {
    on_both(async |world| {
        world.run(&["a", "b", "c"], policy(1, 2)).await;
        for (site, value) in [("c", 3.0), ("b", 2.0), ("a", 1.0)] {
            world.upload(site, 1, value).await.expect("accepted");
        }
        assert!(world.tick().await);
        let of = |value| Some(Digest::of(&checkpoint(value)));
        assert_eq!(world.round(1).await.reference, of(1.0));
        for attempt in 1..=3 {
            let lease = world.store.lease_alignment(LEASE).await.expect("asked").expect("due");
            assert_eq!(lease.work.update.site_id, "a", "the reference comes first, at try {attempt}");
            let none = world.store.lease_alignment(LEASE).await.expect("asked");
            assert!(none.is_none(), "and alone");
            assert!(world.store.fail_alignment(&lease, "overflow").await.expect("recorded"));
            tokio::time::sleep(crate::store::RETRY_PAUSE + Duration::from_millis(50)).await;
        }
        let record = world.round(1).await;
        assert_eq!((record.round.state, record.reference), (State::Merging, of(2.0)), "the next one");
        let first = world.store.lease_alignment(LEASE).await.expect("asked").expect("due");
        assert_eq!((first.work.update.site_id.as_str(), Some(first.work.reference)), ("b", of(2.0)));
        assert!(world.store.finish_alignment(&first, &identity(), &report()).await.expect("finished"));
        world.publish(4.0).await;
    });
}

#[test]
fn bytes_that_no_row_tells_of_are_not_stored_and_old_ones_are_swept() {
    on_both(async |world| {
        world.run(&["a"], policy(1, 1)).await;
        let late = world.begin("a", 1, &checkpoint(2.0)).await.expect("begun");
        world.upload("a", 1, 1.0).await.expect("accepted");
        let error = world.accept(&late, &checkpoint(2.0)).await.expect_err("another one is held");
        assert_eq!(error.code(), Code::Conflict);
        let there = async |value| world.store.object(&Digest::of(&checkpoint(value)), 0..9).await.is_ok();
        assert!(there(1.0).await && !there(2.0).await, "its bytes were not stored");

        let folder = world.config.data_dir.join("objects/checkpoints");
        let put = |value, age| {
            let path = folder.join(Digest::of(&checkpoint(value)).to_string());
            std::fs::write(&path, checkpoint(value)).expect("written");
            let file = std::fs::File::options().write(true).open(&path).expect("opened");
            let time = file.metadata().expect("read").modified().expect("a time") - Duration::from_secs(age);
            file.set_modified(time).expect("set");
        };
        for (value, age) in [(1.0, 3700), (3.0, 3700), (4.0, 3500)] {
            put(value, age);
        }
        world.store.sweep_objects().await.expect("swept");
        assert!(there(1.0).await, "it has a row");
        assert!(!there(3.0).await, "old, and no row");
        assert!(there(4.0).await, "its row may be about to come");
    });
}

#[test]
fn nobody_else_may_look_into_the_data_folder() {
    use std::os::unix::fs::PermissionsExt as _;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("data");
    let config = Config { data_dir: data_dir.clone(), ..Config::default() };
    runtime.block_on(Store::open(&config)).expect("a store");
    for made in [data_dir.clone(), data_dir.join("staging"), data_dir.join("objects")] {
        let mode = std::fs::metadata(&made).expect("made").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", made.display());
    }
}

#[test]
fn an_id_that_is_none_is_not_asked_for_and_not_repeated() {
    on_both(async |world| {
        world.run(&["a"], policy(1, 1)).await;
        let long = "x".repeat(100_000);
        for id in ["run\0", "", "Run", long.as_str()] {
            let run = world.store.run_of_site("a", id).await.expect_err("no run");
            let update = world.store.update_of_site("a", id).await.expect_err("no update");
            for error in [run, update] {
                assert_eq!(error.code(), Code::NotFound, "{error}");
                assert!(error.message().len() < 300, "{}", error.message().len());
            }
        }
        let run = world.store.run("run").await.expect("read").expect("there");
        let cohort = vec!["a\0".to_owned()];
        let (id, strategy, policy, seed) = ("other".to_owned(), run.strategy, run.policy, None);
        let new = NewRun { id, strategy, spec: run.spec, policy, seed, cohort };
        assert_eq!(world.store.create_run(new).await.expect_err("no id").code(), Code::InvalidArgument);
    });
}
