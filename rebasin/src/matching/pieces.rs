//! Cutting tensors into pieces that the matcher can work on: sub-arrays of which every axis is one product of factors.

use std::{borrow::Cow, sync::OnceLock};

use rayon::prelude::*;

use super::{general::General, simple::Simple};
use crate::{CheckedSpec, Checkpoint, Factor, Kind, gemm};

/// A digit of a piece's positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dim {
    pub(super) extent: usize,
    /// In the tensor that the piece is cut from.
    pub(super) stride: usize,
    pub(super) label: Label,
}

/// What moves a digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Label {
    /// Nothing.
    Stays,
    /// A group's permutation; of a group within another: of all its units, its parent's digit and its own in one.
    Units(usize),
    /// A group within another, whose parent's digit is another dim of the piece.
    Within { group: usize, parent: usize },
}

impl Label {
    pub(super) fn group(self) -> Option<usize> {
        match self {
            Self::Stays => None,
            Self::Units(group) | Self::Within { group, .. } => Some(group),
        }
    }
}

/// Both models' averaged tensors in f32, cut up.
pub(super) struct Pieces<'a> {
    /// Two groups, each moving one digit: nearly all of a network.
    pub(super) simple: Vec<Simple<'a>>,
    /// All others.
    pub(super) general: Vec<General>,
    /// For each group: the pieces that it alone moves.
    pub(super) constant: Vec<Constant<'a>>,
}

/// What of a group's gain never changes.
#[derive(Default)]
pub(super) struct Constant<'a> {
    pub(super) parts: Vec<Part<'a>>,
    matrix: OnceLock<Vec<f32>>,
}

/// A piece that one group alone moves, `[unit][depth]`.
pub(super) struct Part<'a> {
    pub(super) depth: usize,
    /// The reference.
    pub(super) a: Cow<'a, [f32]>,
    /// The update.
    pub(super) b: Cow<'a, [f32]>,
}

impl Constant<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(super) fn num_elements(&self) -> usize {
        self.parts.iter().map(|part| part.a.len()).sum()
    }

    /// The gain over these pieces, `units × units`, computed when it is first asked for; empty if there are none. Gives also the
    /// multiply-adds that took now. Not for two threads at once: one that takes up other work while it computes could wait here for
    /// itself.
    pub(super) fn gain(&self, n: usize) -> (&[f32], u64) {
        let mut work = 0;
        let matrix = self.matrix.get_or_init(|| {
            let mut matrix = Vec::new();
            for part in &self.parts {
                matrix.resize(n * n, 0.0);
                let reference = gemm::Strided::by_unit(&part.a, part.depth);
                gemm::accumulate(
                    &mut matrix,
                    n,
                    part.depth,
                    reference,
                    gemm::Strided::by_unit(&part.b, part.depth),
                );
                work += (n * n * part.depth) as u64;
            }
            matrix
        });
        (matrix, work)
    }
}

impl<'a> Pieces<'a> {
    pub(super) fn cut(spec: &CheckedSpec, reference: &'a Checkpoint, update: &'a Checkpoint) -> Self {
        let groups = spec.groups().len();
        let mut pieces = Self {
            simple: Vec::new(),
            general: Vec::new(),
            constant: std::iter::repeat_with(Constant::default).take(groups).collect(),
        };
        for (index, info) in spec.layout().tensors().iter().enumerate() {
            let moves = spec.axes(index).iter().any(Option::is_some);
            if !info.dtype.is_float() || info.num_elements() == 0 || !moves {
                continue;
            }
            let (a, b) = rayon::join(|| reference.tensor(index).as_f32(), || update.tensor(index).as_f32());
            let cuts = cuts(spec, index);
            let (last, others) = cuts.split_last().expect("a tensor with elements has a segment");
            for cut in others {
                pieces.add(spec, cut, a.clone(), b.clone());
            }
            pieces.add(spec, last, a, b);
        }
        pieces
    }

    fn add(&mut self, spec: &CheckedSpec, cut: &Cut, a: Cow<'a, [f32]>, b: Cow<'a, [f32]>) {
        let moved: Vec<usize> =
            (0..cut.dims.len()).filter(|&dim| cut.dims[dim].label != Label::Stays).collect();
        let plain = moved.iter().all(|&dim| matches!(cut.dims[dim].label, Label::Units(_)));
        let top = |dim: usize| {
            let group = cut.dims[dim].label.group().expect("a dim that moves has a group");
            spec.groups()[group].within.unwrap_or(group)
        };
        match moved[..] {
            [] => {}
            [one] if plain => self.add_constant(spec, cut, one, a, b),
            [first, second] if plain && top(first) != top(second) => {
                self.simple.push(Simple::new(cut, first, second, a, b));
            }
            _ => self.general.push(General::new(spec, cut, &a, &b)),
        }
    }

