//! What a list is made of.

use std::{ops::Range, sync::LazyLock};

use proptest::{
    prop_oneof,
    strategy::{Just, Strategy},
};
use rebasin::{Checkpoint, Digest, Tensor};

use super::super::layout;

pub(super) const SITES: [&str; 3] = ["a", "b", "c"];

/// The tensor that the sites have their ones in; all others are zero.
pub(super) const ONES: &str = "fc1.weight";

/// What a site sends in a round, or what it sends instead: two tensors of its own, each with a single one in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Parcel {
    pub(super) site: usize,
    pub(super) other: bool,
}

static BYTES: LazyLock<Vec<(Vec<u8>, Digest)>> = LazyLock::new(|| {
    let one_hot = |place| {
        let layout = layout();
        let mut tensors = Vec::new();
        for info in layout.tensors() {
            let mut values = vec![0.0; info.num_elements()];
            if &*info.name == ONES {
                values[place] = 1.0;
            }
            tensors.push(Tensor::from_f32(info, &values).expect("fits"));
        }
        let bytes = Checkpoint::new(layout.clone(), tensors).expect("fits").to_bytes();
        let digest = Digest::of(&bytes);
        (bytes, digest)
    };
    (0..2 * SITES.len()).map(one_hot).collect()
});

impl Parcel {
    /// Where its tensor has its one.
    pub(super) fn place(self) -> usize {
        if self.other { self.site + SITES.len() } else { self.site }
    }

    pub(super) fn bytes(self) -> &'static [u8] {
        &BYTES[self.place()].0
    }

    pub(super) fn digest(self) -> Digest {
        BYTES[self.place()].1
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Op {
    /// Announces an update, and no more.
    Announce(Parcel),
    /// Sends some of the bytes that are missing, of an update that was begun in whatever round.
    Chunk(Parcel, Eighths),
    /// A slower replica, which saw the upload as it began, writes what is there already.
    Stale(Parcel),
    /// The file is changed while it is sent.
    Garble(Parcel),
    /// The site sends more than it announced.
    Overflow(Parcel),
    /// Asks for the receipt, whether all bytes are there or not.
    Finish(Parcel),
    /// Announces, sends what is missing, finishes. Or again.
    Send(Parcel),
    /// The same for the round before.
    SendLate(Parcel),
    /// The reconciler looks.
    Tick,
    /// What the run keeps no longer is removed: all sites send the same bytes in every round, so what goes comes again.
    Retire,
    /// What nobody needs is removed, all of it being old enough.
    Sweep,
    Align,
    /// A worker takes an alignment and is not heard of.
    TakeAlignment,
    AlignmentFails,
    Merge,
    TakeMerge,
    MergeFails,
    /// A worker merges, finds an update implausible, and takes it out instead of publishing.
    MergeRejects,
    /// A worker sleeps until its lease is over and another one was given, then wants to commit what it had.
    Overtaken {
        merges: bool,
    },
    /// The worker that vanished first wants to commit what it had, or that it failed.
    Wake {
        fails: bool,
    },
    /// It wants to keep its lease for longer.
    Renew,
    /// It is told to end, and gives its lease back.
    GiveBack,
    Pass {
        seconds: i64,
    },
    Cancel,
    /// The process ends as it should, and starts again.
    Restart,
    /// What follows is done by the other process, where there are two.
    Elsewhere,
}

/// Of an update's bytes.
pub(super) type Eighths = usize;

/// What befalls a process or the database in the middle of an operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    pub(super) what: Befalls,
    /// In which of the operation's calls of the store.
    pub(super) call: u32,
    pub(super) at: At,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Befalls {
    /// Whoever calls is dropped at that await: a call that is broken off, a process that dies.
    Death,
    /// The process's connections are cut (Postgres), or the pool is closed (SQLite), and it goes on.
    NoDatabase,
}

/// When, by how often the call was polled.
#[derive(Debug, Clone, Copy)]
pub(super) enum At {
    Poll(u32),
    /// Counted from where such a call ended the last time: there it commits.
    BeforeEnd(u32),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) op: Op,
    pub(super) fault: Option<Fault>,
}

