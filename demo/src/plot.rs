//! The plot: loss along the path between two sites' models, as uploaded and as aligned.

use std::path::Path;

use anyhow::Context;
use plotters::prelude::*;

use crate::report::Barrier;

#[cfg(test)]
mod tests;

const NAIVE: RGBColor = RGBColor(200, 60, 40);
const ALIGNED: RGBColor = RGBColor(30, 100, 180);

/// Draws an SVG; text is left to the viewer's fonts, so no font is needed here.
///
/// # Errors
/// If it cannot be drawn or written.
pub fn write_svg(barrier: &Barrier, path: &Path) -> anyhow::Result<()> {
    let mut svg = String::new();
    draw(barrier, &mut svg).map_err(|error| anyhow::anyhow!("cannot draw the plot: {error}"))?;
    std::fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))
}

fn draw(barrier: &Barrier, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let losses = || barrier.naive_losses.iter().chain(&barrier.aligned_losses).copied();
    let (least, most) = (losses().fold(f64::INFINITY, f64::min), losses().fold(0.0, f64::max));
    let margin = ((most - least) * 0.08).max(0.02);
    let area = SVGBackend::with_string(svg, (760, 460)).into_drawing_area();
    area.fill(&WHITE)?;
    let caption = format!("Test loss on the path from {} to {}, round 1", barrier.sites[0], barrier.sites[1]);
    let mut chart = ChartBuilder::on(&area)
        .caption(caption, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..1.0, (least - margin).max(0.0)..most + margin)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(format!("0 = {}, 1 = {}", barrier.sites[0], barrier.sites[1]))
        .y_desc("mean cross-entropy on the test images")
        .draw()?;
    let curves = [
        ("as uploaded", &barrier.naive_losses, barrier.naive, NAIVE),
        ("aligned", &barrier.aligned_losses, barrier.aligned, ALIGNED),
    ];
    for (name, losses, height, colour) in curves {
        let last = losses.len().saturating_sub(1).max(1) as f64;
        let points: Vec<(f64, f64)> =
            losses.iter().enumerate().map(|(step, &loss)| (step as f64 / last, loss)).collect();
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(format!("{name} (barrier {height:.3})"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    drop(chart);
    area.present()?;
    Ok(())
}
