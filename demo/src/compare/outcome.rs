//! What the comparison found, as it stands in the file of `--report`.

use serde::{Deserialize, Serialize};

use crate::eval::Score;

/// Everything the comparison found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// `fedbasin.compare/1`.
    pub format: String,
    /// The seed.
    pub seed: u64,
    /// Passes over each site's images.
    pub epochs: u32,
    /// Images that every test figure was computed on; no site has them.
    pub test_images: usize,
    /// For each network, in order.
    pub networks: Vec<Studied>,
    /// Seconds in all.
    pub seconds: f64,
}

/// One network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Studied {
    /// Its architecture.
    pub network: String,
    /// Whether it has running statistics: then each method is also measured with statistics computed anew.
    pub batch_norm: bool,
    /// Images that each site trained on.
    pub train_images: [usize; 2],
    /// Images that the sites held back; statistics are computed anew on these.
    pub held_back_images: usize,
    /// Units that an alignment may move.
    pub units: usize,
    /// Each site's own model.
    pub sites: [Point; 2],
    /// The merges.
    pub methods: Vec<Method>,
    /// Both models' logits averaged: two models must be kept and run.
    pub ensemble: Score,
    /// One model trained on all images of both sites.
    pub all_data: Point,
}

/// A model's figures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// On the test images.
    #[serde(flatten)]
    pub test: Score,
    /// Mean cross-entropy on the training images of both sites.
    pub train_loss: f64,
}

/// A way to merge the two sites' models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Method {
    /// What it is called.
    pub name: String,
    /// Fraction of units that it moved.
    pub moved: f64,
    /// Seconds that finding the alignment took.
    pub seconds: f64,
    /// The mean of the two models, aligned by it.
    pub merged: Path,
    /// The same with BatchNorm's statistics computed anew at every point of the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anew: Option<Path>,
}

/// The straight path between the two aligned models, and its middle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Path {
    /// The mean of the two.
    #[serde(flatten)]
    pub middle: Point,
    /// The highest test loss less the mean of the ends' (Git Re-Basin, Def. 2.2).
    pub barrier: f64,
    /// The highest excess over the chord between the ends.
    pub barrier_over_chord: f64,
    /// Test losses at evenly spaced points.
    pub losses: Vec<f64>,
}