/// What differs between runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    /// A model that all begin with: updates are aligned while the round collects.
    pub(super) seeded: bool,
    /// A round takes no more than two of three.
    pub(super) full_at_two: bool,
    /// After so long two are enough.
    pub(super) min_open_seconds: Option<u64>,
    /// At the end all sites send once more what they have, before time passes.
    pub(super) persistent: bool,
    /// What befalls the first worker then.
    pub(super) at_the_end: Option<Fault>,
    /// The first who merges then finds an update implausible.
    pub(super) rejects: bool,
}

fn op() -> impl Strategy<Value = Op> {
    let parcel = || {
        let other = prop_oneof![4 => Just(false), 1 => Just(true)];
        (0..SITES.len(), other).prop_map(|(site, other)| Parcel { site, other })
    };
    prop_oneof![
        2 => parcel().prop_map(Op::Announce),
        5 => (parcel(), 1..=8_usize).prop_map(|(parcel, eighths)| Op::Chunk(parcel, eighths)),
        1 => parcel().prop_map(Op::Stale),
        2 => parcel().prop_map(Op::Garble),
        1 => parcel().prop_map(Op::Overflow),
        4 => parcel().prop_map(Op::Finish),
        13 => parcel().prop_map(Op::Send),
        2 => parcel().prop_map(Op::SendLate),
        10 => Just(Op::Tick),
        2 => Just(Op::Retire),
        1 => Just(Op::Sweep),
        8 => Just(Op::Align),
        3 => Just(Op::TakeAlignment),
        1 => Just(Op::AlignmentFails),
        6 => Just(Op::Merge),
        2 => Just(Op::TakeMerge),
        1 => Just(Op::MergeFails),
        1 => Just(Op::MergeRejects),
        4 => prop_oneof![Just(false), Just(true)].prop_map(|merges| Op::Overtaken { merges }),
        4 => prop_oneof![3 => Just(false), 1 => Just(true)].prop_map(|fails| Op::Wake { fails }),
        1 => Just(Op::Renew),
        1 => Just(Op::GiveBack),
        4 => Just(Op::Pass { seconds: 100 }),
        1 => Just(Op::Pass { seconds: 4000 }),
        1 => prop_oneof![1 => Just(Op::Restart), 1 => Just(Op::Cancel)],
        2 => Just(Op::Elsewhere),
    ]
}

fn fault(calls: Range<u32>) -> impl Strategy<Value = Fault> {
    let before_end = prop_oneof![2 => Just(1), 1 => 2..6_u32].prop_map(At::BeforeEnd);
    let at = prop_oneof![(1..40_u32).prop_map(At::Poll), before_end];
    let what = prop_oneof![9 => Just(Befalls::Death), 1 => Just(Befalls::NoDatabase)];
    (what, calls, at).prop_map(|(what, call, at)| Fault { what, call, at })
}

pub(super) fn list() -> impl Strategy<Value = (Setting, Vec<Step>)> {
    let flag = || prop_oneof![Just(false), Just(true)];
    let at_the_end = prop_oneof![1 => Just(None), 2 => fault(0..2).prop_map(Some)];
    let rejects = prop_oneof![3 => Just(false), 1 => Just(true)];
    let setting = (flag(), flag(), flag(), flag(), at_the_end, rejects);
    let setting =
        setting.prop_map(|(seeded, full_at_two, opens_briefly, persistent, at_the_end, rejects)| Setting {
            seeded,
            full_at_two,
            min_open_seconds: opens_briefly.then_some(50),
            persistent,
            at_the_end,
            rejects,
        });
    let befallen = prop_oneof![2 => Just(None), 1 => fault(0..3).prop_map(Some)];
    let step = (op(), befallen).prop_map(|(op, fault)| Step { op, fault });
    (setting, proptest::collection::vec(step, 1..30))
}
