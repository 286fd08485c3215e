use super::*;

#[test]
fn an_evaluation_writes_the_figures_of_its_own_share_of_the_test_images() {
    let folder = tempfile::tempdir().unwrap();
    let args = EvaluateArgs {
        site: 3,
        data: std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data"),
        seed: 1,
        leash: folder.path().join("leash"),
        model: folder.path().join("model"),
        metrics: folder.path().join("metrics"),
    };
    Mlp::random(1).unwrap().save(&args.model).unwrap();
    run(&args).unwrap();
    let figures: serde_json::Value = serde_json::from_slice(&std::fs::read(&args.metrics).unwrap()).unwrap();
    let test = dataset::load_test(&args.data).unwrap();
    let shares = split::split(&test.labels, 1);
    assert_eq!(figures["num_examples"], shares[3].len());
    assert_eq!(shares.iter().map(Vec::len).sum::<usize>(), test.len(), "all of them, once");
    let accuracy = figures["accuracy"].as_f64().unwrap();
    assert!((0.0..0.5).contains(&accuracy), "of a network that learned nothing: {accuracy}");
    assert!(figures["loss"].as_f64().unwrap() > 1.0);
}
