use super::{Heat, Line, Lines, heat, lines};

/// What no name may bring into a page.
const HOSTILE: &str = "<script>alert(1)</script>\"'&";

fn drawn(values: Vec<Option<f64>>) -> Option<String> {
    let rounds: Vec<u32> = (1..=values.len()).map(|round| u32::try_from(round).expect("few")).collect();
    let chart = Lines {
        title: "Loss",
        unit: "loss",
        rounds: &rounds,
        lines: vec![Line { name: HOSTILE.into(), values }],
    };
    lines(&chart).expect("a drawing").map(maud::PreEscaped::into_string)
}

#[test]
fn a_chart_has_each_of_its_numbers_in_a_table_and_styles_nothing_in_place() {
    let html = drawn(vec![Some(0.5), None, Some(0.25)]).expect("it has values");
    assert!(
        html.contains("<svg") && html.contains(">0.5000</td>") && html.contains(">0.2500</td>"),
        "{html}"
    );
    assert!(!html.contains("style=") && !html.contains("<script"), "{html}");
    assert!(html.contains("&lt;script&gt;"), "{html}");
}

#[test]
fn a_chart_without_values_is_none_and_any_values_can_be_drawn() {
    assert!(drawn(vec![None]).is_none() && drawn(Vec::new()).is_none());
    assert!(drawn(vec![Some(f64::MAX), Some(f64::MIN)]).is_none(), "their distance is no number");
    for values in [vec![0.0], vec![-3.0, -3.0], vec![1e90, -1e90], vec![1e-300; 40]] {
        assert!(drawn(values.into_iter().map(Some).collect()).is_some());
    }
}

#[test]
fn a_heat_map_shows_what_sites_call_themselves_as_text() {
    let chart = Heat {
        title: "Similarity",
        rows: vec![HOSTILE.into(), "b".into()],
        columns: vec![HOSTILE.into(), "layer".into(), "last".into()],
        cells: vec![vec![(0.1, 0.9); 3], vec![(-1.0, 2.0); 3]],
        also: ("Moved", vec![vec!["8 of 8".into(); 3]; 2]),
    };
    let html = heat(&chart).expect("a drawing").expect("cells").into_string();
    assert!(!html.contains("<script") && !html.contains("style="), "{html}");
    assert_eq!(html.matches("<rect").count(), 12, "{html}");
}
