//! Random courses of a run, on the real store: sites that send in parts, send again, or something else; workers that vanish with a
//! lease and come back; hours that pass within a millisecond; calls that are broken off at whatever await, a database that is gone in the
//! middle; restarts, cancellations. After each, the run ends and everything that a receipt was given for was counted exactly once,
//! or rejected and on record.
//!
//! On SQLite one process with a folder; on Postgres two, which share their bytes. Time passes by moving all times in the rows
//! back. Site `i` sends a tensor with a single one at place `i`, so that a published model spells out who was counted, and how
//! often.
//!
//! 2,000 lists in `tests/run`: 1,700 on SQLite and 300 on Postgres, in parts that run side by side. Any number of them in each part:
//! `PROPTEST_CASES=100000 cargo nextest run --workspace -E 'test(simulation)'`. A list that fails is shrunk, shown, and kept in
//! `simulation.proptest-regressions`; whatever is in there is gone through first. A list decides all but one thing: how often a
//! call is polled until it is told something differs by a poll or two from one time to the next, so a list that fails seldom is to
//! be run many times.

mod checks;
mod course;
mod list;
mod place;
mod sites;
mod workers;

use std::cell::RefCell;

use proptest::test_runner::{Config as Lists, FileFailurePersistence, TestRunner};

use self::{
    course::{Course, Tally},
    list::list,
    place::Place,
};
use super::*;

/// Lists in each part, unless `PROPTEST_CASES` says otherwise.
const ON_SQLITE: u32 = 425;
const ON_POSTGRES: u32 = 150;

fn simulate(postgres: Option<&str>, lists: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let place = RefCell::new(runtime.block_on(Place::new(postgres)));
    let given = Lists::default();
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/tests/simulation.proptest-regressions");
    let config = Lists {
        cases: if given.cases == 256 { lists } else { given.cases },
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(kept))),
        max_shrink_iters: 2000,
        ..given
    };
    let all = RefCell::new(Tally::default());
    let outcome = TestRunner::new(config).run(&list(), |(setting, steps)| {
        let mut place = place.borrow_mut();
        runtime.block_on(async {
            let mut course = Course::begin(&mut place, setting).await;
            for step in steps {
                course.step(step).await;
            }
            course.end(setting).await;
            course.retire().await;
            course.check().await;
            course.tally.lists = 1;
            all.borrow_mut().add(&course.tally);
        });
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    let tally = all.into_inner();
    println!("{tally:?}");
    // It came to what it is for.
    if tally.lists >= 100 {
        let seen = [
            tally.receipts,
            tally.published,
            tally.died,
            tally.gone,
            tally.late_results,
            tally.resumed,
            tally.rejected,
            tally.judged,
        ];
        assert!(seen.iter().all(|&count| count > 0), "something never happened: {tally:?}");
    }
}

/// Parts of the simulation, each a test, so that they run side by side.
macro_rules! parts {
    ($($sqlite:ident)*; $($postgres:ident)*) => {
        $(#[test]
        fn $sqlite() {
            simulate(None, ON_SQLITE);
        })*
        $(#[test]
        fn $postgres() {
            let url = postgres_url().expect(
                "FEDBASIN_TEST_POSTGRES_URL is not set; run `tests/run tests`, which starts a Postgres, or name one of your own",
            );
            simulate(Some(&url), ON_POSTGRES);
        })*
    };
}

parts! {
    what_a_receipt_was_given_for_counts_once_on_sqlite_1
    what_a_receipt_was_given_for_counts_once_on_sqlite_2
    what_a_receipt_was_given_for_counts_once_on_sqlite_3
    what_a_receipt_was_given_for_counts_once_on_sqlite_4;
    what_a_receipt_was_given_for_counts_once_on_postgres_1
    what_a_receipt_was_given_for_counts_once_on_postgres_2
}
