//! Which units can be scaled: multiplied by a number above 0 on the way in, divided by it on the way out.
//!
//! For every axis of every value and every group on it, an exponent says how the value's positions scale when the group's units
//! are scaled by one: -1, 0 or 1. Each operator relates the exponents of what it reads and writes: a sum wants them equal, a
//! product adds them, a contraction wants them to cancel, ReLU and pooling pass them on. **An operator without a rule wants 0.**
//! What remains connected and is not 0 is a scale symmetry.

use std::collections::{BTreeMap, BTreeSet};

use rebasin::{FactorForm, ScaleForm, Spec};

use crate::{
    GraphError,
    domain::Atom,
    graph::{Op, Origin},
    infer::Inputs,
    rules::{Rules, groups, permutation, reduced_axes},
};

/// The scale symmetries of the groups by name, in the order of the parameters that they stand on.
pub(crate) fn scales(
    rules: &Rules<'_>,
    names: &BTreeMap<Atom, String>,
    spec: &Spec,
) -> Result<Vec<ScaleForm>, GraphError> {
    let mut exponents = Exponents::new(rules, names);
    for op in &rules.graph.ops {
        if !rules.is_constant(op) {
            exponents.operator(op)?;
        }
    }
    exponents.solve();
    rules.bounded()?;
    Ok(exponents.forms(names, spec))
}

/// Axis of a value, by index, and a group on it.
type Place = (usize, usize, Atom);

/// Unknown exponents, each known up to sign from the root of its class.
struct Exponents<'a> {
    rules: &'a Rules<'a>,
    /// For each value and axis: the groups there.
    on: Vec<Vec<Vec<Atom>>>,
    index: BTreeMap<Place, usize>,
    places: Vec<Place>,
    parent: Vec<usize>,
    /// Whether an exponent is minus its parent's.
    minus: Vec<bool>,
    /// Of a root: whether its class is 0.
    zero: Vec<bool>,
    /// Sums that must be 0: of exponents with their signs.
    sums: Vec<Vec<(usize, i8)>>,
}

impl<'a> Exponents<'a> {
    fn new(rules: &'a Rules<'a>, names: &BTreeMap<Atom, String>) -> Self {
        let domain = &rules.domain;
        // Wreath products are left alone.
        let outer: Vec<Atom> = names.keys().flat_map(|&atom| domain.within(atom)).collect();
        let alone = |atom: &Atom| {
            names.contains_key(atom)
                && domain.is_free(*atom)
                && domain.within(*atom).is_empty()
                && !outer.contains(atom)
        };
        let mut exponents = Self {
            rules,
            on: Vec::with_capacity(rules.axes.len()),
            index: BTreeMap::new(),
            places: Vec::new(),
            parent: Vec::new(),
            minus: Vec::new(),
            zero: Vec::new(),
            sums: Vec::new(),
        };
        for (id, axes) in rules.axes.iter().enumerate() {
            let axes = axes.iter().flatten();
            let on: Vec<Vec<Atom>> =
                axes.map(|&axis| domain.atoms_of(&[axis]).into_iter().filter(alone).collect()).collect();
            let value = &rules.graph.values[id];
            let constant = value.known.is_some()
                || value.sized
                || matches!(value.origin, Origin::Constant | Origin::Input);
            for (axis, groups) in on.iter().enumerate() {
                for &group in groups {
                    let next = exponents.places.len();
                    exponents.index.insert((id, axis, group), next);
                    exponents.places.push((id, axis, group));
                    exponents.parent.push(next);
                    exponents.minus.push(false);
                    exponents.zero.push(constant);
                }
            }
            exponents.on.push(on);
        }
        exponents
    }

    fn at(&self, id: usize, axis: usize, group: Atom) -> Option<usize> {
        self.index.get(&(id, axis, group)).copied()
    }

    fn root(&self, mut exponent: usize) -> (usize, bool) {
        let mut minus = false;
        while self.parent[exponent] != exponent {
            minus ^= self.minus[exponent];
            exponent = self.parent[exponent];
        }
        (exponent, minus)
    }

    fn set_zero(&mut self, exponent: usize) {
        let (root, _) = self.root(exponent);
        self.zero[root] = true;
    }

    /// Two exponents are equal, or (`minus`) cancel.
    fn relate(&mut self, a: usize, b: usize, minus: bool) {
        let ((a, a_minus), (b, b_minus)) = (self.root(a), self.root(b));
        let minus = minus ^ a_minus ^ b_minus;
        if a == b {
            // Its own opposite is 0.
            self.zero[a] |= minus;
            return;
        }
        self.parent[b] = a;
        self.minus[b] = minus;
        self.zero[a] |= self.zero[b];
    }

