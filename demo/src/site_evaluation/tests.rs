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
        global: None,
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
    assert!(figures.get("path").is_none(), "there is nowhere to go to");
    // To another one the loss is measured on the way, from end to end.
    let global = folder.path().join("global");
    Mlp::random(2).unwrap().save(&global).unwrap();
    run(&EvaluateArgs { global: Some(global.clone().into()), ..args.clone() }).unwrap();
    let figures: serde_json::Value = serde_json::from_slice(&std::fs::read(&args.metrics).unwrap()).unwrap();
    let path = figures["path"].as_array().unwrap();
    let places: Vec<f64> = path.iter().map(|place| place["t"].as_f64().unwrap()).collect();
    assert_eq!(places, (0..11).map(|tenth| f64::from(tenth) / 10.0).collect::<Vec<_>>());
    let some: Vec<usize> = shares[3].iter().copied().step_by(shares[3].len().div_ceil(200)).collect();
    assert!((100..=200).contains(&some.len()), "{}", some.len());
    for (place, file) in [(0, &args.model), (10, &global)] {
        let model = Mlp::from_bytes(&std::fs::read(file).unwrap()).unwrap();
        let score = eval::score(&model, &test.select(&some)).unwrap();
        assert!((path[place]["loss"].as_f64().unwrap() - score.loss).abs() < 1e-5, "{path:?}");
        assert_eq!(path[place]["accuracy"].as_f64().unwrap(), score.accuracy);
    }
}

#[test]
fn an_empty_name_of_the_global_model_is_none_as_a_site_gives_it() {
    let line = "evaluate --site 0 --data d --seed 1 --leash l --model m --metrics f --global";
    let line =
        EvaluateArgs::try_parse_from(line.split(' ').chain([""])).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(line.global.as_deref(), Some(std::ffi::OsStr::new("")));
}
