//! What a network is worth on the test images: accuracy and mean cross-entropy loss, of one network or of an ensemble.

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use crate::{dataset::Dataset, model::Mlp, trainer};

#[cfg(test)]
mod tests;

/// Figures of one network on the test images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Fraction of images whose largest logit is their class.
    pub accuracy: f64,
    /// Mean cross-entropy in nats.
    pub loss: f64,
}

/// Scores one network.
///
/// # Errors
/// If candle fails.
pub fn score(model: &Mlp, data: &Dataset) -> anyhow::Result<Score> {
    let (images, labels) = trainer::tensors(data)?;
    score_logits(&model.logits(&images)?, &labels)
}

/// Scores the logit ensemble: the networks answer together, their logits averaged with these shares.
///
/// # Errors
/// If there are no networks, or candle fails.
pub fn score_ensemble(models: &[Mlp], shares: &[f64], data: &Dataset) -> anyhow::Result<Score> {
    anyhow::ensure!(
        !models.is_empty() && models.len() == shares.len(),
        "an ensemble needs a share for each network"
    );
    let (images, labels) = trainer::tensors(data)?;
    let mut sum: Option<Tensor> = None;
    for (model, &share) in models.iter().zip(shares) {
        let logits = (model.logits(&images)? * share)?;
        sum = Some(match sum {
            Some(sum) => (sum + logits)?,
            None => logits,
        });
    }
    score_logits(&sum.expect("there is at least one network"), &labels)
}

/// Scores logits, `[n, classes]`, against labels, `[n]`.
pub(crate) fn score_logits(logits: &Tensor, labels: &Tensor) -> anyhow::Result<Score> {
    let loss = f64::from(candle_nn::loss::cross_entropy(logits, labels)?.to_scalar::<f32>()?);
    let right = logits.argmax(D::Minus1)?.eq(labels)?.to_dtype(candle_core::DType::U32)?;
    let right = f64::from(right.sum_all()?.to_scalar::<u32>()?);
    Ok(Score { accuracy: right / labels.elem_count() as f64, loss })
}
