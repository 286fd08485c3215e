//! Pieces of any form: a grouped convolution, query heads that share a key, a recurrent matrix with one group on both axes.
//!
//! They are rare and small beside the rest, so they are worked on plainly: the update is permuted by all that holds now,
//! and the gain of a group is computed for moves *from there*, whole.

use super::pieces::{Cut, Dim, Label, arrange_dims};
use crate::{Alignment, CheckedSpec, gemm};

pub(super) struct General {
    /// Parents first; strides are those of `a` and `b`.
    dims: Vec<Dim>,
    a: Vec<f32>,
    b: Vec<f32>,
}

impl General {
    pub(super) fn new(spec: &CheckedSpec, cut: &Cut, a: &[f32], b: &[f32]) -> Self {
        let rank = |dim: usize| match cut.dims[dim].label {
            Label::Units(group) if spec.groups()[group].within.is_none() => 0,
            Label::Units(_) => 1,
            Label::Within { .. } => 2,
            Label::Stays => 3,
        };
        let mut order: Vec<usize> = (0..cut.dims.len()).collect();
        order.sort_by_key(|&dim| rank(dim));
        let new_place = |old: usize| order.iter().position(|&dim| dim == old).unwrap_or(old);
        let sorted: Vec<Dim> = order.iter().map(|&dim| cut.dims[dim]).collect();
        let (a, b) = (arrange_dims(a, cut.start, &sorted), arrange_dims(b, cut.start, &sorted));
        let mut stride = a.len();
        let dims = sorted.into_iter().map(|dim| {
            stride /= dim.extent;
            let label = match dim.label {
                Label::Within { group, parent } => Label::Within { group, parent: new_place(parent) },
                label => label,
            };
            Dim { label, stride, ..dim }
        });
        Self { dims: dims.collect(), a, b }
    }

    pub(super) fn num_elements(&self) -> usize {
        self.a.len()
    }

    /// The groups that move it, with repetitions.
    pub(super) fn groups(&self) -> impl Iterator<Item = usize> {
        self.dims.iter().filter_map(|dim| dim.label.group())
    }

    pub(super) fn has(&self, group: usize) -> bool {
        self.groups().any(|found| found == group)
    }

    /// The update as an alignment puts it.
    pub(super) fn permuted(&self, spec: &CheckedSpec, alignment: &Alignment) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.b.len());
        self.gather(spec, alignment, 0, 0, &mut vec![0; self.dims.len()], &mut out);
        out
    }

    fn gather(
        &self,
        spec: &CheckedSpec,
        alignment: &Alignment,
        place: usize,
        base: usize,
        digits: &mut Vec<usize>,
        out: &mut Vec<f32>,
    ) {
        let Some(dim) = self.dims.get(place) else {
            out.push(self.b[base]);
            return;
        };
        if dim.label == Label::Stays {
            // All dims behind it stay too, and lie in order.
            out.extend_from_slice(&self.b[base..base + dim.extent * dim.stride]);
            return;
        }
        for digit in 0..dim.extent {
            digits[place] = digit;
            let from = match dim.label {
                Label::Stays => digit,
                Label::Units(group) => alignment.permutations[group].map(digit),
                Label::Within { group, parent } => {
                    let size = spec.groups()[group].size;
                    alignment.permutations[group].map(digits[parent] * size + digit) % size
                }
            };
            self.gather(spec, alignment, place + 1, base + from * dim.stride, digits, out);
        }
    }

    /// The update where nothing moved.
    pub(super) fn update(&self) -> &[f32] {
        &self.b
    }

    /// The most that any order of the update's elements is worth: both sides sorted (rearrangement inequality).
    pub(super) fn most(&self) -> f64 {
        let (mut a, mut b) = (self.a.clone(), self.b.clone());
        a.sort_unstable_by(f32::total_cmp);
        b.sort_unstable_by(f32::total_cmp);
        a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    }

    /// Inner product with the reference, in f64.
    pub(super) fn value(&self, permuted: &[f32]) -> f64 {
        self.a.iter().zip(permuted).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    }

    /// Adds what moving a group's units from where they are now is worth, the rest being held: `units × units`, row = unit of
    /// the reference, column = place of the update's unit now. If the group stands on two axes this is the derivative of a
    /// quadratic form. Returns multiply-adds.
    pub(super) fn add(&self, group: usize, permuted: &[f32], gain: &mut [f32]) -> u64 {
        let mut work = 0;
        for (place, dim) in self.dims.iter().enumerate() {
            if dim.label.group() != Some(group) {
                continue;
            }
            let first: Vec<usize> = match dim.label {
                Label::Within { parent, .. } => vec![parent, place],
                _ => vec![place],
            };
            let rest = (0..self.dims.len()).filter(|other| !first.contains(other));
            let order: Vec<Dim> = first.iter().copied().chain(rest).map(|dim| self.dims[dim]).collect();
            let n: usize = first.iter().map(|&dim| self.dims[dim].extent).product();
            let depth = self.a.len() / n;
            let (a, b) = (arrange_dims(&self.a, 0, &order), arrange_dims(permuted, 0, &order));
            gemm::accumulate(
                gain,
                n,
                depth,
                gemm::Strided::by_unit(&a, depth),
                gemm::Strided::by_unit(&b, depth),
            );
            work += (n * n * depth) as u64;
        }
        work
    }
}
