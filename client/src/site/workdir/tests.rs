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
