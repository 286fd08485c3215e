use fedbasin_proto::v1::{Alignment, GroupAlignment, Margins};

use super::*;

fn alignment(moved: f64, groups: usize) -> Alignment {
    let group =
        |i: usize| GroupAlignment { name: format!("h{i}"), size: 10, moved, ..GroupAlignment::default() };
    Alignment { moved, groups: (0..groups).map(group).collect(), ..Alignment::default() }
}

#[test]
fn an_update_already_in_frame_is_said_to_have_moved_nothing() {
    assert!(alignment_line(&alignment(0.0, 2)).contains("0 units moved"));
}

#[test]
fn many_groups_stay_on_one_short_line() {
    let line = alignment_line(&alignment(0.5, 40));
    assert!(line.contains("50.0 % of units moved"), "{line}");
    assert!(line.contains("and 34 groups"), "{line}");
}

#[test]
fn the_group_that_is_matched_least_surely_is_told_of_where_one_was_matched() {
    assert!(!alignment_line(&alignment(0.5, 3)).contains("fit best"));
    let mut alignment = alignment(0.5, 3);
    for (group, best) in alignment.groups.iter_mut().skip(1).zip([0.9, 0.75]) {
        group.margins = Some(Margins { best, ..Margins::default() });
    }
    let line = alignment_line(&alignment);
    assert!(line.contains("in each group at least 75 % have the partner they fit best"), "{line}");
}

#[test]
fn a_reference_is_a_digest_or_absent() {
    assert!(parse_reference(&RoundStatus::default()).unwrap().is_none());
    let digest = Digest::of(b"x");
    let round = RoundStatus { reference_digest: digest.to_string(), ..RoundStatus::default() };
    assert_eq!(parse_reference(&round).unwrap(), Some(digest));
    let round = RoundStatus { reference_digest: "abc".into(), ..RoundStatus::default() };
    assert!(parse_reference(&round).is_err());
}

#[test]
fn many_long_names_stay_on_one_line() {
    let names: Vec<String> = (0..20).map(|i| format!("{i}{}", "x".repeat(500))).collect();
    let line = few_names(&names);
    assert!(line.len() < 700 && line.ends_with("and 12 more"), "{line}");
}
