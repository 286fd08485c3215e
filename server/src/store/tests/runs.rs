//! Sites, runs and rounds: what is created, what it may be, how it ends.

use super::*;

#[test]
fn a_site_is_known_by_its_token_and_enrolled_once() {
    on_both(async |world| {
        world.store.create_site("a", "hash-a", YEAR).await.expect("enrolled");
        assert_eq!(
            world.store.create_site("a", "other", YEAR).await.expect_err("taken").code(),
            Code::Conflict
        );
        for bad in ["", "A", "-a", "a b", "a/b", &"a".repeat(64)] {
            assert_eq!(
                world.store.create_site(bad, "h", YEAR).await.expect_err(bad).code(),
                Code::InvalidArgument
            );
        }
        let found = world.store.token_by_hash("hash-a").await.expect("read").expect("known");
        assert_eq!(found.holder, Holder::Site("a".to_owned()));
        assert_eq!(world.store.token_by_hash("hash-b").await.expect("read"), None);
        assert!(world.store.sites().await.expect("read")[0].last_seen_at_ms.is_some(), "the call was noted");
    });
}

#[test]
fn a_run_that_cannot_work_is_refused() {
    on_both(async |world| {
        world.run(&["a", "b"], policy(1, 1)).await;
        let good = NewRun {
            id: "other".into(),
            strategy: Strategy::Aligned,
            spec: Some(Spec::mlp(&layout()).expect("a chain")),
            graph: None,
            policy: policy(1, 1),
            seed: None,
            cohort: vec!["a".into()],
            cloned_from: None,
        };
        let cases = [
            (NewRun { id: "run".into(), ..good.clone() }, Code::Conflict),
            (NewRun { cohort: vec!["nobody".into()], ..good.clone() }, Code::NotFound),
            (NewRun { cohort: vec!["a".into(), "a".into()], ..good.clone() }, Code::InvalidArgument),
            (NewRun { cohort: vec![], ..good.clone() }, Code::InvalidArgument),
            (NewRun { spec: None, ..good.clone() }, Code::InvalidArgument),
            (NewRun { policy: policy(1, 2), ..good.clone() }, Code::InvalidArgument),
            (NewRun { seed: Some(Digest::of(b"nothing")), ..good.clone() }, Code::NotFound),
            (NewRun { spec: None, graph: Some(Digest::of(b"nothing")), ..good.clone() }, Code::NotFound),
            (NewRun { graph: Some(Digest::of(b"nothing")), ..good.clone() }, Code::InvalidArgument),
        ];
        for (new, code) in cases {
            assert_eq!(world.store.create_run(new.clone()).await.expect_err("bad").code(), code, "{new:?}");
        }
        assert!(world.store.run("other").await.expect("read").is_none(), "nothing half-made");
        world.store.create_run(good).await.expect("a good one still works");
    });
}

#[test]
fn a_founding_round_takes_the_largest_update_as_reference_and_publishes() {
    on_both(async |world| {
        world.run(&["a", "b"], policy(2, 2)).await;
        assert_eq!(world.round(1).await.reference, None, "nothing to start from");
        world.upload("b", 1, 2.0).await.expect("accepted");
        assert!(world.store.lease_alignment(LEASE).await.expect("asked").is_none(), "no reference yet");
        assert!(!world.tick().await, "one is missing");
        world.upload("a", 1, 1.0).await.expect("accepted");
        assert!(world.tick().await);
        let record = world.round(1).await;
        assert_eq!(record.round.state, State::Merging);
        assert_eq!(record.reference, Some(Digest::of(&checkpoint(1.0))), "a tie goes to the first id");

        let global = world.publish(3.0).await;
        let run = world.store.run("run").await.expect("read").expect("there");
        assert_eq!((run.global, run.rounds_published), (Some(global), 1));
        assert!(world.tick().await, "round 2 opens");
        assert_eq!(world.round(2).await.reference, Some(global));
    });
}

