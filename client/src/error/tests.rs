use super::*;

#[test]
fn an_error_is_one_line_even_if_its_parts_are_not() {
    let error = Error::failed("bad\n\n  tensor \u{1b}[31m", "file.safetensors", "write it again\n");
    assert_eq!(error.to_string(), "bad tensor \\u{1b}[31m: file.safetensors: write it again");
}

#[test]
fn empty_parts_leave_no_colon() {
    assert_eq!(Error::failed("what", "", "do").to_string(), "what: do");
}

#[test]
fn wrong_usage_exits_with_two_and_all_else_with_one() {
    assert_eq!(Error::usage("a", "b", "c").exit_code(), 2);
    assert_eq!(Error::failed("a", "b", "c").exit_code(), 1);
}

#[test]
fn a_status_keeps_the_servers_code_string() {
    let mut status = Status::already_exists("another update of this site was accepted");
    status.metadata_mut().insert(CODE_METADATA_KEY, "conflict".parse().unwrap());
    let error = Error::from_status(&status, "beginning the update");
    assert_eq!(error.code(), Some("conflict"));
    assert!(
        error.to_string().starts_with("another update of this site was accepted: beginning the update: ")
    );
}