    /// A sum of exponents is 0.
    fn cancel(&mut self, sum: Vec<(usize, i8)>) {
        match sum[..] {
            [] => {}
            [(one, _)] => self.set_zero(one),
            [(a, a_sign), (b, b_sign)] => self.relate(a, b, a_sign == b_sign),
            _ => self.sums.push(sum),
        }
    }

    fn values(op: &Op) -> impl Iterator<Item = usize> {
        op.inputs.iter().chain(&op.outputs).flatten().copied()
    }

    /// The groups that an operator meets.
    fn met(&self, op: &Op) -> Vec<Atom> {
        let mut met: Vec<Atom> =
            Self::values(op).flat_map(|id| self.on[id].iter().flatten().copied()).collect();
        met.sort_unstable();
        met.dedup();
        met
    }

    /// Axes of a value on which a group stands.
    fn axes(&self, id: usize, group: Atom) -> Vec<usize> {
        (0..self.on[id].len()).filter(|&axis| self.on[id][axis].contains(&group)).collect()
    }

    fn rank(&self, id: usize) -> usize {
        self.on[id].len()
    }

    fn all_zero(&mut self, id: usize, group: Atom) {
        for axis in self.axes(id, group) {
            if let Some(exponent) = self.at(id, axis, group) {
                self.set_zero(exponent);
            }
        }
    }

    /// No rule.
    fn opaque(&mut self, op: &Op, group: Atom) {
        for id in Self::values(op) {
            self.all_zero(id, group);
        }
    }

    fn operator(&mut self, op: &Op) -> Result<(), GraphError> {
        let met = self.met(op);
        if met.is_empty() {
            return Ok(());
        }
        let inputs = Inputs { op, graph: self.rules.graph };
        let (Some(Some(x)), Some(Some(out))) = (op.inputs.first().copied(), op.outputs.first().copied())
        else {
            for group in met {
                self.opaque(op, group);
            }
            return Ok(());
        };
        for group in met {
            let known = op.domain.is_empty() && op.captures.is_empty();
            match op.op.as_str() {
                _ if !known => self.opaque(op, group),
                "Relu" | "LeakyRelu" | "PRelu" | "Abs" | "Neg" | "Identity" | "Dropout" | "MaxPool"
                | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool" => self.passed(op, x, out, group),
                "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Expand" | "Slice" | "Split" | "Concat" => {
                    self.picked(op, group);
                }
                "Gather" => self.picked(op, group),
                "Transpose" => {
                    let order = permutation(&inputs, self.rank(x))?;
                    let pairs =
                        order.into_iter().enumerate().map(|(to, from)| (from, to)).collect::<Vec<_>>();
                    self.mapped(x, out, &pairs, group);
                }
                "ReduceMean" | "ReduceSum" | "ReduceMax" => self.reduced(&inputs, x, out, group)?,
                "Add" | "Sub" | "Sum" => self.added(op, out, group),
                "Mul" => self.multiplied(op, out, group, 1),
                "Div" => self.multiplied(op, out, group, -1),
                "Gemm" => self.gemm(op, out, group),
                "MatMul" => self.matmul(op, out, group),
                "Conv" => self.conv(op, [0, 1], out, group),
                "ConvTranspose" => self.conv(op, [1, 0], out, group),
                "BatchNormalization"
                | "InstanceNormalization"
                | "LayerNormalization"
                | "RMSNormalization" => {
                    self.normalised(op, out, group);
                }
                _ => self.opaque(op, group),
            }
        }
        Ok(())
    }

    /// The same axes; all else that is read must not scale.
    fn passed(&mut self, op: &Op, x: usize, out: usize, group: Atom) {
        let same: Vec<(usize, usize)> = (0..self.rank(x)).map(|axis| (axis, axis)).collect();
        self.mapped(x, out, &same, group);
        let others = op.inputs[1..].iter().chain(&op.outputs[1..]).flatten().copied();
        for other in others.collect::<Vec<_>>() {
            self.all_zero(other, group);
        }
    }