#[test]
fn a_run_is_complete_when_its_rounds_are_published() {
    on_both(async |world| {
        world.run(&["a"], policy(1, 1)).await;
        world.upload("a", 1, 1.0).await.expect("accepted");
        assert!(world.tick().await);
        world.publish(1.0).await;
        assert!(world.tick().await);
        assert_eq!(world.store.run("run").await.expect("read").expect("there").state, RunState::Complete);
        assert!(!world.tick().await, "nothing more happens");
    });
}

#[test]
fn the_first_update_fixes_the_layout() {
    on_both(async |world| {
        world.run(&["a", "b"], policy(1, 2)).await;
        world.upload("a", 1, 1.0).await.expect("accepted");
        assert_eq!(world.store.run("run").await.expect("read").expect("there").layout, Some(layout()));
        let (update, error) = world.upload_of_another_layout("b").await;
        let error = error.expect_err("another layout");
        assert_eq!(error.code(), Code::InvalidCheckpoint);
        let update = world.store.update_of_site("b", &update.id).await.expect("read");
        assert!(matches!(update.state, UpdateState::Rejected { .. }));
        world.upload("b", 1, 2.0).await.expect("a corrected update is taken");
    });
}

#[test]
fn a_layout_that_takes_too_much_memory_to_align_is_refused_with_the_figures() {
    on_both(async |mut world| {
        world.run(&["a"], policy(1, 1)).await;
        // 11 parameters of 32 bytes, and one group of 2 units.
        world.store.max_align_memory = 11 * 32 + 4 * 8 - 1;
        let error = world.upload("a", 1, 1.0).await.expect_err("one byte too much");
        assert_eq!(error.code(), Code::InvalidCheckpoint);
        assert!(error.message().contains("about 384 bytes"), "{error}");
        let run = world.store.run("run").await.expect("read").expect("there");
        assert_eq!(run.layout, None, "not fixed by it");
        world.store.max_align_memory += 1;
        world.upload("a", 1, 2.0).await.expect("it just fits");
    });
}

#[test]
fn a_layout_is_free_again_when_its_founding_round_fails_and_a_refusal_names_who_fixed_it() {
    on_both(async |world| {
        for site in ["a", "b"] {
            world.store.create_site(site, &format!("hash-{site}"), YEAR).await.expect("enrolled");
        }
        let policy = Policy { deadline_seconds: 1, failed_rounds_allowed: 1, ..policy(1, 2) };
        let (strategy, cohort) = (Strategy::Mean, vec!["a".into(), "b".into()]);
        let new = NewRun {
            id: "run".into(),
            strategy,
            spec: None,
            graph: None,
            policy,
            seed: None,
            cohort,
            cloned_from: None,
        };
        world.store.create_run(new).await.expect("created");
        assert!(world.tick().await, "the first round opens");
        world.upload("a", 1, 1.0).await.expect("accepted");

        let info = TensorInfo { name: "w".into(), dtype: Dtype::F32, shape: vec![1] };
        let tensor = Tensor::from_f32(&info, &[1.0]).expect("fits");
        let other = Layout::new(vec![info]).expect("a layout");
        let bytes = Checkpoint::new(other.clone(), vec![tensor]).expect("fits").to_bytes();
        let send = async |round| {
            let update = world.begin("b", round, &bytes).await.expect("begun");
            let mut staging = world.store.staging(&update.id, update.size, None).expect("opened");
            staging.append(&bytes).expect("a checkpoint");
            world.store.accept_update(&update, staging.seal(None).expect("sealed")).await
        };
        let error = send(1).await.expect_err("another layout");
        assert!(error.message().contains("of site a") && error.message().contains("seed"), "{error}");

        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(world.tick().await, "without its quorum the round fails, and the next one opens");
        send(2).await.expect("nothing is fixed any more");
        let run = world.store.run("run").await.expect("read").expect("there");
        assert_eq!(run.layout, Some(other));
    });
}

