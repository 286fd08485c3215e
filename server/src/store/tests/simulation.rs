//! Random courses of a run, on the real store: sites that send, send again, or something else; workers that vanish with a lease
//! and come back; hours that pass within a millisecond; restarts, cancellations. After each, the run ends and everything that a
//! receipt was given for was counted exactly once.
//!
//! Time passes by moving all times in the rows back. Site `i` sends the number 4^i, so that the sum in a published model spells
//! out who was counted, and how often. `PROPTEST_CASES=100000 cargo nextest run -p fedbasin-server simulation` runs more lists;
//! one that fails is shrunk, shown, and kept in `simulation.proptest-regressions`.

use std::collections::{BTreeMap, VecDeque};

use futures::TryStreamExt as _;
use proptest::{
    prop_oneof,
    strategy::{Just, Strategy as _},
    test_runner::{Config as Lists, FileFailurePersistence, TestRunner},
};

use super::*;

const SITES: [&str; 3] = ["a", "b", "c"];

/// Lists for each database, unless `PROPTEST_CASES` says otherwise.
const LISTS: u32 = 100;

#[derive(Debug, Clone, Copy)]
enum Op {
    /// Announces an update, and no more.
    Announce(usize),
    /// Sends an update, or again.
    Send(usize),
    /// Sends another one for the same round.
    SendOther(usize),
    /// Sends one for the round before.
    SendLate(usize),
    /// The reconciler looks.
    Tick,
    /// What the run keeps no longer is removed: all sites send the same bytes in every round, so what goes comes again.
    Retire,
    Align,
    /// A worker takes an alignment and is not heard of.
    TakeAlignment,
    AlignmentFails,
    Merge,
    TakeMerge,
    MergeFails,
    /// The worker that vanished first wants to commit what it had.
    Wake,
    Pass {
        seconds: i64,
    },
    Cancel,
    Restart,
}

fn op() -> impl proptest::strategy::Strategy<Value = Op> {
    let site = 0..SITES.len();
    prop_oneof![
        2 => site.clone().prop_map(Op::Announce),
        12 => site.clone().prop_map(Op::Send),
        3 => site.clone().prop_map(Op::SendOther),
        2 => site.prop_map(Op::SendLate),
        10 => Just(Op::Tick),
        3 => Just(Op::Retire),
        8 => Just(Op::Align),
        3 => Just(Op::TakeAlignment),
        1 => Just(Op::AlignmentFails),
        6 => Just(Op::Merge),
        2 => Just(Op::TakeMerge),
        1 => Just(Op::MergeFails),
        4 => Just(Op::Wake),
        4 => Just(Op::Pass { seconds: 100 }),
        1 => Just(Op::Pass { seconds: 4000 }),
        1 => prop_oneof![3 => Just(Op::Restart), 1 => Just(Op::Cancel)],
    ]
}

/// What a worker holds that was not heard of.
enum Vanished {
    Alignment(Lease<AlignWork>),
    Merge(Lease<MergeWork>, Vec<u8>),
}

/// What a site sends, and what it sends instead.
fn number(site: usize, other: bool) -> f32 {
    let place = i32::try_from(if other { site + SITES.len() } else { site }).expect("small");
    4.0_f32.powi(place)
}

/// One run, and what its sites and workers remember.
struct Course<'w> {
    world: &'w World,
    store: Store,
    run_id: String,
    receipts: BTreeMap<(u32, usize), Receipt>,
    vanished: VecDeque<Vanished>,
    published: BTreeMap<u32, Digest>,
}

impl<'w> Course<'w> {
    async fn begin(world: &'w World, number: usize) -> Self {
        let run_id = format!("run-{number}");
        let new = NewRun {
            id: run_id.clone(),
            strategy: Strategy::Aligned,
            spec: Some(Spec::mlp(&layout()).expect("a chain")),
            graph: None,
            policy: Policy { failed_rounds_allowed: 1, keep_updates: Some(0), ..policy(2, 2) },
            seed: None,
            cohort: SITES.iter().map(ToString::to_string).collect(),
        };
        world.store.create_run(new).await.expect("created");
        let store = world.store.clone();
        let (receipts, vanished, published) = (BTreeMap::new(), VecDeque::new(), BTreeMap::new());
        Self { world, store, run_id, receipts, vanished, published }
    }

