use super::*;
use crate::model::MeanPath;

fn point(t: f64, loss: f64, accuracy: Option<f64>) -> PathPoint {
    PathPoint { t, loss, accuracy }
}

fn said(site: &str, model: Evaluated, path: Vec<PathPoint>) -> SiteEvaluation {
    SiteEvaluation {
        site: site.into(),
        model,
        digest: "a".repeat(64),
        num_examples: 10,
        loss: Some(0.5),
        accuracy: None,
        path: Some(path).filter(|path| !path.is_empty()),
        reported_at: "2026-01-31T12:00:00Z".into(),
    }
}

fn mean(path: Vec<PathPoint>) -> Option<MeanOfSites> {
    let path = (!path.is_empty()).then_some(MeanPath { sites: 2, num_examples: 20, points: path });
    Some(MeanOfSites { sites: 2, num_examples: 20, loss: Some(0.5), accuracy: None, path })
}

#[test]
fn a_path_is_drawn_with_its_numbers_and_its_barrier() {
    let straight = vec![point(0.0, 0.5, None), point(0.5, 0.75, None), point(1.0, 0.25, None)];
    let other = vec![point(0.125, 0.0625, None), point(1.0, 0.25, None)];
    let known = Evaluations {
        own: mean(straight.clone()),
        sites: Some(vec![said("a", Evaluated::Own, straight), said("b", Evaluated::Own, other)]),
        ..Evaluations::default()
    };
    let html = along(&known).expect("a drawing").into_string();
    assert_eq!(html.matches("<svg").count(), 1, "no accuracy, no naive mean: {html}");
    for shown in ["mean of 2 sites", ">a<", ">b<", "rises by 0.3750 above"] {
        assert!(html.contains(shown), "{shown}: {html}");
    }
    // Where one site alone measured is drawn, and no row: each could bring places of its own.
    assert!(!html.contains(">0.1250</th>") && html.contains("from 0.0625 to 0.7500"), "{html}");
    let row = html.split("<tr>").find(|row| row.contains(">0.5000</th>")).expect("a row");
    assert_eq!(row.matches("0.7500").count(), 2, "{row}");
    assert!(row.contains("–"), "b was not measured there: {row}");
}

#[test]
fn accuracies_and_naive_means_have_charts_of_their_own_and_no_path_has_none() {
    let path = vec![point(0.0, 0.5, Some(0.75)), point(1.0, 0.25, Some(0.875))];
    let known = Evaluations {
        own: mean(Vec::new()),
        naive: mean(path.clone()),
        sites: Some(vec![said("a", Evaluated::Naive, path), said("a", Evaluated::Own, Vec::new())]),
        ..Evaluations::default()
    };
    let html = along(&known).expect("a drawing").into_string();
    for title in ["loss from the naive mean", "accuracy from the naive mean"] {
        assert!(html.contains(title), "{title}: {html}");
    }
    assert_eq!(html.matches("<svg").count(), 2, "{html}");
    assert!(html.contains("there is no barrier"), "{html}");
    let none =
        Evaluations { sites: Some(vec![said("a", Evaluated::Own, Vec::new())]), ..Evaluations::default() };
    assert_eq!(along(&none).expect("nothing").into_string(), "");
}
