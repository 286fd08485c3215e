use super::*;

#[test]
fn a_path_is_read_as_python_writes_it_and_none_is_none() {
    let text = r#"{"num_examples": 9, "path": [{"t": 0, "loss": 0.9, "accuracy": null}, {"t": 1.0, "loss": 0.5, "accuracy": 0.75}]}"#;
    let path = parse(text, "the evaluation").expect("a path");
    let points: Vec<_> = path.iter().map(|point| (point.t, point.loss, point.accuracy)).collect();
    assert_eq!(points, [(0.0, 0.9, None), (1.0, 0.5, Some(0.75))]);
    for none in [r#"{"num_examples": 9}"#, r#"{"path": null}"#, "[]"] {
        assert_eq!(parse(none, "the evaluation"), Ok(Vec::new()));
    }
}

#[test]
fn a_path_that_no_server_takes_is_refused_here_with_what_to_write() {
    let many: Vec<String> =
        (0..34).map(|t| format!("{{\"t\": {}, \"loss\": 1}}", f64::from(t) / 40.0)).collect();
    let many = many.join(", ");
    for (points, what) in [
        ("", "0 points"),
        (r#"{"t": 0, "loss": 1}"#, "1 points"),
        (many.as_str(), "34 points"),
        (r#"{"t": 0, "loss": 1}, {"t": 0, "loss": 1}"#, "does not grow"),
        (r#"{"t": 1, "loss": 1}, {"t": 0, "loss": 1}"#, "does not grow"),
        (r#"{"t": 0, "loss": 1}, {"t": 1.5, "loss": 1}"#, "not within 0 and 1"),
        (r#"{"t": 0, "loss": NaN}, {"t": 1, "loss": 1}"#, "the numbers t and loss"),
        (r#"{"t": 0, "loss": 1}, {"t": 1, "loss": 1e31}"#, "too large"),
        (r#"{"t": 0, "loss": 1, "accuracy": 90}, {"t": 1, "loss": 1}"#, "accuracy"),
        ("0.5, 0.6", "the numbers t and loss"),
    ] {
        let text = format!("{{\"num_examples\": 9, \"path\": [{points}]}}");
        let error = parse(&text, "the evaluation").expect_err(points).to_string();
        assert!(error.contains(what) && error.contains("\"path\": [{"), "{error}");
    }
}
