use super::*;

#[test]
fn an_empty_file_is_a_working_server() {
    let config = Config::from_toml("").expect("defaults");
    assert!(config.grpc.listen.ip().is_loopback() && config.http.listen.ip().is_loopback());
    assert!(config.database_url.is_none());
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    let error = Config::from_toml("[limits]\nmax_checkpoint_megabytes = 3\n").expect_err("unknown key");
    assert!(error.contains("max_checkpoint_megabytes"), "{error}");
}

#[test]
fn a_lease_of_no_time_or_of_years_is_refused() {
    for seconds in ["0", "86401"] {
        let error = Config::from_toml(&format!("[work]\nlease_seconds = {seconds}\n")).expect_err("bad");
        assert!(error.contains("work.lease_seconds"), "{error}");
    }
    assert!(Config::from_toml("[work]\nlease_seconds = 1\n").is_ok());
}

#[test]
fn a_secret_does_not_show_itself() {
    let config = Config::from_toml("database_url = \"postgres://u:hunter2@db/x\"").expect("parses");
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(config.database_url.expect("set").expose().contains("hunter2"));
}

#[test]
fn a_database_is_named_once() {
    let error =
        Config::from_toml("database_url = \"sqlite:x\"\ndatabase_url_file = \"y\"").expect_err("both");
    assert_eq!(error, "database_url, database_url_file: both are given; say one of them");
}

#[test]
fn the_settings_of_compose_and_of_the_units_are_understood() {
    let compose =
        Config::from_toml(include_str!("../../../deploy/compose.toml")).expect("deploy/compose.toml");
    assert!(compose.allow_clear_text && !compose.work.in_serve);
    let units =
        Config::from_toml(include_str!("../../../deploy/systemd/fedbasin.toml")).expect("deploy/systemd");
    assert!(!units.allow_clear_text && !units.work.in_serve && units.objects.is_some());
}

#[test]
fn the_sample_is_understood_and_says_the_defaults() {
    let sample = include_str!("../../../deploy/fedbasin.toml");
    let config = Config::from_toml(sample).expect("the sample in deploy/");
    let defaults = Config::default();
    assert_eq!(format!("{:?}", config.limits), format!("{:?}", defaults.limits));
    assert_eq!(format!("{:?}", config.work), format!("{:?}", defaults.work));
    assert_eq!(format!("{:?}", config.log), format!("{:?}", defaults.log));
    assert_eq!(format!("{:?}", config.notify), format!("{:?}", defaults.notify));
    for line in format!("{:#?}", defaults.limits).lines().filter_map(|line| line.trim().split_once(": ")) {
        assert!(sample.contains(&format!("\n{} = ", line.0)), "the sample does not name {}", line.0);
    }
    // The commented keys must be keys too.
    let section = |name: &str| -> String {
        let begin = format!("# {name}");
        let lines = sample.lines().skip_while(|line| *line != begin).take_while(|line| line.starts_with('#'));
        lines.map(|line| format!("{}\n", line.trim_start_matches("# "))).collect()
    };
    assert!(Config::from_toml(&section("[otlp]")).expect("a collector").otlp.is_some());
    assert_eq!(Config::from_toml(&section("[[webhooks]]")).expect("a webhook").webhooks.len(), 1);
    let tls = "[tls]\ncert_file = \"a\"\nkey_file = \"b\"\n";
    assert!(sample.contains("# [tls]") && Config::from_toml(tls).is_ok());
    assert!(sample.contains("# admin_token_file") && Config::from_toml("admin_token_file = \"a\"").is_ok());
}
