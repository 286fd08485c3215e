use super::*;
use crate::report;

#[test]
fn the_plot_is_an_svg_that_names_sites_and_barriers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("path.svg");
    write_svg(&report::tests::usual().barrier, &path).unwrap();
    let svg = std::fs::read_to_string(&path).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    for text in ["site-0", "site-1", "as uploaded (barrier 0.700)", "aligned (barrier 0.010)"] {
        assert!(svg.contains(text), "{text}");
    }
    assert_eq!(svg.matches("<circle").count(), 6);
}

#[test]
fn a_flat_path_and_a_path_that_cannot_be_written_do_not_panic() {
    let mut barrier = report::tests::usual().barrier;
    barrier.naive_losses = vec![0.5; 3];
    barrier.aligned_losses = vec![0.5; 3];
    let folder = tempfile::tempdir().unwrap();
    write_svg(&barrier, &folder.path().join("flat.svg")).unwrap();
    assert!(write_svg(&barrier, &folder.path().join("no/folder/here.svg")).is_err());
}
