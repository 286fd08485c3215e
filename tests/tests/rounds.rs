//! Whole rounds through a real server, on both databases. Site `i` uploads a one-hot tensor, so that the merged model
//! spells out who was counted, and how much.

use fedbasin_proto::v1::{RoundState, RunState, UpdateState};
use fedbasin_tests::{
    Database, Options, Server, Site, assert_refused,
    checkpoint::{one_hot, one_hot_spec, read_f32},
    digest, eventually, on_both_databases,
};
use serde_json::{Value, json};
use tonic::Code;

on_both_databases!(
    a_founding_round_spells_out_who_was_counted,
    a_tie_of_examples_is_decided_by_the_site_id,
    a_seeded_run_keeps_its_seed_as_the_reference,
    every_round_starts_from_the_model_of_the_last,
    an_update_is_aligned_while_its_round_still_collects,
    a_deadline_without_quorum_fails_the_round_and_then_the_run,
    a_failed_round_is_followed_by_another_with_the_same_reference,
    a_quorum_at_the_deadline_merges_and_lists_the_silent_site,
    a_quorum_is_enough_after_the_minimum_open_time,
    a_paused_run_publishes_its_round_and_waits,
    what_a_policy_keeps_no_longer_is_refused_by_name,
    a_cancelled_run_takes_no_more_updates,
    a_run_takes_its_layout_from_the_first_update,
    a_round_may_have_more_updates_than_files_are_open_at_first,
);

/// A run of one-hot checkpoints.
fn run(cohort: &[&Site], rounds: u32, quorum: usize, deadline_seconds: u64) -> Value {
    let cohort: Vec<&str> = cohort.iter().map(|site| site.id.as_str()).collect();
    json!({
        "spec": one_hot_spec(), "strategy": "aligned", "cohort": cohort,
        "policy": { "rounds": rounds, "quorum": quorum, "deadline_seconds": deadline_seconds },
    })
}

fn sites(server: &Server) -> [Site; 3] {
    ["a", "b", "c"].map(|id| server.site(id))
}

async fn a_founding_round_spells_out_who_was_counted(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let [a, b, c] = &sites(&server);
    let id = admin.create_run(&run(&[a, b, c], 1, 3, 600));

    let status = a.status(&id).await.expect("the run's status");
    let round = status.round.expect("an open round");
    assert_eq!((round.number, round.state()), (1, RoundState::Collecting));
    assert_eq!((round.reference_digest.as_str(), round.cohort, round.quorum), ("", 3, 3));

    for (i, (site, num_examples)) in [(a, 1), (b, 2), (c, 5)].into_iter().enumerate() {
        let bytes = one_hot(i, 3);
        let receipt = site.upload(&id, 1, &bytes, num_examples).await.expect("a receipt");
        assert_eq!(
            (receipt.run_id.as_str(), receipt.round, receipt.site_id.as_str()),
            (id.as_str(), 1, site.id.as_str())
        );
        assert_eq!((receipt.digest, receipt.size), (digest(&bytes), bytes.len() as u64));
        assert_eq!(receipt.num_examples, num_examples);
        assert!(receipt.accepted_at_ms > 1_600_000_000_000, "a time: {}", receipt.accepted_at_ms);
    }

    let round = admin.round_becomes(&id, 1, "published").await;
    assert_eq!(round["reference_digest"], digest(&one_hot(2, 3)), "the update with most examples");
    let model = admin.model(&id, 1);
    assert_eq!(read_f32(&model, "counted"), [0.125, 0.25, 0.625]);
    assert_eq!(round["global_digest"], digest(&model));
    assert_eq!(round["global_size"], model.len());
    for (site, share) in [("a", 0.125), ("b", 0.25), ("c", 0.625)] {
        let entry = admin.round_site(&id, 1, site);
        assert_eq!(entry["share"], share, "{entry}");
        assert_eq!(entry["metrics"]["loss"], 0.5, "{entry}");
        assert_eq!(entry["state"], "aligned", "{entry}");
        assert_eq!(entry["alignment"]["moved"], 0.0, "a pinned axis moves nothing: {entry}");
    }

    let complete = admin.run_becomes(&id, "complete").await;
    assert_eq!(
        (&complete["rounds_published"], &complete["global_digest"]),
        (&json!(1), &round["global_digest"])
    );
    let seen = a.watch_until(&id, |status| status.state() == RunState::Complete).await.expect("the end");
    assert_eq!(seen.global_digest, digest(&model));
    assert_eq!(b.download(&seen.global_digest, 0).await.expect("the model"), model);
    assert_eq!(b.download(&seen.global_digest, 50).await.expect("its rest"), model[50..]);
}