    fn add_constant(
        &mut self,
        spec: &CheckedSpec,
        cut: &Cut,
        dim: usize,
        a: Cow<'a, [f32]>,
        b: Cow<'a, [f32]>,
    ) {
        let group = cut.dims[dim].label.group().expect("a dim that moves has a group");
        let order: Vec<usize> =
            std::iter::once(dim).chain((0..cut.dims.len()).filter(|&other| other != dim)).collect();
        let (a, b) = rayon::join(|| arrange(a, cut, &order), || arrange(b, cut, &order));
        let depth = a.len() / spec.groups()[group].units;
        self.constant[group].parts.push(Part { depth, a, b });
    }
}

/// A piece's place in its tensor.
pub(super) struct Cut {
    pub(super) start: usize,
    pub(super) dims: Vec<Dim>,
}

/// A dim on its way to a label.
#[derive(Clone, Copy)]
struct Digit {
    axis: usize,
    dim: Dim,
    /// The group that moves it.
    group: Option<usize>,
    /// Whether it is a parent's digit and that of a group within it, in one.
    joined: bool,
}

/// All pieces of a tensor: one for each choice of a segment on every axis.
fn cuts(spec: &CheckedSpec, index: usize) -> Vec<Cut> {
    let shape = &spec.layout().tensors()[index].shape;
    let axes = spec.axes(index);
    let mut cuts: Vec<(usize, Vec<Digit>)> = vec![(0, Vec::new())];
    let mut stride: usize = shape.iter().product();
    for (axis, &length) in shape.iter().enumerate() {
        stride /= length;
        let digit = |extent: usize, stride: usize, group: Option<usize>| Digit {
            axis,
            dim: Dim { extent, stride, label: Label::Stays },
            group,
            joined: false,
        };
        let mut next = Vec::new();
        for (start, digits) in &cuts {
            let Some(moves) = &axes[axis] else {
                next.push((*start, [&digits[..], &[digit(length, stride, None)]].concat()));
                continue;
            };
            for segment in &moves.segments {
                let mut digits = digits.clone();
                let mut rest = segment.length * stride;
                for factor in &segment.factors {
                    rest /= factor.extent();
                    digits.push(digit(factor.extent(), rest, moving_group(spec, *factor)));
                }
                next.push((start + segment.start * stride, digits));
            }
        }
        cuts = next;
    }
    cuts.into_iter().map(|(start, digits)| Cut { start, dims: labelled(spec, &digits) }).collect()
}

/// The group of a factor that can move at all.
fn moving_group(spec: &CheckedSpec, factor: Factor) -> Option<usize> {
    factor.group().filter(|&group| {
        let is_parent = spec.groups().iter().any(|other| other.within == Some(group));
        spec.groups()[group].kind == Kind::Symmetric || is_parent
    })
}

/// Joins a parent's digit and the digit behind it into one where that is all there is of the two groups; else labels them
/// apart.
fn labelled(spec: &CheckedSpec, digits: &[Digit]) -> Vec<Dim> {
    let parent_of = |group: usize| spec.groups()[group].within;
    let of_parent = |group: Option<usize>| group.and_then(parent_of);
    let mut joined: Vec<Digit> = Vec::new();
    for &digit in digits {
        let parent = of_parent(digit.group);
        let alone = || digits.iter().filter(|other| of_parent(other.group) == parent).count() == 1;
        let joins = joined.last().is_some_and(|last| {
            parent.is_some() && last.group == parent && last.axis == digit.axis && alone()
        });
        if joins && let Some(last) = joined.last_mut() {
            let extent = last.dim.extent * digit.dim.extent;
            *last = Digit { dim: Dim { extent, ..digit.dim }, joined: true, ..digit };
        } else {
            joined.push(digit);
        }
    }
    let place_of = |axis: usize, parent: usize| {
        let mut places =
            (0..joined.len()).filter(|&place| joined[place].group == Some(parent) && !joined[place].joined);
        let same = places.clone().find(|&place| joined[place].axis == axis);
        same.or_else(|| places.next())
    };
    let label = |digit: &Digit| {
        let parent = of_parent(digit.group).filter(|_| !digit.joined);
        let label = match (digit.group, parent) {
            (None, _) => Label::Stays,
            (Some(group), None) => Label::Units(group),
            (Some(group), Some(parent)) => {
                let parent = place_of(digit.axis, parent).expect("a spec's check finds each parent");
                Label::Within { group, parent }
            }
        };
        Dim { label, ..digit.dim }
    };
    joined.iter().map(label).collect()
}

