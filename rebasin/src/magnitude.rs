//! How large values are: what a reference's tensors have, and what that lets an update have.

use std::io;

use serde::{Deserialize, Serialize};

use crate::{Layout, Source, codec};

/// Bytes that are read at a time.
const READ_BYTES: usize = 1 << 20;

/// The root mean square of each tensor's values, by canonical position; 0 for tensors that are no floats, or empty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Magnitudes {
    rms: Vec<f64>,
}

/// The largest magnitude that is taken of each tensor's values, by canonical position.
#[derive(Debug, Clone, PartialEq)]
pub struct Bounds {
    most: Vec<f64>,
}

impl Magnitudes {
    /// From sums of squares, one a tensor of the layout.
    pub(crate) fn from_squares(layout: &Layout, squares: &[f64]) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a count of elements needs no more than 53 bits")]
        let of = |(info, &sum): (&crate::TensorInfo, &f64)| match info.num_elements() {
            0 => 0.0,
            // A document holds no infinity.
            count => (sum / count as f64).sqrt().min(f64::MAX),
        };
        Self { rms: layout.tensors().iter().zip(squares).map(of).collect() }
    }

    /// Reads a whole checkpoint once. A [`crate::Scanner`] measures what passes it anyway.
    ///
    /// # Errors
    /// Those of reading.
    pub fn measure(source: &dyn Source) -> io::Result<Self> {
        let layout = source.header().layout();
        let mut squares = vec![0.0; layout.tensors().len()];
        let mut buffer = Vec::new();
        for (index, info) in layout.tensors().iter().enumerate().filter(|(_, info)| info.dtype.is_float()) {
            let range = source.header().range(index);
            for offset in range.clone().step_by(READ_BYTES) {
                let left = usize::try_from(range.end - offset).unwrap_or(READ_BYTES);
                buffer.resize(left.min(READ_BYTES), 0);
                source.read_at(offset, &mut buffer)?;
                squares[index] += codec::sum_of_squares(info.dtype, &buffer);
            }
        }
        Ok(Self::from_squares(layout, &squares))
    }

    /// For each tensor of the layout, by canonical position.
    #[must_use]
    pub fn rms(&self) -> &[f64] {
        &self.rms
    }

    /// The Euclidean norm over the layout's averaged tensors, by whose layout this was measured.
    #[must_use]
    pub fn norm(&self, layout: &Layout) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a count of elements needs no more than 53 bits")]
        let squares =
            layout.tensors().iter().zip(&self.rms).map(|(info, rms)| rms * rms * info.num_elements() as f64);
        squares.sum::<f64>().sqrt().min(f64::MAX)
    }

    /// What an update may have: `factor` times the root mean square of the reference's same tensor, or times the median of those of
    /// all its tensors, whichever is more. So what is near 0 in the reference (a last layer, a bias, a scale that begins there) may
    /// grow to the size of the others.
    ///
    /// BatchNorm's statistics ([`TensorInfo::is_statistic`](crate::TensorInfo::is_statistic)) follow the data and not the training,
    /// and a variance is a square: for them the factor counts twice, and there is no bound while they are what they are before any
    /// training, 0 and 1. Nor is there one for other dtypes than floats, nor where all of the reference is 0.
    #[must_use]
    pub fn bounds(&self, layout: &Layout, factor: f64) -> Bounds {
        let floats = || layout.tensors().iter().zip(&self.rms).filter(|(info, _)| info.dtype.is_float());
        let mut trained: Vec<f64> =
            floats().filter(|(info, rms)| !info.is_statistic() && **rms > 0.0).map(|(_, &rms)| rms).collect();
        trained.sort_by(f64::total_cmp);
        let usual = trained.get(trained.len() / 2).copied().unwrap_or(0.0);
        let most = layout.tensors().iter().zip(&self.rms).map(|(info, &rms)| {
            let size = rms.max(usual);
            let untrained = rms == 0.0 || (rms - 1.0).abs() < f64::EPSILON;
            if !info.dtype.is_float() || size == 0.0 || (info.is_statistic() && untrained) {
                return f64::INFINITY;
            }
            if info.is_statistic() { factor * factor * size } else { factor * size }
        });
        Bounds { most: most.collect() }
    }
}

impl Bounds {
    /// The bound of the tensor at a canonical position; infinite where there is none.
    #[must_use]
    pub fn of(&self, index: usize) -> f64 {
        self.most.get(index).copied().unwrap_or(f64::INFINITY)
    }
}

#[cfg(test)]
mod tests;
