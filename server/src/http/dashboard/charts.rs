//! Charts: SVG that is drawn here, each with its numbers as a table.
//!
//! Colours are names: the style sheet gives each its colour, in light and in dark. Nothing of a drawing is styled in place, so the
//! policy of pages need not allow it.

mod paths;

use maud::{Markup, PreEscaped, html};
use plotters::prelude::*;

pub(super) use self::paths::{Path, Paths, paths};

use super::text::number;
use crate::error::{Error, Result};

/// More lines than this cannot be told apart; the table has all.
pub(super) const MOST_LINES: usize = 8;

/// Width and height, in pixels of a page at its usual size.
const SIZE: (u32, u32) = (460, 250);
const LETTERS: (&str, i32) = ("sans-serif", 16);

/// Names of colours: `#0000F0` and so on in the drawing.
const INK: RGBColor = RGBColor(0, 0, 0xF0);
const GRID: RGBColor = RGBColor(0, 0, 0xF1);

/// The name of a line's colour.
fn of_line(place: usize) -> RGBColor {
    RGBColor(0, 0, u8::try_from(place % MOST_LINES).unwrap_or(0) + 1)
}

/// The name of a cell's colour: of nine steps, from 0 to 1.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 and 8")]
fn of_cell(value: f64) -> RGBColor {
    RGBColor(0, 1, (value.clamp(0.0, 1.0) * 8.0).round() as u8)
}

/// One line.
pub(super) struct Line {
    pub(super) name: String,
    /// A value a round, where there is one.
    pub(super) values: Vec<Option<f64>>,
}

/// Values over rounds.
pub(super) struct Lines<'a> {
    pub(super) title: &'a str,
    /// What a value is, in a word.
    pub(super) unit: &'a str,
    /// The numbers of the rounds.
    pub(super) rounds: &'a [u32],
    /// Drawn in this order; the first one is what the others come to.
    pub(super) lines: Vec<Line>,
}

/// The picture and the table; nothing where no line has a value.
///
/// # Errors
/// None that is expected: a drawing that fails.
pub(super) fn lines(chart: &Lines<'_>) -> Result<Option<Markup>> {
    let values = || chart.lines.iter().flat_map(|line| line.values.iter().flatten().copied().filter(fits));
    if values().next().is_none() {
        return Ok(None);
    }
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let (first, last) = (
        f64::from(chart.rounds.first().copied().unwrap_or(1)),
        f64::from(chart.rounds.last().copied().unwrap_or(1)),
    );
    let points_of = |line: &Line| {
        let values = chart.rounds.iter().zip(&line.values);
        values
            .filter_map(|(round, value)| value.filter(fits).map(|value| (f64::from(*round), value)))
            .collect()
    };
    let svg = drawn(&Drawing {
        across: first - 0.3..last + 0.3,
        steps: ((last - first) as usize + 1).min(8),
        across_name: "round",
        step_name: |round| if round.fract().abs() < 1e-6 { format!("{round:.0}") } else { String::new() },
        unit: chart.unit,
        values: (least, most),
        lines: chart.lines.iter().take(MOST_LINES).map(points_of).collect(),
    })?;
    Ok(Some(html! {
        figure.chart {
            figcaption { (chart.title) }
            div.drawing role="img" aria-label={ (chart.title) ", over rounds, from " (number(least)) " to " (number(most)) } {
                (labelled(&svg))
            }
            (legend(chart.lines.iter().map(|line| line.name.as_str())))
            (numbers(
                chart.title,
                "a row a round",
                &html! {
                    th scope="col" { "Round" }
                    @for line in &chart.lines { th.number scope="col" { (line.name) } }
                },
                &html! {
                    @for (place, round) in chart.rounds.iter().enumerate() {
                        tr {
                            th scope="row" { (round) }
                            @for line in &chart.lines {
                                td.number { (shown(line.values.get(place).copied().flatten())) }
                            }
                        }
                    }
                },
            ))
        }
    }))
}

/// Which line is which.
fn legend<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> Markup {
    let count = names.len();
    html! {
        ul.legend {
            @for (place, name) in names.take(MOST_LINES).enumerate() {
                li class={ "line-" (place + 1) } { (name) }
            }
            @if count > MOST_LINES { li.more { "and " (count - MOST_LINES) " more in the table" } }
        }
    }
}

/// A picture's numbers as a table, opened by whoever wants them; `what` says what a row is.
fn numbers(title: &str, what: &str, columns: &Markup, rows: &Markup) -> Markup {
    html! {
        details {
            summary { "Numbers" }
            div.scroll tabindex="0" role="region" aria-label={ (title) ", numbers" } {
                table {
                    caption.unseen { (title) ", " (what) }
                    thead { tr { (columns) } }
                    tbody { (rows) }
                }
            }
        }
    }
}

/// Whether a value can be drawn: beyond this the distance of two may be no number. The table has it all the same.
fn fits(value: &f64) -> bool {
    value.abs() < 1e100
}

/// Whoever hears a page hears what a picture is of, not its letters.
fn labelled(svg: &str) -> Markup {
    PreEscaped(svg.replacen("<svg ", "<svg aria-hidden=\"true\" focusable=\"false\" ", 1))
}

fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), number)
}

type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;