/// The piece's elements with its dims in another order, the last one contiguous; as they are, where that is their order.
pub(super) fn arrange<'v>(values: Cow<'v, [f32]>, cut: &Cut, order: &[usize]) -> Cow<'v, [f32]> {
    let dims: Vec<Dim> = order.iter().map(|&dim| cut.dims[dim]).collect();
    let mut stride: usize = dims.iter().map(|dim| dim.extent).product();
    let natural = cut.start == 0
        && values.len() == stride
        && dims.iter().all(|dim| {
            stride /= dim.extent;
            dim.extent == 1 || dim.stride == stride
        });
    if natural { values } else { Cow::Owned(arrange_dims(&values, cut.start, &dims)) }
}

/// As [`arrange`], of dims that are in order already.
pub(super) fn arrange_dims(values: &[f32], start: usize, dims: &[Dim]) -> Vec<f32> {
    let total: usize = dims.iter().map(|dim| dim.extent).product();
    let mut out = vec![0.0; total];
    let Some((first, rest)) = dims.split_first() else {
        out[0] = values[start];
        return out;
    };
    let piece = total / first.extent;
    // A few positions of the first dim at a time: neighbours share cache lines when it is contiguous in the source.
    let together = if piece > 1 << 14 { 16_usize.min(first.extent) } else { (1 << 16) / piece + 1 };
    out.par_chunks_mut(piece * together).enumerate().for_each(|(part, out)| {
        let base = start + part * together * first.stride;
        let count = out.len() / piece;
        copy(values, base, &[&[Dim { extent: count, ..*first }], rest].concat(), out);
    });
    out
}

/// Copies by nested loops; the two innermost dims go in squares, so that both sides stay in cache.
fn copy(values: &[f32], base: usize, dims: &[Dim], out: &mut [f32]) {
    const SIDE: usize = 16;
    match dims {
        [] => out[0] = values[base],
        [one] if one.stride == 1 => out.copy_from_slice(&values[base..base + one.extent]),
        [one] => {
            for (position, out) in out.iter_mut().enumerate() {
                *out = values[base + position * one.stride];
            }
        }
        [outer, inner] if inner.stride > 1 => {
            for outer_begin in (0..outer.extent).step_by(SIDE) {
                let outer_end = outer.extent.min(outer_begin + SIDE);
                for inner_begin in (0..inner.extent).step_by(SIDE) {
                    let inner_end = inner.extent.min(inner_begin + SIDE);
                    for row in outer_begin..outer_end {
                        let from = base + row * outer.stride;
                        let to = &mut out[row * inner.extent..];
                        for column in inner_begin..inner_end {
                            to[column] = values[from + column * inner.stride];
                        }
                    }
                }
            }
        }
        [first, rest @ ..] if interchanged(first, rest) => copy_interchanged(values, base, first, rest, out),
        [first, rest @ ..] => {
            let piece = out.len() / first.extent;
            for (position, out) in out.chunks_mut(piece).enumerate() {
                copy(values, base + position * first.stride, rest, out);
            }
        }
    }
}

/// Whether the first dim is the contiguous one in the source and the last one is not: the worst case for plain loops.
fn interchanged(first: &Dim, rest: &[Dim]) -> bool {
    let smallest = rest.iter().map(|dim| dim.stride).min().unwrap_or(1);
    first.stride < smallest && rest.len() > 1
}

/// Puts the middle dims outside, and the first and the last one inside.
fn copy_interchanged(values: &[f32], base: usize, first: &Dim, rest: &[Dim], out: &mut [f32]) {
    let piece: usize = rest.iter().map(|dim| dim.extent).product();
    let (last, middle) = rest.split_last().expect("two dims or more");
    let mut digits = vec![0; middle.len()];
    for place in 0..piece / last.extent {
        let from: usize =
            base + digits.iter().zip(middle).map(|(digit, dim)| digit * dim.stride).sum::<usize>();
        let place = place * last.extent;
        for begin in (0..last.extent).step_by(16) {
            let end = last.extent.min(begin + 16);
            for row in 0..first.extent {
                let to = &mut out[row * piece + place..];
                let from = from + row * first.stride;
                for column in begin..end {
                    to[column] = values[from + column * last.stride];
                }
            }
        }
        for (digit, dim) in digits.iter_mut().zip(middle).rev() {
            *digit += 1;
            if *digit < dim.extent {
                break;
            }
            *digit = 0;
        }
    }
}