    async fn newest(&self) -> u32 {
        let rounds = self.store.rounds(&self.run_id).await.expect("read");
        rounds.iter().map(|record| record.round.number).max().unwrap_or(1)
    }

    async fn state(&self) -> RunState {
        self.store.run(&self.run_id).await.expect("read").expect("there").state
    }

    async fn apply(&mut self, op: Op) {
        match op {
            Op::Announce(site) => {
                let round = self.newest().await;
                let update = self.announce(round, site, &checkpoint(number(site, false))).await;
                update.map_or_else(|error| refused(&error), |_| ());
            }
            Op::Send(site) => self.send(self.newest().await, site, false).await,
            Op::SendOther(site) => self.send(self.newest().await, site, true).await,
            Op::SendLate(site) => self.send(self.newest().await.saturating_sub(1).max(1), site, false).await,
            Op::Tick => self.tick().await,
            Op::Retire => self.retire().await,
            Op::Align => {
                if let Some(lease) = self.lease_alignment().await {
                    self.wake(Vanished::Alignment(lease)).await;
                }
            }
            Op::TakeAlignment => {
                let lease = self.lease_alignment().await;
                self.vanished.extend(lease.map(Vanished::Alignment));
            }
            Op::AlignmentFails => {
                if let Some(lease) = self.lease_alignment().await {
                    assert!(self.store.fail_alignment(&lease, "it failed").await.expect("recorded"));
                }
            }
            Op::Merge => {
                if let Some(merge) = self.lease_merge().await {
                    self.wake(merge).await;
                }
            }
            Op::TakeMerge => {
                let merge = self.lease_merge().await;
                self.vanished.extend(merge);
            }
            Op::MergeFails => {
                if let Some(lease) = self.store.lease_merge(LEASE).await.expect("asked") {
                    assert!(self.store.fail_merge(&lease, "it failed").await.expect("recorded"));
                }
            }
            Op::Wake => {
                if let Some(vanished) = self.vanished.pop_front() {
                    self.wake(vanished).await;
                }
            }
            Op::Pass { seconds } => self.pass(seconds).await,
            Op::Cancel => {
                let _ = self.store.cancel_run(&self.run_id).await.map_err(|error| refused(&error));
            }
            Op::Restart => self.store = Store::open(&self.world.config).await.expect("opened again"),
        }
    }

    async fn announce(&self, round: u32, site: usize, bytes: &[u8]) -> Result<Update> {
        let new = NewUpdate {
            run_id: self.run_id.clone(),
            round,
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            num_examples: 10,
            metrics: BTreeMap::new(),
        };
        self.store.begin_update(SITES[site], &new).await
    }

    async fn send(&mut self, round: u32, site: usize, other: bool) {
        let bytes = checkpoint(number(site, other));
        let update = match self.announce(round, site, &bytes).await {
            Ok(update) => update,
            Err(error) => return refused(&error),
        };
        let receipt = match update.receipt() {
            Some(receipt) => receipt,
            None => {
                let staging = self.store.staging(&update.id, update.size, Some(layout()));
                let mut staging = staging.expect("opened");
                staging.append(&bytes[usize::try_from(staging.written()).expect("small")..]).expect("valid");
                let sealed = staging.seal(Some(update.digest)).expect("whole");
                match self.store.accept_update(&update, sealed).await {
                    Ok(receipt) => receipt,
                    Err(error) => return refused(&error),
                }
            }
        };
        assert_eq!((receipt.round, receipt.digest), (round, Digest::of(&bytes)));
        let first = self.receipts.entry((round, site)).or_insert_with(|| receipt.clone());
        if *first != receipt {
            // Only where the first one was rejected, by its own fault or because no worker ever ended with it.
            let before = self.store.update_of_site(SITES[site], &first.update_id).await.expect("read");
            assert!(matches!(before.state, UpdateState::Rejected { .. }), "two receipts: {before:?}");
            *first = receipt;
        }
    }