async fn a_tie_of_examples_is_decided_by_the_site_id(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let [a, b, c] = &sites(&server);
    let id = admin.create_run(&run(&[a, b, c], 1, 3, 600));
    // The last by id first, so that neither arrival nor the database's order decides.
    for (i, site, num_examples) in [(2, c, 4), (1, b, 4), (0, a, 3)] {
        site.upload(&id, 1, &one_hot(i, 3), num_examples).await.expect("a receipt");
    }
    let round = admin.round_becomes(&id, 1, "published").await;
    assert_eq!(round["reference_digest"], digest(&one_hot(1, 3)));
}

async fn a_seeded_run_keeps_its_seed_as_the_reference(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let [a, b, _] = &sites(&server);
    let seed = one_hot(2, 3);
    let mut wanted = run(&[a, b], 1, 2, 600);
    wanted["seed_digest"] = admin.upload(&seed).into();
    assert_eq!(wanted["seed_digest"], digest(&seed));
    let id = admin.create_run(&wanted);

    let round = a.status(&id).await.expect("the run's status").round.expect("an open round");
    assert_eq!(
        (round.reference_digest.as_str(), round.reference_size),
        (digest(&seed).as_str(), seed.len() as u64)
    );
    assert_eq!(a.download(&round.reference_digest, 0).await.expect("the reference"), seed);
    a.upload(&id, 1, &one_hot(0, 3), 3).await.expect("a receipt");
    b.upload(&id, 1, &one_hot(1, 3), 1).await.expect("a receipt");
    let round = admin.round_becomes(&id, 1, "published").await;
    assert_eq!(round["reference_digest"], digest(&seed));
    assert_eq!(
        read_f32(&admin.model(&id, 1), "counted"),
        [0.75, 0.25, 0.0],
        "the seed is a frame, not an update"
    );
}

async fn every_round_starts_from_the_model_of_the_last(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let [a, b, _] = &sites(&server);
    let id = admin.create_run(&run(&[a, b], 3, 2, 600));
    let mut last = String::new();
    for number in 1..=3 {
        let status = a
            .watch_until(&id, |status| status.round.as_ref().is_some_and(|round| round.number == number))
            .await
            .expect("the next round");
        let round = status.round.expect("an open round");
        assert_eq!((round.reference_digest.as_str(), status.rounds_published), (last.as_str(), number - 1));
        a.upload(&id, number, &one_hot(0, 3), u64::from(number)).await.expect("a receipt");
        b.upload(&id, number, &one_hot(1, 3), 1).await.expect("a receipt");
        let published = admin.round_becomes(&id, number, "published").await;
        let share = number as f32 / (number + 1) as f32;
        let counted = read_f32(&admin.model(&id, number), "counted");
        assert!(
            (counted[0] - share).abs() < 1e-6 && (counted[1] - (1.0 - share)).abs() < 1e-6,
            "{counted:?}"
        );
        last = published["global_digest"].as_str().expect("a digest").to_owned();
    }
    let complete = admin.run_becomes(&id, "complete").await;
    assert_eq!((&complete["rounds_published"], &complete["global_digest"]), (&json!(3), &json!(last)));
    let listed = admin.get(&format!("/v1/runs/{id}/rounds")).json();
    let numbers: Vec<&Value> =
        listed["rounds"].as_array().expect("rounds").iter().map(|r| &r["number"]).collect();
    assert_eq!(numbers.len(), 3, "{listed}");
}

async fn an_update_is_aligned_while_its_round_still_collects(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let [a, b, _] = &sites(&server);
    let mut wanted = run(&[a, b], 1, 2, 600);
    wanted["seed_digest"] = admin.upload(&one_hot(2, 3)).into();
    let id = admin.create_run(&wanted);
    let receipt = a.upload(&id, 1, &one_hot(0, 3), 1).await.expect("a receipt");
    fedbasin_tests::eventually("the update is aligned", || {
        (admin.round_site(&id, 1, "a")["state"] == "aligned").then_some(())
    })
    .await;
    assert_eq!(admin.round(&id, 1)["state"], "collecting");
    let update = a.update(&receipt.update_id).await.expect("the update");
    assert_eq!(update.state(), UpdateState::Aligned);
    assert_eq!(update.alignment.expect("an alignment").moved, 0.0);
    assert_eq!(update.receipt.expect("a receipt"), receipt);
    // Another site sees nothing of it.
    assert_refused(b.update(&receipt.update_id).await, Code::NotFound, "not-found");
}

