//! What runs keep, and what they let go.

use super::*;

/// Publishes a round whose only update is `value` and whose model is `10 + value`; the update reports `loss`.
async fn round_of(world: &World, number: u32, value: f32, loss: f64) {
    let bytes = checkpoint(value);
    let new = NewUpdate {
        run_id: "run".into(),
        round: number,
        digest: Digest::of(&bytes),
        size: bytes.len() as u64,
        num_examples: 10,
        metrics: BTreeMap::from([("loss".into(), loss)]),
    };
    let update = world.store.begin_update("a", &new).await.expect("begun");
    world.accept(&update, &bytes).await.expect("accepted");
    world.store.discard_staging(&update.id);
    world.tick().await;
    world.publish(10.0 + value).await;
    world.store.discard_staging("model");
    world.tick().await;
    world.store.retire().await.expect("retired");
}

impl World {
    async fn keeps(&self, values: &[f32]) -> Vec<bool> {
        let mut kept = Vec::new();
        for &value in values {
            let path = self.object_path(value).await;
            assert!(path.as_ref().is_none_or(|path| path.exists()), "{value}: a row without bytes");
            kept.push(path.is_some());
        }
        kept
    }

    fn objects(&self) -> usize {
        std::fs::read_dir(self.config.data_dir.join("objects/checkpoints")).expect("the folder").count()
    }
}

#[test]
fn the_newest_models_and_updates_are_kept_and_the_record_of_all() {
    on_both(async |world| {
        let policy = Policy { keep_models: Some(2), keep_updates: Some(1), ..policy(5, 1) };
        world.run(&["a"], policy).await;
        for number in 1..=4_u8 {
            round_of(&world, number.into(), f32::from(number), 0.5).await;
        }
        assert_eq!(world.keeps(&[11.0, 12.0, 13.0, 14.0]).await, [false, false, true, true]);
        assert_eq!(world.keeps(&[1.0, 2.0, 3.0, 4.0]).await, [false, false, false, true]);
        assert_eq!(world.objects(), 3, "the bytes are gone, not only their rows");
        let record = world.round(1).await;
        assert_eq!(record.round.state, State::Published { global: Digest::of(&checkpoint(11.0)) });
        assert!(record.model_retired_at_ms.is_some() && world.round(3).await.model_retired_at_ms.is_none());
        let update = &world.store.updates_that_count("run", 1).await.expect("read")[0];
        assert_eq!(update.receipt().expect("a receipt").digest, Digest::of(&checkpoint(1.0)));
        let found = world.store.fsck(true, &mut |finding| panic!("{finding}")).await.expect("looked");
        assert_eq!(found, 3);
    });
}

impl World {
    /// What `audit verify` says is wrong.
    async fn verified(&self) -> Result<()> {
        self.store.verify_log(None, |_| {}).await.map(|_| ())
    }

    async fn change(&self, statement: &'static str) {
        let done = sqlx::query(statement).execute(&self.store.pool).await.expect("changed");
        assert!(done.rows_affected() > 0, "{statement}");
    }

    async fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        self.store.fsck(true, &mut |finding| found.push(finding)).await.expect("looked");
        found
    }
}

/// Rounds 1 to 3; the models and updates of the first two are let go, and then the update of the third is withdrawn.
async fn let_go(world: &World) {
    let policy = Policy { keep_models: Some(1), keep_updates: Some(1), ..policy(5, 1) };
    world.run(&["a"], policy).await;
    for number in 1..=3_u8 {
        round_of(world, number.into(), f32::from(number), 0.5).await;
    }
    let update = world.store.updates_that_count("run", 3).await.expect("read").pop().expect("it counted");
    world.store.withdraw_update("a", &update.id).await.expect("withdrawn");
    assert_eq!(
        world.keeps(&[1.0, 2.0, 3.0, 11.0, 12.0, 13.0]).await,
        [false, false, false, false, false, true]
    );
}