    async fn tick(&mut self) {
        let run = self.store.run(&self.run_id).await.expect("read").expect("there");
        if run.state == RunState::Open {
            self.store.reconcile_run(&run).await.expect("reconciled");
        }
    }

    async fn retire(&self) {
        let run = self.store.run(&self.run_id).await.expect("read").expect("there");
        self.store.retire_run(&run.id, &run.policy).await.expect("retired");
    }

    async fn lease_alignment(&self) -> Option<Lease<AlignWork>> {
        self.store.lease_alignment(LEASE).await.expect("asked")
    }

    /// A lease, and the true mean of what it counts.
    async fn lease_merge(&self) -> Option<Vanished> {
        let lease = self.store.lease_merge(LEASE).await.expect("asked")?;
        let mut sources = Vec::new();
        for input in &lease.work.inputs {
            sources.push(self.store.source(&input.update.digest).await.expect("there"));
        }
        let counts: Vec<u64> = lease.work.inputs.iter().map(|input| input.update.num_examples).collect();
        let shares = rebasin::shares(&counts).expect("shares");
        let inputs: Vec<rebasin::Input<'_>> = sources
            .iter()
            .zip(shares)
            .map(|(source, share)| rebasin::Input { source, alignment: None, share })
            .collect();
        let mut bytes = Vec::new();
        rebasin::merge_to(None, &inputs, None, &mut bytes, &mut |_, _| {}).expect("merged");
        Some(Vanished::Merge(lease, bytes))
    }

    /// Commits what a worker had. Whether it may is the store's to say.
    async fn wake(&mut self, vanished: Vanished) {
        match vanished {
            Vanished::Alignment(lease) => {
                self.store.finish_alignment(&lease, &identity(), &report()).await.expect("asked");
            }
            Vanished::Merge(lease, bytes) => {
                let name = format!("model-{}", uuid::Uuid::now_v7());
                let mut staging = self.store.staging(&name, bytes.len() as u64, None).expect("opened");
                staging.append(&bytes).expect("valid");
                let model = staging.seal(None).expect("whole");
                let round = lease.work.round;
                if let Some(digest) = self.store.finish_merge(&lease, &model, &[]).await.expect("asked") {
                    let before = self.published.insert(round, digest);
                    assert_eq!(before, None, "round {round} was published twice");
                }
                self.store.discard_staging(&name);
            }
        }
    }

    async fn pass(&self, seconds: i64) {
        for statement in [
            "UPDATE rounds SET opened_at_ms = opened_at_ms - $1, deadline_at_ms = deadline_at_ms - $1,
             lease_expires_at_ms = lease_expires_at_ms - $1 WHERE run_id = $2",
            "UPDATE updates SET begun_at_ms = begun_at_ms - $1, lease_expires_at_ms = lease_expires_at_ms - $1
             WHERE run_id = $2",
        ] {
            let shift = sqlx::query(statement).bind(seconds * 1000).bind(&self.run_id);
            shift.execute(&self.store.pool).await.expect("moved");
        }
    }

    /// Time passes and workers do what is due, until the run is over.
    async fn end(&mut self) {
        for _ in 0..40 {
            if self.state().await != RunState::Open {
                return;
            }
            for op in [Op::Tick, Op::Align, Op::Align, Op::Align, Op::Tick, Op::Merge, Op::Tick] {
                self.apply(op).await;
            }
            self.pass(1000).await;
        }
        panic!("the run does not end: {:?}", self.store.rounds(&self.run_id).await);
    }

