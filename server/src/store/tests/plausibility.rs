//! What values an update may have, and updates that are rejected beside the others.

use rebasin::Standing;

use super::*;
use crate::round::Judged;

/// What the row of a checkpoint says of its values.
async fn kept(world: &World, digest: Digest) -> Option<String> {
    let row = sqlx::query("SELECT magnitudes FROM checkpoints WHERE digest = $1")
        .bind(digest.to_string())
        .fetch_one(&world.store.pool)
        .await
        .expect("a row");
    row.try_get("magnitudes").expect("text or nothing")
}

async fn bound(world: &World, round: u32) -> Option<f64> {
    let run = world.store.run("run").await.expect("read").expect("there");
    let bounds = world.store.bounds(&run, round).await.expect("known");
    bounds.map(|bounds| bounds.of(0))
}

#[test]
fn a_reference_is_measured_as_it_is_stored_or_when_it_is_first_needed() {
    on_both(async |world| {
        world.run(&["a", "b"], policy(3, 2)).await;
        world.upload("a", 1, 1.0).await.expect("accepted");
        world.upload("b", 1, 2.0).await.expect("accepted");
        assert_eq!(bound(&world, 1).await, None, "a founding round has no reference yet");
        world.tick().await;
        // As a merge does, which writes what it measures.
        while let Some(lease) = world.store.lease_alignment(LEASE).await.expect("leased") {
            assert!(world.store.finish_alignment(&lease, &identity(), &report()).await.expect("finished"));
        }
        let lease = world.store.lease_merge(LEASE).await.expect("leased").expect("a round to merge");
        let bytes = checkpoint(1.5);
        let mut staging =
            world.store.staging_measured("measured", bytes.len() as u64, Some(layout())).expect("opened");
        bytes.chunks(7).for_each(|part| staging.append(part).expect("fits"));
        let model = staging.seal(None).expect("whole");
        world
            .store
            .finish_merge(&lease, &model, None, &[], &[], no_signature)
            .await
            .expect("published")
            .expect("held");
        world.tick().await;
        assert_eq!(kept(&world, Digest::of(&bytes)).await.as_deref(), Some("[1.5,1.5,1.5,1.5]"));
        assert_eq!(bound(&world, 2).await, Some(15_000.0));

        // A model that was an update before has a row already, which says nothing of its values.
        world.upload("a", 2, 2.0).await.expect("accepted");
        world.upload("b", 2, 2.0).await.expect("accepted");
        world.tick().await;
        let global = world.publish(2.0).await;
        world.tick().await;
        assert_eq!(kept(&world, global).await, None);
        let other = open(&world.config).await;
        let run = other.run("run").await.expect("read").expect("there");
        let (here, there) = tokio::join!(bound(&world, 3), other.bounds(&run, 3));
        assert_eq!(here, Some(20_000.0));
        assert_eq!(there.expect("known").map(|bounds| bounds.of(0)), here, "whoever measures it");
        assert_eq!(kept(&world, global).await.as_deref(), Some("[2.0,2.0,2.0,2.0]"), "and it is kept");
        assert_eq!(bound(&world, 3).await, here);
    });
}

#[test]
fn a_policy_without_a_bound_takes_any_number() {
    on_both(async |world| {
        let seed = world.store.put_checkpoint(world.sealed("seed", 1.0)).await.expect("stored").digest;
        world.store.create_site("a", "hash-a", YEAR).await.expect("enrolled");
        for (id, factor) in [("bound", 1e4), ("unbound", 0.0)] {
            let new = NewRun {
                id: id.into(),
                strategy: Strategy::Mean,
                spec: None,
                graph: None,
                policy: Policy { max_magnitude_factor: factor, ..policy(1, 1) },
                seed: Some(seed),
                cohort: vec!["a".into()],
                cloned_from: None,
            };
            let run = world.store.create_run(new).await.expect("created");
            world.store.reconcile_run(&run).await.expect("its round opens");
            let bounds = world.store.bounds(&run, 1).await.expect("known");
            assert_eq!(bounds.map(|bounds| bounds.of(0)), (factor > 0.0).then_some(1e4), "{id}");
        }
    });
}

fn judged(warnings: &[&str]) -> Judged {
    let standing = Standing {
        distance: 3.0,
        distance_ratio: Some(1000.0),
        cosine: None,
        statistics_ratio: None,
        others: 2,
    };
    Judged { standing, warnings: warnings.iter().map(ToString::to_string).collect() }
}

/// Three updates that are aligned, and the lease to merge them.
async fn merging(world: &World, quorum: u32) -> Lease<MergeWork> {
    world.run(&["a", "b", "c"], policy(1, quorum)).await;
    for (site, value) in [("a", 1.0), ("b", 2.0), ("c", 3.0)] {
        world.upload(site, 1, value).await.expect("accepted");
    }
    world.tick().await;
    while let Some(lease) = world.store.lease_alignment(LEASE).await.expect("leased") {
        assert!(world.store.finish_alignment(&lease, &identity(), &report()).await.expect("finished"));
    }
    world.store.lease_merge(LEASE).await.expect("leased").expect("a round to merge")
}

