use super::*;

#[test]
fn a_path_is_one_word_whatever_is_in_it() {
    for (text, word) in [
        ("/srv/fed-basin_1.0/a", "/srv/fed-basin_1.0/a"),
        ("", "''"),
        ("/srv/my server", "'/srv/my server'"),
        ("it's $HOME", r"'it'\''s $HOME'"),
    ] {
        assert_eq!(shell_word(text), word);
        let said = std::process::Command::new("sh").arg("-c").arg(format!("printf %s {word}")).output();
        assert_eq!(String::from_utf8_lossy(&said.expect("a shell").stdout), text);
    }
}

#[test]
fn programs_are_named_as_the_shell_found_this_one() {
    let by_name = Programs::called_by(OsStr::new("fedbasin-server"));
    assert_eq!(
        (by_name.server.as_path(), by_name.client.as_path()),
        (Path::new("fedbasin-server"), Path::new("fedbasin"))
    );
    let place = tempfile::tempdir().expect("a folder");
    let server = place.path().join("fedbasin-server");
    assert_eq!(Programs::called_by(server.as_os_str()).client, Path::new("fedbasin"), "none beside it");
    std::fs::write(place.path().join("fedbasin"), "").expect("a file");
    let by_place = Programs::called_by(server.as_os_str());
    assert_eq!((by_place.server, by_place.client), (server, place.path().join("fedbasin")));
    assert!(Programs::called_by(OsStr::new("target/x")).server.is_absolute());
}