    /// Pairs of axes that are one; what stands on no pair, or on one side of one only, must not scale.
    fn mapped(&mut self, x: usize, out: usize, pairs: &[(usize, usize)], group: Atom) {
        for axis in self.axes(x, group) {
            let to = pairs.iter().find(|(from, _)| *from == axis).map(|&(_, to)| to);
            match (self.at(x, axis, group), to.and_then(|to| self.at(out, to, group))) {
                (Some(from), Some(to)) => self.relate(from, to, false),
                (Some(from), None) => self.set_zero(from),
                (None, _) => {}
            }
        }
        for axis in self.axes(out, group) {
            let from = pairs.iter().find(|(_, to)| *to == axis).map(|&(from, _)| from);
            if from.and_then(|from| self.at(x, from, group)).is_none()
                && let Some(to) = self.at(out, axis, group)
            {
                self.set_zero(to);
            }
        }
    }

    /// Positions are taken from the inputs as they are. Known only where the group stands on one axis of each value.
    fn picked(&mut self, op: &Op, group: Atom) {
        let data = if op.op == "Concat" { op.inputs.len() } else { 1 };
        let sources = op.inputs[..data].iter().flatten().copied();
        let others: Vec<usize> = op.inputs[data..].iter().flatten().copied().collect();
        let mut found = Vec::new();
        let mut read = false;
        let mut single = true;
        for (id, source) in
            sources.map(|id| (id, true)).chain(op.outputs.iter().flatten().map(|&id| (id, false)))
        {
            let axes = self.axes(id, group);
            single &= axes.len() <= 1;
            read |= source && !axes.is_empty();
            found.extend(axes.first().and_then(|&axis| self.at(id, axis, group)));
        }
        if !single || !read {
            return self.opaque(op, group);
        }
        for pair in found.windows(2) {
            self.relate(pair[0], pair[1], false);
        }
        for other in others {
            self.all_zero(other, group);
        }
    }

    fn reduced(&mut self, inputs: &Inputs<'_>, x: usize, out: usize, group: Atom) -> Result<(), GraphError> {
        let rank = self.rank(x);
        let Some(reduced) = reduced_axes(inputs, rank)? else {
            self.opaque(inputs.op, group);
            return Ok(());
        };
        let keep = inputs.op.int("keepdims") != Some(0);
        let mut pairs = Vec::new();
        let mut to = 0;
        for axis in 0..rank {
            if !reduced.contains(&axis) {
                pairs.push((axis, to));
                to += 1;
            } else if keep {
                to += 1;
            }
        }
        self.mapped(x, out, &pairs, group);
        Ok(())
    }

    /// An operand's exponent on an axis of the output, axes being aligned from the right.
    fn aligned(&self, id: usize, out: usize, axis: usize, group: Atom) -> Option<usize> {
        let from_right = self.rank(out) - axis;
        self.at(id, self.rank(id).checked_sub(from_right)?, group)
    }

    fn added(&mut self, op: &Op, out: usize, group: Atom) {
        let operands: Vec<usize> = op.inputs.iter().flatten().copied().collect();
        self.equal(&operands, out, group);
    }

    /// Every operand scales as the output does.
    fn equal(&mut self, operands: &[usize], out: usize, group: Atom) {
        for axis in self.axes(out, group) {
            let Some(to) = self.at(out, axis, group) else { continue };
            for &id in operands {
                match self.aligned(id, out, axis, group) {
                    Some(from) => self.relate(from, to, false),
                    None => self.set_zero(to),
                }
            }
        }
        self.no_stray(operands, out, group);
    }

    /// What an operand has on an axis that the output does not have it on must not scale.
    fn no_stray(&mut self, operands: &[usize], out: usize, group: Atom) {
        for &id in operands {
            for axis in self.axes(id, group) {
                let to = (self.rank(out) + axis).checked_sub(self.rank(id));
                if to.and_then(|to| self.at(out, to, group)).is_none()
                    && let Some(from) = self.at(id, axis, group)
                {
                    self.set_zero(from);
                }
            }
        }
    }

    fn multiplied(&mut self, op: &Op, out: usize, group: Atom, second: i8) {
        let operands: Vec<usize> = op.inputs.iter().flatten().copied().collect();
        for axis in self.axes(out, group) {
            let Some(to) = self.at(out, axis, group) else { continue };
            let mut sum = vec![(to, -1)];
            for (place, &id) in operands.iter().enumerate() {
                let sign = if place == 0 { 1 } else { second };
                sum.extend(self.aligned(id, out, axis, group).map(|from| (from, sign)));
            }
            self.cancel(sum);
        }
        self.no_stray(&operands, out, group);
    }

