//! Products: `MatMul`, `Gemm`, `Einsum`, convolutions, and reductions.

use std::collections::{BTreeMap, BTreeSet};

use super::{Axes, Rules, einsum_terms, groups};
use crate::{
    domain::{Atom, UNIT},
    graph::Op,
    infer::Inputs,
};

/// An operand: its axes, and an index's letter for each.
struct Operand {
    axes: Axes,
    letters: Vec<u32>,
}

/// Letters of a convolution's parts.
const BATCH: u32 = 0;
const GROUP: u32 = 1;
const IN: u32 = 2;
const OUT: u32 = 3;
const SPACE: u32 = 100;

impl Rules<'_> {
    /// A sum of products over indices. Equal letters are identified. A letter's permutation may depend on another letter
    /// only where every operand that has the one also has the other, and so has the output.
    fn contract(&mut self, operands: &[Operand], output: &[u32]) -> Axes {
        let mut sets: Vec<BTreeSet<u32>> = Vec::new();
        for operand in operands {
            let mut seen = BTreeSet::new();
            for (&axis, &letter) in operand.axes.iter().zip(&operand.letters) {
                if self.domain.extent(axis) != 1 && !seen.insert(letter) {
                    self.domain.pin(axis); // a diagonal: both axes are one index
                }
            }
            sets.push(seen);
        }
        sets.push(output.iter().copied().collect());
        // What would be lost is dropped before identifying, lest cases over different sums meet.
        for operand in operands {
            let letters: BTreeMap<u32, Atom> =
                operand.letters.iter().copied().zip(operand.axes.iter().copied()).collect();
            self.restrict_letters(&letters, &sets);
        }
        let mut atoms: BTreeMap<u32, Atom> = BTreeMap::new();
        let mut pairs = Vec::new();
        for operand in operands {
            for (&axis, &letter) in operand.axes.iter().zip(&operand.letters) {
                let known = atoms.entry(letter).or_insert(axis);
                if self.domain.extent(*known) == 1 {
                    *known = axis;
                } else if self.domain.extent(axis) != 1 {
                    pairs.push((*known, axis));
                }
            }
        }
        self.domain.unify_all(&pairs);
        self.restrict_letters(&atoms, &sets);
        self.domain.unify_all(&[]);
        output.iter().map(|letter| atoms.get(letter).copied().unwrap_or(UNIT)).collect()
    }

    /// A letter's atom may depend on the letters that are in every set that it is in itself.
    fn restrict_letters(&mut self, atoms: &BTreeMap<u32, Atom>, sets: &[BTreeSet<u32>]) {
        for (&letter, &atom) in atoms {
            let inside =
                |other: u32| sets.iter().filter(|set| set.contains(&letter)).all(|set| set.contains(&other));
            let of = |wanted: bool| -> Vec<Atom> {
                atoms.iter().filter(|&(&other, _)| inside(other) == wanted).map(|(_, &atom)| atom).collect()
            };
            let mut allowed = self.domain.atoms_of(&of(true));
            for other in self.domain.atoms_of(&of(false)) {
                allowed.remove(&other);
            }
            allowed.extend(self.domain.atoms_of(&[atom]));
            self.domain.restrict(atom, &allowed);
        }
    }

    pub(super) fn matmul(&mut self, op: &Op, a: &Axes) -> Axes {
        let b = self.input(op, 1).unwrap_or_default();
        // Batch axes are lettered from the right, from 10 up.
        let letters = |axes: &Axes, last: [u32; 2], alone: u32| -> Vec<u32> {
            if axes.len() == 1 {
                return vec![alone];
            }
            let batch = axes.len() - 2;
            let places = u32::try_from(batch).unwrap_or(0);
            (0..places).map(|index| 10 + places - 1 - index).chain(last).collect()
        };
        let (m, k, n) = (1, 2, 3);
        let left = Operand { axes: a.clone(), letters: letters(a, [m, k], k) };
        let right = Operand { axes: b.clone(), letters: letters(&b, [k, n], k) };
        let batch = a.len().max(b.len()).saturating_sub(2);
        let mut output: Vec<u32> =
            (0..u32::try_from(batch).unwrap_or(0)).rev().map(|index| 10 + index).collect();
        if a.len() > 1 {
            output.push(m);
        }
        if b.len() > 1 {
            output.push(n);
        }
        self.contract(&[left, right], &output)
    }

    pub(super) fn gemm(&mut self, op: &Op, a: &Axes) -> Option<Axes> {
        let b = self.input(op, 1)?;
        if a.len() != 2 || b.len() != 2 {
            return None;
        }
        let (m, k, n) = (1, 2, 3);
        let order = |name: &str, plain: [u32; 2]| {
            if op.int(name).unwrap_or(0) == 0 { plain.to_vec() } else { vec![plain[1], plain[0]] }
        };
        let left = Operand { axes: a.clone(), letters: order("transA", [m, k]) };
        let right = Operand { axes: b, letters: order("transB", [k, n]) };
        let out = self.contract(&[left, right], &[m, n]);
        if let Some(c) = self.input(op, 2) {
            self.unify_broadcast(&out, &c);
        }
        Some(out)
    }

    /// An addend that broadcasts.
    pub(super) fn unify_broadcast(&mut self, axes: &[Atom], other: &[Atom]) {
        let pairs: Vec<(Atom, Atom)> = axes
            .iter()
            .rev()
            .zip(other.iter().rev())
            .filter(|&(_, &other)| self.domain.extent(other) != 1)
            .map(|(&axis, &other)| (axis, other))
            .collect();
        self.domain.unify_all(&pairs);
    }

    pub(super) fn einsum(&mut self, inputs: &Inputs<'_>) -> Option<Axes> {
        let (terms, output) = einsum_terms(inputs)?;
        let mut operands = Vec::new();
        for (index, letters) in terms.into_iter().enumerate() {
            operands.push(Operand { axes: self.input(inputs.op, index)?, letters });
        }
        let mut unique = output.clone();
        unique.sort_unstable();
        unique.dedup();
        if unique.len() != output.len() {
            return None;
        }
        Some(self.contract(&operands, &output))
    }

    /// Whether a convolution looks at one position at a time, along each spatial axis.
    fn pointwise(inputs: &Inputs<'_>, kernel: &[usize], axis: usize) -> bool {
        let at = |name: &str, place: usize, default: i64| {
            inputs.op.ints(name).and_then(|values| values.get(place).copied()).unwrap_or(default)
        };
        let automatic = !matches!(inputs.op.text("auto_pad").unwrap_or("NOTSET"), "NOTSET" | "" | "VALID");
        kernel[axis] == 1
            && at("strides", axis, 1) == 1
            && at("pads", axis, 0) == 0
            && at("pads", axis + kernel.len(), 0) == 0
            && at("output_padding", axis, 0) == 0
            && inputs.op.ints("output_shape").is_none()
            && !automatic
    }

    /// The spatial axes: kept where a window has one position, else pinned and replaced. Returns the input's letters, the
    /// weight's, the output's, and atoms for the output's new axes.
    fn space(&mut self, inputs: &Inputs<'_>, x: &Axes, w: &Axes) -> Option<Space> {
        let kernel = inputs.shape(1)?.get(2..)?;
        let shape = inputs.graph.values[(*inputs.op.outputs.first()?)?].shape.clone()?;
        let mut space = Space::default();
        for axis in 0..kernel.len() {
            let letter = SPACE + 3 * u32::try_from(axis).ok()?;
            let (input, weight) = (x[axis + 2], w[axis + 2]);
            self.domain.pin(weight);
            space.input.push(letter);
            space.weight.push(letter + 1);
            if Self::pointwise(inputs, kernel, axis) {
                space.output.push((letter, None));
            } else {
                self.domain.pin(input);
                let extent = *shape.get(axis + 2)?;
                space.output.push((letter + 2, Some(self.pinned(extent))));
            }
        }
        Some(space)
    }

    pub(super) fn conv(&mut self, inputs: &Inputs<'_>, x: &Axes) -> Option<Axes> {
        let w = self.input(inputs.op, 1)?;
        let filters = self.domain.extent(w[0]);
        self.convolve(inputs, x, &w, filters, [OUT, IN])
    }

    /// As [`Self::conv`], the weight's first axis being the input's.
    pub(super) fn conv_transpose(&mut self, inputs: &Inputs<'_>, x: &Axes) -> Option<Axes> {
        let w = self.input(inputs.op, 1)?;
        let channels = self.domain.extent(x[1]);
        self.convolve(inputs, x, &w, channels, [IN, OUT])
    }

    /// The weight's first axis has `rows` positions, in groups; `letters` say what it stands for within a group, and what the
    /// second axis does.
    fn convolve(
        &mut self,
        inputs: &Inputs<'_>,
        x: &Axes,
        w: &Axes,
        rows: usize,
        letters: [u32; 2],
    ) -> Option<Axes> {
        let groups = groups(inputs.op);
        let channels = self.domain.extent(x[1]);
        let space = self.space(inputs, x, w)?;
        let (group, inner) = self.split_or_pin(x[1], channels / groups);
        let (weight_group, weight_inner) = self.split_or_pin(w[0], rows / groups);
        let left = Operand {
            axes: [&[x[0], group, inner], &x[2..]].concat(),
            letters: [&[BATCH, GROUP, IN], &space.input[..]].concat(),
        };
        let right = Operand {
            axes: [&[weight_group, weight_inner, w[1]], &w[2..]].concat(),
            letters: [&[GROUP, letters[0], letters[1]], &space.weight[..]].concat(),
        };
        self.finish(inputs, &[left, right], &space)
    }

    fn finish(&mut self, inputs: &Inputs<'_>, operands: &[Operand], space: &Space) -> Option<Axes> {
        let mut letters = vec![BATCH, GROUP, OUT];
        letters.extend(space.output.iter().map(|&(letter, _)| letter));
        let out = self.contract(operands, &letters);
        let channels = self.domain.product(&out[1..3]);
        let mut axes = vec![out[0], channels];
        for (&atom, &(_, new)) in out[3..].iter().zip(&space.output) {
            axes.push(new.unwrap_or(atom));
        }
        if let Some(bias) = self.input(inputs.op, 2) {
            self.domain.unify_all(&[(channels, *bias.first()?)]);
        }
        Some(axes)
    }

    /// Splits an axis; where its structure does not allow that, it is pinned.
    pub(super) fn split_or_pin(&mut self, atom: Atom, inner: usize) -> (Atom, Atom) {
        if let Some(parts) = self.domain.split(atom, inner) {
            return parts;
        }
        self.domain.pin(atom);
        let extent = self.domain.extent(atom);
        (self.pinned(extent.checked_div(inner).unwrap_or(0)), self.pinned(inner))
    }

    pub(super) fn pool(&mut self, op: &Op, x: &Axes) -> Axes {
        let space: Vec<usize> = (2..x.len()).collect();
        self.mix(x, &space);
        let shape = op.outputs.first().copied().flatten().and_then(|id| self.graph.values[id].shape.clone());
        let mut out = x[..2].to_vec();
        for axis in space {
            self.domain.pin(x[axis]);
            let extent = shape.as_ref().and_then(|shape| shape.get(axis).copied()).unwrap_or(0);
            out.push(self.pinned(extent));
        }
        out
    }

    pub(super) fn reduce(&mut self, x: &Axes, axes: &[usize], keep: bool) -> Axes {
        self.mix(x, axes);
        let mut out = Axes::new();
        for (index, &axis) in x.iter().enumerate() {
            match (axes.contains(&index), keep) {
                (false, _) => out.push(axis),
                (true, true) => out.push(UNIT),
                (true, false) => {}
            }
        }
        out
    }
}

/// Letters of the spatial axes, and new atoms for those that change.
#[derive(Default)]
struct Space {
    input: Vec<u32>,
    weight: Vec<u32>,
    output: Vec<(u32, Option<Atom>)>,
}
