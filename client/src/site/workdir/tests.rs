use super::*;

#[test]
fn a_ticket_survives_and_can_be_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let dir = WorkDir::open(folder.path(), "r").unwrap().round(3).unwrap();
    assert_eq!(dir.ticket().unwrap(), None);
    let receipt = Receipt { update_id: "u".into(), size: 7, ..Receipt::default() };
    let ticket = Ticket {
        run_id: "r".into(),
        round: 3,
        trained: true,
        receipt: Some(receipt.into()),
        ..Ticket::default()
    };
    dir.save(&ticket).unwrap();
    assert_eq!(dir.ticket().unwrap(), Some(ticket));
    dir.forget().unwrap();
    dir.forget().unwrap();
    assert_eq!(dir.ticket().unwrap(), None);
}

#[test]
fn two_processes_do_not_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let first = WorkDir::open(folder.path(), "r").unwrap();
    let error = WorkDir::open(folder.path(), "r").unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
    drop(first);
    assert!(WorkDir::open(folder.path(), "r").is_ok());
}

#[test]
fn a_folder_stays_with_its_run() {
    let folder = tempfile::tempdir().unwrap();
    drop(WorkDir::open(folder.path(), "a").unwrap());
    let error = WorkDir::open(folder.path(), "b").unwrap_err();
    assert!(error.to_string().contains("belongs to run a"), "{error}");
}

#[test]
fn what_a_trainer_wrote_gets_its_name_once_it_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let dir = WorkDir::open(folder.path(), "r").unwrap().round(1).unwrap();
    let killed = dir.attempt().unwrap();
    fs::write(&killed.output, "half").unwrap();
    let attempt = dir.attempt().unwrap();
    assert!(!killed.output.exists() && killed.output != attempt.output);
    fs::write(&attempt.output, "whole").unwrap();
    fs::write(&attempt.metrics, "{}").unwrap();
    assert!(!dir.output().exists());
    dir.keep(&attempt).unwrap();
    assert_eq!(fs::read_to_string(dir.output()).unwrap(), "whole");
    assert!(dir.metrics().exists());

    // A later call that writes no metrics does not inherit those.
    let attempt = dir.attempt().unwrap();
    fs::write(&attempt.output, "again").unwrap();
    dir.keep(&attempt).unwrap();
    assert!(!dir.metrics().exists());
}

#[cfg(unix)]
#[test]
fn a_new_work_folder_is_its_owners_alone_and_an_old_one_stays_as_it_is() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let new = folder.path().join("new");
    drop(WorkDir::open(&new, "r").unwrap());
    assert_eq!(mode(&new), 0o700);
    fs::set_permissions(&new, fs::Permissions::from_mode(0o750)).unwrap();
    drop(WorkDir::open(&new, "r").unwrap());
    assert_eq!(mode(&new), 0o750);
}