    /// A sum of products: exponents of one index add up to the output's, or cancel where the index is summed over.
    fn contracted(&mut self, operands: &[(usize, Vec<u32>)], out: usize, letters: &[u32], group: Atom) {
        let mut all: Vec<u32> =
            operands.iter().flat_map(|(_, letters)| letters).chain(letters).copied().collect();
        all.sort_unstable();
        all.dedup();
        for letter in all {
            let mut sum: Vec<(usize, i8)> = Vec::new();
            for (id, own) in operands {
                let axes = (0..own.len()).filter(|&axis| own[axis] == letter);
                sum.extend(axes.filter_map(|axis| Some((self.at(*id, axis, group)?, 1))));
            }
            let axes = (0..letters.len()).filter(|&axis| letters[axis] == letter);
            sum.extend(axes.filter_map(|axis| Some((self.at(out, axis, group)?, -1))));
            self.cancel(sum);
        }
    }

    fn gemm(&mut self, op: &Op, out: usize, group: Atom) {
        let (Some(Some(a)), Some(Some(b))) = (op.inputs.first(), op.inputs.get(1)) else {
            return self.opaque(op, group);
        };
        let order = |name: &str, plain: [u32; 2]| {
            if op.int(name).unwrap_or(0) == 0 { plain.to_vec() } else { vec![plain[1], plain[0]] }
        };
        let operands = [(*a, order("transA", [1, 2])), (*b, order("transB", [2, 3]))];
        self.contracted(&operands, out, &[1, 3], group);
        if let Some(&Some(c)) = op.inputs.get(2) {
            self.equal(&[c], out, group);
        }
    }

    fn matmul(&mut self, op: &Op, out: usize, group: Atom) {
        let (Some(&Some(a)), Some(&Some(b))) = (op.inputs.first(), op.inputs.get(1)) else {
            return self.opaque(op, group);
        };
        if self.rank(a) < 2 || self.rank(b) < 2 {
            return self.opaque(op, group);
        }
        let letters = |rank: usize, last: [u32; 2]| -> Vec<u32> {
            (0..u32::try_from(rank - 2).unwrap_or(0)).rev().map(|place| 10 + place).chain(last).collect()
        };
        let operands = [(a, letters(self.rank(a), [1, 2])), (b, letters(self.rank(b), [2, 3]))];
        self.contracted(&operands, out, &letters(self.rank(out), [1, 3]), group);
    }

    /// The weight's axes: of the output's channels, and of the input's.
    fn conv(&mut self, op: &Op, [of_out, of_in]: [usize; 2], out: usize, group: Atom) {
        let (Some(&Some(x)), Some(&Some(w))) = (op.inputs.first(), op.inputs.get(1)) else {
            return self.opaque(op, group);
        };
        let extent = |id: usize, axis: usize| {
            self.rules.graph.values[id].shape.as_ref().and_then(|shape| shape.get(axis).copied()).unwrap_or(0)
        };
        let count = groups(op);
        let letters = |rank: usize, first: u32| -> Vec<u32> {
            // Each spatial axis is an index of its own: what stands there must not scale.
            (0..u32::try_from(rank).unwrap_or(0)).map(|axis| first + axis).collect()
        };
        let mut x_letters = letters(self.rank(x), 100);
        let mut w_letters = letters(self.rank(w), 200);
        let mut out_letters = letters(self.rank(out), 300);
        if count == 1 {
            (x_letters[1], w_letters[of_in]) = (1, 1);
            (w_letters[of_out], out_letters[1]) = (2, 2);
        } else if count == extent(x, 1) && count == extent(out, 1) {
            (x_letters[1], w_letters[0], out_letters[1]) = (1, 1, 1);
        }
        self.contracted(&[(x, x_letters), (w, w_letters)], out, &out_letters, group);
        if let Some(&Some(bias)) = op.inputs.get(2) {
            let (to, from) = (self.at(out, 1, group), self.at(bias, 0, group));
            self.cancel(to.map(|to| (to, 1)).into_iter().chain(from.map(|from| (from, -1))).collect());
        }
    }

    /// What comes in, and statistics, must not scale; the output scales as gain and offset do.
    fn normalised(&mut self, op: &Op, out: usize, group: Atom) {
        let still = op.inputs[..1].iter().chain(op.inputs.iter().skip(3)).chain(op.outputs.iter().skip(1));
        for id in still.flatten().copied().collect::<Vec<_>>() {
            self.all_zero(id, group);
        }
        let per_channel = !matches!(op.op.as_str(), "LayerNormalization" | "RMSNormalization");
        let affine: Vec<usize> = op.inputs.iter().skip(1).take(2).flatten().copied().collect();
        for axis in self.axes(out, group) {
            let Some(to) = self.at(out, axis, group) else { continue };
            for &id in &affine {
                let from = match per_channel {
                    true if axis == 1 => self.at(id, 0, group),
                    true => None,
                    false => self.aligned(id, out, axis, group),
                };
                match from {
                    Some(from) => self.relate(from, to, false),
                    None => self.set_zero(to),
                }
            }
            if affine.is_empty() {
                self.set_zero(to);
            }
        }
        if !per_channel {
            self.no_stray(&affine, out, group);
        }
    }

