use super::*;

fn parse(words: &[&str]) -> Result<DemoArgs, clap::Error> {
    DemoArgs::try_parse_from([&["fedbasin-demo"], words].concat())
}

#[test]
fn without_arguments_it_is_three_rounds_on_the_committed_subset() {
    let args = parse(&[]).unwrap();
    assert_eq!((args.rounds, args.same_init, args.report), (3, false, None));
    assert!(args.data.join("train-images-idx3-ubyte.gz").exists());
}

#[test]
fn wrong_usage_is_refused() {
    for words in [&["--rounds", "0"][..], &["--rounds", "51"], &["--epochs", "0"], &["--bogus"], &["extra"]] {
        assert_eq!(parse(words).unwrap_err().exit_code(), 2, "{words:?}");
    }
    assert_eq!(parse(&["--help"]).unwrap_err().exit_code(), 0);
}

#[test]
fn an_error_is_one_line() {
    let text = one_line(&parse(&["--rounds", "0"]).unwrap_err().to_string());
    assert!(text.starts_with("invalid value '0' for '--rounds <N>'") && !text.contains('\n'), "{text}");
}

#[test]
fn a_report_that_cannot_be_written_is_told_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    can_write(&path).unwrap();
    std::fs::write(&path, "old").unwrap();
    can_write(&path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
    let error = can_write(&folder.path().join("no/folder.json")).unwrap_err().to_string();
    assert!(error.contains("no/folder.json"), "{error}");
}
