//! What workers do, and those that vanish with a lease.

use std::sync::LazyLock;

use super::{
    super::*,
    course::{Course, RUN, Told},
};
use crate::round::Judged;

/// A lease, and what its worker made of it.
pub(super) struct Vanished {
    /// The work.
    key: String,
    /// How many leases on it there were, with this one.
    number: u32,
    result: Outcome,
}

enum Outcome {
    Alignment(Lease<AlignWork>),
    Merge(Lease<MergeWork>, Vec<u8>),
}

impl Vanished {
    pub(super) fn token(&self) -> String {
        match &self.result {
            Outcome::Alignment(lease) => lease.token().to_owned(),
            Outcome::Merge(lease, _) => lease.token().to_owned(),
        }
    }
}

/// All sites send what is aligned already.
static ALIGNED: LazyLock<(Alignment, AlignReport)> = LazyLock::new(|| (identity(), report()));

impl Course<'_> {
    fn taken(&mut self, key: String, result: Outcome) -> Vanished {
        let number = self.leases.entry(key.clone()).or_default();
        *number += 1;
        Vanished { key, number: *number, result }
    }

    /// Whether another lease on the same work was given since.
    fn is_lost(&self, vanished: &Vanished) -> bool {
        self.leases[&vanished.key] > vanished.number
    }

    pub(super) async fn lease_alignment(&mut self) -> Option<Vanished> {
        let store = self.store();
        let leased =
            self.under_fault("lease an alignment", async move { store.lease_alignment(LEASE).await });
        let lease = leased.await.done()??;
        Some(self.taken(lease.work.update.id.clone(), Outcome::Alignment(lease)))
    }

    /// A lease, and the true mean of what it counts.
    pub(super) async fn lease_merge(&mut self) -> Option<Vanished> {
        let store = self.store();
        let merged = async move {
            let Some(lease) = store.lease_merge(LEASE).await? else { return Ok(None) };
            let mut sources = Vec::new();
            for input in &lease.work.inputs {
                sources.push(store.source(&input.digest).await?);
            }
            let counts: Vec<u64> = lease.work.inputs.iter().map(|input| input.num_examples).collect();
            let mut inputs = Vec::new();
            for (source, share) in sources.iter().zip(rebasin::shares(&counts)?) {
                inputs.push(rebasin::Input { source, alignment: None, share });
            }
            let mut bytes = Vec::new();
            rebasin::merge_to(None, &inputs, None, &mut bytes, &mut |_, _| {})?;
            Ok(Some((lease, bytes)))
        };
        let (lease, bytes) = self.under_fault("lease a merge", merged).await.done()??;
        Some(self.taken(format!("round {}", lease.work.round), Outcome::Merge(lease, bytes)))
    }

    /// Aligns what is due next; tells whether something was.
    pub(super) async fn align(&mut self) -> bool {
        match self.lease_alignment().await {
            Some(taken) => {
                self.commit(taken, true).await;
                true
            }
            None => false,
        }
    }

    pub(super) async fn merge(&mut self) {
        if let Some(taken) = self.lease_merge().await {
            self.commit(taken, true).await;
        }
    }

    pub(super) async fn overtaken(&mut self, merges: bool) {
        let first = if merges { self.lease_merge().await } else { self.lease_alignment().await };
        let Some(first) = first else { return };
        self.place.pass(100).await;
        let second = if merges { self.lease_merge().await } else { self.lease_alignment().await };
        self.commit(first, false).await;
        if let Some(second) = second {
            self.commit(second, true).await;
        }
    }

    /// Commits what a worker has. Whether it may is the store's to say: always where the lease was `just_given`, never where another
    /// one was given since.
    pub(super) async fn commit(&mut self, taken: Vanished, just_given: bool) {
        let (store, lost, token) = (self.store(), self.is_lost(&taken), taken.token());
        let told = match taken.result {
            Outcome::Alignment(lease) => {
                let (alignment, report) = &*ALIGNED;
                let aligned = async move { store.finish_alignment(&lease, alignment, report).await };
                self.under_fault("align", aligned).await
            }
            Outcome::Merge(lease, bytes) => {
                let (round, model) = (lease.work.round, Digest::of(&bytes));
                let told = self.under_fault("publish", publish(store, lease, bytes)).await;
                if !matches!(told, Told::Done(false)) {
                    self.see_published(round, model, matches!(told, Told::Done(true))).await;
                }
                told
            }
        };
        match told {
            Told::Done(done) => {
                assert!(!(lost && done), "a result was written under a lease that was lost");
                assert!(done || !just_given, "a result was refused under a lease that is held");
                self.tally.late_results += u32::from(!done);
            }
            Told::Refused(error) => panic!("refused: {error}"),
            Told::Died => {}
            Told::Gone => self.give_back(token).await,
        }
    }

    /// Looks at what became of a round whose model a worker wanted to publish.
    async fn see_published(&mut self, round: u32, model: Digest, said: bool) {
        let rounds = self.rounds().await;
        let now = rounds.iter().find(|record| record.round.number == round).expect("a round");
        let before = self.published.get(&round).copied();
        match (&now.round.state, before) {
            (State::Published { global }, None) => {
                assert_eq!(*global, model, "round {round}: another model than was merged");
                self.published.insert(round, model);
                self.tally.published += 1;
                self.tally.unheard_models += u32::from(!said);
            }
            (State::Published { global }, Some(before)) => {
                assert!(!said, "round {round} was published twice");
                assert_eq!(*global, before, "one model a round, for ever");
            }
            (state, _) => assert!(!said && before.is_none(), "round {round} is {state:?}"),
        }
    }

    /// Takes the first update out of a round that is merged.
    pub(super) async fn reject(&mut self) {
        let Some(taken) = self.lease_merge().await else { return };
        let (store, token) = (self.store(), taken.token());
        let Outcome::Merge(lease, _) = taken.result else { unreachable!("a lease on a merge") };
        let standing = rebasin::Standing {
            distance: 1.0,
            distance_ratio: Some(9.0),
            cosine: None,
            statistics_ratio: None,
            others: 2,
        };
        let judged = Judged { standing, warnings: vec!["too far".into()] };
        let rejected = [(lease.work.inputs[0].update_id.clone(), judged)];
        let told = async move { store.reject_implausible(&lease, &rejected).await };
        match self.under_fault("reject", told).await {
            Told::Done(done) => {
                assert!(done, "refused under a lease that is held");
                self.tally.judged += 1;
            }
            Told::Refused(error) => panic!("refused: {error}"),
            Told::Died => {}
            Told::Gone => self.give_back(token).await,
        }
    }

    /// Says that the work failed.
    pub(super) async fn fail(&mut self, taken: Vanished, just_given: bool) {
        let (store, lost) = (self.store(), self.is_lost(&taken));
        let failed = async move {
            match &taken.result {
                Outcome::Alignment(lease) => store.fail_alignment(lease, "it failed").await,
                Outcome::Merge(lease, _) => store.fail_merge(lease, "it failed").await,
            }
        };
        if let Some(done) = self.under_fault("fail", failed).await.done() {
            assert!(!(lost && done), "a failure was written under a lease that was lost");
            assert!(done || !just_given, "a failure was refused under a lease that is held");
        }
    }

    pub(super) async fn renew(&mut self) {
        let Some(vanished) = self.vanished.front() else { return };
        let (store, lost, token) = (self.store(), self.is_lost(vanished), vanished.token());
        let renewed = self.under_fault("renew", async move { store.renew(&token, LEASE).await }).await.done();
        assert!(!(lost && renewed == Some(true)), "a lease that was lost was renewed");
    }

    pub(super) async fn give_back(&mut self, token: String) {
        let store = self.store();
        self.under_fault("give back", async move { store.give_back(&token, Duration::ZERO).await })
            .await
            .done();
    }
}

/// Tells whether the model became the round's.
async fn publish(store: Store, lease: Lease<MergeWork>, bytes: Vec<u8>) -> Result<bool> {
    assert_eq!(lease.work.run.id, RUN);
    let scratch = store.scratch(Kind::Merge);
    let mut staging = store.staging(scratch.name(), bytes.len() as u64, Some(layout()))?;
    staging.append(&bytes)?;
    let model = staging.seal(None)?;
    let published = store.finish_merge(&lease, &model, None, &[], &[], no_signature).await?;
    assert!(published.is_none_or(|digest| digest == model.digest));
    Ok(published.is_some())
}
