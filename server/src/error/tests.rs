use super::*;

#[test]
fn what_we_wrote_is_sent_and_what_storage_said_is_not() {
    let own = Error::new(Code::Unavailable, "the server is stopping; go on elsewhere");
    assert_eq!(own.public_message(), "the server is stopping; go on elsewhere");
    let disk = Error::from(std::io::Error::other("/secret/path: no space"));
    assert_eq!(disk.code(), Code::Unavailable);
    assert!(disk.message().contains("/secret/path") && !disk.public_message().contains("secret"));
    let pool = Error::from(sqlx::Error::PoolTimedOut);
    assert_eq!(pool.code(), Code::Unavailable);
    assert!(!pool.public_message().contains("pool"), "{}", pool.public_message());
    let defect = Error::internal("row 7 of updates");
    assert!(!defect.public_message().contains("row 7"));
}

#[test]
fn a_database_code_that_passes_is_told_from_one_that_does_not() {
    for code in [
        "08006", "25P03", "40001", "40P01", "53300", "55P03", "57014", "57P01", "5", "6", "13", "261", "262",
        "517", "773",
    ] {
        assert!(code_passes(code), "{code}");
    }
    // Also five digits whose low byte is SQLite's busy, and other codes of SQLite.
    for code in ["23505", "23514", "42601", "42501", "22021", "23557", "1", "11", "19", "2067", "787"] {
        assert!(!code_passes(code), "{code}");
    }
}

#[test]
fn a_disk_that_fails_under_a_checkpoint_is_no_fault_of_the_checkpoint() {
    let disk = std::io::Error::other("/secret/path: input/output error");
    let error = Error::from(rebasin::CheckpointError::Io(disk));
    assert_eq!(error.code(), Code::Unavailable);
    assert!(!error.public_text().contains("secret"), "{}", error.public_text());
}