#[test]
fn what_rows_and_the_log_say_of_what_was_let_go_must_agree() {
    on_both(async |world| {
        let_go(&world).await;
        world.verified().await.expect("all that was let go is on record");
        let size = world.store.log_head().await.expect("read").size;
        for (change, back, said) in [
            (
                "UPDATE updates SET withdrawn_at_ms = retired_at_ms WHERE round = 1",
                "UPDATE updates SET withdrawn_at_ms = NULL WHERE round = 1",
                "no record of the withdrawn update",
            ),
            (
                "UPDATE rounds SET model_retired_at_ms = closed_at_ms WHERE number = 3",
                "UPDATE rounds SET model_retired_at_ms = NULL WHERE number = 3",
                "no record of the retired model",
            ),
            (
                "UPDATE checkpoints SET removed_at_ms = created_at_ms, wrapped_key = object, object = NULL
                 WHERE removed_at_ms IS NULL",
                "UPDATE checkpoints SET removed_at_ms = NULL, object = wrapped_key, wrapped_key = NULL
                 WHERE object IS NULL AND wrapped_key IS NOT NULL",
                "no record of the erased checkpoint",
            ),
            (
                "UPDATE updates SET withdrawn_at_ms = NULL WHERE round = 3",
                "UPDATE updates SET withdrawn_at_ms = retired_at_ms WHERE round = 3",
                "update.withdrawn",
            ),
            (
                "UPDATE updates SET retired_at_ms = NULL WHERE round = 2",
                "UPDATE updates SET retired_at_ms = accepted_at_ms WHERE round = 2",
                "update.retired",
            ),
            (
                "UPDATE rounds SET model_retired_at_ms = NULL WHERE number = 1",
                "UPDATE rounds SET model_retired_at_ms = closed_at_ms WHERE number = 1",
                "model.retired",
            ),
            (
                "UPDATE checkpoints SET wrapped_key = 'kept' WHERE removed_at_ms IS NOT NULL",
                "UPDATE checkpoints SET wrapped_key = NULL WHERE wrapped_key = 'kept'",
                "checkpoint.erased",
            ),
            (
                "UPDATE checkpoints SET size = -size, removed_at_ms = NULL WHERE removed_at_ms IS NOT NULL",
                "UPDATE checkpoints SET size = -size, removed_at_ms = created_at_ms WHERE size < 0",
                "checkpoint.erased",
            ),
        ] {
            world.change(change).await;
            let error = world.verified().await.expect_err(change);
            assert!(error.code() == Code::DataLoss && error.message().contains(said), "{change}: {error}");
            world.change(back).await;
            world.verified().await.expect(back);
        }
        assert_eq!(world.store.log_head().await.expect("read").size, size, "the log is as it was");
        // A retirement that is not on record: a policy never asked for it.
        let update = world.upload("a", 4, 4.0).await.expect("accepted");
        world.change("UPDATE updates SET retired_at_ms = accepted_at_ms WHERE round = 4").await;
        let error = world.verified().await.expect_err("no policy let it go").to_string();
        assert!(error.contains("retired update") && error.contains(&update.update_id), "{error}");
    });
}

#[test]
fn what_was_erased_and_comes_again_is_held_and_the_log_says_so() {
    on_both(async |world| {
        let_go(&world).await;
        // As a seed, as an update and as a model.
        world.store.put_checkpoint(world.sealed("seed", 1.0)).await.expect("stored");
        world.store.discard_staging("seed");
        world.verified().await.expect("a seed's bytes came again");
        let update = world.begin("a", 4, &checkpoint(2.0)).await.expect("begun");
        world.accept(&update, &checkpoint(2.0)).await.expect("accepted");
        world.store.discard_staging(&update.id);
        world.verified().await.expect("an update's bytes came again");
        world.tick().await;
        world.publish(12.0).await;
        world.verified().await.expect("a model's bytes came again");
        assert_eq!(world.keeps(&[1.0, 2.0, 12.0]).await, [true; 3]);
        assert_eq!(world.findings().await, [], "under names of their own");
    });
}