    async fn check(&self) {
        for record in self.store.rounds(&self.run_id).await.expect("read") {
            let round = record.round.number;
            assert!(record.round.state.is_terminal(), "{record:?}");
            let State::Published { global } = record.round.state else {
                assert!(!self.published.contains_key(&round), "what was published stays so: {record:?}");
                continue;
            };
            assert_eq!(self.published.get(&round), Some(&global), "one model a round, for ever");
            let (mut counted, mut sum) = (0, 0.0_f32);
            for (index, site) in SITES.iter().enumerate() {
                let held = self.store.update_that_counts(&self.run_id, round, site).await.expect("read");
                let held = held.filter(|update| update.state.accepted_at_ms().is_some());
                let receipt = self.receipts.get(&(round, index));
                let Some(update) = held else {
                    if let Some(receipt) = receipt {
                        let lost = self.store.update_of_site(site, &receipt.update_id).await.expect("read");
                        assert!(matches!(lost.state, UpdateState::Rejected { .. }), "lost: {lost:?}");
                    }
                    continue;
                };
                assert!(matches!(update.state, UpdateState::Aligned { .. }), "{update:?}");
                let receipt = receipt.expect("only what a receipt was given for is held");
                assert_eq!((&receipt.update_id, receipt.digest), (&update.id, update.digest));
                let sent = [false, true].map(|other| number(index, other));
                let sent = sent.into_iter().find(|&value| Digest::of(&checkpoint(value)) == update.digest);
                counted += 1;
                sum += sent.expect("what the site sent");
            }
            assert!(counted >= record.round.window.quorum, "{record:?}");
            let size = self.store.checkpoint(&global).await.expect("read").expect("a row").size;
            let parts = self.store.object(&global, 0..size).await.expect("there").stream;
            let bytes: Vec<u8> = parts.map_ok(|part| part.to_vec()).try_concat().await.expect("read");
            let model = Checkpoint::from_bytes(&bytes).expect("valid").tensors()[0].to_f32()[0];
            #[expect(clippy::cast_precision_loss, reason = "at most three")]
            let spelled = (model * counted as f32).round();
            assert_eq!(spelled, sum, "round {round} of {:?}", self.receipts);
        }
    }
}

/// What a site may be told. Anything else is a defect.
fn refused(error: &Error) {
    let codes = [Code::Conflict, Code::RoundClosed, Code::RoundFull, Code::InvalidCheckpoint, Code::NotFound];
    assert!(codes.contains(&error.code()), "{:?}: {error}", error.code());
}

fn simulate(postgres: Option<&str>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let world = runtime.block_on(async {
        let world = world(postgres).await;
        for site in SITES {
            world.store.create_site(site, &format!("hash-{site}")).await.expect("enrolled");
        }
        world
    });
    let given = Lists::default();
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/tests/simulation.proptest-regressions");
    let config = Lists {
        cases: if given.cases == 256 { LISTS } else { given.cases },
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(kept))),
        max_shrink_iters: 2000,
        ..given
    };
    let lists = std::cell::Cell::new(0);
    let outcome = TestRunner::new(config).run(&proptest::collection::vec(op(), 1..40), |ops| {
        lists.set(lists.get() + 1);
        runtime.block_on(async {
            // One that failed before left its run open; its work is not this list's.
            for id in world.store.open_runs().await.expect("read") {
                world.store.cancel_run(&id).await.expect("cancelled");
            }
            let mut course = Course::begin(&world, lists.get()).await;
            for op in ops {
                course.apply(op).await;
            }
            course.end().await;
            course.retire().await;
            course.check().await;
        });
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    runtime.block_on(async {
        let mut found = Vec::new();
        let whole = world.store.fsck(true, &mut |finding| found.push(finding)).await;
        whole.expect("looked");
        assert!(!found.iter().any(Finding::is_damage), "{found:?}");
    });
}

#[test]
fn simulation_of_random_courses_on_sqlite() {
    simulate(None);
}

#[test]
fn simulation_of_random_courses_on_postgres() {
    let url = postgres_url().expect(
        "FEDBASIN_TEST_POSTGRES_URL is not set; run `tests/run tests`, which starts a Postgres, or name one of your own",
    );
    simulate(Some(&url));
}
