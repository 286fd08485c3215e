//! The straight path between two checkpoints, and the loss barrier along it.

use crate::{Checkpoint, MergeError, mean};

/// `(1 - lambda) a + lambda b`, each tensor in its dtype; integer tensors come from `a`.
///
/// # Errors
/// [`MergeError`] if the layouts differ or lambda is not within 0 and 1.
pub fn interpolate(a: &Checkpoint, b: &Checkpoint, lambda: f64) -> Result<Checkpoint, MergeError> {
    if !(0.0..=1.0).contains(&lambda) {
        return Err(MergeError::Share { index: 1, why: "lambda is not within 0 and 1" });
    }
    mean(None, &[a, b], None, &[1.0 - lambda, lambda])
}

/// How much the loss rises along a path, in the loss's unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Barrier {
    /// Git Re-Basin, Def. 2.2: the highest loss less the mean of the end points' losses.
    pub against_mean: f64,
    /// The highest excess over the chord between the end points' losses (Theus et al., 2025). Never above the former
    /// by construction of a maximum where the end points' losses agree.
    pub against_chord: f64,
}

/// The barrier of losses at evenly spaced lambdas, the end points among them.
///
/// # Panics
/// If there are fewer than two losses.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a path has few points")]
pub fn barrier(losses: &[f64]) -> Barrier {
    let (&[first, ..], &[.., last]) = (losses, losses) else {
        panic!("a path has at least its two end points")
    };
    assert!(losses.len() >= 2, "a path has at least its two end points");
    let steps = (losses.len() - 1) as f64;
    let mut highest = f64::NEG_INFINITY;
    let mut excess = f64::NEG_INFINITY;
    for (index, &loss) in losses.iter().enumerate() {
        let lambda = index as f64 / steps;
        highest = highest.max(loss);
        excess = excess.max(loss - ((1.0 - lambda) * first + lambda * last));
    }
    Barrier { against_mean: highest - f64::midpoint(first, last), against_chord: excess }
}

#[cfg(test)]
mod tests;
