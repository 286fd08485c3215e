//! Figures along straight lines between two models.

use maud::{Markup, html};

use super::{Drawing, MOST_LINES, drawn, fits, labelled, legend, number, numbers, shown};
use crate::error::Result;

/// So many paths are in the table; the API has all.
const MOST_COLUMNS: usize = 40;

/// One path.
pub(in super::super) struct Path {
    pub(in super::super) name: String,
    /// Where, from 0 to 1, and what.
    pub(in super::super) points: Vec<(f64, f64)>,
}

/// Paths from one model each to one that is common to all.
pub(in super::super) struct Paths<'a> {
    pub(in super::super) title: &'a str,
    /// What a value is, in a word.
    pub(in super::super) unit: &'a str,
    /// What 0 and 1 are.
    pub(in super::super) across: &'a str,
    /// Drawn in this order; the first one is what the others come to.
    pub(in super::super) paths: Vec<Path>,
}

/// The picture and the table; nothing where no path has a point.
///
/// # Errors
/// None that is expected: a drawing that fails.
pub(in super::super) fn paths(chart: &Paths<'_>) -> Result<Option<Markup>> {
    let points =
        |path: &Path| path.points.iter().copied().filter(|(_, value)| fits(value)).collect::<Vec<_>>();
    let values = || chart.paths.iter().flat_map(points).map(|(_, value)| value);
    if values().next().is_none() {
        return Ok(None);
    }
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    // Sites may measure where they like; the table has the places of what they come to, and so many of them.
    let places: Vec<f64> = chart
        .paths
        .iter()
        .find(|path| !path.points.is_empty())
        .map(|path| path.points.iter().map(|(t, _)| *t).collect())
        .unwrap_or_default();
    let columns = &chart.paths[..chart.paths.len().min(MOST_COLUMNS)];
    let svg = drawn(&Drawing {
        across: -0.03..1.03,
        steps: 6,
        across_name: chart.across,
        step_name: |t| format!("{t:.1}"),
        unit: chart.unit,
        values: (least, most),
        lines: chart.paths.iter().take(MOST_LINES).map(points).collect(),
    })?;
    let at = |path: &Path, place: f64| path.points.iter().find(|(t, _)| *t == place).map(|(_, value)| *value);
    Ok(Some(html! {
        figure.chart {
            figcaption { (chart.title) }
            div.drawing role="img" aria-label={ (chart.title) ", " (chart.across) ", from " (number(least)) " to " (number(most)) } {
                (labelled(&svg))
            }
            (legend(chart.paths.iter().map(|path| path.name.as_str())))
            (numbers(
                chart.title,
                "a row a place",
                &html! {
                    th scope="col" { "Place" }
                    @for path in columns { th.number scope="col" { (path.name) } }
                },
                &html! {
                    @for place in places {
                        tr {
                            th scope="row" { (number(place)) }
                            @for path in columns { td.number { (shown(at(path, place))) } }
                        }
                    }
                },
            ))
        }
    }))
}