    /// Works off sums of three and more: what is 0 falls out; where that leaves a choice, parameters stand still, then all do.
    fn solve(&mut self) {
        let mut sums = std::mem::take(&mut self.sums);
        loop {
            let before = sums.len();
            let mut left = Vec::new();
            for sum in sums {
                let mut terms: BTreeMap<usize, i8> = BTreeMap::new();
                for &(exponent, sign) in &sum {
                    let (root, minus) = self.root(exponent);
                    if !self.zero[root] {
                        *terms.entry(root).or_default() += if minus { -sign } else { sign };
                    }
                }
                terms.retain(|_, sign| *sign != 0);
                let terms: Vec<(usize, i8)> = terms.into_iter().collect();
                match terms[..] {
                    [] => {}
                    [(one, _)] => self.set_zero(one),
                    [(a, 1 | -1), (b, 1 | -1)] => self.relate(a, b, terms[0].1 == terms[1].1),
                    _ => left.push(sum),
                }
            }
            sums = left;
            if sums.is_empty() {
                return;
            }
            if sums.len() == before {
                // A choice: the first sum's first parameter stands still, or, without one, all of it does.
                let first = sums[0].clone();
                let live = |exponents: &Self, exponent: usize| !exponents.zero[exponents.root(exponent).0];
                let parameter = first.iter().map(|&(exponent, _)| exponent).find(|&exponent| {
                    let origin = &self.rules.graph.values[self.places[exponent].0].origin;
                    matches!(origin, Origin::Parameter(_)) && live(self, exponent)
                });
                match parameter {
                    Some(parameter) => self.set_zero(parameter),
                    None => first.iter().for_each(|&(exponent, _)| self.set_zero(exponent)),
                }
            }
        }
    }

    fn forms(&self, names: &BTreeMap<Atom, String>, spec: &Spec) -> Vec<ScaleForm> {
        // For each class: the parameters' axes, and their signs.
        let mut classes: BTreeMap<usize, Vec<(String, usize, bool)>> = BTreeMap::new();
        let mut order = Vec::new();
        for (exponent, &(id, axis, _)) in self.places.iter().enumerate() {
            let Origin::Parameter(name) = &self.rules.graph.values[id].origin else { continue };
            let (root, minus) = self.root(exponent);
            if !self.zero[root] {
                let class = classes.entry(root).or_default();
                if class.is_empty() {
                    order.push(root);
                }
                class.push((name.clone(), axis, minus));
            }
        }
        let mut forms = Vec::new();
        let mut scaled: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        for root in order {
            let class = &classes[&root];
            let group = &names[&self.places[root].2];
            let mut form = ScaleForm { group: group.clone(), up: BTreeMap::new(), down: BTreeMap::new() };
            let mut expressible = true;
            for (name, axis, minus) in class {
                let side = if *minus == class[0].2 { &mut form.up } else { &mut form.down };
                expressible &= side.insert(name.clone(), *axis).is_none() && stands(spec, name, *axis, group);
            }
            // A spec has a word for scales on two axes of a tensor, no more.
            let places = || form.up.iter().chain(&form.down);
            for (name, &axis) in places() {
                let axes = scaled.get(name);
                expressible &= axes.is_none_or(|axes| axes.len() < 2 || axes.contains(&axis));
            }
            if expressible && !form.up.is_empty() && !form.down.is_empty() {
                for (name, &axis) in places() {
                    scaled.entry(name.clone()).or_default().insert(axis);
                }
                forms.push(form);
            }
        }
        forms
    }
}

/// Whether the spec says that a group stands on an axis.
fn stands(spec: &Spec, tensor: &str, axis: usize, group: &str) -> bool {
    let form = spec.tensors().get(tensor).and_then(|axes| axes.get(axis)?.as_ref());
    form.is_some_and(|form| {
        let wanted = FactorForm::Group(group.to_owned());
        form.segments().iter().flatten().any(|factor| *factor == wanted)
    })
}
