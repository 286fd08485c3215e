//! Losses along paths, drawn: one panel for each set of curves, as SVG.

use plotters::prelude::*;

#[cfg(test)]
mod tests;

/// A curve of a [`Panel`], over 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// What it is called.
    pub name: String,
    /// Its values at evenly spaced points from 0 to 1.
    pub losses: Vec<f64>,
}

/// One set of axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// What it shows.
    pub title: String,
    /// What goes from 0 to 1.
    pub x: String,
    /// What the values are.
    pub y: String,
    /// The curves, drawn in this order.
    pub curves: Vec<Curve>,
}

/// Told apart by lightness too, for those who do not see all colours.
const COLOURS: [RGBColor; 8] = [
    RGBColor(200, 60, 40),
    RGBColor(30, 100, 180),
    RGBColor(40, 40, 40),
    RGBColor(230, 150, 30),
    RGBColor(60, 150, 80),
    RGBColor(140, 80, 170),
    RGBColor(110, 170, 220),
    RGBColor(150, 110, 70),
];

/// Width and height of a panel in pixels.
const SIZE: (u32, u32) = (760, 460);

/// Draws panels side by side. Text is left to the viewer's fonts, so no font is needed here.
///
/// # Errors
/// A message if it cannot be drawn, or if there is nothing to draw.
pub fn svg(panels: &[Panel]) -> Result<String, String> {
    let mut svg = String::new();
    draw(panels, &mut svg).map_err(|error| format!("the plot cannot be drawn: {error}"))?;
    Ok(svg)
}

fn draw(panels: &[Panel], svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let count = u32::try_from(panels.len())?;
    if count == 0 || panels.iter().any(|panel| panel.curves.iter().all(|curve| curve.losses.is_empty())) {
        return Err("there are no curves".into());
    }
    let area = SVGBackend::with_string(svg, (SIZE.0 * count, SIZE.1)).into_drawing_area();
    area.fill(&WHITE)?;
    for (panel, area) in panels.iter().zip(area.split_evenly((1, panels.len()))) {
        draw_panel(panel, &area)?;
    }
    area.present()?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a path has few points")]
fn draw_panel(
    panel: &Panel,
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
) -> Result<(), Box<dyn std::error::Error>> {
    let losses = || panel.curves.iter().flat_map(|curve| &curve.losses).copied();
    let (least, most) = (losses().fold(f64::INFINITY, f64::min), losses().fold(f64::NEG_INFINITY, f64::max));
    let margin = ((most - least) * 0.08).max(0.02);
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..1.0, (least - margin).max(0.0)..most + margin)?;
    chart.configure_mesh().light_line_style(WHITE).x_desc(&panel.x).y_desc(&panel.y).draw()?;
    for (curve, &colour) in panel.curves.iter().zip(COLOURS.iter().cycle()) {
        let last = curve.losses.len().saturating_sub(1).max(1) as f64;
        let points = curve.losses.iter().enumerate().map(|(step, &loss)| (step as f64 / last, loss));
        let points: Vec<(f64, f64)> = points.collect();
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(&curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    Ok(())
}
