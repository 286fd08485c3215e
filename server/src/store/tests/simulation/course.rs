//! One run, what its sites and workers remember, and how a list is gone through.

use std::{
    collections::{BTreeSet, VecDeque},
    pin::pin,
    task::Poll,
};

use super::{
    super::*,
    list::{At, Befalls, Fault, Op, Parcel, SITES, Setting, Step},
    place::{NEIGHBOUR, Place},
    workers::Vanished,
};
use crate::model::RoundRecord;

pub(super) const RUN: &str = "run";

pub(super) struct Course<'p> {
    pub(super) place: &'p mut Place,
    /// Which process does what comes next.
    pub(super) replica: usize,
    /// What is yet to befall the present operation.
    fault: Option<Fault>,
    /// What each site began, by round.
    pub(super) uploads: BTreeMap<(u32, Parcel), String>,
    /// The receipts that sites hold.
    pub(super) receipts: BTreeMap<(u32, usize), Receipt>,
    /// What sites finished without hearing what became of it.
    pub(super) unheard: BTreeSet<(u32, usize, Digest)>,
    pub(super) vanished: VecDeque<Vanished>,
    /// How many leases workers were given, by work.
    pub(super) leases: BTreeMap<String, u32>,
    /// What was seen published.
    pub(super) published: BTreeMap<u32, Digest>,
    /// How rounds were seen to end.
    over: BTreeMap<u32, State>,
    pub(super) tally: Tally,
}

/// What came to pass: a simulation in which nothing does shows nothing.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tally {
    pub(super) lists: u32,
    pub(super) steps: u32,
    pub(super) receipts: u32,
    pub(super) published: u32,
    pub(super) died: u32,
    pub(super) gone: u32,
    /// Accepted or published all the same, though nobody heard of it.
    pub(super) unheard_receipts: u32,
    pub(super) unheard_models: u32,
    /// Results of lost leases that were refused.
    pub(super) late_results: u32,
    pub(super) resumed: u32,
    pub(super) rejected: u32,
    /// Rejected beside the others of their round.
    pub(super) judged: u32,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.lists += other.lists;
        self.steps += other.steps;
        self.receipts += other.receipts;
        self.published += other.published;
        self.died += other.died;
        self.gone += other.gone;
        self.unheard_receipts += other.unheard_receipts;
        self.unheard_models += other.unheard_models;
        self.late_results += other.late_results;
        self.resumed += other.resumed;
        self.rejected += other.rejected;
        self.judged += other.judged;
    }
}

/// What somebody is told who asked the store for something.
#[derive(Debug)]
pub(super) enum Told<T> {
    Done(T),
    /// A refusal that a site may be told.
    Refused(Error),
    /// Nothing: who asked died.
    Died,
    /// The database was gone meanwhile: it may be done or not.
    Gone,
}

impl<T> Told<T> {
    /// Of what can never be refused.
    pub(super) fn done(self) -> Option<T> {
        match self {
            Self::Done(done) => Some(done),
            Self::Refused(error) => panic!("refused: {error}"),
            Self::Died | Self::Gone => None,
        }
    }
}

/// What a site may be told. Anything else is a defect.
const REFUSALS: [Code; 7] = [
    Code::Conflict,
    Code::RoundClosed,
    Code::RoundFull,
    Code::InvalidCheckpoint,
    Code::NotFound,
    Code::Incomplete,
    Code::OffsetMismatch,
];

impl<'p> Course<'p> {
    pub(super) async fn begin(place: &'p mut Place, setting: Setting) -> Self {
        place.clear().await;
        let new = NewRun {
            cloned_from: None,
            id: RUN.into(),
            strategy: Strategy::Aligned,
            spec: Some(Spec::mlp(&layout()).expect("a chain")),
            graph: None,
            policy: Policy {
                failed_rounds_allowed: 1,
                keep_updates: Some(0),
                max_updates: setting.full_at_two.then_some(2),
                min_open_seconds: setting.min_open_seconds,
                ..policy(2, 2)
            },
            // Another run's.
            seed: setting.seeded.then(|| NEIGHBOUR.digest()),
            cohort: SITES.iter().map(ToString::to_string).collect(),
        };
        let run = place.replicas[0].create_run(new).await.expect("created");
        place.replicas[0].reconcile_run(&run).await.expect("its first round opens");
        Self {
            place,
            replica: 0,
            fault: None,
            uploads: BTreeMap::new(),
            receipts: BTreeMap::new(),
            unheard: BTreeSet::new(),
            vanished: VecDeque::new(),
            leases: BTreeMap::new(),
            published: BTreeMap::new(),
            over: BTreeMap::new(),
            tally: Tally::default(),
        }
    }