#[test]
fn bytes_that_were_erased_and_are_put_back_are_found_as_damage() {
    on_both(async |world| {
        let policy = Policy { keep_models: Some(1), keep_updates: Some(0), ..policy(5, 1) };
        world.run(&["a"], policy).await;
        let update = world.begin("a", 1, &checkpoint(1.0)).await.expect("begun");
        world.accept(&update, &checkpoint(1.0)).await.expect("accepted");
        let path = world.object_path(1.0).await.expect("it is stored");
        let bytes = std::fs::read(&path).expect("read");
        world.store.discard_staging(&update.id);
        world.tick().await;
        world.publish(11.0).await;
        world.store.discard_staging("model");
        world.tick().await;
        world.store.retire().await.expect("retired");
        assert!(!path.exists() && world.findings().await.is_empty());

        std::fs::write(&path, &bytes).expect("put back");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let kept = Finding::Kept { key: format!("checkpoints/{name}"), digest: update.digest };
        assert!(kept.is_damage() && kept.to_string().contains(&name), "{kept}");
        assert_eq!(world.findings().await, std::slice::from_ref(&kept));
        // Somebody who stores the same bytes anew stands at another name: what is about to get its row is no damage.
        let late = world.store.put_object(&world.sealed("late", 1.0)).await.expect("stored");
        let found = world.findings().await;
        assert!(found.len() == 2 && found.contains(&kept), "{found:?}");
        assert_eq!(found.iter().filter(|finding| finding.is_damage()).count(), 1, "{found:?}");
        world.store.remove_object(&late.place.object).await.expect("removed");
        world.store.discard_staging("late");
        // And the old name stays one that must not be there once they are held again.
        world.store.put_checkpoint(world.sealed("late", 1.0)).await.expect("stored");
        assert_eq!(world.findings().await, [kept]);
    });
}

#[test]
fn bytes_that_are_to_be_erased_and_wait_for_long_are_found_as_damage() {
    on_both(async |world| {
        world.run(&["a"], policy(2, 1)).await;
        world.upload("a", 1, 1.0).await.expect("accepted");
        world.store.put_checkpoint(world.sealed("seed", 5.0)).await.expect("stored");
        let path = world.object_path(5.0).await.expect("it is stored");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        sqlx::query(world.store.sql("UPDATE checkpoints SET removed_at_ms = {now} WHERE digest = $1"))
            .bind(Digest::of(&checkpoint(5.0)).to_string())
            .execute(&world.store.pool)
            .await
            .expect("as a killed process leaves it");
        let found = world.findings().await;
        assert!(matches!(&found[..], [Finding::Orphan { .. }]), "it is about to go: {found:?}");
        world.change("UPDATE checkpoints SET removed_at_ms = 1 WHERE removed_at_ms IS NOT NULL").await;
        let digest = Digest::of(&checkpoint(5.0));
        assert_eq!(world.findings().await, [Finding::Kept { key: format!("checkpoints/{name}"), digest }]);
        world.store.retire().await.expect("the server comes to it");
        assert_eq!(world.findings().await, []);
        world.verified().await.expect("and it is on record");
    });
}

#[test]
fn the_best_model_is_kept_beside_the_newest() {
    on_both(async |world| {
        let best = KeepBest { metric: "loss".into(), goal: Goal::Lowest };
        let policy = Policy { keep_models: Some(1), keep_best: Some(best), ..policy(5, 1) };
        world.run(&["a"], policy).await;
        for (number, loss) in [(1_u8, 0.9), (2, 0.2), (3, 0.4), (4, 0.3)] {
            round_of(&world, number.into(), f32::from(number), loss).await;
        }
        assert_eq!(world.keeps(&[11.0, 12.0, 13.0, 14.0]).await, [false, true, false, true]);
        assert_eq!(world.keeps(&[1.0, 2.0, 3.0]).await, [true; 3], "nothing was said of updates");
    });
}

