//! Processes are killed, or put to sleep beyond their leases, at every named point of a run (`FAILPOINTS` of the server and of the
//! client), and started again; then a checker that reads only the database, the stored bytes and the sites' receipts says whether
//! anything was lost, counted twice or left half done.
//!
//! A point each, in one of three worlds by turns, see [`worlds::World`]. The long form, any number of random points, faults and
//! worlds: `FEDBASIN_CRASH_RUNS=500 cargo test -p fedbasin-tests --test crashes -- --ignored --nocapture`, which writes
//! `CRASHES.md`. With `FEDBASIN_CRASH_FIRST=N` it begins at the N-th, to see a single one again, and writes nothing.

#![forbid(unsafe_code)]

mod checker;
mod crash;
mod random;
mod worlds;

use std::time::Instant;

use fedbasin_client::FAILPOINTS as SITE_FAILPOINTS;
use fedbasin_server::FAILPOINTS;

use crate::{
    crash::{Crash, Fault},
    worlds::World,
};

/// Rounds of each run. Two, so that the second one's reference is what the first one published.
const ROUNDS: u32 = 2;

/// All points of one part of a run.
async fn at_each(part: &str, fault: Fault) {
    let all = if fault == Fault::SiteKilled { SITE_FAILPOINTS } else { FAILPOINTS };
    let points: Vec<_> = all.iter().enumerate().filter(|(_, point)| point.starts_with(part)).collect();
    assert!(points.len() > 1, "{part}: no such points");
    for (index, &point) in points {
        let world = match fault {
            Fault::Relieved => World::of_workers(index),
            _ => World::of(point, index),
        };
        // The second chunk, so that there is a first one to go on from; the ticket, not the folder's owner.
        let time = if ["fetch.received", "send.chunk", "site.written"].contains(&point) { 2 } else { 1 };
        let crash = Crash { world, point, time, fault, alike: index % 2 == 0 };
        let begun = Instant::now();
        let met = crash.run().await;
        println!("{crash:?}: {met:?}, {:.1} s", begun.elapsed().as_secs_f64());
        match fault {
            Fault::Killed => assert!(met.killed > 0, "{crash:?}: no process came there"),
            Fault::SiteKilled => assert_eq!(met.killed, 2, "{crash:?}: each site comes there once"),
            Fault::Relieved | Fault::Asleep(_) => assert_eq!(met.stopped, 2, "{crash:?}: two workers sleep"),
        }
    }
}

macro_rules! parts {
    ($every:ident of $points:ident, $fault:expr; $($name:ident $part:literal),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                at_each($part, $fault).await;
            }
        )*

        #[test]
        fn $every() {
            let of_a_part = |point: &str| [$($part),*].iter().filter(|part| point.starts_with(*part)).count();
            for point in $points {
                assert_eq!(of_a_part(point), 1, "{point}");
            }
        }
    };
}

parts!(every_point_of_the_server_is_of_a_part of FAILPOINTS, Fault::Killed;
    killed_while_rounds_open_and_close "round.",
    killed_while_an_update_arrives "upload.",
    killed_while_an_update_is_aligned "align.",
    killed_while_a_round_is_merged "merge.",
    killed_while_a_model_is_published "publish.",
    killed_while_the_log_grows "audit.",
    killed_while_leftovers_are_swept "sweep.",
    killed_while_a_run_lets_go "retire.",
);

parts!(every_point_of_a_site_is_of_a_part of SITE_FAILPOINTS, Fault::SiteKilled;
    a_site_killed_while_it_fetches "fetch.",
    a_site_killed_while_it_trains "train.",
    a_site_killed_while_it_sends "send.",
    a_site_killed_while_it_writes "site.",
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asleep_beyond_its_lease_while_it_aligns() {
    at_each("align.", Fault::Relieved).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asleep_beyond_its_lease_while_it_merges() {
    at_each("merge.", Fault::Relieved).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asleep_beyond_its_lease_while_it_publishes() {
    at_each("publish.", Fault::Relieved).await;
}
