//! `cargo demo -- --compare`: the paper's three methods beside one another, on real data, without a server.
//!
//! Two sites with different random starts and disjoint, skewed shares train a perceptron and a small convolutional network with
//! BatchNorm. Everything is measured on the same test images; BatchNorm's statistics are computed anew on images that the sites
//! held back.

mod curve;
mod methods;
mod network;
mod objective;
mod outcome;
mod shares;
mod show;

use std::{path::Path, sync::atomic::AtomicBool, time::Instant};

use anyhow::Context;

pub use self::{
    methods::Effort,
    network::{Architecture, Net},
    outcome::{Comparison, Method, Point, Studied},
};
use self::{
    methods::Sites,
    shares::{Shares, deal},
};
use crate::{
    dataset::{self, Dataset},
    run::go_on,
    trainer::{self, Schedule},
};

#[cfg(test)]
mod tests;

/// The networks that are compared.
const ARCHITECTURES: [Architecture; 2] =
    [Architecture::Mlp { hidden: 512 }, Architecture::Conv { channels: 16, hidden: 64 }];

/// What to compare with.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Folder of the data set's four files.
    pub data: &'a Path,
    /// Passes over each site's images.
    pub epochs: u32,
    /// Decides initialisations, shares and order.
    pub seed: u64,
}

/// Trains, compares, shows a table for each network, and writes plot and report.
///
/// # Errors
/// The data cannot be read, a file cannot be written, or `interrupted` was set.
pub fn run(
    options: &Options<'_>,
    plot: &Path,
    report: Option<&Path>,
    interrupted: &AtomicBool,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let train = dataset::load_train(options.data)?;
    let test = dataset::load_test(options.data)?;
    let effort = Effort::default();
    let mut networks = Vec::new();
    for architecture in ARCHITECTURES {
        networks.push(study(architecture, options, &effort, &train, &test, interrupted)?);
    }
    let comparison = Comparison {
        format: "fedbasin.compare/1".into(),
        seed: options.seed,
        epochs: options.epochs,
        test_images: test.len(),
        networks,
        seconds: begun.elapsed().as_secs_f64(),
    };
    println!("{}", show::tables(&comparison));
    std::fs::write(plot, curve::svg(&comparison)?)
        .with_context(|| format!("cannot write {}", plot.display()))?;
    println!("plot: {}", plot.display());
    if let Some(path) = report {
        let text = serde_json::to_string_pretty(&comparison)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// One network: two sites train, one model sees all images, and every method merges the two.
fn study(
    architecture: Architecture,
    options: &Options<'_>,
    effort: &Effort,
    train: &Dataset,
    test: &Dataset,
    interrupted: &AtomicBool,
) -> anyhow::Result<Studied> {
    let Shares { sites, held_back } = deal(&train.labels, options.seed);
    let parts = [train.select(&sites[0]), train.select(&sites[1])];
    let held_back = train.select(&held_back);
    let all = train.select(&sites.concat());
    let trained = |data: &Dataset, start: u64, who: &str| -> anyhow::Result<Net> {
        let net = Net::random(architecture, start)?;
        let schedule =
            Schedule { epochs: options.epochs, learning_rate: 0.1, last_learning_rate: 0.01, seed: start };
        let mut line = show::Line::new(&format!("{architecture}, {who}"), u64::from(options.epochs));
        trainer::train(&net, data, &schedule, &mut |epoch, loss| {
            line.at(u64::from(epoch), &format!("epoch {epoch}, loss {loss:.3}"));
            go_on(interrupted).is_ok()
        })?;
        go_on(interrupted)?;
        Ok(net)
    };
    let seed = options.seed.wrapping_mul(1000);
    let a = trained(&parts[0], seed.wrapping_add(1), "site 0")?;
    let b = trained(&parts[1], seed.wrapping_add(2), "site 1")?;
    let whole = trained(&all, seed.wrapping_add(3), "all data")?;
    let sites = Sites::new(architecture, [a.to_checkpoint()?, b.to_checkpoint()?], all, &held_back, test)?;
    let methods = sites.compare(effort, options.seed, interrupted)?;
    Ok(Studied {
        network: architecture.to_string(),
        batch_norm: architecture.has_batch_norm(),
        train_images: [parts[0].len(), parts[1].len()],
        held_back_images: sites.held_back(),
        units: sites.units(),
        sites: sites.own_scores()?,
        methods,
        ensemble: sites.ensemble()?,
        all_data: sites.score(&whole.to_checkpoint()?)?,
    })
}
