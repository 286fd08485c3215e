//! The sites' own evaluation, as a program: it knows nothing of the server, only what its environment says (`FEDBASIN_MODEL`,
//! `FEDBASIN_GLOBAL`, `FEDBASIN_METRICS`). What it tries models with is a share of the test images, mixed as the site's own: nobody trains on them.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::Parser;
use serde::Serialize;

use crate::{
    dataset::{self, Dataset},
    eval,
    model::Mlp,
    split::{self, SITES},
};

/// So many places of a path are tried, both ends among them, with so many images at the most.
const PLACES: u32 = 11;
const PATH_IMAGES: usize = 200;

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
    /// The global model, to which the path from the model is tried; none, or empty, where that is the global one
    #[arg(long, env = "FEDBASIN_GLOBAL")]
    pub global: Option<OsString>,
    /// Where to write figures
    #[arg(long, env = "FEDBASIN_METRICS")]
    pub metrics: PathBuf,
}

#[derive(Serialize)]
struct Figures {
    num_examples: usize,
    loss: f64,
    accuracy: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    path: Vec<Place>,
}

/// A model on the way to the global one.
#[derive(Serialize)]
struct Place {
    t: f64,
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
    let model = read(&args.model)?;
    let score = eval::score(&model, &data)?;
    // An empty name says that there is none.
    let global = args.global.as_deref().filter(|global| !global.is_empty());
    let path =
        global.map(|global| path(&model, &read(Path::new(global))?, &data)).transpose()?.unwrap_or_default();
    let figures = Figures { num_examples: data.len(), loss: score.loss, accuracy: score.accuracy, path };
    let file = serde_json::to_vec(&figures)?;
    std::fs::write(&args.metrics, file).with_context(|| format!("cannot write {}", args.metrics.display()))
}

fn read(path: &Path) -> anyhow::Result<Mlp> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Mlp::from_bytes(&bytes).with_context(|| path.display().to_string())
}

/// The straight line from one network to another, by a part of the images that is mixed as the whole.
fn path(model: &Mlp, global: &Mlp, data: &Dataset) -> anyhow::Result<Vec<Place>> {
    let step = data.len().div_ceil(PATH_IMAGES).max(1);
    let some: Vec<usize> = (0..data.len()).step_by(step).collect();
    let some = data.select(&some);
    let place = |place: u32| {
        let t = f64::from(place) / f64::from(PLACES - 1);
        let score = eval::score(&model.towards(global, t)?, &some)?;
        Ok(Place { t, loss: score.loss, accuracy: score.accuracy })
    };
    (0..PLACES).map(place).collect()
}
