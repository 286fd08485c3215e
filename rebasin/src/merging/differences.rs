//! How the inputs of a mean stand beside its reference and beside one another.

use serde::{Deserialize, Serialize};

/// Sums over the averaged tensors of the inputs' differences `d_k = x_k - reference`, with `s = sum_k share_k d_k`. All figures that
/// leave one input out follow from them, so that no pair of inputs is ever compared by its values.
#[derive(Debug, Clone, PartialEq)]
pub struct Differences {
    shares: Vec<f64>,
    trained: Sums,
    statistics: Sums,
}

#[derive(Debug, Clone, PartialEq)]
struct Sums {
    /// For each input: `|d_k|^2` and `<d_k, s>`.
    inputs: Vec<[f64; 2]>,
    /// `|s|^2`.
    mean: f64,
}

impl Sums {
    fn new(inputs: usize) -> Self {
        Self { inputs: vec![[0.0; 2]; inputs], mean: 0.0 }
    }
}

/// How one input stands beside the reference and the others. Figures are over the averaged tensors but BatchNorm's statistics
/// ([`TensorInfo::is_statistic`](crate::TensorInfo::is_statistic)), which follow the data and have a figure of their own. An input
/// that is the reference itself (a founding round's, say) counts for none of the others'.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Euclidean distance to the reference.
    pub distance: f64,
    /// That, divided by the median of the others'. Absent where no other went anywhere.
    pub distance_ratio: Option<f64>,
    /// Cosine of the difference to the reference with the mean of the others' by their shares, -1 to 1. Absent where one of the two is
    /// nothing, or nothing beside the other.
    pub cosine: Option<f64>,
    /// As the ratio, over BatchNorm's statistics.
    pub statistics_ratio: Option<f64>,
    /// How many others it is compared with.
    pub others: u32,
}

/// Beside a squared length, what is smaller than this part of it is what rounding left.
const NOTHING: f64 = 1e-9;

impl Differences {
    pub(super) fn new(shares: Vec<f64>) -> Self {
        let sums = Sums::new(shares.len());
        Self { shares, trained: sums.clone(), statistics: sums }
    }

    /// Adds a part of a tensor: for each input `|d_k|^2` and `<d_k, s>`, and `|s|^2`. The order of these calls is part of the outcome.
    pub(super) fn add(&mut self, is_statistic: bool, inputs: &[[f64; 2]], mean: f64) {
        let sums = if is_statistic { &mut self.statistics } else { &mut self.trained };
        for (sum, part) in sums.inputs.iter_mut().zip(inputs) {
            sum[0] += part[0];
            sum[1] += part[1];
        }
        sums.mean += mean;
    }

    /// For each input, in order.
    #[must_use]
    pub fn standings(&self) -> Vec<Standing> {
        let lengths = |sums: &Sums| -> Vec<f64> {
            // Beyond an f64 only tensors of f64 can be.
            sums.inputs.iter().map(|[square, _]| square.sqrt().min(f64::MAX)).collect()
        };
        let (distances, statistics) = (lengths(&self.trained), lengths(&self.statistics));
        let standing = |index: usize| Standing {
            distance: distances[index],
            distance_ratio: ratio(&distances, index),
            cosine: self.cosine(index),
            statistics_ratio: ratio(&statistics, index),
            others: u32::try_from(others(&distances, index).count()).unwrap_or(u32::MAX),
        };
        (0..self.shares.len()).map(standing).collect()
    }

    fn cosine(&self, index: usize) -> Option<f64> {
        let ([square, product], share) = (self.trained.inputs[index], self.shares[index]);
        let own = share * share * square;
        let product = product - share * square;
        let others = self.trained.mean - 2.0 * share * product - own;
        let is_something = others > NOTHING * own.max(self.trained.mean) && square > 0.0;
        let cosine = product / (square.sqrt() * others.max(0.0).sqrt());
        (is_something && cosine.is_finite()).then(|| cosine.clamp(-1.0, 1.0))
    }
}

fn others(lengths: &[f64], index: usize) -> impl Iterator<Item = f64> {
    lengths
        .iter()
        .enumerate()
        .filter(move |&(at, &length)| at != index && length > 0.0)
        .map(|(_, &length)| length)
}

/// A length by the median of the others'.
fn ratio(lengths: &[f64], index: usize) -> Option<f64> {
    let mut others: Vec<f64> = others(lengths, index).collect();
    others.sort_by(f64::total_cmp);
    let upper = *others.get(others.len() / 2)?;
    let lower = others[(others.len() - 1) / 2];
    Some((lengths[index] / (lower / 2.0 + upper / 2.0)).min(f64::MAX))
}
