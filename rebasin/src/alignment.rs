//! Alignments: one permutation a group, and what they do to a checkpoint.

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    AlignError, Axis, CheckedSpec, Checkpoint, Factor, Group, Kind, Permutation, Tensor, scale::Multipliers,
};

/// One update's group elements: a permutation of the [units](Group::units) of each group, in the spec's order, and factors of the
/// units that have a [scale symmetry](crate::ScaleForm).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alignment {
    /// For each group of the spec, in its order.
    pub permutations: Vec<Permutation>,
    /// For each of the spec's scales, for each unit of its group in the outcome: what it is multiplied by on its way in, and divided by on
    /// its way out. Empty: nothing is scaled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub factors: Vec<Vec<f32>>,
}

impl From<Vec<Permutation>> for Alignment {
    /// Nothing is scaled.
    fn from(permutations: Vec<Permutation>) -> Self {
        Self { permutations, factors: Vec::new() }
    }
}

impl Alignment {
    /// The one that moves nothing.
    #[must_use]
    pub fn identity(spec: &CheckedSpec) -> Self {
        let stays = spec.groups().iter().map(|group| Permutation::identity(group.units));
        Self::from(stays.collect::<Vec<_>>())
    }

    /// A uniformly random element of the symmetry group, by seed.
    #[must_use]
    pub fn random(spec: &CheckedSpec, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut permutations: Vec<Permutation> = spec
            .groups()
            .iter()
            .map(|group| match (group.kind, group.within) {
                (Kind::Symmetric, None) => Permutation::random(group.size, &mut rng),
                _ => Permutation::identity(group.units),
            })
            .collect();
        for (index, group) in spec.groups().iter().enumerate() {
            let Some(parent) = group.within else { continue };
            let inner = (0..group.units / group.size).map(|_| match group.kind {
                Kind::Symmetric => Permutation::random(group.size, &mut rng),
                Kind::Fixed => Permutation::identity(group.size),
            });
            let inner: Vec<Permutation> = inner.collect();
            permutations[index] = Permutation::wreath(&permutations[parent], &inner);
        }
        Self::from(permutations)
    }

    /// The permutations that undo this one's. Factors are not undone.
    #[must_use]
    pub fn inverse_permutations(&self) -> Self {
        Self::from(self.permutations.iter().map(Permutation::inverse).collect::<Vec<_>>())
    }

    /// `first`, then `self`.
    ///
    /// # Panics
    /// If they are not of one spec.
    #[must_use]
    pub fn compose(&self, spec: &CheckedSpec, first: &Self) -> Self {
        assert_eq!(self.permutations.len(), first.permutations.len(), "only alignments of one spec compose");
        let pairs = self.permutations.iter().zip(&first.permutations);
        let permutations = pairs.map(|(after, before)| after.compose(before)).collect();
        Self { permutations, factors: self.composed_factors(spec, first) }
    }

    fn composed_factors(&self, spec: &CheckedSpec, first: &Self) -> Vec<Vec<f32>> {
        if first.factors.is_empty() {
            return self.factors.clone();
        }
        let of_scale = |(index, scale): (usize, &crate::Scale)| {
            let (own, moved) = (self.factors.get(index), &self.permutations[scale.group]);
            let of_unit =
                |unit: usize| own.map_or(1.0, |own| own[unit]) * first.factors[index][moved.map(unit)];
            (0..moved.len()).map(of_unit).collect()
        };
        spec.scales().iter().enumerate().map(of_scale).collect()
    }

