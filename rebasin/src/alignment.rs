//! Alignments: one permutation a group, and what they do to a checkpoint.

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{AlignError, AxisUse, CheckedSpec, Checkpoint, Permutation, Tensor};

/// One update's group elements: a permutation for each group, in the spec's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alignment {
    /// For each group of the spec, in its order.
    pub permutations: Vec<Permutation>,
}

impl Alignment {
    /// The one that moves nothing.
    #[must_use]
    pub fn identity(spec: &CheckedSpec) -> Self {
        Self { permutations: spec.groups().iter().map(|group| Permutation::identity(group.size)).collect() }
    }

    /// A uniformly random element of the symmetry group, by seed.
    #[must_use]
    pub fn random(spec: &CheckedSpec, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Self {
            permutations: spec
                .groups()
                .iter()
                .map(|group| Permutation::random(group.size, &mut rng))
                .collect(),
        }
    }

    /// The one that undoes this.
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self { permutations: self.permutations.iter().map(Permutation::inverse).collect() }
    }

    /// `first`, then `self`.
    ///
    /// # Panics
    /// If they are not of one spec.
    #[must_use]
    pub fn compose(&self, first: &Self) -> Self {
        assert_eq!(self.permutations.len(), first.permutations.len(), "only alignments of one spec compose");
        let pairs = self.permutations.iter().zip(&first.permutations);
        Self { permutations: pairs.map(|(after, before)| after.compose(before)).collect() }
    }

    /// Fraction of units that do not stay, 0 to 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of units are far below 2^52")]
    pub fn moved(&self) -> f64 {
        let units: usize = self.permutations.iter().map(Permutation::len).sum();
        let moved: usize = self.permutations.iter().map(Permutation::moved).sum();
        if units == 0 { 0.0 } else { moved as f64 / units as f64 }
    }

    /// Makes sure that there is one permutation for each group, of its size.
    ///
    /// # Errors
    /// [`AlignError::Alignment`].
    pub fn check(&self, spec: &CheckedSpec) -> Result<(), AlignError> {
        let sizes = self.permutations.iter().map(Permutation::len);
        if sizes.eq(spec.groups().iter().map(|group| group.size)) {
            return Ok(());
        }
        Err(AlignError::Alignment)
    }

    /// Applies it to an update: unit `i` of the outcome is unit `map(i)` of the update, on every axis of the group.
    /// The function that the network computes is unchanged.
    ///
    /// # Errors
    /// [`AlignError`] if checkpoint, spec and alignment do not belong together.
    pub fn apply(&self, spec: &CheckedSpec, checkpoint: &Checkpoint) -> Result<Checkpoint, AlignError> {
        self.check(spec)?;
        crate::scanner::compare(spec.layout(), checkpoint.layout())?;
        let mut tensors = Vec::with_capacity(checkpoint.tensors().len());
        for (index, tensor) in checkpoint.tensors().iter().enumerate() {
            let size = tensor.dtype().size();
            let bytes = permute(tensor.bytes(), &tensor.info().shape, size, spec.axes(index), self);
            tensors.push(Tensor::from_bytes(tensor.info(), bytes)?);
        }
        Ok(Checkpoint::new(checkpoint.layout().clone(), tensors)?)
    }
}

/// For each position along an axis: where it comes from. `None`: from itself.
pub(crate) fn axis_map(length: usize, axis: Option<&AxisUse>, alignment: &Alignment) -> Option<Vec<usize>> {
    let axis = axis?;
    let permutation = &alignment.permutations[axis.group];
    if permutation.moved() == 0 {
        return None;
    }
    let block = axis.block;
    Some((0..length).map(|position| permutation.map(position / block) * block + position % block).collect())
}

/// Gathers a row-major array of `size`-byte elements along all its axes.
pub(crate) fn permute(
    bytes: &[u8],
    shape: &[usize],
    size: usize,
    axes: &[Option<AxisUse>],
    alignment: &Alignment,
) -> Vec<u8> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let maps: Vec<_> =
        shape.iter().zip(axes).map(|(&length, axis)| axis_map(length, axis.as_ref(), alignment)).collect();
    gather(bytes, shape, size, &maps)
}

/// Gathers along each axis that has a map; what lies behind the last mapped axis moves as one piece.
pub(crate) fn gather(bytes: &[u8], shape: &[usize], size: usize, maps: &[Option<Vec<usize>>]) -> Vec<u8> {
    let Some(last) = maps.iter().rposition(Option::is_some) else { return bytes.to_vec() };
    let piece = shape[last + 1..].iter().product::<usize>() * size;
    let mut out = Vec::with_capacity(bytes.len());
    copy_axis(bytes, &shape[..=last], &maps[..=last], piece, 0, &mut out);
    out
}

fn copy_axis(
    bytes: &[u8],
    shape: &[usize],
    maps: &[Option<Vec<usize>>],
    piece: usize,
    base: usize,
    out: &mut Vec<u8>,
) {
    let stride = shape[1..].iter().product::<usize>() * piece;
    for position in 0..shape[0] {
        let from = base + maps[0].as_ref().map_or(position, |map| map[position]) * stride;
        if shape.len() == 1 {
            out.extend_from_slice(&bytes[from..from + piece]);
        } else {
            copy_axis(bytes, &shape[1..], &maps[1..], piece, from, out);
        }
    }
}
