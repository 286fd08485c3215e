use super::*;

#[test]
fn words_survive_the_shell() {
    for word in ["plain", "two words", "it's", "a'b'c", "$HOME `x` \\ \"y\" ; |", ""] {
        let script = format!("printf %s {}", shell_word(word));
        let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
    }
}

#[test]
fn a_dropped_leash_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leash");
    let leash = Leash::new(path.clone()).unwrap();
    assert!(leash.path().exists());
    drop(leash);
    assert!(!path.exists());
}

#[cfg(unix)]
#[test]
fn a_dropped_process_is_dead_and_a_failed_one_is_told_with_its_last_words() {
    let folder = tempfile::tempdir().unwrap();
    let process = |script: &str| {
        let log = folder.path().join("log");
        let file = std::fs::File::create(&log).unwrap();
        let child =
            Command::new("sh").arg("-c").arg(script).stderr(file).stdin(Stdio::piped()).spawn().unwrap();
        Process { name: "site-9".into(), child, log }
    };
    let sleeper = process("exec sleep 600");
    let id = sleeper.child.id();
    drop(sleeper);
    assert!(!Path::new(&format!("/proc/{id}/cmdline")).exists());
    let mut failing = process("echo no bread >&2; exit 3");
    let error = failing.wait(Duration::from_secs(20), &mut || Ok(())).unwrap_err().to_string();
    assert!(error.contains("site-9") && error.contains("no bread") && error.contains('3'), "{error}");
    let mut slow = process("exec sleep 600");
    assert!(slow.wait(Duration::ZERO, &mut || Ok(())).unwrap_err().to_string().contains("did not end"));
    let mut stopped = process("exec sleep 600");
    let error = stopped.wait(Duration::from_secs(20), &mut || bail!("interrupted")).unwrap_err();
    assert_eq!(error.to_string(), "interrupted");
}