fn of_site<'l>(lease: &'l Lease<MergeWork>, site: &str) -> &'l MergeInput {
    lease.work.inputs.iter().find(|input| input.site_id == site).expect("an update")
}

#[test]
fn a_round_is_merged_again_at_once_without_what_was_rejected() {
    on_both(async |world| {
        let lease = merging(&world, 2).await;
        let out = [(of_site(&lease, "b").update_id.clone(), judged(&["too far"]))];
        assert!(world.store.reject_implausible(&lease, &out).await.expect("rejected"));
        assert!(!world.store.reject_implausible(&lease, &out).await.expect("asked"), "the lease is over");
        let model = world.sealed("late", 9.0);
        let late =
            world.store.finish_merge(&lease, &model, None, &[], &[], no_signature).await.expect("asked");
        assert_eq!(late, None, "what was merged with it is not published");
        let update = world.store.update_of_site("b", &out[0].0).await.expect("read");
        assert!(update.state.reason().is_some_and(|reason| reason.contains("too far")), "{update:?}");
        assert_eq!(update.judged.as_deref(), Some(&out[0].1));

        let again = world.store.lease_merge(LEASE).await.expect("leased").expect("due at once");
        let sites: Vec<&str> = again.work.inputs.iter().map(|input| input.site_id.as_str()).collect();
        assert_eq!(sites, ["a", "c"]);
        assert_eq!(world.round(1).await.round.attempts, 1, "the try before was not a failure");
        let kept: Vec<(String, Judged)> =
            again.work.inputs.iter().map(|input| (input.update_id.clone(), judged(&[]))).collect();
        let model = world.sealed("model", 2.0);
        let global = world
            .store
            .finish_merge(&again, &model, None, &[], &kept, no_signature)
            .await
            .expect("published");
        assert_eq!(global, Some(model.digest));
        let updates = world.store.updates_that_count("run", 1).await.expect("read");
        let told: Vec<(&str, bool)> =
            updates.iter().map(|update| (update.state.name(), update.judged.is_some())).collect();
        assert_eq!(told, [("aligned", true), ("rejected", true), ("aligned", true)]);
    });
}

#[test]
fn a_round_whose_quorum_is_rejected_fails_and_names_all_of_them() {
    on_both(async |world| {
        let lease = merging(&world, 2).await;
        let out = ["a", "b", "c"].map(|site| (of_site(&lease, site).update_id.clone(), judged(&["too far"])));
        assert!(world.store.reject_implausible(&lease, &out).await.expect("rejected"));
        let State::Failed { reason } = world.round(1).await.round.state else { panic!("not failed") };
        assert!(reason.contains("1 of at least 2"), "{reason}");
        let updates = world.store.updates_that_count("run", 1).await.expect("read");
        assert!(updates.iter().all(|update| update.state.name() == "rejected"), "{updates:?}");
        assert!(world.store.lease_merge(LEASE).await.expect("asked").is_none());
    });
}

#[test]
fn a_lost_lease_rejects_nobody() {
    on_both(async |world| {
        let lease = merging(&world, 2).await;
        world.store.give_back(lease.token(), Duration::ZERO).await.expect("given back");
        let held = world.store.lease_merge(LEASE).await.expect("leased").expect("due");
        let out = [(of_site(&lease, "b").update_id.clone(), judged(&["too far"]))];
        assert!(!world.store.reject_implausible(&lease, &out).await.expect("asked"));
        assert_eq!(held.work.inputs.len(), 3);
        let update = world.store.update_of_site("b", &out[0].0).await.expect("read");
        assert_eq!((update.state.name(), update.judged), ("aligned", None));
    });
}

#[test]
fn a_founding_reference_that_is_rejected_is_replaced_and_the_others_are_aligned_anew() {
    on_both(async |world| {
        let lease = merging(&world, 2).await;
        assert_eq!(world.round(1).await.reference, Some(of_site(&lease, "a").digest));
        let out = [(of_site(&lease, "a").update_id.clone(), judged(&["odd"]))];
        assert!(world.store.reject_implausible(&lease, &out).await.expect("rejected"));
        let record = world.round(1).await;
        assert_eq!(
            (record.round.state, record.reference),
            (State::Merging, Some(Digest::of(&checkpoint(2.0))))
        );
        assert!(
            world.store.lease_merge(LEASE).await.expect("asked").is_none(),
            "they are to be aligned first"
        );
        assert!(world.store.lease_alignment(LEASE).await.expect("asked").is_some());
    });
}
