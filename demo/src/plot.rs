//! The plot: loss along the path between two sites' models, as uploaded and as aligned.

use std::path::Path;

use anyhow::Context;
use fedbasin_client::chart::{Curve, Panel, svg};

use crate::report::Barrier;

#[cfg(test)]
mod tests;

/// Draws an SVG.
///
/// # Errors
/// If it cannot be drawn or written.
pub fn write_svg(barrier: &Barrier, path: &Path) -> anyhow::Result<()> {
    let [from, to] = &barrier.sites;
    let curve = |name: &str, height: f64, losses: &[f64]| Curve {
        name: format!("{name} (barrier {height:.3})"),
        losses: losses.to_vec(),
    };
    let panel = Panel {
        title: format!("Test loss on the path from {from} to {to}, round 1"),
        x: format!("0 = {from}, 1 = {to}"),
        y: "mean cross-entropy on the test images".into(),
        curves: vec![
            curve("as uploaded", barrier.naive, &barrier.naive_losses),
            curve("aligned", barrier.aligned, &barrier.aligned_losses),
        ],
    };
    let drawn = svg(&[panel]).map_err(anyhow::Error::msg)?;
    std::fs::write(path, drawn).with_context(|| format!("cannot write {}", path.display()))
}
