use rebasin::Source as _;

use super::*;

#[test]
fn a_failed_write_leaves_the_old_file_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    write_bytes(&path, b"old").unwrap();
    let result: Result<()> = write_atomically(&path, |out| {
        out.write_all(b"half").unwrap();
        Err(Error::failed("no", "", ""))
    });
    assert!(result.is_err());
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_missing_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = write_bytes(&folder.path().join("no/out"), b"x").unwrap_err();
    assert!(error.to_string().ends_with("create its folder first"), "{error}");
}

#[test]
fn a_token_is_trimmed_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    fs::write(&path, "fbs_abc\n").unwrap();
    assert_eq!(read_token(&path).unwrap(), "fbs_abc");
    fs::write(&path, "two words\n").unwrap();
    assert!(read_token(&path).is_err());
    fs::write(&path, "\n").unwrap();
    assert!(read_token(&path).is_err());
}

#[test]
fn partial_files_of_two_digests_do_not_meet() {
    let a = part_path(Path::new("x/model"), &Digest::of(b"a"));
    let b = part_path(Path::new("x/model"), &Digest::of(b"b"));
    assert_ne!(a, b);
    assert_eq!(a.parent(), Some(Path::new("x")));
}

#[cfg(unix)]
#[test]
fn a_replaced_file_keeps_its_mode_and_a_new_one_gets_that_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o7777;
    fs::write(folder.path().join("plain"), b"x").unwrap();
    write_bytes(&folder.path().join("new"), b"x").unwrap();
    assert_eq!(mode("new"), mode("plain"));
    for wanted in [0o600, 0o664] {
        fs::set_permissions(folder.path().join("new"), fs::Permissions::from_mode(wanted)).unwrap();
        write_bytes(&folder.path().join("new"), b"y").unwrap();
        assert_eq!(mode("new"), wanted);
    }
}

/// A safetensors file with one tensor of two numbers.
fn one_tensor(name: &str, dtype: &str, values: &[u8]) -> Vec<u8> {
    let header =
        format!(r#"{{"{name}":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,{}]}}}}"#, values.len());
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), values].concat()
}

#[test]
fn another_layout_is_named_and_is_not_called_malformed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    write_bytes(&path, &one_tensor("w", "F32", &[0; 8])).unwrap();
    let layout = open_checkpoint(&path).unwrap().header().layout().clone();
    check_checkpoint(&path, Some(&layout)).unwrap();
    for other in [one_tensor("w", "F16", &[0; 4]), one_tensor("v", "F32", &[0; 8])] {
        write_bytes(&path, &other).unwrap();
        let error = check_checkpoint(&path, Some(&layout)).unwrap_err().to_string();
        assert!(error.contains("tensor w is ") && error.contains("state_dict of the run's"), "{error}");
    }
    write_bytes(&path, &one_tensor("w", "F32", &[0xff; 8])).unwrap();
    let error = check_checkpoint(&path, Some(&layout)).unwrap_err().to_string();
    assert!(error.contains("NaN") && !error.contains("well-formed"), "{error}");
}

#[test]
fn a_secret_that_never_comes_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    drop(SecretFile::new(&path).unwrap());
    assert!(!path.exists());
    SecretFile::new(&path).unwrap().write("fbs_abc").unwrap();
    assert_eq!(read_token(&path).unwrap(), "fbs_abc");
    assert!(SecretFile::new(&path).unwrap_err().to_string().contains("is there already"));
    assert_eq!(read_token(&path).unwrap(), "fbs_abc");
}