    pub(super) fn store(&self) -> Store {
        self.place.replicas[self.replica].clone()
    }

    /// The rounds' rows. What is over stays as it is.
    pub(super) async fn rounds(&mut self) -> Vec<RoundRecord> {
        let rounds = self.store().rounds(RUN).await.expect("read");
        for record in &rounds {
            let (number, state) = (record.round.number, &record.round.state);
            if let Some(before) = self.over.get(&number) {
                assert_eq!(before, state, "round {number} was over");
            } else if state.is_terminal() {
                self.over.insert(number, state.clone());
            }
        }
        assert!(self.over.len() <= rounds.len(), "rounds are gone");
        rounds
    }

    pub(super) async fn newest(&mut self) -> u32 {
        self.rounds().await.last().map_or(1, |record| record.round.number)
    }

    pub(super) async fn step(&mut self, step: Step) {
        self.fault = step.fault;
        self.tally.steps += 1;
        self.apply(step.op).await;
        self.fault = None;
    }

    async fn apply(&mut self, op: Op) {
        match op {
            Op::Announce(parcel) => {
                let round = self.newest().await;
                self.announce(round, parcel).await;
            }
            Op::Chunk(parcel, eighths) => self.chunk(parcel, eighths, false).await,
            Op::Stale(parcel) => self.stale(parcel).await,
            Op::Garble(parcel) => self.chunk(parcel, 8, true).await,
            Op::Overflow(parcel) => self.overflow(parcel).await,
            Op::Finish(parcel) => {
                if let Some((round, parcel, id)) = self.begun(parcel) {
                    self.finish(round, parcel, id).await;
                }
            }
            Op::Send(parcel) => {
                let round = self.newest().await;
                self.send(round, parcel).await;
            }
            Op::SendLate(parcel) => {
                let round = self.newest().await.saturating_sub(1).max(1);
                self.send(round, parcel).await;
            }
            Op::Tick => self.tick().await,
            Op::Retire => self.retire().await,
            Op::Sweep => self.sweep().await,
            Op::Align => _ = self.align().await,
            Op::TakeAlignment => {
                let taken = self.lease_alignment().await;
                self.vanished.extend(taken);
            }
            Op::AlignmentFails => {
                if let Some(taken) = self.lease_alignment().await {
                    self.fail(taken, true).await;
                }
            }
            Op::Merge => self.merge().await,
            Op::TakeMerge => {
                let taken = self.lease_merge().await;
                self.vanished.extend(taken);
            }
            Op::MergeFails => {
                if let Some(taken) = self.lease_merge().await {
                    self.fail(taken, true).await;
                }
            }
            Op::MergeRejects => self.reject().await,
            Op::Overtaken { merges } => self.overtaken(merges).await,
            Op::Wake { fails } => match self.vanished.pop_front() {
                Some(vanished) if fails => self.fail(vanished, false).await,
                Some(vanished) => self.commit(vanished, false).await,
                None => {}
            },
            Op::Renew => self.renew().await,
            Op::GiveBack => {
                if let Some(vanished) = self.vanished.pop_front() {
                    self.give_back(vanished.token()).await;
                }
            }
            Op::Pass { seconds } => self.place.pass(seconds).await,
            Op::Cancel => {
                let store = self.store();
                self.under_fault("cancel", async move { store.cancel_run(RUN).await }).await;
            }
            Op::Restart => self.place.open_again(self.replica).await,
            Op::Elsewhere => self.replica = (self.replica + 1) % self.place.replicas.len(),
        }
    }

