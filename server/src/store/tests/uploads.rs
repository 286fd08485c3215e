//! Updates: announced, received, accepted, refused.

use super::*;

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
        let (_, error) = world.upload_of_another_layout("a").await;
        let error = error.expect_err("no tensor of the spec");
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
        let mut staging = staging(&world.store, &update).await.expect("opened");
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
        world.store.create_site("stranger", "hash-stranger", YEAR).await.expect("enrolled");
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
fn each_record_of_an_update_says_by_digest_which_bytes_it_is_about() {
    on_both(async |world| {
        world.run(&["a", "b", "c"], Policy { max_updates: Some(2), ..policy(2, 2) }).await;
        // The first of three is replaced, the second is bad, the third is taken; b's is taken back while it arrives, c's comes too late.
        let mut under_way = Vec::new();
        for value in [1.0, 2.0, 3.0] {
            under_way.push(world.begin("a", 1, &checkpoint(value)).await.expect("begun"));
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        world.store.reject_update(&under_way[1].id, "bad").await.expect("rejected");
        let back = world.begin("b", 1, &checkpoint(4.0)).await.expect("begun");
        world.store.withdraw_update("b", &back.id).await.expect("withdrawn");
        let late = world.begin("c", 1, &checkpoint(5.0)).await.expect("begun");
        world.accept(&under_way[2], &checkpoint(3.0)).await.expect("accepted");
        world.upload("b", 1, 6.0).await.expect("accepted");
        assert!(world.tick().await, "the round is full");
        world.publish(7.0).await;

        let (mut let_go, mut actions) = (Vec::new(), std::collections::BTreeSet::new());
        for line in world.store.log_lines(0, 1000, Some("run")).await.expect("read") {
            let record = fedbasin_proof::Record::from_line(&line).expect("a record");
            if !record.action.starts_with("update.") {
                continue;
            }
            let (site, object) = (record.site.expect("a site"), record.object.expect("an update"));
            let digest =
                world.store.update_of_site(&site, &object).await.expect("its row").digest.to_string();
            let (before, after) = (record.before.as_deref(), record.after.as_deref());
            assert!([before, after].contains(&Some(&*digest)), "{line}");
            if ["update.declined", "update.rejected"].contains(&&*record.action) {
                assert_eq!((before, after), (Some(&*digest), None), "{line}");
                let_go.push(object);
            }
            actions.insert(record.action);
        }
        let turned_away = [&under_way[0], &under_way[1], &back, &late].map(|update| update.id.clone());
        assert_eq!(let_go, turned_away);
        let all = ["accepted", "aligned", "announced", "declined", "rejected", "withdrawn"];
        assert!(actions.iter().eq(&all.map(|action| format!("update.{action}"))), "{actions:?}");
    });
}
