//! How good the models of rounds are, by what sites report.

use std::collections::HashMap;

use serde::Serialize;

use super::{Api, time::iso};
use crate::{
    error::Result,
    model::{Evaluated, Evaluation, MeanEvaluation, MeanPath, NewEvaluation, PathPoint, path},
};

/// How good a round's models are, by the sites that reported it.
#[derive(Clone, Default, Serialize, utoipa::ToSchema)]
pub(super) struct Evaluations {
    /// Of what the round published, over all sites.
    pub(super) global: Option<MeanOfSites>,
    /// Of the mean of its updates as they came, without alignment, over all sites; none is made so far.
    pub(super) naive: Option<MeanOfSites>,
    /// Of what each site has by itself, over all sites.
    pub(super) own: Option<MeanOfSites>,
    /// What each site reported, by model and site; absent in lists.
    pub(super) sites: Option<Vec<SiteEvaluation>>,
}

/// Means over the sites that reported, weighted by their examples.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(super) struct MeanOfSites {
    /// How many sites.
    pub(super) sites: u32,
    /// How many examples in all.
    pub(super) num_examples: u64,
    /// Mean loss, over the examples of the sites that told one.
    pub(super) loss: Option<f64>,
    /// Fraction that was right, over the examples of the sites that told it.
    pub(super) accuracy: Option<f64>,
    /// Along the straight line from each site's model to the global one, over the sites that measured it at the same places; absent in lists,
    /// where no site did, and of the global model.
    pub(super) path: Option<MeanPath>,
}

/// What a site reported of a model, last.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(super) struct SiteEvaluation {
    pub(super) site: String,
    pub(super) model: Evaluated,
    /// SHA-256 of the model; of an own one the site's word.
    pub(super) digest: String,
    pub(super) num_examples: u64,
    /// Mean loss.
    pub(super) loss: Option<f64>,
    /// Fraction that was right.
    pub(super) accuracy: Option<f64>,
    /// Along the straight line from this model to the global one; absent where the site did not measure it.
    pub(super) path: Option<Vec<PathPoint>>,
    pub(super) reported_at: String,
}

impl Evaluations {
    /// The means of paths, from what each site reported.
    fn find_paths(&mut self) {
        let Self { sites: Some(sites), naive, own, .. } = self else { return };
        for (model, mean) in [(Evaluated::Naive, naive), (Evaluated::Own, own)] {
            let of_model = sites.iter().filter(|site| site.model == model);
            let paths = of_model.map(|site| (site.num_examples, site.path.as_deref().unwrap_or_default()));
            if let Some(mean) = mean {
                mean.path = path::mean(paths);
            }
        }
    }
}

impl From<MeanEvaluation> for MeanOfSites {
    fn from(mean: MeanEvaluation) -> Self {
        let MeanEvaluation { sites, num_examples, loss, accuracy, .. } = mean;
        Self { sites, num_examples, loss, accuracy, path: None }
    }
}

impl From<Evaluation> for SiteEvaluation {
    fn from(evaluation: Evaluation) -> Self {
        let NewEvaluation { model, digest, num_examples, loss, accuracy, path } = evaluation.of;
        Self {
            site: evaluation.site_id,
            model,
            digest: digest.to_string(),
            num_examples,
            loss,
            accuracy,
            path: Some(path).filter(|path| !path.is_empty()),
            reported_at: iso(evaluation.reported_at_ms),
        }
    }
}

/// What is known of some rounds' models.
#[derive(Default)]
pub(super) struct Known {
    of_rounds: HashMap<u32, Evaluations>,
    best: Option<u32>,
}

impl Known {
    /// Reads the means of the rounds with these numbers, and which round of all is the best.
    pub(super) async fn of(api: &Api, run: &str, numbers: impl Iterator<Item = u32>) -> Result<Self> {
        let best = api.store.best_round(run).await?;
        let mut of_rounds: HashMap<u32, Evaluations> = HashMap::new();
        for mean in api.store.evaluation_means(run, range(numbers)).await? {
            let known = of_rounds.entry(mean.round).or_default();
            let place = match mean.model {
                Evaluated::Global => &mut known.global,
                Evaluated::Naive => &mut known.naive,
                Evaluated::Own => &mut known.own,
            };
            *place = Some(mean.into());
        }
        Ok(Self { of_rounds, best })
    }

    /// The same, with what each site reported; without the paths that it measured.
    pub(super) async fn with_sites(
        api: &Api,
        run: &str,
        numbers: impl Iterator<Item = u32> + Clone,
    ) -> Result<Self> {
        Self::as_sites_say(api, run, numbers, false).await
    }

    async fn as_sites_say(
        api: &Api,
        run: &str,
        numbers: impl Iterator<Item = u32> + Clone,
        with_paths: bool,
    ) -> Result<Self> {
        let mut known = Self::of(api, run, numbers.clone()).await?;
        for number in numbers.clone() {
            known.of_rounds.entry(number).or_default().sites = Some(Vec::new());
        }
        for (number, evaluation) in api.store.evaluations(run, range(numbers), with_paths).await? {
            let sites = known.of_rounds.entry(number).or_default().sites.get_or_insert_default();
            sites.push(evaluation.into());
        }
        known.of_rounds.values_mut().for_each(Evaluations::find_paths);
        Ok(known)
    }

    /// The same of one round, paths and all.
    pub(super) async fn of_one(api: &Api, run: &str, number: u32) -> Result<Self> {
        Self::as_sites_say(api, run, std::iter::once(number), true).await
    }

    /// What is known of a round's models.
    pub(super) fn take(&mut self, number: u32) -> Evaluations {
        self.of_rounds.remove(&number).unwrap_or_default()
    }

    /// Whether a round has the best global model so far.
    pub(super) fn is_best(&self, number: u32) -> bool {
        self.best == Some(number)
    }
}

/// From the least to the greatest; of none an empty range.
fn range(numbers: impl Iterator<Item = u32>) -> std::ops::RangeInclusive<u32> {
    let (first, last) = numbers.fold((u32::MAX, 0), |(first, last), n| (first.min(n), last.max(n)));
    first..=last
}
