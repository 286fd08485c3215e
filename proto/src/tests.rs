use super::*;

#[test]
fn a_metric_is_named_in_printable_ascii_of_at_most_64_bytes() {
    for name in ["loss", "val loss", "acc@1/top-5 (%)", &"x".repeat(64)] {
        assert!(is_metric_name(name), "{name:?}");
    }
    for name in ["", "tab\there", "line\n", "Genauigkeit in \u{2030}", "\u{e9}", &"x".repeat(65)] {
        assert!(!is_metric_name(name), "{name:?}");
    }
}
