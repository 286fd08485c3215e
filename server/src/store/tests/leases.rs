//! Leases on alignments and merges, and the commits that end them.

use super::*;

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
        let finish = async |lease, model| {
            world.store.finish_merge(lease, model, None, &[], &[], no_signature).await.expect("asked")
        };
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
        let second = open(&world.config).await;
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
                    assert!(
                        store
                            .finish_merge(&lease, &model, None, &[], &[], no_signature)
                            .await
                            .expect("finished")
                            .is_some()
                    );
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
fn a_round_that_somebody_looks_at_is_still_due() {
    on_both(async |world| {
        world.run(&["a"], policy(1, 1)).await;
        world.upload("a", 1, 1.0).await.expect("accepted");
        world.tick().await;
        let due = async || world.store.merge_is_due().await.expect("asked");
        assert!(!due().await, "its update is not aligned");
        let lease = world.store.lease_alignment(LEASE).await.expect("asked").expect("leased");
        assert!(world.store.finish_alignment(&lease, &identity(), &report()).await.expect("finished"));
        assert!(due().await);
        // SQLite has one writer at a time: there nobody is skipped.
        if world.store.dialect == Dialect::Postgres {
            let mut looking = world.store.begin().await.expect("begun");
            world.store.lock_round(&mut looking, "run", 1).await.expect("locked");
            assert!(world.store.lease_merge(LEASE).await.expect("asked").is_none(), "it is locked");
            assert!(due().await);
            looking.rollback().await.expect("rolled back");
        }
        assert!(world.store.lease_merge(LEASE).await.expect("asked").is_some());
        assert!(!due().await, "it is another's");
    });
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