#[test]
fn what_another_row_needs_stays_and_what_comes_again_is_stored_again() {
    on_both(async |world| {
        let policy = Policy { keep_models: Some(1), keep_updates: Some(0), ..policy(9, 1) };
        world.run(&["a"], policy.clone()).await;
        round_of(&world, 1, 1.0, 0.5).await;
        assert_eq!(world.keeps(&[1.0, 11.0]).await, [false, true]);
        // The same bytes again.
        let update = world.begin("a", 2, &checkpoint(1.0)).await.expect("begun");
        world.accept(&update, &checkpoint(1.0)).await.expect("accepted");
        world.store.discard_staging(&update.id);
        world.store.retire().await.expect("retired");
        assert_eq!(world.keeps(&[1.0]).await, [true], "its round is open");
        world.tick().await;
        world.publish(12.0).await;
        world.store.discard_staging("model");
        // Another run begins with the model that this one lets go.
        let seed = Some(Digest::of(&checkpoint(11.0)));
        let other = NewRun {
            id: "other".into(),
            strategy: Strategy::Mean,
            spec: None,
            graph: None,
            policy,
            seed,
            cohort: vec!["a".into()],
            cloned_from: None,
        };
        world.store.create_run(other.clone()).await.expect("created");
        world.tick().await;
        world.store.retire().await.expect("retired");
        assert_eq!(world.keeps(&[1.0, 11.0, 12.0]).await, [false, true, true]);
        let gone = NewRun { id: "late".into(), seed: Some(Digest::of(&checkpoint(1.0))), ..other };
        let error = world.store.create_run(gone).await.expect_err("no bytes to begin with");
        assert_eq!(error.code(), Code::NotFound, "{error}");
    });
}

#[test]
fn bytes_found_stored_that_are_let_go_before_their_row_is_written_are_asked_for_again() {
    on_both(async |world| {
        let policy = Policy { keep_models: Some(1), keep_updates: Some(0), ..policy(9, 1) };
        world.run(&["a"], policy).await;
        let sealed = world.sealed("late", 1.0);
        let update = world.begin("a", 1, &checkpoint(1.0)).await.expect("begun");
        world.accept(&update, &checkpoint(1.0)).await.expect("accepted");
        let stored = world.store.put_object(&sealed).await.expect("found");
        assert!(stored.found);
        world.tick().await;
        world.publish(11.0).await;
        world.tick().await;
        world.store.retire().await.expect("retired");
        assert_eq!(world.keeps(&[1.0]).await, [false]);
        let mut tx = world.store.begin().await.expect("begun");
        let error =
            world.store.insert_checkpoint(&mut tx, &sealed, &stored).await.expect_err("they are gone");
        assert_eq!(error.code(), Code::Unavailable, "{error}");
        tx.rollback().await.expect("rolled back");
        world.store.put_checkpoint(sealed).await.expect("tried again it is stored");
        assert_eq!(world.keeps(&[1.0]).await, [true]);
    });
}

#[test]
fn a_paused_run_ends_its_round_and_opens_no_other() {
    on_both(async |world| {
        world.run(&["a"], policy(2, 1)).await;
        world.store.pause_run("run", true).await.expect("paused");
        world.store.pause_run("run", true).await.expect("twice is as once");
        world.upload("a", 1, 1.0).await.expect("the open round goes on");
        world.tick().await;
        world.publish(11.0).await;
        world.store.discard_staging("model");
        assert!(!world.tick().await, "no round opens");
        assert_eq!(world.store.run("run").await.expect("read").expect("there").current_round, Some(1));
        world.store.pause_run("run", false).await.expect("resumed");
        assert!(world.tick().await);
        world.upload("a", 2, 2.0).await.expect("round 2 is open");
        world.store.cancel_run("run").await.expect("cancelled");
        let error = world.store.pause_run("run", true).await.expect_err("it is over");
        assert_eq!(error.code(), Code::Conflict, "{error}");
    });
}

#[test]
fn when_each_site_was_last_seen_is_told() {
    on_both(async |world| {
        world.run(&["a", "b"], policy(1, 1)).await;
        assert!(world.store.cohort_last_seen("run").await.expect("read").is_empty(), "never");
        world.store.token_by_hash("hash-a").await.expect("asked").expect("known");
        let seen = world.store.cohort_last_seen("run").await.expect("read");
        let now = world.store.now().await.expect("a time");
        assert!(seen.len() == 1 && (now - 60_000..=now).contains(&seen["a"]), "{seen:?}");
    });
}

