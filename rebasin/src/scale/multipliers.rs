//! What a tensor's elements are multiplied by where its units are scaled.

use rayon::prelude::*;

use super::{factor, sides};
use crate::{CheckedSpec, CheckpointError, Dtype, TensorInfo, codec};

/// For each element of a tensor the product of one number for its position along each of one or two axes.
pub(crate) struct Multipliers {
    /// In the order of the axes.
    axes: Vec<Along>,
}

struct Along {
    /// For each position.
    values: Vec<f64>,
    /// Elements behind a position.
    inner: usize,
}

impl Along {
    fn at(&self, element: usize) -> f64 {
        self.values[element / self.inner % self.values.len()]
    }
}

/// Elements that a thread multiplies at a time.
const PART: usize = 1 << 15;

impl Multipliers {
    /// Of a tensor, by index; `None` if nothing of it is scaled. `factors`: for each of the spec's scales, one number for each unit; or
    /// none at all.
    pub(crate) fn of<F: Copy + Into<f64>>(
        spec: &CheckedSpec,
        tensor: usize,
        factors: &[Vec<F>],
    ) -> Option<Self> {
        if factors.is_empty() {
            return None;
        }
        let along = |side: super::Side| Along {
            values: side.positions.iter().map(|scaled| factor(scaled, factors)).collect(),
            inner: side.inner,
        };
        let axes: Vec<Along> = sides(spec, tensor).into_iter().map(along).collect();
        let empty = axes.iter().any(|along| along.values.is_empty() || along.inner == 0);
        (!axes.is_empty() && !empty).then_some(Self { axes })
    }

    /// No element is multiplied by more.
    pub(crate) fn largest(&self) -> f64 {
        self.axes.iter().map(|along| along.values.iter().copied().fold(0.0, f64::max)).product()
    }

    /// Multiplies elements of the tensor, `first` being the index of the first; in f64, rounded to the tensor's dtype.
    ///
    /// # Errors
    /// [`CheckpointError::NotFinite`] if the dtype cannot hold a product.
    pub(crate) fn apply(
        &self,
        info: &TensorInfo,
        first: usize,
        bytes: &mut [u8],
    ) -> Result<(), CheckpointError> {
        let size = info.dtype.size();
        let parts = bytes.par_chunks_mut(PART * size).enumerate();
        let failed = parts.map(|(part, bytes)| {
            let first = first + part * PART;
            let mut values = codec::to_f64(info.dtype, bytes);
            self.multiply(first, &mut values);
            if info.dtype == Dtype::F32 {
                // In place, as no more than rounding is left to do.
                let mut finite = true;
                let (out, _) = bytes.as_chunks_mut::<4>();
                for (out, &value) in out.iter_mut().zip(&values) {
                    #[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
                    let rounded = value as f32;
                    finite &= rounded.is_finite();
                    *out = rounded.to_le_bytes();
                }
                let bad = || values.iter().position(|value| value.abs() > f64::from(f32::MAX)).unwrap_or(0);
                return if finite { None } else { Some(first + bad()) };
            }
            let mut out = Vec::with_capacity(bytes.len());
            match codec::from_f64(info.dtype, &values, &mut out) {
                Ok(()) => {
                    bytes.copy_from_slice(&out);
                    None
                }
                Err(index) => Some(first + index),
            }
        });
        match failed.flatten().min() {
            None => Ok(()),
            Some(index) => Err(CheckpointError::NotFinite { name: info.name.clone(), index: index as u64 }),
        }
    }

    /// Multiplies values of the tensor, `first` being the index of the first.
    fn multiply(&self, first: usize, values: &mut [f64]) {
        let [outer @ .., last] = &self.axes[..] else { return };
        let mut element = first;
        let mut rest = values;
        while !rest.is_empty() {
            // What lies along the last axis, from here to its end: all before stays the same.
            let along = element / last.inner % last.values.len();
            let within = element % last.inner;
            let period = (last.values.len() - along) * last.inner - within;
            let (now, later) = rest.split_at_mut(period.min(rest.len()));
            let by: f64 = outer.iter().map(|along| along.at(element)).product();
            if last.inner == 1 {
                for (value, own) in now.iter_mut().zip(&last.values[along..]) {
                    *value *= by * own;
                }
            } else {
                for (place, value) in now.iter_mut().enumerate() {
                    *value *= by * last.values[along + (within + place) / last.inner];
                }
            }
            element += now.len();
            rest = later;
        }
    }
}