    /// Lets `call` go on until the fault befalls it, if one does. Calls of one `name` do the same.
    pub(super) async fn under_fault<T>(
        &mut self,
        name: &'static str,
        call: impl Future<Output = Result<T>>,
    ) -> Told<T> {
        let mut call = Box::pin(call);
        let mut fault = None;
        if let Some(coming) = &mut self.fault {
            match coming.call.checked_sub(1) {
                Some(left) => coming.call = left,
                None => fault = self.fault.take(),
            }
        }
        let most = match fault.as_ref().map(|fault| fault.at) {
            Some(At::Poll(polls)) => polls,
            Some(At::BeforeEnd(polls)) => {
                self.place.lengths.get(name).map_or(polls, |length| length.saturating_sub(polls).max(1))
            }
            None => u32::MAX,
        };
        let (outcome, polls) = polled(call.as_mut(), most).await;
        match (outcome, fault) {
            (Some(outcome), _) => {
                if outcome.is_ok() {
                    self.place.lengths.insert(name, polls);
                }
                told(outcome)
            }
            (None, Some(Fault { what: Befalls::NoDatabase, .. })) => {
                let outcome = self.place.without_database(self.replica, call).await;
                self.tally.gone += 1;
                self.place.settle().await;
                match outcome {
                    Err(error) if error.code() == Code::Unavailable => Told::Gone,
                    outcome => told(outcome),
                }
            }
            (None, _) => {
                drop(call);
                self.tally.died += 1;
                self.place.settle().await;
                Told::Died
            }
        }
    }

    async fn tick(&mut self) {
        let store = self.store();
        let looked = async move {
            let run = store.run(RUN).await?.expect("a run");
            if run.state == RunState::Open {
                store.reconcile_run(&run).await?;
            }
            Ok(())
        };
        self.under_fault("tick", looked).await.done();
    }

    pub(super) async fn retire(&mut self) {
        let store = self.store();
        let looked = async move {
            let run = store.run(RUN).await?.expect("a run");
            store.retire_run(&run.id, &run.policy).await
        };
        self.under_fault("retire", looked).await.done();
    }

    pub(super) async fn sweep(&mut self) {
        self.place.age_objects();
        let store = self.store();
        let swept = async move {
            store.sweep_staging().await?;
            store.retire().await?;
            store.sweep_objects().await
        };
        self.under_fault("sweep", swept).await.done();
    }

    /// Time passes and workers do what is due, until the run is over. What befalls somebody befalls the first who merges.
    pub(super) async fn end(&mut self, setting: Setting) {
        if setting.persistent {
            let round = self.newest().await;
            for site in 0..SITES.len() {
                self.send(round, Parcel { site, other: false }).await;
            }
        }
        let (mut fault, mut rejects) = (setting.at_the_end, setting.rejects);
        for _ in 0..12 {
            let run = self.store().run(RUN).await.expect("read").expect("a run");
            if run.state != RunState::Open {
                return;
            }
            self.tick().await;
            while self.align().await {}
            self.tick().await;
            self.fault = fault.take();
            if std::mem::take(&mut rejects) {
                self.reject().await;
            }
            self.merge().await;
            self.fault = None;
            self.tick().await;
            // All leases end with that, and all collecting.
            self.place.pass(4000).await;
        }
        panic!("the run does not end: {:?}", self.rounds().await);
    }
}

fn told<T>(outcome: Result<T>) -> Told<T> {
    match outcome {
        Ok(done) => Told::Done(done),
        Err(error) => {
            assert!(REFUSALS.contains(&error.code()), "{:?}: {error}", error.code());
            Told::Refused(error)
        }
    }
}

/// Polls at most so often. Gives the outcome if there is one by then, and how often it polled.
async fn polled<T>(call: impl Future<Output = T>, most: u32) -> (Option<T>, u32) {
    let (mut call, mut polls) = (pin!(call), 0);
    std::future::poll_fn(|context| {
        polls += 1;
        match call.as_mut().poll(context) {
            Poll::Ready(outcome) => Poll::Ready((Some(outcome), polls)),
            Poll::Pending if polls >= most => Poll::Ready((None, polls)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