async fn a_deadline_without_quorum_fails_the_round_and_then_the_run(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let [a, b, c] = &sites(&server);
    let mut wanted = run(&[a, b, c], 1, 2, 2);
    wanted["policy"]["failed_rounds_allowed"] = 0.into();
    let id = admin.create_run(&wanted);
    a.upload(&id, 1, &one_hot(0, 3), 1).await.expect("a receipt");
    let round = admin.round_becomes(&id, 1, "failed").await;
    let reason = round["reason"].as_str().expect("a reason");
    assert!(reason.contains("1 of at least 2"), "{reason}");
    for (site, state) in [("b", "silent"), ("c", "silent")] {
        assert_eq!(admin.round_site(&id, 1, site)["state"], state);
    }
    let failed = admin.run_becomes(&id, "failed").await;
    assert!(failed["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{failed}");
    let seen = b.watch_until(&id, |status| status.state() == RunState::Failed).await.expect("the end");
    assert!(!seen.reason.is_empty());
    assert_refused(b.upload(&id, 1, &one_hot(1, 3), 1).await, Code::FailedPrecondition, "round-closed");
}

async fn a_failed_round_is_followed_by_another_with_the_same_reference(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let [a, b, _] = &sites(&server);
    let seed = one_hot(2, 3);
    let mut wanted = run(&[a, b], 1, 2, 2);
    wanted["seed_digest"] = admin.upload(&seed).into();
    wanted["policy"]["failed_rounds_allowed"] = 20.into();
    let id = admin.create_run(&wanted);
    admin.round_becomes(&id, 1, "failed").await;
    let mut number = 2;
    loop {
        // On a busy machine a round of two seconds may end before both are in: then the next one counts.
        let status = a
            .watch_until(&id, |status| status.round.as_ref().is_some_and(|round| round.number >= number))
            .await
            .expect("another round");
        let round = status.round.expect("a round");
        number = round.number;
        assert_eq!(round.reference_digest, digest(&seed));
        let first = a.upload(&id, number, &one_hot(0, 3), 1).await;
        let second = b.upload(&id, number, &one_hot(1, 3), 1).await;
        if first.is_ok() && second.is_ok() {
            break;
        }
        number += 1;
    }
    admin.round_becomes(&id, number, "published").await;
    assert_eq!(read_f32(&admin.model(&id, number), "counted"), [0.5, 0.5, 0.0]);
    assert_eq!(admin.run_becomes(&id, "complete").await["rounds_published"], 1);
}

async fn a_quorum_at_the_deadline_merges_and_lists_the_silent_site(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let [a, b, c] = &sites(&server);
    let id = admin.create_run(&run(&[a, b, c], 1, 2, 4));
    a.upload(&id, 1, &one_hot(0, 3), 1).await.expect("a receipt");
    b.upload(&id, 1, &one_hot(1, 3), 3).await.expect("a receipt");
    // c began, and never came to an end.
    let begun = c.begin(&id, 1, &one_hot(2, 3), 9).await.expect("an update");
    assert_eq!(
        admin.round(&id, 1)["state"],
        "collecting",
        "it waits for the whole cohort until the deadline"
    );
    admin.round_becomes(&id, 1, "published").await;
    assert_eq!(read_f32(&admin.model(&id, 1), "counted"), [0.25, 0.75, 0.0]);
    let late = admin.round_site(&id, 1, "c");
    assert_ne!(late["state"], "accepted", "{late}");
    assert!(late["share"].is_null() || late["share"] == 0.0, "{late}");
    assert_refused(c.finish(&begun.update_id).await, Code::FailedPrecondition, "round-closed");
    assert_eq!(
        admin.round(&id, 1)["sites"].as_array().map(Vec::len),
        Some(3),
        "every site of the cohort is listed"
    );
}

async fn a_quorum_is_enough_after_the_minimum_open_time(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let [a, b, c] = &sites(&server);
    let mut wanted = run(&[a, b, c], 1, 1, 600);
    wanted["policy"]["min_open_seconds"] = 1.into();
    let id = admin.create_run(&wanted);
    b.status(&id).await.expect("the site is seen");
    a.upload(&id, 1, &one_hot(0, 3), 1).await.expect("a receipt");
    let round = admin.round_becomes(&id, 1, "published").await;
    assert!(round["quorum_closes_at"].as_str() < round["deadline_at"].as_str(), "{round}");
    assert_eq!(
        (&round["sites"][1]["state"], &round["sites"][2]["state"]),
        (&json!("silent"), &json!("silent"))
    );
    assert!(round["sites"][1]["last_seen_at"].is_string(), "it called, and sent nothing");
    assert!(round["sites"][2]["last_seen_at"].is_null(), "it never called");
}

async fn a_paused_run_publishes_its_round_and_waits(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let [a, _, _] = &sites(&server);
    let id = admin.create_run(&run(&[a], 2, 1, 600));
    let answer = admin.post(&format!("/v1/runs/{id}/pause"), &json!({}));
    assert!(answer.status == 200 && answer.json()["paused_at"].is_string(), "{}", answer.status);
    a.upload(&id, 1, &one_hot(0, 2), 1).await.expect("the open round goes on");
    admin.round_becomes(&id, 1, "published").await;
    assert_eq!(admin.get(&format!("/v1/runs/{id}/rounds/2")).status, 404, "no round opens");
    let answer = admin.post(&format!("/v1/runs/{id}/resume"), &json!({}));
    assert!(answer.status == 200 && answer.json()["paused_at"].is_null(), "{}", answer.status);
    admin.round_becomes(&id, 2, "collecting").await;
    a.upload(&id, 2, &one_hot(0, 2), 1).await.expect("a receipt");
    admin.round_becomes(&id, 2, "published").await;
    admin.run_becomes(&id, "complete").await;
    admin.post(&format!("/v1/runs/{id}/pause"), &json!({})).assert_problem(409, "conflict");
}

async fn what_a_policy_keeps_no_longer_is_refused_by_name(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let [a, _, _] = &sites(&server);
    let mut wanted = run(&[a], 2, 1, 600);
    wanted["policy"]["keep_models"] = 1.into();
    let id = admin.create_run(&wanted);
    for round in 1..=2 {
        admin.round_becomes(&id, round, "collecting").await;
        a.upload(&id, round, &one_hot(round as usize - 1, 2), 1).await.expect("a receipt");
        admin.round_becomes(&id, round, "published").await;
    }
    let place = format!("/v1/runs/{id}/rounds/1");
    eventually("the first model is let go", || {
        admin.get(&place).json()["model_retired_at"].as_str().map(|_| ())
    })
    .await;
    eventually("its bytes are gone", || (admin.get(&format!("{place}/model")).status == 404).then_some(()))
        .await;
    let problem = admin.get(&format!("{place}/model"));
    assert!(problem.json()["detail"].as_str().is_some_and(|detail| detail.contains("keep_models")));
    assert!(admin.get(&place).json()["global_digest"].is_string(), "the record stays");
    assert_eq!(read_f32(&admin.model(&id, 2), "counted"), [0.0, 1.0]);
    let (holds, said) = server.fsck();
    assert!(holds, "{said}");
}

async fn a_cancelled_run_takes_no_more_updates(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let [a, b, _] = &sites(&server);
    let id = admin.create_run(&run(&[a, b], 2, 2, 600));
    a.upload(&id, 1, &one_hot(0, 3), 1).await.expect("a receipt");
    let answer = admin.post(&format!("/v1/runs/{id}/cancel"), &json!({}));
    assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("cancelled")));
    let seen = b.watch_until(&id, |status| status.state() == RunState::Cancelled).await.expect("the end");
    assert_eq!(seen.round.expect("the round").state(), RoundState::Cancelled);
    assert_refused(b.upload(&id, 1, &one_hot(1, 3), 1).await, Code::FailedPrecondition, "round-closed");
    // Nothing to undo it, and cancelling a second time changes nothing.
    let again = admin.post(&format!("/v1/runs/{id}/cancel"), &json!({}));
    assert!(again.status == 200 || again.status == 409, "{}", again.status);
    assert_eq!(admin.run(&id)["state"], "cancelled");
}