#[test]
fn cancelling_ends_the_round_and_a_run_that_is_over_cannot_be_cancelled() {
    on_both(async |world| {
        world.run(&["a"], policy(1, 1)).await;
        world.begin("a", 1, &checkpoint(1.0)).await.expect("begun");
        world.store.cancel_run("run").await.expect("cancelled");
        world.store.cancel_run("run").await.expect("again changes nothing");
        assert_eq!(world.round(1).await.round.state, State::Cancelled);
        assert_eq!(world.begin("a", 1, &checkpoint(2.0)).await.expect_err("over").code(), Code::RoundClosed);
        assert_eq!(world.store.cancel_run("nothing").await.expect_err("none").code(), Code::NotFound);
    });
}

#[test]
fn an_id_that_is_none_is_not_asked_for_and_not_repeated() {
    on_both(async |world| {
        world.run(&["a"], policy(1, 1)).await;
        let long = "x".repeat(100_000);
        for id in ["run\0", "", "Run", long.as_str()] {
            let run = world.store.run_of_site("a", id).await.expect_err("no run");
            let update = world.store.update_of_site("a", id).await.expect_err("no update");
            for error in [run, update] {
                assert_eq!(error.code(), Code::NotFound, "{error}");
                assert!(error.message().len() < 300, "{}", error.message().len());
            }
        }
        let run = world.store.run("run").await.expect("read").expect("there");
        let cohort = vec!["a\0".to_owned()];
        let (id, strategy, policy, seed) = ("other".to_owned(), run.strategy, run.policy, None);
        let new =
            NewRun { id, strategy, spec: run.spec, graph: None, policy, seed, cohort, cloned_from: None };
        assert_eq!(world.store.create_run(new).await.expect_err("no id").code(), Code::InvalidArgument);
    });
}

#[test]
fn both_databases_have_the_same_schema() {
    // One set of statements is for both: a migration is written twice, and differs in its comments at the most.
    let read = |dialect: &str| -> Vec<(String, String)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations").join(dialect);
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .expect("migrations")
            .map(|entry| {
                let path = entry.expect("a file").path();
                let text = std::fs::read_to_string(&path).expect("text");
                // From there on each says in its own words what is the same.
                let text = text.split("-- In each database's own words").next().unwrap_or_default();
                let code = text.lines().map(|line| line.split("--").next().unwrap_or_default());
                let words: Vec<&str> = code.flat_map(str::split_whitespace).collect();
                (path.file_name().expect("a name").to_string_lossy().into_owned(), words.join(" "))
            })
            .collect();
        files.sort();
        files
    };
    assert_eq!(read("postgres"), read("sqlite"));
}

#[test]
fn a_graph_is_kept_once_and_gives_runs_its_spec() {
    on_both(async |world| {
        world.store.create_site("a", "hash-a", YEAR).await.expect("enrolled");
        let (digest, spec) = (Digest::of(b"a graph"), Spec::mlp(&layout()).expect("a chain"));
        assert!(world.store.graph(&digest).await.expect("read").is_none());
        let (certificate, pinned) = (serde_json::json!({"residual": 1e-7}), serde_json::json!([]));
        let put = async |certificate| world.store.put_graph(&digest, 7, &spec, certificate, &pinned).await;
        let kept = put(&certificate).await.expect("stored");
        assert_eq!((kept.digest, kept.size, &kept.certificate), (digest, 7, &certificate));
        assert_eq!(put(&serde_json::json!({})).await.expect("again"), kept, "the first one counts");
        let new = NewRun {
            id: "run".into(),
            strategy: Strategy::Aligned,
            spec: None,
            graph: Some(digest),
            policy: policy(1, 1),
            seed: None,
            cohort: vec!["a".into()],
            cloned_from: None,
        };
        let run = world.store.create_run(new).await.expect("created");
        assert_eq!((run.graph, run.spec.as_ref()), (Some(digest), Some(&spec)));
        let read = world.store.run("run").await.expect("read").expect("there");
        assert_eq!((read.graph, read.spec), (Some(digest), Some(spec.clone())));
    });
}
