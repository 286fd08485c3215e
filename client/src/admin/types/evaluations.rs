//! How good models are, as the admin API says it.

use serde::{Deserialize, Serialize};

/// How good a round's models are, by what sites reported.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Evaluations {
    /// Of what it published, over all sites.
    pub global: Option<MeanOfSites>,
    /// Of the mean of its updates as they came.
    pub naive: Option<MeanOfSites>,
    /// Of what each site has by itself.
    pub own: Option<MeanOfSites>,
    /// What each site reported; absent in lists.
    pub sites: Option<Vec<SiteEvaluation>>,
}

/// Means over the sites that reported, weighted by their examples.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MeanOfSites {
    /// How many sites.
    pub sites: u32,
    /// How many examples in all.
    pub num_examples: u64,
    /// Mean loss.
    pub loss: Option<f64>,
    /// Fraction that was right.
    pub accuracy: Option<f64>,
    /// From their models to the global one, over the sites that measured it at the same places; absent in lists.
    pub path: Option<MeanPath>,
}

/// What sites found on the straight line from a model to the global one.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MeanPath {
    /// How many sites.
    pub sites: u32,
    /// How many examples in all.
    pub num_examples: u64,
    /// The means.
    pub points: Vec<PathPoint>,
}

/// A model on such a line.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct PathPoint {
    /// Where: 0 is the model, 1 the global one.
    pub t: f64,
    /// Mean loss.
    pub loss: f64,
    /// Fraction that was right.
    #[serde(default)]
    pub accuracy: Option<f64>,
}

/// What a site reported of a model, last.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SiteEvaluation {
    /// Its id.
    pub site: String,
    /// `global`, `naive` or `own`.
    pub model: String,
    /// Digest of the model.
    #[serde(default)]
    pub digest: String,
    /// With how many examples it was tried.
    pub num_examples: u64,
    /// Mean loss.
    #[serde(default)]
    pub loss: Option<f64>,
    /// Fraction that was right.
    #[serde(default)]
    pub accuracy: Option<f64>,
    /// From the model to the global one, where the site measured it.
    #[serde(default)]
    pub path: Option<Vec<PathPoint>>,
    /// When it was reported, ISO 8601 UTC.
    #[serde(default)]
    pub reported_at: String,
}