async fn a_run_takes_its_layout_from_the_first_update(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let [a, b, _] = &sites(&server);
    let mut wanted = run(&[a, b], 1, 2, 600);
    (wanted["strategy"], wanted["spec"]) = ("mean".into(), Value::Null);
    let id = admin.create_run(&wanted);
    assert!(admin.run(&id)["layout_digest"].is_null());
    a.upload(&id, 1, &one_hot(0, 3), 1).await.expect("a receipt");
    assert!(admin.run(&id)["layout_digest"].is_string());
    assert_refused(b.upload(&id, 1, &one_hot(1, 4), 1).await, Code::InvalidArgument, "invalid-checkpoint");
    b.upload(&id, 1, &one_hot(1, 3), 1).await.expect("a receipt");
    admin.round_becomes(&id, 1, "published").await;
    assert_eq!(read_f32(&admin.model(&id, 1), "counted"), [0.5, 0.5, 0.0]);
}

async fn a_round_may_have_more_updates_than_files_are_open_at_first(database: Database) {
    const SITES: usize = 70;
    let server = Server::start_with(database, Options { open_files: Some(64), ..Options::default() });
    let sites: Vec<Site> = (0..SITES).map(|index| server.site(&format!("site-{index}"))).collect();
    let id = server.admin().create_run(&run(&sites.iter().collect::<Vec<_>>(), 1, SITES, 600));
    for (index, site) in sites.iter().enumerate() {
        site.upload(&id, 1, &one_hot(index, SITES), 1).await.expect("a receipt");
    }
    server.admin().round_becomes(&id, 1, "published").await;
    let counted = read_f32(&server.admin().model(&id, 1), "counted");
    assert!(counted.iter().all(|&share| (share - 1.0 / SITES as f32).abs() < 1e-6), "{counted:?}");
}
