use super::*;

fn written(pairs: &[(&str, f64)]) -> Metrics {
    Metrics {
        num_examples: 1000,
        metrics: pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
    }
}

fn figures(pairs: &[(&str, f64)]) -> Result<Figures> {
    Figures::of(&written(pairs), Vec::new(), Digest::of(b"x"), "the evaluation")
}

#[test]
fn loss_accuracy_and_examples_are_said_on_one_line() {
    let both = figures(&[("loss", 0.4321), ("accuracy", 0.912), ("f1", 0.5)]).unwrap();
    assert_eq!(both.line(), "loss 0.4321, accuracy 91.2 %, 1000 examples");
    assert_eq!(figures(&[("accuracy", 1.0)]).unwrap().line(), "accuracy 100.0 %, 1000 examples");
}

#[test]
fn figures_that_no_server_takes_are_refused_here_with_what_to_write() {
    for (pairs, what) in [(&[("f1", 0.5)], "neither a loss"), (&[("accuracy", 91.2)], "accuracy of 91.2")] {
        let error = figures(pairs).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("$FEDBASIN_METRICS"), "{error}");
    }
}
