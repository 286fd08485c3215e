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
fn a_secret_does_not_show_itself() {
    let config = Config::from_toml("database_url = \"postgres://u:hunter2@db/x\"").expect("parses");
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(config.database_url.expect("set").expose().contains("hunter2"));
}
