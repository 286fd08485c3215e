use super::*;

fn panel(losses: &[&[f64]]) -> Panel {
    let curve =
        |(at, losses): (usize, &&[f64])| Curve { name: format!("curve {at}"), losses: losses.to_vec() };
    Panel {
        title: "a title".into(),
        x: "from 0 to 1".into(),
        y: "a loss".into(),
        curves: losses.iter().enumerate().map(curve).collect(),
    }
}

#[test]
fn every_curve_and_every_point_is_drawn() {
    let panels = [panel(&[&[0.5, 0.9, 0.4], &[0.5, 0.6, 0.4]]), panel(&[&[1.0, 2.0]])];
    let svg = svg(&panels).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert_eq!(svg.matches("<circle").count(), 8);
    assert_eq!(svg.matches("curve 0").count(), 2);
    for text in ["a title", "from 0 to 1", "a loss", "curve 1"] {
        assert!(svg.contains(text), "{text}");
    }
}

#[test]
fn flat_curves_are_drawn_and_none_is_an_error() {
    assert!(svg(&[panel(&[&[0.5; 3], &[0.5; 3]])]).is_ok());
    assert!(svg(&[]).is_err());
    assert!(svg(&[panel(&[&[]])]).is_err());
}
