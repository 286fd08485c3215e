//! What the demo found, as it stands in the file of `--report`, and the one sentence that follows from it.

use serde::{Deserialize, Serialize};

use crate::eval::Score;

mod sentence;
#[cfg(test)]
pub(crate) mod tests;

pub use sentence::sentence;

/// Everything the demo found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `fedbasin.demo/1`.
    pub format: String,
    /// Whether all sites started from one model.
    pub same_init: bool,
    /// The seed of this run of the demo.
    pub seed: u64,
    /// Images that the sites hold together.
    pub train_images: usize,
    /// Images that every figure was computed on; no site has them.
    pub test_images: usize,
    /// Units that an alignment may move: the hidden units of the network.
    pub units: usize,
    /// The sites.
    pub sites: Vec<Site>,
    /// The published rounds, in order.
    pub rounds: Vec<Round>,
    /// One model trained on the images of all sites.
    pub all_data: Score,
    /// The loss along the path between two sites' models of the first round.
    pub barrier: Barrier,
    /// What happened, in one sentence.
    pub sentence: String,
    /// Seconds from the start of the demo to this report.
    pub seconds: f64,
}

/// A site and its images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// Its id.
    pub id: String,
    /// Images that it trains on.
    pub num_examples: usize,
    /// The classes of which it holds most images.
    pub own_classes: Vec<u8>,
    /// Its images by class.
    pub class_counts: Vec<usize>,
}

/// One published round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Its number, from 1.
    pub round: u32,
    /// Each site's own model, in the order of [`Report::sites`].
    pub sites: Vec<SiteRound>,
    /// The mean of the models as they were uploaded, with their shares.
    pub naive: Score,
    /// The global model that the server published.
    pub aligned: Model,
    /// `MergeMany` over the same models.
    pub merge_many: Score,
    /// The models answering together, logits averaged with their shares.
    pub ensemble: Score,
    /// Whether the published model's bytes are those of the naive mean.
    pub aligned_is_naive: bool,
    /// Seconds from opening to publishing, as the demo saw them.
    pub seconds: f64,
}

/// A model and its figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Accuracy and loss.
    #[serde(flatten)]
    pub score: Score,
    /// SHA-256 of the checkpoint.
    pub digest: String,
}

/// One site's model in one round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteRound {
    /// The site's id.
    pub site: String,
    /// Accuracy, loss and digest.
    #[serde(flatten)]
    pub model: Model,
    /// Its share of the merged model.
    pub share: f64,
    /// Fraction of units that the server's alignment moved.
    pub moved: f64,
    /// The same as a number of units.
    pub units_moved: usize,
    /// Distance to the reference before and after alignment, as the server reports it.
    pub l2: [f64; 2],
    /// Seconds that the site trained.
    pub train_seconds: f64,
}

/// Loss along the straight path between the models of two sites in the first round, as uploaded and as aligned. The barrier is
/// the highest excess over the mean of the end points (Ainsworth et al., Def. 2.2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Barrier {
    /// Barrier between the models as they were uploaded.
    pub naive: f64,
    /// Barrier between the same models aligned to the round's reference.
    pub aligned: f64,
    /// The same, over the chord between the end points instead of their mean.
    pub naive_over_chord: f64,
    /// The same for the aligned models.
    pub aligned_over_chord: f64,
    /// The two sites.
    pub sites: [String; 2],
    /// Losses at evenly spaced points from the first site (0) to the second (1).
    pub naive_losses: Vec<f64>,
    /// The same for the aligned models.
    pub aligned_losses: Vec<f64>,
}

impl Round {
    /// Units moved by all alignments of the round together.
    #[must_use]
    pub fn units_moved(&self) -> usize {
        self.sites.iter().map(|site| site.units_moved).sum()
    }

    /// The highest accuracy of a single site.
    #[must_use]
    pub fn best_site(&self) -> f64 {
        self.sites.iter().map(|site| site.model.score.accuracy).fold(0.0, f64::max)
    }
}
