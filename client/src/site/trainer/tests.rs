use super::*;

fn parse(text: &str, fallback: Option<u64>) -> Result<(Metrics, LeftOut)> {
    Metrics::parse(text, fallback, "metrics.json")
}

#[test]
fn nested_and_flat_metrics_mean_the_same() {
    let expected = Metrics { num_examples: 9, metrics: [("loss".to_owned(), 0.5)].into() };
    for text in [
        r#"{"num_examples": 9, "metrics": {"loss": 0.5}}"#,
        r#"{"num_examples": 9, "loss": 0.5, "metrics": null}"#,
        r#"{"num_examples": 9.0, "loss": 0.5}"#,
    ] {
        assert_eq!(parse(text, None).unwrap(), (expected.clone(), LeftOut::default()), "{text}");
    }
}

#[test]
fn the_files_number_of_examples_wins_over_the_command_lines() {
    assert_eq!(parse(r#"{"num_examples": 9}"#, Some(5)).unwrap().0.num_examples, 9);
    assert_eq!(parse("{}", Some(5)).unwrap().0.num_examples, 5);
}

#[test]
fn without_a_number_of_examples_the_message_says_how_to_give_it() {
    let error = parse("{}", None).unwrap_err().to_string();
    assert!(error.contains("--num-examples") && error.contains("FEDBASIN_METRICS"), "{error}");
}

#[test]
fn absurd_numbers_and_other_json_are_refused() {
    for text in [
        r#"{"num_examples": 0}"#,
        r#"{"num_examples": -3}"#,
        r#"{"num_examples": 1.5}"#,
        r#"{"num_examples": 1000000000001}"#,
        r#"{"num_examples": "9"}"#,
        r#"{"num_examples": 9, "metrics": [1]}"#,
        "[]",
        "nothing",
        r#"{"num_examples": 9, "loss": NaN1}"#,
        r#"{"num_examples": 9, "loss": "#,
    ] {
        let error = parse(text, None).unwrap_err().to_string();
        assert!(error.contains("metrics.json") && error.contains("nothing is trained again"), "{error}");
        assert!(error.contains("remove it and give --num-examples N"), "{error}");
    }
}

#[test]
fn metrics_that_are_no_finite_numbers_are_left_out_by_name() {
    let text = r#"{"num_examples": 9, "loss": NaN, "note": "NaN \" Infinity",
        "metrics": {"best": Infinity, "worst": -Infinity, "f1": 0.5, "matrix": [[1, NaN]], "nothing": null}}"#;
    let (metrics, mut left_out) = parse(text, None).unwrap();
    assert_eq!(metrics.metrics, [("f1".to_owned(), 0.5)].into());
    left_out.no_numbers.sort();
    assert_eq!(left_out.no_numbers, ["best", "loss", "matrix", "note", "nothing", "worst"]);
    assert_eq!(left_out.over_limits, 0);
}

#[test]
fn a_name_that_reads_like_nan_stays_as_it_is() {
    for text in [r#"{"NaN": 1, "a\\": -Infinity}"#, r#"{"Infinity\"NaN": "ö NaN"}"#] {
        let mended = without_nan(text);
        assert_eq!(mended, text.replace(": -Infinity", ": null"));
        assert!(serde_json::from_str::<Value>(&mended).is_ok(), "{mended}");
    }
}

#[test]
fn a_metrics_file_that_is_no_text_does_not_need_the_training_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.json");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    let error = Metrics::read(&path, Some(5)).unwrap_err().to_string();
    assert!(error.contains("metrics.json") && error.ends_with(MEND_METRICS), "{error}");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(Metrics::read(&path, Some(5)).unwrap().0.num_examples, 5);
}

#[test]
fn too_many_metrics_are_cut_not_refused() {
    let mut metrics: MetricMap = (0..70).map(|i| (format!("m{i:02}"), 1.0)).collect();
    metrics.insert("infinite".into(), f64::INFINITY);
    assert_eq!(limit_metrics(&mut metrics), 7);
    assert_eq!(metrics.len(), 64);
    assert!(metrics.contains_key("m00"));
}

#[test]
fn a_metric_name_that_the_server_would_refuse_is_refused_at_the_file() {
    assert!(parse(r#"{"num_examples": 9, "val loss": 0.5}"#, None).is_ok(), "a space is fine");
    let long = format!(r#"{{"num_examples": 9, "{}": 1}}"#, "x".repeat(65));
    for text in [r#"{"num_examples": 9, "pr\u00e9cision": 0.5}"#, r#"{"num_examples": 9, "a\tb": 1}"#, &long]
    {
        let error = parse(text, None).unwrap_err().to_string();
        assert!(error.contains("metric name") && error.contains("metrics.json"), "{error}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_is_refused_and_does_not_hinder_the_next_call() {
    let folder = tempfile::tempdir().unwrap();
    let dir = super::super::workdir::WorkDir::open(folder.path(), "r").unwrap().round(1).unwrap();
    let trainer = |command| Trainer {
        command,
        run_id: "r",
        round: 1,
        reference: None,
        dir: &dir,
        for_a_program: false,
    };
    for (command, what) in [
        ("mkdir $FEDBASIN_OUTPUT && touch $FEDBASIN_OUTPUT/model.safetensors", "wrote a folder"),
        ("touch $FEDBASIN_OUTPUT && mkdir $FEDBASIN_METRICS", "metrics that are no file"),
        ("true", "wrote no checkpoint"),
    ] {
        let error = trainer(command).run().await.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        assert!(!dir.output().exists(), "{command}");
    }
    trainer("touch $FEDBASIN_OUTPUT").run().await.unwrap();
    assert!(dir.output().is_file());
}
