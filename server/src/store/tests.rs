//! The same behaviours of both databases: each claim below runs against SQLite, and against the Postgres that
//! `FEDBASIN_TEST_POSTGRES_URL` names (`tests/run` starts it). A fresh database a test.

mod encryption;
mod leases;
mod plausibility;
mod retention;
mod runs;
mod simulation;
mod storage;
mod tokens;
mod uploads;

use std::{collections::BTreeMap, time::Duration};

use rebasin::{AlignReport, Alignment, Checkpoint, Digest, Dtype, Layout, Spec, Tensor, TensorInfo};
use tempfile::TempDir;

use super::*;
use crate::{
    config::Secret,
    model::{Holder, NewRun, NewUpdate, Receipt, Role, RunState, Strategy, Update, UpdateState},
    round::{Goal, KeepBest, Plausibility, Policy, State},
};

struct World {
    store: Store,
    config: Config,
    _folder: TempDir,
}

/// Of a token, in milliseconds.
const YEAR: i64 = 365 * 86_400_000;

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
    let (config, folder) = config(postgres).await;
    World { store: open(&config).await, config, _folder: folder }
}

/// A process's store; all have one key.
async fn open(config: &Config) -> Store {
    Store::open(config).await.expect("a store").encrypting(&[7; 32])
}

/// Where an update's bytes arrive.
async fn staging(store: &Store, update: &Update) -> Result<Staging> {
    let key = store.key_of_update(update).await?;
    store.staging_within(update, key, Some(layout()), None)
}

/// A fresh database, and a folder.
async fn config(postgres: Option<&str>) -> (Config, TempDir) {
    // In memory where that can be: what is durable is tested by killing processes, not here.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder");
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
    (config, folder)
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
            self.store.create_site(site, &format!("hash-{site}"), YEAR).await.expect("enrolled");
        }
        let new = NewRun {
            id: "run".into(),
            strategy: Strategy::Aligned,
            spec: Some(Spec::mlp(&layout()).expect("a chain")),
            graph: None,
            policy,
            seed: None,
            cohort: cohort.iter().map(ToString::to_string).collect(),
            cloned_from: None,
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
        if update.receipt().is_some() {
            // As the edge does.
            return self.store.accept_update(update, self.sealed_as("again", bytes)).await;
        }
        let mut staging = staging(&self.store, update).await?;
        let held = usize::try_from(staging.written()).expect("small");
        staging.append(&bytes[held..])?;
        self.store.accept_update(update, staging.seal(Some(update.digest))?).await
    }

    async fn upload(&self, site: &str, round: u32, value: f32) -> Result<Receipt> {
        let bytes = checkpoint(value);
        let update = self.begin(site, round, &bytes).await?;
        self.accept(&update, &bytes).await
    }

    /// An update for round 1 of one tensor that no spec here has, and what became of it.
    async fn upload_of_another_layout(&self, site: &str) -> (Update, Result<Receipt>) {
        let info = TensorInfo { name: "w".into(), dtype: Dtype::F32, shape: vec![1] };
        let tensor = Tensor::from_f32(&info, &[1.0]).expect("fits");
        let layout = Layout::new(vec![info]).expect("a layout");
        let bytes = Checkpoint::new(layout, vec![tensor]).expect("fits").to_bytes();
        let update = self.begin(site, 1, &bytes).await.expect("begun");
        let mut staging = self.store.staging(&update.id, update.size, None).expect("opened");
        staging.append(&bytes).expect("a checkpoint");
        let sealed = staging.seal(Some(update.digest)).expect("sealed");
        let outcome = self.store.accept_update(&update, sealed).await;
        (update, outcome)
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
        self.store
            .finish_merge(&lease, &model, None, &[], &[], no_signature)
            .await
            .expect("published")
            .expect("the lease is held")
    }

    /// Where the bytes of a stored checkpoint lie; nothing if none are kept.
    async fn object_path(&self, value: f32) -> Option<std::path::PathBuf> {
        let object = self.store.object_name(&Digest::of(&checkpoint(value))).await.expect("read")?;
        Some(self.config.data_dir.join("objects/checkpoints").join(object))
    }

    fn sealed(&self, name: &str, value: f32) -> Sealed {
        self.sealed_as(name, &checkpoint(value))
    }

    fn sealed_as(&self, name: &str, bytes: &[u8]) -> Sealed {
        let mut staging = self.store.staging(name, bytes.len() as u64, None).expect("opened");
        staging.append(bytes).expect("fits");
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

/// In the place of a signature, where no one looks at it.
fn no_signature(_: u64) -> Result<String> {
    Ok("{}".into())
}

fn policy(rounds: u32, quorum: u32) -> Policy {
    Policy {
        rounds,
        quorum,
        deadline_seconds: 3600,
        max_updates: None,
        failed_rounds_allowed: 0,
        min_open_seconds: None,
        keep_models: None,
        keep_best: None,
        keep_updates: None,
        name_participants: false,
        evaluate_naive: false,
        max_magnitude_factor: crate::round::default_max_magnitude_factor(),
        plausibility: Plausibility::default(),
    }
}