#[test]
fn what_was_withdrawn_is_erased_also_where_the_process_was_ended_before() {
    on_both(async |world| {
        world.run(&["a"], policy(2, 1)).await;
        round_of(&world, 1, 1.0, 0.5).await;
        assert_eq!(world.keeps(&[1.0, 11.0]).await, [true, true], "without a policy all is kept");
        sqlx::query("UPDATE updates SET withdrawn_at_ms = 1, retired_at_ms = 1")
            .execute(&world.store.pool)
            .await
            .expect("as it was committed");
        world.store.retire().await.expect("retired");
        assert_eq!(world.keeps(&[1.0, 11.0]).await, [false, true]);
        let lines = world.store.log_lines(0, 1000, None).await.expect("read");
        assert!(lines.last().is_some_and(|line| line.contains("checkpoint.erased")), "{lines:?}");
    });
}

#[test]
fn a_worker_that_merges_with_what_is_withdrawn_meanwhile_publishes_nothing() {
    on_both(async |world| {
        world.run(&["a", "b", "c"], policy(1, 2)).await;
        let mut receipts = Vec::new();
        for (site, value) in [("a", 1.0), ("b", 2.0), ("c", 3.0)] {
            receipts.push(world.upload(site, 1, value).await.expect("accepted"));
        }
        world.tick().await;
        while let Some(lease) = world.store.lease_alignment(LEASE).await.expect("leased") {
            assert!(world.store.finish_alignment(&lease, &identity(), &report()).await.expect("finished"));
        }
        let lease = world.store.lease_merge(LEASE).await.expect("leased").expect("a round to merge");
        let of_c = &receipts[2].update_id;
        world.store.withdraw_update("c", of_c).await.expect("withdrawn");
        let model = world.sealed("model", 9.0);
        let late =
            world.store.finish_merge(&lease, &model, None, &[], &[], no_signature).await.expect("asked");
        assert_eq!(late, None, "its lease is no longer one");
        assert_eq!(world.objects(), 2, "a model that nobody publishes is not kept");
        let again = world.store.lease_merge(LEASE).await.expect("leased").expect("at once");
        assert_eq!(again.work.inputs.len(), 2);
        // Below the quorum of two nothing is merged.
        world.store.withdraw_update("b", &receipts[1].update_id).await.expect("withdrawn");
        assert!(matches!(world.round(1).await.round.state, State::Failed { .. }));
    });
}

#[test]
fn a_model_that_a_person_marked_is_kept_until_nobody_marks_it() {
    on_both(async |world| {
        world.run(&["a"], Policy { keep_models: Some(1), ..policy(9, 1) }).await;
        let model = |value: f32| Digest::of(&checkpoint(value));
        round_of(&world, 1, 1.0, 0.5).await;
        world.store.tag_model(&model(11.0), "best").await.expect("tagged");
        round_of(&world, 2, 2.0, 0.5).await;
        world.store.promote_model(&model(12.0), None).await.expect("promoted");
        round_of(&world, 3, 3.0, 0.5).await;
        round_of(&world, 4, 4.0, 0.5).await;
        assert_eq!(world.keeps(&[11.0, 12.0, 13.0, 14.0]).await, [true, true, false, true]);
        let gone = world.store.tag_model(&model(13.0), "late").await.expect_err("not kept");
        assert_eq!(gone.code(), Code::Conflict);
        world.verified().await.expect("the log says the same");

        // Another one takes its place; the tag goes.
        world.store.promote_model(&model(14.0), Some("run")).await.expect("promoted");
        world.store.untag_model(&model(11.0), "best").await.expect("untagged");
        round_of(&world, 5, 5.0, 0.5).await;
        assert_eq!(world.keeps(&[11.0, 12.0, 14.0, 15.0]).await, [false, false, true, true]);
        world.verified().await.expect("the log says the same");
    });
}
