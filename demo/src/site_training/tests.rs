use std::path::Path;

use super::*;

/// Arguments for a quick training in `folder`.
fn arguments(folder: &Path) -> TrainArgs {
    std::fs::write(folder.join("leash"), "").unwrap();
    TrainArgs {
        site: Some(3),
        data: Path::new(env!("CARGO_MANIFEST_DIR")).join("data"),
        seed: 1,
        epochs: 1,
        later_epochs: 2,
        progress: folder.join("progress"),
        leash: folder.join("leash"),
        round: 1,
        reference: OsString::new(),
        output: folder.join("output"),
        metrics: folder.join("metrics"),
    }
}

#[test]
fn a_trainer_writes_its_model_its_figures_and_how_far_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let args = arguments(folder.path());
    run(&args).unwrap();
    let founding = std::fs::read(&args.output).unwrap();
    Mlp::from_bytes(&founding).unwrap();
    let metrics: serde_json::Value = serde_json::from_slice(&std::fs::read(&args.metrics).unwrap()).unwrap();
    let train = dataset::load_train(&args.data).unwrap();
    assert_eq!(metrics["num_examples"], split::split(&train.labels, 1)[3].len());
    assert!(metrics["metrics"]["train_loss"].as_f64().unwrap() > 0.0);
    let progress: TrainProgress = serde_json::from_slice(&std::fs::read(&args.progress).unwrap()).unwrap();
    assert_eq!((progress.round, progress.epoch, progress.epochs), (1, 1, 1));

    // A later round starts from the reference, and is another round.
    let reference = folder.path().join("reference");
    std::fs::write(&reference, &founding).unwrap();
    let later = TrainArgs { round: 2, reference: reference.into_os_string(), ..args };
    run(&later).unwrap();
    assert_ne!(std::fs::read(&later.output).unwrap(), founding);
}

#[test]
fn a_trainer_without_its_leash_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let args = arguments(folder.path());
    std::fs::remove_file(&args.leash).unwrap();
    let error = run(&args).unwrap_err().to_string();
    assert!(error.contains("is gone"), "{error}");
    assert!(!args.output.exists());
}

#[test]
fn sites_start_from_different_models() {
    let seeds: std::collections::BTreeSet<u64> = (0..=SITES).map(|site| initial_seed(7, site)).collect();
    assert_eq!(seeds.len(), SITES + 1);
}

#[test]
fn an_empty_reference_in_the_environment_is_a_founding_round() {
    let words = "train --data d --seed 1 --epochs 2 --later-epochs 3 --progress p --leash l --round 1 --output o --metrics m";
    let mut words: Vec<&str> = words.split(' ').collect();
    words.extend(["--reference", ""]);
    assert!(TrainArgs::try_parse_from(words).unwrap().reference.is_empty());
}

#[test]
fn a_site_that_does_not_exist_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let args = TrainArgs { site: Some(4), ..arguments(folder.path()) };
    assert!(run(&args).unwrap_err().to_string().contains("there are 4 sites"));
}