/// Lines as they are drawn.
struct Drawing<'a> {
    /// From where to where they go, at most so many steps of which are named, and how.
    across: std::ops::Range<f64>,
    steps: usize,
    across_name: &'a str,
    step_name: fn(f64) -> String,
    /// What a value is, in a word; the least and the greatest.
    unit: &'a str,
    values: (f64, f64),
    /// The points of each; the first one is drawn above the others.
    lines: Vec<Vec<(f64, f64)>>,
}

fn drawn(drawing: &Drawing<'_>) -> Result<String> {
    let mut svg = String::new();
    draw(drawing, &mut svg).map_err(|error| Error::internal(format_args!("a chart: {error}")))?;
    Ok(svg)
}

fn draw(drawing: &Drawing<'_>, svg: &mut String) -> Outcome {
    let (least, most) = drawing.values;
    let margin = ((most - least) * 0.08).max(most.abs() * 0.02).max(1e-9);
    let bottom = if least >= 0.0 { (least - margin).max(0.0) } else { least - margin };
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .margin(8)
        .margin_right(16)
        .x_label_area_size(36)
        .y_label_area_size(76)
        .build_cartesian_2d(drawing.across.clone(), bottom..most + margin)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style(LETTERS.into_font().color(&INK))
        .x_labels(drawing.steps)
        .y_labels(5)
        .x_desc(drawing.across_name)
        .y_desc(drawing.unit)
        .x_label_formatter(&|step| (drawing.step_name)(*step))
        .y_label_formatter(&|value| number(*value))
        .draw()?;
    for (place, points) in drawing.lines.iter().enumerate().rev() {
        let colour = of_line(place);
        let width = if place == 0 { 3 } else { 2 };
        chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(width)))?;
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
    }
    area.present()?;
    drop(chart);
    Ok(())
}

/// Values of rows (sites) and columns (groups), before and after.
pub(super) struct Heat<'a> {
    pub(super) title: &'a str,
    pub(super) rows: Vec<String>,
    pub(super) columns: Vec<String>,
    /// A row's values, before and after each, from 0 (or less) to 1.
    pub(super) cells: Vec<Vec<(f64, f64)>>,
    /// What a table says of a cell besides.
    pub(super) also: (&'a str, Vec<Vec<String>>),
}

/// The picture, one half for before and one for after, and the table; nothing where there are no cells.
///
/// # Errors
/// None that is expected: a drawing that fails.
pub(super) fn heat(chart: &Heat<'_>) -> Result<Option<Markup>> {
    if chart.rows.is_empty() || chart.columns.is_empty() {
        return Ok(None);
    }
    let mut svg = String::new();
    draw_heat(chart, &mut svg).map_err(|error| Error::internal(format_args!("a chart: {error}")))?;
    let (also, words) = &chart.also;
    Ok(Some(html! {
        figure.chart.wide {
            figcaption { (chart.title) }
            div.drawing role="img" aria-label={ (chart.title) ": a cell for each site and group, on the left before alignment, on the right after" } {
                (labelled(&svg))
            }
            p.scale { span { "0" } @for step in 0..9 { i class={ "step-" (step) } {} } span { "1" } }
            (numbers(
                chart.title,
                "a row a site and group",
                &html! {
                    th scope="col" { "Site" } th scope="col" { "Group" } th.number scope="col" { (also) }
                    th.number scope="col" { "Before" } th.number scope="col" { "After" }
                },
                &html! {
                    @for ((row, cells), words) in chart.rows.iter().zip(&chart.cells).zip(words) {
                        @for ((column, (before, after)), word) in chart.columns.iter().zip(cells).zip(words) {
                            tr {
                                th scope="row" { (row) } td { (column) } td.number { (word) }
                                td.number { (number(*before)) } td.number { (number(*after)) }
                            }
                        }
                    }
                },
            ))
        }
    }))
}

fn draw_heat(chart: &Heat<'_>, svg: &mut String) -> Outcome {
    let (rows, columns) = (i32::try_from(chart.rows.len())?, i32::try_from(chart.columns.len())?);
    let (left, top, gap, height) = (110, 26, 24, 24);
    let size = (2 * SIZE.0, u32::try_from(top + rows * height + 8)?);
    let half = (i32::try_from(size.0)? - left - gap - 8) / 2;
    let area = SVGBackend::with_string(svg, size).into_drawing_area();
    let letters = LETTERS.into_font().color(&INK);
    for (side, (name, start)) in [("before", left), ("after", left + half + gap)].into_iter().enumerate() {
        area.draw(&Text::new(name, (start, 6), letters.clone()))?;
        for (row, cells) in (0..rows).zip(&chart.cells) {
            let y = top + row * height;
            for (column, (before, after)) in (0..columns).zip(cells) {
                let value = if side == 0 { *before } else { *after };
                let (from, to) = (start + column * half / columns, start + (column + 1) * half / columns);
                let inset = i32::from(to - from > 4);
                let corners = [(from, y), (to - inset, y + height - 2)];
                area.draw(&Rectangle::new(corners, of_cell(value).filled()))?;
            }
        }
    }
    for (row, name) in (0..rows).zip(&chart.rows) {
        let shown: String = name.chars().take(15).collect();
        area.draw(&Text::new(shown, (2, top + row * height + 5), letters.clone()))?;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests;
