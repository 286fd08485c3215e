//! The sites' own evaluation, as a program: it knows nothing of the server, only what its environment says (`FEDBASIN_MODEL`,
//! `FEDBASIN_METRICS`). What it tries models with is a share of the test images, mixed as the site's own: nobody trains on them.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Parser;
use serde::Serialize;

use crate::{
    dataset, eval,
    model::Mlp,
    split::{self, SITES},
};

#[cfg(test)]
mod tests;

/// Arguments of the evaluation.
#[derive(Debug, Clone, Parser)]
#[command(name = "evaluate", about = "A site's evaluation; `fedbasin site run` starts it")]
pub struct EvaluateArgs {
    /// This site's number, from 0
    #[arg(long)]
    pub site: usize,
    /// Folder of the four IDX files
    #[arg(long)]
    pub data: PathBuf,
    /// The demo's seed; the share follows from it
    #[arg(long)]
    pub seed: u64,
    /// Stop when this file is gone
    #[arg(long)]
    pub leash: PathBuf,
    /// The model to try
    #[arg(long, env = "FEDBASIN_MODEL")]
    pub model: PathBuf,
    /// Where to write figures
    #[arg(long, env = "FEDBASIN_METRICS")]
    pub metrics: PathBuf,
}

#[derive(Serialize)]
struct Figures {
    num_examples: usize,
    loss: f64,
    accuracy: f64,
}

/// Tries a model once and writes figures.
///
/// # Errors
/// Data or model cannot be read, or the figures cannot be written.
pub fn run(args: &EvaluateArgs) -> anyhow::Result<()> {
    if args.site >= SITES {
        bail!("--site {}: there are {SITES} sites, from 0", args.site);
    }
    let data = dataset::load_test(&args.data)?;
    let data = data.select(&split::split(&data.labels, args.seed)[args.site]);
    let bytes =
        std::fs::read(&args.model).with_context(|| format!("cannot read {}", args.model.display()))?;
    let model = Mlp::from_bytes(&bytes).with_context(|| args.model.display().to_string())?;
    let score = eval::score(&model, &data)?;
    let figures = Figures { num_examples: data.len(), loss: score.loss, accuracy: score.accuracy };
    let file = serde_json::to_vec(&figures)?;
    std::fs::write(&args.metrics, file).with_context(|| format!("cannot write {}", args.metrics.display()))
}
