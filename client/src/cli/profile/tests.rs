use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A folder with `config.toml`, and files for tokens: `a.token` and `b.token`, which hold `fba_a` and `fba_b`.
fn folder(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.toml"), config).unwrap();
    for name in ["a", "b"] {
        fs::write(folder.path().join(format!("{name}.token")), format!("fba_{name}\n")).unwrap();
    }
    folder
}

const TWO: &str = r#"
default_profile = "a"
[profiles.a]
server = "http://127.0.0.1:1"
token_file = "a.token"
[profiles.b]
server = "http://127.0.0.1:2"
token_file = "b.token"
"#;

fn args(folder: &tempfile::TempDir) -> AdminArgs {
    AdminArgs {
        server: None,
        token_file: None,
        ca: None,
        insecure: false,
        profile: None,
        config: Some(folder.path().join("config.toml")),
        state_dir: None,
        command: crate::cli::args::AdminCommand::Runs { state: None, site: None },
    }
}

/// Which server and which token, and where from; or the error.
fn target(args: &AdminArgs, variables: &[(&str, &str)]) -> Result<(String, String, String), String> {
    let environment = |name: &str| {
        variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
    };
    let target = Target::within(args, &environment).map_err(|error| error.to_string())?;
    Ok((target.address.url, target.token.bearer(), target.origin.unwrap_or_default()))
}

#[test]
fn what_is_typed_goes_before_the_environment_and_that_before_a_profile() {
    let folder = folder(TWO);
    let (a, b) = ("http://127.0.0.1:1", "http://127.0.0.1:2");
    let by_default = target(&args(&folder), &[]).unwrap();
    assert_eq!((by_default.0.as_str(), by_default.1.as_str()), (a, "Bearer fba_a"));
    assert!(by_default.2.starts_with("by profile a of "), "{by_default:?}");
    let by_variable = target(&args(&folder), &[(PROFILE_VARIABLE, "b")]).unwrap();
    assert_eq!((by_variable.0.as_str(), by_variable.1.as_str()), (b, "Bearer fba_b"));

    let variables =
        [(PROFILE_VARIABLE, "b"), (SERVER_VARIABLE, "http://127.0.0.1:3"), (TOKEN_VARIABLE, "fba_env")];
    let environment = target(&args(&folder), &variables).unwrap();
    assert_eq!((environment.0.as_str(), environment.1.as_str()), ("http://127.0.0.1:3", "Bearer fba_env"));
    assert!(environment.2.contains(SERVER_VARIABLE), "{environment:?}");
    let typed = AdminArgs { profile: Some("a".into()), ..args(&folder) };
    let typed = target(&typed, &variables).unwrap();
    assert_eq!((typed.0.as_str(), typed.1.as_str()), (a, "Bearer fba_a"));
    let all = AdminArgs {
        server: Some("http://127.0.0.1:4".into()),
        token_file: Some(folder.path().join("b.token")),
        ..args(&folder)
    };
    let all = target(&all, &variables).unwrap();
    assert_eq!((all.0.as_str(), all.1.as_str(), all.2.as_str()), ("http://127.0.0.1:4", "Bearer fba_b", ""));
}

#[test]
fn a_profile_s_token_is_for_its_own_server_alone() {
    let folder = folder(TWO);
    let elsewhere = AdminArgs { server: Some("http://127.0.0.1:9".into()), ..args(&folder) };
    let error = target(&elsewhere, &[]).unwrap_err();
    assert!(error.contains("profile a names is for its own server alone"), "{error}");
    let error = target(&args(&folder), &[(SERVER_VARIABLE, "http://127.0.0.1:9")]).unwrap_err();
    assert!(error.contains("its own server alone"), "{error}");
    let same = AdminArgs { server: Some("http://127.0.0.1:1/".into()), ..args(&folder) };
    assert_eq!(target(&same, &[]).unwrap().1, "Bearer fba_a");
}

#[test]
fn a_file_with_anything_else_in_it_is_refused_and_nothing_of_it_is_shown() {
    for (config, says) in [
        (
            "[profiles.a]\nserver = \"http://127.0.0.1:1\"\ntoken = \"fba_secret\"",
            "no token stands in this file",
        ),
        ("token = \"fba_secret\"", "no token stands in this file"),
        ("[profiles.a]\nserver = \"http://127.0.0.1:1\"\nfba_secrets = 1", "unknown field"),
        ("[profiles.a]\ntoken_file = \"fba_secret\"", "missing field `server`"),
        ("default_profile = \"b\"\n[profiles.a]\nserver = \"http://127.0.0.1:1\"", "no [profiles.b]"),
        ("fba_secret", "config.toml"),
    ] {
        let error = target(&args(&folder(config)), &[]).unwrap_err();
        assert!(error.contains(says), "{error}");
        assert!(!error.contains("fba_secret\"") && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn a_profile_that_is_not_there_is_not_passed_over() {
    let folder = folder(TWO);
    let missing = AdminArgs { profile: Some("c".into()), ..args(&folder) };
    assert!(target(&missing, &[]).unwrap_err().contains("no profile c"));
    assert!(target(&args(&folder), &[(PROFILE_VARIABLE, "c")]).unwrap_err().contains("no profile c"));
    let nowhere = AdminArgs { config: Some(folder.path().join("other.toml")), ..args(&folder) };
    assert!(target(&nowhere, &[]).unwrap_err().contains("is not there"));
}

#[test]
fn profiles_are_written_for_their_owner_alone_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("t"), "fba_t").unwrap();
    let path = folder.path().join("new/config.toml");
    let mut profiles = Profiles::open(Some(&path), Absent::Empty).unwrap().unwrap();
    let kept = AdminArgs {
        server: Some("http://127.0.0.1:1".into()),
        token_file: Some(folder.path().join("t")),
        config: Some(path.clone()),
        ..args(&folder)
    };
    profiles.add("one", &kept).unwrap();
    assert!(profiles.add("one", &kept).unwrap_err().to_string().contains("already"));
    assert_eq!(profiles.add("a/b", &kept).unwrap_err().exit_code(), 2);
    assert_eq!(profiles.add("two", &AdminArgs { server: None, ..args(&folder) }).unwrap_err().exit_code(), 2);
    profiles.write().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    // Also where others could read the file before.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    profiles.write().unwrap();
    assert_eq!(mode(&path), 0o600);
    let again = Profiles::open(Some(&path), Absent::Refused).unwrap().unwrap();
    assert_eq!(again.file, profiles.file);
    assert_eq!(again.file.default_profile.as_deref(), Some("one"));
    assert_eq!(target(&AdminArgs { server: None, token_file: None, ..kept }, &[]).unwrap().1, "Bearer fba_t");
}
