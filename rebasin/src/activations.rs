//! Activation matching: Git Re-Basin, Sec. 3.1.
//!
//! Each group's gain is how its units' activations agree on the same inputs, so groups do not depend on one another and each
//! is one assignment. The sums are streamed: memory is one matrix a group, whatever the number of batches, and the data
//! stays where it is.

use crate::{Alignment, CheckedSpec, Kind, Permutation, gemm, wreath};

/// Running sums of products of two models' activations.
#[derive(Debug, Clone)]
pub struct Activations {
    groups: Vec<Sums>,
}

#[derive(Debug, Clone)]
struct Sums {
    units: usize,
    examples: u64,
    /// `units × units`: row = unit of the reference, column = unit of the update.
    products: Vec<f64>,
    reference: Moments,
    update: Moments,
}

#[derive(Debug, Clone)]
struct Moments {
    sum: Vec<f64>,
    squares: Vec<f64>,
}

/// Which agreement of two units counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Agreement {
    /// The mean product of activations, as the paper's regression asks.
    #[default]
    Product,
    /// Pearson's correlation, blind to a unit's scale and mean; 0 for a unit that never changes.
    Correlation,
}

/// Activations that do not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActivationError {
    /// No such group.
    #[error("the spec has no group {0:?}")]
    Unknown(String),
    /// Not `examples × units` numbers, or not as many of both.
    #[error(
        "group {group}: {reference} and {update} activations are not the same number of examples of {units} units"
    )]
    Shape {
        /// The group.
        group: String,
        /// Its units.
        units: usize,
        /// Numbers of the reference.
        reference: usize,
        /// Numbers of the update.
        update: usize,
    },
    /// NaN or infinity.
    #[error("group {0}: an activation is not finite; one of the models diverged, or its input is wrong")]
    NotFinite(String),
}

impl Activations {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(spec: &CheckedSpec) -> Self {
        let sums = |units: usize| Sums {
            units,
            examples: 0,
            products: vec![0.0; units * units],
            reference: Moments { sum: vec![0.0; units], squares: vec![0.0; units] },
            update: Moments { sum: vec![0.0; units], squares: vec![0.0; units] },
        };
        Self { groups: spec.groups().iter().map(|group| sums(group.units)).collect() }
    }

    /// Adds a batch of one group: both models' activations on the same inputs, `[examples, units]` row-major. Positions in
    /// space count as examples.
    ///
    /// # Errors
    /// [`ActivationError`].
    pub fn add(
        &mut self,
        spec: &CheckedSpec,
        group: &str,
        reference: &[f32],
        update: &[f32],
    ) -> Result<(), ActivationError> {
        let found = spec.groups().iter().position(|found| found.name == group);
        let index = found.ok_or_else(|| ActivationError::Unknown(group.to_owned()))?;
        let sums = &mut self.groups[index];
        let n = sums.units;
        if reference.len() != update.len() || !reference.len().is_multiple_of(n) {
            return Err(ActivationError::Shape {
                group: group.to_owned(),
                units: n,
                reference: reference.len(),
                update: update.len(),
            });
        }
        if !reference.iter().chain(update).all(|value| value.is_finite()) {
            return Err(ActivationError::NotFinite(group.to_owned()));
        }
        let depth = reference.len() / n;
        // f32 within a batch, f64 between batches.
        let mut product = vec![0.0; n * n];
        let (a, b) = (gemm::Strided::by_depth(reference, n), gemm::Strided::by_depth(update, n));
        gemm::accumulate(&mut product, n, depth, a, b);
        for (sum, product) in sums.products.iter_mut().zip(product) {
            *sum += f64::from(product);
        }
        sums.reference.add(reference, n);
        sums.update.add(update, n);
        sums.examples += depth as u64;
        Ok(())
    }

    /// The permutations under which the activations agree best. A group that saw no example keeps its place; a wreath is solved
    /// exactly.
    ///
    /// # Panics
    /// If `spec` is another one.
    #[must_use]
    pub fn solve(&self, spec: &CheckedSpec, agreement: Agreement) -> Alignment {
        assert_eq!(self.groups.len(), spec.groups().len(), "sums of this spec's groups");
        let gains: Vec<Vec<f32>> = self.groups.iter().map(|sums| sums.gain(agreement)).collect();
        let mut alignment = Alignment::identity(spec);
        for top in (0..gains.len()).filter(|&group| spec.groups()[group].within.is_none()) {
            let within: Vec<usize> =
                (0..gains.len()).filter(|&group| spec.groups()[group].within == Some(top)).collect();
            let inner = |part: usize, a: usize, b: usize| {
                let group = &spec.groups()[within[part]];
                let gain = &gains[within[part]];
                match group.kind {
                    Kind::Symmetric => wreath::best_inner(gain, group.size, group.units, a, b),
                    Kind::Fixed => {
                        let stays = Permutation::identity(group.size);
                        let value = wreath::value(gain, group.size, group.units, a, b, &stays);
                        (stays, value)
                    }
                }
            };
            let (size, fixed) = (spec.groups()[top].size, spec.groups()[top].kind == Kind::Fixed);
            let own = |a: usize, b: usize| f64::from(gains[top][a * size + b]);
            let (outer, wholes) = wreath::solve(size, fixed, within.len(), own, inner);
            for (&group, whole) in within.iter().zip(wholes) {
                alignment.permutations[group] = whole;
            }
            alignment.permutations[top] = outer;
        }
        alignment
    }
}

impl Sums {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "the solver takes f32; examples are far below 2^52"
    )]
    fn gain(&self, agreement: Agreement) -> Vec<f32> {
        let n = self.units;
        let examples = (self.examples as f64).max(1.0);
        if agreement == Agreement::Product {
            return self.products.iter().map(|product| (product / examples) as f32).collect();
        }
        let (a, b) = (self.reference.standardised(examples), self.update.standardised(examples));
        let correlation = |at: usize| {
            let ((mean_a, deviation_a), (mean_b, deviation_b)) = (a[at / n], b[at % n]);
            let scale = deviation_a * deviation_b;
            if scale > 0.0 { ((self.products[at] / examples - mean_a * mean_b) / scale) as f32 } else { 0.0 }
        };
        (0..n * n).map(correlation).collect()
    }
}

impl Moments {
    fn add(&mut self, values: &[f32], n: usize) {
        for row in values.chunks_exact(n) {
            for ((sum, squares), &value) in self.sum.iter_mut().zip(&mut self.squares).zip(row) {
                *sum += f64::from(value);
                *squares += f64::from(value) * f64::from(value);
            }
        }
    }

    /// Mean and standard deviation of each unit.
    fn standardised(&self, examples: f64) -> Vec<(f64, f64)> {
        let unit = |(sum, squares): (&f64, &f64)| {
            let mean = sum / examples;
            let variance = squares / examples - mean * mean;
            // What is left of a constant unit is rounding.
            let deviation = if variance > 1e-12 * mean * mean { variance.sqrt() } else { 0.0 };
            (mean, deviation)
        };
        self.sum.iter().zip(&self.squares).map(unit).collect()
    }
}

#[cfg(test)]
mod tests;
