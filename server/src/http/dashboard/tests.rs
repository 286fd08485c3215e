use super::{POLICY, charts, page, text};

/// What no name may bring into a page.
const HOSTILE: &str = "<script>alert(1)</script>\"'&";

#[test]
fn whatever_is_named_is_shown_as_text() {
    let shown = [
        text::state(HOSTILE).into_string(),
        text::digest(HOSTILE).into_string(),
        super::run::confirmation(HOSTILE, HOSTILE, (HOSTILE, HOSTILE), true).into_string(),
    ];
    for html in shown {
        assert!(
            !html.contains("<script") && !html.contains("\"'&") && html.contains("&lt;script&gt;"),
            "{html}"
        );
    }
}

#[test]
fn the_style_sheet_has_a_colour_for_each_line_of_a_chart() {
    let sheet = include_str!("style.css");
    for place in 1..=charts::MOST_LINES {
        for rule in [format!(".line-{place} {{ color: var(--s{place}); }}"), format!("--s{place}: #")] {
            assert!(sheet.contains(&rule), "{rule}");
        }
    }
    assert!(!sheet.contains(&format!(".line-{}", charts::MOST_LINES + 1)), "and for no more");
}

#[test]
fn pages_style_and_script_nothing_in_place() {
    assert!(!POLICY.contains("unsafe") && !POLICY.contains('*'));
    let files = [
        include_str!("page.rs"),
        include_str!("overview.rs"),
        include_str!("run.rs"),
        include_str!("round.rs"),
        include_str!("manifest.rs"),
        include_str!("site.rs"),
        include_str!("audit.rs"),
        include_str!("session.rs"),
        include_str!("charts.rs"),
        include_str!("charts/paths.rs"),
        include_str!("evaluations.rs"),
    ];
    for source in files {
        for forbidden in [" style=", " onclick=", "http://", "https://"] {
            assert!(!source.contains(forbidden), "{forbidden} in {}", &source[..80]);
        }
    }
    assert!(!page::is_part(&http::HeaderMap::new()));
}
