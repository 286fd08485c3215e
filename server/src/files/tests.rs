use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn names(folder: &Path) -> Vec<String> {
    let name =
        |entry: io::Result<fs::DirEntry>| entry.expect("a file").file_name().into_string().expect("UTF-8");
    fs::read_dir(folder).expect("a folder").map(name).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

#[test]
fn a_secret_is_its_owners_alone_and_takes_nobodys_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key.pem");
    write_new(&path, "first", Readers::Owner).expect("written");
    let error = write_new(&path, "second", Readers::Owner).expect_err("it is there");
    assert!(error.message().contains("key.pem") && error.message().contains("exists"), "{error}");
    assert_eq!((fs::read_to_string(&path).expect("text").as_str(), mode(&path)), ("first", 0o600));
    assert_eq!(names(folder.path()), ["key.pem"], "nothing else is left");
}

#[test]
fn what_replaces_a_file_is_whole_and_as_secret_as_it_was_asked_to_be() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("server.key");
    fs::write(&path, "open to all").expect("written");
    let mut reader = File::open(&path).expect("opened");
    replace(&path, "secret", Readers::Owner).expect("replaced");
    // Not written into: who had it open reads what was there.
    assert_eq!(io::read_to_string(&mut reader).expect("text"), "open to all");
    assert_eq!((fs::read_to_string(&path).expect("text").as_str(), mode(&path)), ("secret", 0o600));
    assert_eq!(names(folder.path()), ["server.key"], "nothing else is left");
}

#[test]
fn what_cannot_be_written_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("no/key.pem");
    write_new(&missing, "x", Readers::All).expect_err("no folder");
    // A folder stands where the file is to be.
    let taken = folder.path().join("taken");
    fs::create_dir(&taken).expect("a folder");
    replace(&taken, "x", Readers::Owner).expect_err("a folder");
    write_new(&taken, "x", Readers::Owner).expect_err("a folder");
    assert_eq!(names(folder.path()), ["taken"]);
}
