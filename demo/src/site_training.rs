//! The sites' own trainer, as a program: it knows nothing of the server, only what its environment says
//! (`FEDBASIN_ROUND`, `FEDBASIN_REFERENCE`, `FEDBASIN_OUTPUT`, `FEDBASIN_METRICS`).

use std::{ffi::OsString, path::PathBuf, time::Instant};

use anyhow::{Context, bail};
use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::{
    dataset,
    model::Mlp,
    split::{self, SITES},
    trainer::{self, Schedule},
};

#[cfg(test)]
mod tests;

/// Arguments of the trainer.
#[derive(Debug, Clone, Parser)]
#[command(name = "train", about = "A site's trainer; `fedbasin site run` starts it")]
pub struct TrainArgs {
    /// This site's number, from 0; without it, train on the images of all sites
    #[arg(long)]
    pub site: Option<usize>,
    /// Folder of the four IDX files
    #[arg(long)]
    pub data: PathBuf,
    /// The demo's seed; initialisation and order follow from it, the site and the round
    #[arg(long)]
    pub seed: u64,
    /// Epochs in the first round
    #[arg(long)]
    pub epochs: u32,
    /// Epochs in later rounds
    #[arg(long)]
    pub later_epochs: u32,
    /// Where to say how far training is
    #[arg(long)]
    pub progress: PathBuf,
    /// Stop when this file is gone
    #[arg(long)]
    pub leash: PathBuf,
    /// The round
    #[arg(long, env = "FEDBASIN_ROUND")]
    pub round: u32,
    /// The model to start from; empty: a random one
    #[arg(long, env = "FEDBASIN_REFERENCE", default_value = "")]
    pub reference: OsString,
    /// Where to write the trained model
    #[arg(long, env = "FEDBASIN_OUTPUT")]
    pub output: PathBuf,
    /// Where to write figures
    #[arg(long, env = "FEDBASIN_METRICS")]
    pub metrics: PathBuf,
}

/// How far a trainer is; written to its progress file after each epoch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TrainProgress {
    /// The round.
    pub round: u32,
    /// Epochs done.
    pub epoch: u32,
    /// Epochs in all.
    pub epochs: u32,
    /// Mean training loss of the last epoch; 0 before the first has ended.
    pub loss: f64,
}

#[derive(Serialize)]
struct MetricsFile {
    num_examples: usize,
    metrics: Metrics,
}

#[derive(Serialize)]
struct Metrics {
    train_loss: f64,
    seconds: f64,
}

/// Different numbers for different purposes, sites and rounds, from one seed.
fn derived_seed(seed: u64, purpose: u64, site: usize, round: u32) -> u64 {
    // Wrapping: the seed may be any number.
    seed.wrapping_mul(1_000_003).wrapping_add(purpose * 100_000 + site as u64 * 1_000 + u64::from(round))
}

/// The seed of a site's random initialisation; `site == SITES` is the model of all data.
#[must_use]
pub fn initial_seed(seed: u64, site: usize) -> u64 {
    derived_seed(seed, 1, site, 0)
}

/// A first round is long, with a learning rate that falls to a tenth: the networks settle, and weight decay has time to take
/// away what the data do not hold up. Later rounds only refine a model that is good already.
fn schedule(args: &TrainArgs, site: usize) -> Schedule {
    let seed = derived_seed(args.seed, 2, site, args.round);
    if args.round <= 1 {
        Schedule { epochs: args.epochs, learning_rate: 0.1, last_learning_rate: 0.01, seed }
    } else {
        Schedule { epochs: args.later_epochs, learning_rate: 0.02, last_learning_rate: 0.001, seed }
    }
}

/// Trains once and writes output and metrics.
///
/// # Errors
/// Data or reference cannot be read, an output cannot be written, or the leash is gone.
pub fn run(args: &TrainArgs) -> anyhow::Result<()> {
    let begun = Instant::now();
    let site = args.site.unwrap_or(SITES);
    if args.site.is_some_and(|site| site >= SITES) {
        bail!("--site {site}: there are {SITES} sites, from 0");
    }
    let mut data = dataset::load_train(&args.data)?;
    if args.site.is_some() {
        data = data.select(&split::split(&data.labels, args.seed)[site]);
    }
    let model = if args.reference.is_empty() {
        Mlp::random(initial_seed(args.seed, site))?
    } else {
        let path = PathBuf::from(&args.reference);
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Mlp::from_bytes(&bytes).with_context(|| path.display().to_string())?
    };
    let schedule = schedule(args, site);
    let tell = |epoch, loss| {
        let progress = TrainProgress { round: args.round, epoch, epochs: schedule.epochs, loss };
        // Progress is a courtesy: a full disk shows when the model is written.
        let draft = args.progress.with_extension("draft");
        let text = serde_json::to_vec(&progress).unwrap_or_default();
        let _ = std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, &args.progress));
    };
    tell(0, 0.0);
    let train_loss = trainer::train(&model, &data, &schedule, &mut |epoch, loss| {
        tell(epoch, loss);
        args.leash.exists()
    })?;
    if !args.leash.exists() {
        bail!("{} is gone: the demo has ended, and so does its trainer", args.leash.display());
    }
    model.save(&args.output)?;
    let metrics = Metrics { train_loss, seconds: begun.elapsed().as_secs_f64() };
    let file = serde_json::to_vec(&MetricsFile { num_examples: data.len(), metrics })?;
    std::fs::write(&args.metrics, file).with_context(|| format!("cannot write {}", args.metrics.display()))
}