    /// Whether nothing moves, and nothing is scaled.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.factors.is_empty() && self.moves_nothing()
    }

    /// Whether nothing moves; something may be scaled.
    pub(crate) fn moves_nothing(&self) -> bool {
        self.permutations.iter().all(|permutation| permutation.moved() == 0)
    }

    /// Fraction of units that do not stay, 0 to 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of units are far below 2^52")]
    pub fn moved(&self) -> f64 {
        let units: usize = self.permutations.iter().map(Permutation::len).sum();
        let moved: usize = self.permutations.iter().map(Permutation::moved).sum();
        if units == 0 { 0.0 } else { moved as f64 / units as f64 }
    }

    /// Makes sure that there is one permutation for each group, of its units, and one that its kind allows; and, if there are factors, one
    /// above 0 for each unit of each scale.
    ///
    /// # Errors
    /// [`AlignError::Alignment`].
    pub fn check(&self, spec: &CheckedSpec) -> Result<(), AlignError> {
        let sizes = self.permutations.iter().map(Permutation::len);
        let allowed = sizes.eq(spec.groups().iter().map(|group| group.units))
            && spec.groups().iter().zip(&self.permutations).all(|(group, own)| self.allows(group, own));
        let scalable = self.factors.is_empty() || self.factors.len() == spec.scales().len();
        let scales = spec.scales().iter().zip(&self.factors).all(|(scale, factors)| {
            factors.len() == spec.groups()[scale.group].units
                && factors.iter().all(|factor| factor.is_finite() && *factor > 0.0)
        });
        if allowed && scalable && scales { Ok(()) } else { Err(AlignError::Alignment) }
    }

    fn allows(&self, group: &Group, own: &Permutation) -> bool {
        let Some(parent) = group.within else { return group.kind == Kind::Symmetric || own.moved() == 0 };
        let parent = &self.permutations[parent];
        (0..own.len()).all(|unit| {
            let (block, inner) = (own.map(unit) / group.size, own.map(unit) % group.size);
            block == parent.map(unit / group.size)
                && (group.kind == Kind::Symmetric || inner == unit % group.size)
        })
    }

    /// Applies it to an update: unit `i` of the outcome is unit `map(i)` of the update, on every axis of the group, by its factor.
    /// The function that the network computes is unchanged.
    ///
    /// # Errors
    /// [`AlignError`] if checkpoint, spec and alignment do not belong together, or a dtype cannot hold a scaled weight.
    pub fn apply(&self, spec: &CheckedSpec, checkpoint: &Checkpoint) -> Result<Checkpoint, AlignError> {
        self.check(spec)?;
        crate::scanner::compare(spec.layout(), checkpoint.layout())?;
        let mut tensors = Vec::with_capacity(checkpoint.tensors().len());
        for (index, tensor) in checkpoint.tensors().iter().enumerate() {
            let info = tensor.info();
            let moves = self.moves(spec, &info.shape, spec.axes(index));
            let mut bytes = gather(tensor.bytes(), &info.shape, info.dtype.size(), &moves);
            if let Some(multipliers) = Multipliers::of(spec, index, &self.factors) {
                multipliers.apply(info, 0, &mut bytes)?;
            }
            tensors.push(Tensor::from_bytes(info, bytes)?);
        }
        Ok(Checkpoint::new(checkpoint.layout().clone(), tensors)?)
    }

    /// How each axis of a tensor moves under this alignment.
    pub(crate) fn moves(&self, spec: &CheckedSpec, shape: &[usize], axes: &[Option<Axis>]) -> Vec<Moves> {
        let mut moves = Vec::with_capacity(shape.len());
        for (&length, axis) in shape.iter().zip(axes) {
            let Some(axis) = axis else {
                moves.push(Moves::Stay);
                continue;
            };
            let still = axis.groups().all(|group| self.permutations[group].moved() == 0);
            let parent_axis = axis.segments.iter().flat_map(|segment| &segment.factors).find_map(parent_of);
            moves.push(match parent_axis {
                _ if still => Moves::Stay,
                None => Moves::Map(self.axis_map(spec, length, axis, 0)),
                Some((on, group)) => {
                    let parent =
                        spec.groups()[group].within.expect("a factor with a parent's axis has a parent");
                    let digits = axes[on].as_ref().map_or_else(Vec::new, |on| digits(on, parent));
                    let size = spec.groups()[parent].size;
                    let maps = (0..size).map(|digit| self.axis_map(spec, length, axis, digit));
                    Moves::By { on, digits, maps: maps.collect() }
                }
            });
        }
        moves
    }

    /// For each position along an axis: where it comes from. `elsewhere`: the digit of the group that stands on another
    /// axis, where one does.
    fn axis_map(&self, spec: &CheckedSpec, length: usize, axis: &Axis, elsewhere: usize) -> Vec<usize> {
        let mut map = Vec::with_capacity(length);
        for segment in &axis.segments {
            for position in 0..segment.length {
                let (mut from, mut stride) = (0, segment.length);
                for factor in &segment.factors {
                    let digit = position % stride / (stride / factor.extent());
                    stride /= factor.extent();
                    from += stride
                        * match *factor {
                            Factor::Stays(_) => digit,
                            Factor::Group { group, size, .. } => {
                                let block = match spec.groups()[group].within {
                                    None => 0,
                                    Some(parent) => digit_of(segment, parent, position).unwrap_or(elsewhere),
                                };
                                self.permutations[group].map(block * size + digit) % size
                            }
                        };
                }
                map.push(segment.start + from);
            }
        }
        map
    }
}

/// A factor's group, and the axis where the group that it is within stands, if that is another one.
pub(crate) fn parent_of(factor: &Factor) -> Option<(usize, usize)> {
    match *factor {
        Factor::Group { group, parent_axis: Some(axis), .. } => Some((axis, group)),
        _ => None,
    }
}

/// The digit of a group at a position of a segment, if it stands there.
pub(crate) fn digit_of(segment: &crate::Segment, group: usize, position: usize) -> Option<usize> {
    let mut stride = segment.length;
    for factor in &segment.factors {
        stride /= factor.extent();
        if factor.group() == Some(group) {
            return Some(position / stride % factor.extent());
        }
    }
    None
}

/// For each position of an axis of one segment: the digit of a group.
pub(crate) fn digits(axis: &Axis, group: usize) -> Vec<usize> {
    let positions = |segment: &crate::Segment| {
        let digits = (0..segment.length).map(|position| digit_of(segment, group, position).unwrap_or(0));
        digits.collect::<Vec<_>>()
    };
    axis.segments.iter().flat_map(positions).collect()
}

