//! Operators that move positions about: reshapes, transposes, slices, concatenations.

use super::{Axes, Rules, options::Slice, pads, permutation, slices};
use crate::{
    GraphError,
    domain::{Atom, UNIT},
    graph::{Op, Parts},
    infer::Inputs,
};

/// Most parts of a stack that each keep permutations of their own.
const MAX_STACK: usize = 64;

impl Rules<'_> {
    pub(super) fn layout(&mut self, inputs: &Inputs<'_>, x: &Axes) -> Result<Option<Vec<Axes>>, GraphError> {
        let op = inputs.op;
        let shapes: Vec<Option<Vec<usize>>> =
            op.outputs.iter().map(|id| id.and_then(|id| self.graph.values[id].shape.clone())).collect();
        let Some(Some(shape)) = shapes.first().cloned() else { return Ok(None) };
        let one = |axes: Axes| Some(vec![axes]);
        Ok(match op.op.as_str() {
            "Transpose" => {
                let order = permutation(inputs, x.len())?;
                one(order.into_iter().map(|axis| x[axis]).collect())
            }
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => self.regroup(x, &shape).and_then(one),
            "Expand" => one(self.expand(inputs, x, &shape)),
            "Tile" => {
                let mut out = Axes::new();
                for (&axis, &size) in x.iter().zip(&shape) {
                    let repeats = size.checked_div(self.domain.extent(axis)).unwrap_or(1);
                    let known = inputs.ints(1).is_some();
                    let repeat = if known { self.neutral(repeats, &[]) } else { self.pinned(repeats) };
                    out.push(self.domain.product(&[repeat, axis]));
                }
                one(out)
            }
            "Concat" => {
                let axis = inputs.axis(op.int("axis").unwrap_or(0), x.len())?;
                one(self.concat(inputs, axis))
            }
            "Split" => {
                let axis = inputs.axis(op.int("axis").unwrap_or(0), x.len())?;
                let lengths: Option<Vec<usize>> =
                    shapes.iter().map(|shape| Some(shape.as_ref()?[axis])).collect();
                let Some(lengths) = lengths else { return Ok(None) };
                let mut out = Vec::new();
                let mut start = 0;
                for length in lengths {
                    out.push(
                        if inputs.is_open(0, axis) || inputs.value(1).is_some_and(|value| value.sized) {
                            self.taken(x, axis, length)
                        } else {
                            self.narrow(x, axis, start, length)
                        },
                    );
                    start += length;
                }
                Some(out)
            }
            "Slice" => {
                let whole = inputs.shape(0).map(<[usize]>::to_vec).unwrap_or_default();
                match slices(inputs, &whole)? {
                    Some(slices) => one(self.slice(inputs, x, &slices, &shape)),
                    None => self.slice_by_size(inputs, x, &shape)?.and_then(one),
                }
            }
            "GatherND" => one(self.gather_nd(inputs, x)),
            "ScatterND" => self.scatter_nd(inputs, x).and_then(one),
            "Gather" => self.gather(inputs, x)?.and_then(one),
            "Pad" => self.pad(inputs, x, &shape)?.and_then(one),
            "Resize" | "Upsample" => self.resize(inputs, x, &shape).and_then(one),
            "DepthToSpace" | "SpaceToDepth" => self.blocks(op, x).and_then(one),
            _ => None,
        })
    }

    /// The same elements in the same order, other axes: factors are regrouped, and split where a new axis ends inside one.
    fn regroup(&mut self, x: &Axes, shape: &[usize]) -> Option<Axes> {
        if shape.contains(&0) {
            return None;
        }
        let mut out = Axes::new();
        let (mut from, mut to) = (0, 0);
        while to < shape.len() {
            if shape[to] == 1 {
                out.push(UNIT);
                to += 1;
                continue;
            }
            // The shortest runs of old and new axes with as many positions.
            let (mut first, mut last) = (from, to);
            let (mut old, mut new) = (1, 1);
            while old != new || old == 1 {
                if old <= new {
                    old *= self.domain.extent(*x.get(first)?);
                    first += 1;
                } else {
                    new *= *shape.get(last)?;
                    last += 1;
                }
                if old == 1 && new == 1 && first == x.len() {
                    return None;
                }
            }
            let run = &x[from..first];
            out.extend(self.regroup_run(run, &shape[to..last]));
            (from, to) = (first, last);
        }
        Some(out)
    }

    fn regroup_run(&mut self, old: &[Atom], new: &[usize]) -> Axes {
        let mut rest = self.domain.product(old);
        let mut out = Axes::new();
        for &length in new[1..].iter().rev() {
            match self.domain.split(rest, length) {
                Some((outer, inner)) => {
                    out.push(inner);
                    rest = outer;
                }
                None => {
                    for &axis in old {
                        self.domain.pin(axis);
                    }
                    return new.iter().map(|&length| self.pinned(length)).collect();
                }
            }
        }
        out.push(rest);
        out.reverse();
        out
    }

    /// What is repeated is the same everywhere, so its new axis may be permuted as one likes.
    fn expand(&mut self, inputs: &Inputs<'_>, x: &Axes, shape: &[usize]) -> Axes {
        let skip = shape.len() - x.len().min(shape.len());
        let old = |rules: &Self, axis: usize| {
            axis.checked_sub(skip).map(|place| x[place]).filter(|&atom| rules.domain.extent(atom) != 1)
        };
        let mut out: Axes = (0..shape.len()).map(|axis| old(self, axis).unwrap_or(UNIT)).collect();
        let open = |axis: usize| inputs.output(0).is_some_and(|value| value.is_open(axis));
        let kept = (0..shape.len()).filter(|&axis| out[axis] != UNIT && !open(axis));
        let kept: Vec<Atom> = kept.map(|axis| out[axis]).collect();
        for (axis, &size) in shape.iter().enumerate() {
            if out[axis] == UNIT {
                out[axis] = if open(axis) { self.pinned(size) } else { self.neutral(size, &kept) };
            }
        }
        out
    }

    fn concat(&mut self, inputs: &Inputs<'_>, axis: usize) -> Axes {
        let op = inputs.op;
        let operands: Vec<Axes> = (0..op.inputs.len()).filter_map(|index| self.input(op, index)).collect();
        let operands: Vec<Axes> =
            operands.into_iter().filter(|axes| self.domain.extent(axes[axis]) > 0).collect();
        let Some(first) = operands.first().cloned() else { return Axes::new() };
        let stack = operands.iter().all(|axes| self.domain.extent(axes[axis]) == 1);
        if stack && operands.len() > 1 && operands.len() <= MAX_STACK {
            return self.stack(&operands, axis);
        }
        let mut pairs = Vec::new();
        for other in &operands[1..] {
            pairs.extend((0..first.len()).filter(|&at| at != axis).map(|at| (first[at], other[at])));
        }
        self.domain.unify_all(&pairs);
        if let Some(value) = inputs.output(0).filter(|value| value.is_open(axis)) {
            // Where one part ends and the next begins is not for the spec to say.
            for part in &operands {
                self.domain.pin(part[axis]);
                self.mix(part, &[axis]);
            }
            let mut out = first;
            out[axis] = self.pinned(value.shape.as_ref().map_or(0, |shape| shape[axis]));
            return out;
        }
        let parts: Vec<Atom> = operands.iter().map(|axes| axes[axis]).collect();
        let mut out = first;
        out[axis] = self.domain.sum(&parts);
        out
    }

    /// Parts that are 1 long each: the other axes may differ from part to part.
    fn stack(&mut self, operands: &[Axes], axis: usize) -> Axes {
        let over = self.pinned(operands.len());
        self.domain.cut(over, &(1..operands.len()).collect::<Vec<_>>());
        let mut out = operands[0].clone();
        for (at, place) in out.iter_mut().enumerate() {
            let members: Vec<Atom> = operands.iter().map(|axes| axes[at]).collect();
            *place = if at == axis { over } else { self.domain.cases(over, &members) };
        }
        out
    }

    /// A stretch of one axis.
    fn narrow(&mut self, x: &Axes, axis: usize, start: usize, length: usize) -> Axes {
        let atom = x[axis];
        let extent = self.domain.extent(atom);
        if start == 0 && length == extent {
            return x.clone();
        }
        let mut out = x.clone();
        let inside = self.domain.atoms_of(&[atom]);
        let plain = length == 0 || self.domain.is_pinned(atom);
        let others: Vec<Atom> = (0..x.len()).filter(|&at| at != axis).map(|at| x[at]).collect();
        if plain && (self.domain.coarse || !self.depends(&others, &inside)) {
            out[axis] = self.pinned(length);
            return out;
        }
        let major =
            self.domain.factors(atom).first().copied().filter(|&major| self.domain.extent(major) < extent);
        self.domain.cut(atom, &[start, start + length]);
        out[axis] = self.domain.piece(atom, start, length);
        for at in (0..x.len()).filter(|&at| at != axis) {
            out[at] = self.domain.select(out[at], atom, start, length);
            if let Some(major) = major {
                let inner = extent / self.domain.extent(major);
                if start.is_multiple_of(inner) && length.is_multiple_of(inner) {
                    out[at] = self.domain.select(out[at], major, start / inner, length / inner);
                }
            }
        }
        out
    }

    /// Whether something in these axes depends on one of the atoms.
    fn depends(&self, axes: &[Atom], on: &std::collections::BTreeSet<Atom>) -> bool {
        self.domain.atoms_of(axes).iter().any(|&atom| {
            self.domain.within(atom).iter().any(|outer| on.contains(outer))
                || self.domain.is_case_over(atom, on)
        })
    }

    /// A part of a sequence that was split off a value.
    pub(super) fn sequence_at(&mut self, inputs: &Inputs<'_>, parts: &Parts) -> Option<Vec<Axes>> {
        if inputs.op.op != "SequenceAt" {
            return None;
        }
        let (start, length) = parts.stretch(*inputs.ints(1)?.first()?)?;
        let whole = self.axes[parts.of].clone()?;
        let mut out = self.narrow(&whole, parts.axis, start, length);
        if !parts.keep {
            out.remove(parts.axis);
        }
        Some(vec![out])
    }

    /// Positions along the first axes are looked up; the others pass.
    fn gather_nd(&mut self, inputs: &Inputs<'_>, x: &Axes) -> Axes {
        let indices = self.input(inputs.op, 1).unwrap_or_default();
        let Some((&last, outer)) = indices.split_last() else { return Axes::new() };
        let depth = self.domain.extent(last).min(x.len());
        self.domain.pin(last);
        self.mix(&indices, &[indices.len() - 1]);
        let looked: Vec<usize> = (0..depth).collect();
        for &axis in &looked {
            self.domain.pin(x[axis]);
        }
        self.mix(x, &looked);
        [outer, &x[depth..]].concat()
    }

    /// One stretch of the first axis replaced: a concatenation. Any other form has no rule.
    fn scatter_nd(&mut self, inputs: &Inputs<'_>, x: &Axes) -> Option<Axes> {
        let (places, shape) = (inputs.ints(1)?, inputs.shape(1)?);
        let updates = self.input(inputs.op, 2)?;
        let first = usize::try_from(*places.first()?).ok()?;
        let run = places.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let plain = matches!(inputs.op.text("reduction").unwrap_or("none"), "none" | "");
        if inputs.is_open(0, 0)
            || !run
            || !plain
            || shape.len() != 2
            || shape[1] != 1
            || updates.len() != x.len()
        {
            return None;
        }
        let (length, end) = (self.domain.extent(x[0]), first + places.len());
        if end > length {
            return None;
        }
        self.mix(x, &[0]);
        self.mix(&updates, &[0]);
        let before = self.narrow(x, 0, 0, first);
        let after = self.narrow(x, 0, end, length - end);
        let pairs: Vec<(Atom, Atom)> = x[1..].iter().copied().zip(updates[1..].iter().copied()).collect();
        self.domain.unify_all(&pairs);
        let mut out = x.clone();
        out[0] = self.domain.sum(&[before[0], updates[0], after[0]]);
        Some(out)
    }

    /// So many positions of an axis, of which it is not known which: they stand still.
    fn taken(&mut self, x: &Axes, axis: usize, length: usize) -> Axes {
        self.domain.pin(x[axis]);
        self.mix(x, &[axis]);
        let mut out = x.clone();
        out[axis] = self.pinned(length);
        out
    }

    /// A slice from or to places that were computed from sizes: of these axes all that is known is how much is taken.
    fn slice_by_size(
        &mut self,
        inputs: &Inputs<'_>,
        x: &Axes,
        shape: &[usize],
    ) -> Result<Option<Axes>, GraphError> {
        let named = inputs.op.ints("axes").map(<[i64]>::to_vec).or_else(|| inputs.ints(3));
        let count = inputs.shape(1).and_then(|shape| shape.first().copied()).unwrap_or(0);
        let axes = match named {
            Some(axes) => {
                axes.iter().map(|&axis| inputs.axis(axis, x.len())).collect::<Result<Vec<_>, _>>()?
            }
            None if inputs.has(3) => return Ok(None),
            None => (0..count.min(x.len())).collect(),
        };
        let step = inputs.ints(4).is_some_and(|steps| steps.iter().all(|&step| step == 1));
        let step = step || !inputs.has(4);
        let starts = inputs.op.ints("starts").map(<[i64]>::to_vec).or_else(|| inputs.ints(1));
        let open = |axis: usize| inputs.output(0).is_none_or(|value| value.is_open(axis));
        let mut out = x.clone();
        for (index, axis) in axes.into_iter().enumerate() {
            let (length, taken) = (self.domain.extent(out[axis]), shape[axis]);
            // As long as it was, whatever the size: all of it.
            if step && taken == length {
                continue;
            }
            // From a place that is known, and as much for every size.
            let start = starts.as_ref().and_then(|starts| starts.get(index).copied());
            let start = start.and_then(|start| {
                let signed = i64::try_from(length).ok()?;
                usize::try_from(if start < 0 { start.checked_add(signed)? } else { start }).ok()
            });
            let fixed = step && !inputs.is_open(0, axis) && !open(axis);
            out = match start {
                Some(start) if fixed && start.checked_add(taken).is_some_and(|end| end <= length) => {
                    self.narrow(&out, axis, start, taken)
                }
                _ => self.taken(&out, axis, taken),
            };
        }
        Ok(Some(out))
    }

    fn slice(&mut self, inputs: &Inputs<'_>, x: &Axes, slices: &[Slice], shape: &[usize]) -> Axes {
        let mut out = x.clone();
        for (axis, slice) in slices.iter().enumerate() {
            let whole = slice.start == 0 && slice.step == 1 && slice.length == self.domain.extent(x[axis]);
            if whole {
                continue;
            }
            if inputs.is_open(0, axis) {
                out = self.taken(&out, axis, shape[axis]);
            } else if slice.step == 1 || slice.length == 1 {
                out = self.narrow(&out, axis, slice.start, slice.length);
            } else {
                self.domain.pin(out[axis]);
                self.mix(&out, &[axis]);
                out[axis] = self.pinned(slice.length);
            }
        }
        out
    }

    fn gather(&mut self, inputs: &Inputs<'_>, x: &Axes) -> Result<Option<Axes>, GraphError> {
        let axis = inputs.axis(inputs.op.int("axis").unwrap_or(0), x.len())?;
        let Some(indices) = self.input(inputs.op, 1) else { return Ok(None) };
        let length = i64::try_from(self.domain.extent(x[axis])).unwrap_or(0);
        let places: Option<Vec<usize>> = inputs.ints(1).and_then(|places| {
            let wrap = |place: i64| usize::try_from(if place < 0 { place + length } else { place }).ok();
            places.into_iter().map(wrap).collect()
        });
        let run = places
            .as_deref()
            .filter(|_| !inputs.is_open(0, axis))
            .filter(|places| !places.is_empty() && places.windows(2).all(|pair| pair[1] == pair[0] + 1));
        if let Some(run) = run {
            if run[run.len() - 1] >= self.domain.extent(x[axis]) {
                return inputs.wrong("an index beyond its axis");
            }
            let mut out = self.narrow(x, axis, run[0], run.len());
            let stretch = out.remove(axis);
            let shape = inputs.shape(1).unwrap_or_default();
            let Some(new) = self.regroup(&vec![stretch], shape) else { return Ok(None) };
            out.splice(axis..axis, new);
            return Ok(Some(out));
        }
        self.domain.pin(x[axis]);
        self.mix(x, &[axis]);
        Ok(Some([&x[..axis], &indices, &x[axis + 1..]].concat()))
    }

    fn pad(&mut self, inputs: &Inputs<'_>, x: &Axes, shape: &[usize]) -> Result<Option<Axes>, GraphError> {
        let Some(pads) = pads(inputs, x.len())? else { return Ok(None) };
        let constant = inputs.op.text("mode").unwrap_or("constant") == "constant";
        let mut out = x.clone();
        for (axis, &(before, after)) in pads.iter().enumerate() {
            if before == 0 && after == 0 {
                continue;
            }
            self.mix(x, &[axis]);
            let fixed = constant && !inputs.is_open(0, axis);
            match (usize::try_from(before), usize::try_from(after)) {
                (Ok(before), Ok(after)) if fixed && !self.domain.is_pinned(x[axis]) => {
                    let (before, after) = (self.neutral(before, &[]), self.neutral(after, &[]));
                    out[axis] = self.domain.sum(&[before, x[axis], after]);
                }
                _ => {
                    self.domain.pin(x[axis]);
                    out[axis] = self.pinned(shape[axis]);
                }
            }
        }
        Ok(Some(out))
    }

    fn resize(&mut self, inputs: &Inputs<'_>, x: &Axes, shape: &[usize]) -> Option<Axes> {
        if inputs.op.text("coordinate_transformation_mode") == Some("tf_crop_and_resize")
            || inputs.op.attributes.contains_key("axes")
        {
            return None;
        }
        let index = if inputs.op.op == "Resize" && self.graph.opset > 10 { 2 } else { 1 };
        let scales = inputs.value(index).and_then(|value| value.known.as_ref()?.floats());
        let mut out = x.clone();
        for (axis, &size) in shape.iter().enumerate() {
            let scale = scales.and_then(|scales| scales.get(axis).copied()).unwrap_or(1.0);
            if size == self.domain.extent(x[axis]) && (scale - 1.0).abs() < f64::EPSILON {
                continue;
            }
            self.domain.pin(x[axis]);
            self.mix(x, &[axis]);
            out[axis] = self.pinned(size);
        }
        Some(out)
    }

    /// `DepthToSpace` and `SpaceToDepth`: a reshape, a transpose, a reshape.
    fn blocks(&mut self, op: &Op, x: &Axes) -> Option<Axes> {
        let block = usize::try_from(op.int("blocksize")?).ok()?;
        let &[n, c, h, w] = x.as_slice() else { return None };
        if op.op == "SpaceToDepth" {
            let (h, h_inner) = self.split_or_pin(h, block);
            let (w, w_inner) = self.split_or_pin(w, block);
            let depth = self.domain.product(&[h_inner, w_inner, c]);
            return Some(vec![n, depth, h, w]);
        }
        let channels = self.domain.extent(c) / (block * block);
        let (c, h_inner, w_inner) = if op.text("mode") == Some("CRD") {
            let (rest, w_inner) = self.split_or_pin(c, block);
            let (c, h_inner) = self.split_or_pin(rest, block);
            (c, h_inner, w_inner)
        } else {
            let (rest, c) = self.split_or_pin(c, channels);
            let (h_inner, w_inner) = self.split_or_pin(rest, block);
            (c, h_inner, w_inner)
        };
        let (h, w) = (self.domain.product(&[h, h_inner]), self.domain.product(&[w, w_inner]));
        Some(vec![n, c, h, w])
    }
}