/// How one axis of a tensor moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Moves {
    /// Not at all.
    Stay,
    /// For each position: where it comes from.
    Map(Vec<usize>),
    /// By the position on an earlier axis: its digit chooses the map.
    By {
        /// That axis.
        on: usize,
        /// For each of its positions: the digit.
        digits: Vec<usize>,
        /// For each digit.
        maps: Vec<Vec<usize>>,
    },
}

impl Moves {
    /// What is left of it when only some positions of axis `on` are there.
    pub(crate) fn only(&mut self, axis: usize, positions: std::ops::Range<usize>) {
        if let Self::By { on, digits, .. } = self
            && *on == axis
        {
            *digits = digits[positions].to_vec();
        }
    }

    /// Where a position comes from, `at` being the positions on the earlier axes.
    pub(crate) fn from(&self, position: usize, at: &[usize]) -> usize {
        match self {
            Self::Stay => position,
            Self::Map(map) => map[position],
            Self::By { on, digits, maps } => maps[digits[at[*on]]][position],
        }
    }
}

/// Gathers a row-major array of `size`-byte elements along each axis that moves; what lies behind the last one moves as
/// one piece.
pub(crate) fn gather(bytes: &[u8], shape: &[usize], size: usize, moves: &[Moves]) -> Vec<u8> {
    let Some(gather) = Gather::new(bytes, shape, size, moves) else { return bytes.to_vec() };
    let mut out = vec![0; bytes.len()];
    let together = (1 << 16) / gather.stride + 1;
    out.par_chunks_mut(gather.stride * together)
        .enumerate()
        .for_each(|(part, out)| gather.rows(part * together, out));
    out
}

/// A row-major array on its way to where its axes move.
pub(crate) struct Gather<'a> {
    copy: Copy<'a>,
    /// Bytes of a row: of one position along the first axis.
    stride: usize,
}

impl<'a> Gather<'a> {
    /// `None` if nothing moves, or nothing is there.
    pub(crate) fn new(bytes: &'a [u8], shape: &'a [usize], size: usize, moves: &'a [Moves]) -> Option<Self> {
        let last = moves.iter().rposition(|moves| *moves != Moves::Stay)?;
        if bytes.is_empty() {
            return None;
        }
        let piece = shape[last + 1..].iter().product::<usize>() * size;
        let copy = Copy { bytes, shape: &shape[..=last], moves, piece };
        Some(Self { copy, stride: bytes.len() / shape[0] })
    }

    /// Fills `out`, which is whole rows, with those from `first` on.
    pub(crate) fn rows(&self, first: usize, out: &mut [u8]) {
        let mut at = vec![0; self.copy.shape.len()];
        for (row, out) in out.chunks_mut(self.stride).enumerate() {
            at[0] = first + row;
            let from = self.copy.moves[0].from(at[0], &at);
            self.copy.axis(1, from * self.stride, &mut at, out);
        }
    }
}

struct Copy<'a> {
    bytes: &'a [u8],
    shape: &'a [usize],
    moves: &'a [Moves],
    piece: usize,
}

impl Copy<'_> {
    /// Fills `out` with what lies behind the axes before `axis`, whose positions are `at` and whose place is `base`.
    fn axis(&self, axis: usize, base: usize, at: &mut Vec<usize>, out: &mut [u8]) {
        let Some(&length) = self.shape.get(axis) else {
            out.copy_from_slice(&self.bytes[base..base + out.len()]);
            return;
        };
        let stride = out.len() / length;
        if axis + 1 == self.shape.len() {
            debug_assert_eq!(stride, self.piece);
            match stride {
                4 => self.last::<4>(axis, base, at, out),
                8 => self.last::<8>(axis, base, at, out),
                2 => self.last::<2>(axis, base, at, out),
                _ => {
                    for (position, out) in out.chunks_mut(stride).enumerate() {
                        let from = base + self.moves[axis].from(position, at) * stride;
                        out.copy_from_slice(&self.bytes[from..from + stride]);
                    }
                }
            }
            return;
        }
        for (position, out) in out.chunks_mut(stride).enumerate() {
            at[axis] = position;
            self.axis(axis + 1, base + self.moves[axis].from(position, at) * stride, at, out);
        }
    }

    /// The innermost axis with elements of `N` bytes: copies of a known size.
    fn last<const N: usize>(&self, axis: usize, base: usize, at: &[usize], out: &mut [u8]) {
        let (elements, _) = out.as_chunks_mut::<N>();
        let (from, _) = self.bytes[base..base + elements.len() * N].as_chunks::<N>();
        if let Moves::Map(map) = &self.moves[axis] {
            for (out, &source) in elements.iter_mut().zip(map) {
                *out = from[source];
            }
            return;
        }
        for (position, out) in elements.iter_mut().enumerate() {
            *out = from[self.moves[axis].from(position, at)];
        }
    }
}
