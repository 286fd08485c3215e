//! What each operator says about the axes that it reads and writes.
//!
//! A rule identifies, splits, cuts or pins atoms so that the operator commutes with every permutation that the atoms still
//! allow, and returns its outputs' axes. An operator without a rule pins all that it touches. The rules are applied to the
//! whole graph until nothing changes any more: then every operator's conditions hold at once.

mod contract;
mod layout;
mod norm;
mod options;
mod recurrent;

use std::collections::HashMap;

pub(crate) use self::options::{
    einsum_terms, groups, is_elementwise, pads, permutation, range, reduced_axes, shape_range, slices,
};
pub(crate) use self::recurrent::full_length;
use crate::{
    GraphError,
    domain::{Atom, Domain, UNIT},
    graph::{Graph, Known, Op, Origin, Parts, Value},
    infer::Inputs,
};

/// More rounds than this mean a mistake in the rules: every round that changes something shrinks a finite group.
const MAX_ROUNDS: usize = 400;

/// So many rounds may refine what is pinned, for the sake of what is within it.
const FINE_ROUNDS: usize = 40;

/// A value's axes.
pub(crate) type Axes = Vec<Atom>;

/// The rules at work on one graph.
pub(crate) struct Rules<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) domain: Domain,
    /// For each value; `None` where the rank is not known.
    pub(crate) axes: Vec<Option<Axes>>,
    /// Atoms that an operator makes, by operator, place, length and whether they are open: the same ones in each round.
    made: HashMap<(usize, usize, usize, bool), Atom>,
    operator: usize,
    place: usize,
}

impl<'a> Rules<'a> {
    pub(crate) fn new(graph: &'a Graph) -> Self {
        let mut rules = Self {
            graph,
            domain: Domain::new(),
            axes: vec![None; graph.values.len()],
            made: HashMap::new(),
            operator: 0,
            place: 0,
        };
        for (id, value) in graph.values.iter().enumerate() {
            rules.axes[id] = rules.source(value);
        }
        rules
    }

    /// The axes of what no rule writes: pinned for inputs, open for parameters, by their content for constants.
    fn source(&mut self, value: &Value) -> Option<Axes> {
        let shape = value.shape.as_ref()?;
        let mut axes = Axes::new();
        for (axis, &extent) in shape.iter().enumerate() {
            if value.is_open(axis) {
                self.domain.because(&format!("{} has no fixed length", value.name));
                axes.push(self.domain.pinned(extent));
                continue;
            }
            let open = match &value.origin {
                Origin::Input => {
                    self.domain.because(&format!("graph input {}", value.name));
                    false
                }
                Origin::Parameter(_) => true,
                Origin::Constant | Origin::Node => {
                    self.domain.because(&format!("constant {}", value.name));
                    is_uniform(value, axis)
                }
            };
            let fixed = (0..axis).filter(|&outer| !value.is_open(outer));
            let within: Axes = fixed.map(|outer| axes[outer]).collect();
            axes.push(if open { self.domain.fresh(extent, &within) } else { self.domain.pinned(extent) });
        }
        Some(axes)
    }

    /// Applies all rules until nothing changes.
    pub(crate) fn run(&mut self) -> Result<(), GraphError> {
        for round in 0..MAX_ROUNDS {
            self.domain.coarse = round >= FINE_ROUNDS;
            let before = self.domain.changes;
            for (id, value) in self.graph.values.iter().enumerate() {
                if value.origin != Origin::Node
                    && let Some(axes) = self.axes[id].clone()
                {
                    self.domain.settle(&axes);
                }
            }
            for (index, op) in self.graph.ops.iter().enumerate() {
                (self.operator, self.place) = (index, 0);
                self.domain.because(&op.label());
                self.operator(op)?;
                self.bounded()?;
            }
            for &output in &self.graph.outputs {
                self.domain.because(&format!("graph output {}", self.graph.values[output].name));
                self.pin_value(output);
            }
            if self.domain.changes == before {
                return Ok(());
            }
        }
        Err(GraphError::Unsettled(MAX_ROUNDS))
    }

    /// Refuses a graph whose structure grows out of all bounds.
    pub(crate) fn bounded(&self) -> Result<(), GraphError> {
        if self.domain.is_exhausted() { Err(GraphError::Exhausted) } else { Ok(()) }
    }

    fn operator(&mut self, op: &Op) -> Result<(), GraphError> {
        if self.is_constant(op) {
            return Ok(()); // its axes are known by their content
        }
        if op.op == "SplitToSequence" && self.parts_of(op.outputs.first()).is_some() {
            return Ok(()); // who takes a part out of it says what that means
        }
        let taken = op.op == "SequenceAt" && self.parts_of(op.inputs.first()).is_some();
        let opaque = !taken && op.inputs.iter().flatten().any(|&id| self.axes[id].is_none());
        let declared = op.outputs.iter().flatten().any(|&id| self.graph.values[id].declared);
        let outputs = if opaque || declared { None } else { self.rule(op)? };
        match outputs.map(|outputs| self.agreed(op, outputs)) {
            Some(outputs) if self.fits(op, &outputs) => {
                for (&id, axes) in op.outputs.iter().zip(outputs) {
                    let Some(id) = id else { continue };
                    self.domain.settle(&axes);
                    self.axes[id] = Some(axes);
                }
            }
            _ => self.opaque(op),
        }
        Ok(())
    }

    /// Whether what it writes follows from shapes and constants.
    pub(crate) fn is_constant(&self, op: &Op) -> bool {
        op.outputs.first().copied().flatten().is_some_and(|id| {
            let value = &self.graph.values[id];
            value.known.is_some() || value.sized || value.origin == Origin::Constant
        })
    }

    /// Axes that stand still are as long as the graph says, where that is for the sizes to say: two of which nobody knows that
    /// they are equally long may have been identified, or one that is 1 long for one size with one that is longer.
    fn agreed(&mut self, op: &Op, mut outputs: Vec<Axes>) -> Vec<Axes> {
        let graph = self.graph;
        if graph.open.is_empty() {
            return outputs;
        }
        let broadcasts = is_elementwise(&op.op) || matches!(op.op.as_str(), "Expand" | "MatMul" | "Einsum");
        for (id, axes) in op.outputs.iter().zip(&mut outputs) {
            let Some(value) = id.map(|id| &graph.values[id]) else { continue };
            let Some(shape) = value.shape.as_ref().filter(|shape| shape.len() == axes.len()) else {
                continue;
            };
            for (axis, (atom, &size)) in axes.iter_mut().zip(shape).enumerate() {
                let sized = broadcasts || value.is_open(axis);
                if sized && self.domain.extent(*atom) != size && self.domain.is_pinned(*atom) {
                    *atom = self.pinned(size);
                }
            }
        }
        outputs
    }

    /// Whether a rule's outputs have the inferred shapes: if not, the rule does not know this form of the operator.
    fn fits(&self, op: &Op, outputs: &[Axes]) -> bool {
        op.outputs.len() <= outputs.len()
            && op.outputs.iter().zip(outputs).all(|(id, axes)| {
                let Some(shape) = id.map(|id| &self.graph.values[id].shape) else { return true };
                shape.as_ref().is_some_and(|shape| {
                    shape.len() == axes.len()
                        && shape.iter().zip(axes).all(|(&size, &axis)| self.domain.extent(axis) == size)
                })
            })
    }

    /// No rule: all that it reads is pinned, so what it writes stands still whatever it does.
    fn opaque(&mut self, op: &Op) {
        for &id in op.inputs.iter().flatten().chain(&op.captures) {
            self.pin_value(id);
        }
        for id in op.outputs.iter().copied().flatten() {
            let shape = self.graph.values[id].shape.clone();
            self.axes[id] = shape.map(|shape| shape.into_iter().map(|extent| self.pinned(extent)).collect());
        }
    }

    fn parts_of(&self, id: Option<&Option<usize>>) -> Option<&'a Parts> {
        let graph = self.graph;
        graph.values.get((*id?)?)?.parts.as_ref()
    }

    fn pin_value(&mut self, id: usize) {
        if let Some(parts) = &self.graph.values[id].parts {
            return self.pin_value(parts.of);
        }
        for axis in self.axes[id].clone().unwrap_or_default() {
            self.domain.pin(axis);
        }
    }

    /// Pinned: a new atom of this operator's, the same in each round.
    fn pinned(&mut self, extent: usize) -> Atom {
        self.make(extent, false, |domain| domain.pinned(extent))
    }

    /// Free: for positions that all hold the same.
    fn neutral(&mut self, extent: usize, within: &[Atom]) -> Atom {
        self.make(extent, true, |domain| domain.fresh(extent, within))
    }

    fn make(&mut self, extent: usize, open: bool, make: impl FnOnce(&mut Domain) -> Atom) -> Atom {
        self.place += 1;
        let key = (self.operator, self.place, extent, open);
        if let Some(&atom) = self.made.get(&key) {
            return atom;
        }
        let atom = make(&mut self.domain);
        self.made.insert(key, atom);
        atom
    }

    fn input(&self, op: &Op, index: usize) -> Option<Axes> {
        let id = (*op.inputs.get(index)?)?;
        self.axes[id].clone()
    }

    /// Other axes than the mixed ones must not move in a way that depends on the mixed ones.
    fn mix(&mut self, axes: &[Atom], mixed: &[usize]) {
        let inside: Vec<Atom> = mixed.iter().map(|&axis| axes[axis]).collect();
        let atoms = self.domain.atoms_of(&inside);
        for (index, &axis) in axes.iter().enumerate() {
            if !mixed.contains(&index) {
                self.domain.forget(axis, &atoms);
            }
        }
    }

    /// Pins what no operator uses: what is only ever cut away moves nothing that shows.
    pub(crate) fn pin_unused(&mut self) {
        let mut used = std::collections::BTreeSet::new();
        for op in &self.graph.ops {
            // These only take a part of what they read, and use nothing of the rest.
            const PARTIAL: [&str; 6] =
                ["Slice", "Split", "Gather", "SplitToSequence", "SequenceAt", "ScatterND"];
            if PARTIAL.contains(&op.op.as_str()) || self.is_constant(op) {
                continue;
            }
            let atoms = |ids: &[Option<usize>]| {
                let axes: Vec<Atom> = ids
                    .iter()
                    .flatten()
                    .filter_map(|&id| self.axes[id].as_ref())
                    .flatten()
                    .copied()
                    .collect();
                self.domain.atoms_of(&axes)
            };
            let written = atoms(&op.outputs);
            let read = atoms(&op.inputs[..operands(op)]);
            used.extend(read.into_iter().filter(|atom| !written.contains(atom)));
        }
        self.domain.because("no operator uses it");
        let all: Vec<Atom> = self.axes.iter().flatten().flatten().copied().collect();
        for atom in self.domain.atoms_of(&all) {
            if self.domain.is_free(atom) && !used.contains(&atom) {
                self.domain.pin(atom);
            }
        }
    }

    /// The outputs' axes; `None` for an operator, or a form of one, that has no rule.
    fn rule(&mut self, op: &Op) -> Result<Option<Vec<Axes>>, GraphError> {
        let graph = self.graph;
        let inputs = Inputs { op, graph };
        if !op.domain.is_empty() || !op.captures.is_empty() {
            return Ok(None);
        }
        if is_elementwise(&op.op) {
            return Ok(Some(vec![self.elementwise(op)]));
        }
        if let Some(parts) = self.parts_of(op.inputs.first()) {
            return Ok(self.sequence_at(&inputs, parts));
        }
        let Some(x) = self.input(op, 0) else { return Ok(None) };
        Ok(match op.op.as_str() {
            "Dropout" => {
                let training = inputs.value(2).map(|value| value.known.clone());
                match training {
                    None => Some(vec![x.clone(), x]),
                    Some(Some(Known::Ints(values))) if values.iter().all(|&value| value == 0) => {
                        Some(vec![x.clone(), x])
                    }
                    Some(_) => None,
                }
            }
            "MatMul" => Some(vec![self.matmul(op, &x)]),
            "Gemm" => self.gemm(op, &x).map(|axes| vec![axes]),
            "Einsum" => self.einsum(&inputs).map(|axes| vec![axes]),
            "Conv" => self.conv(&inputs, &x).map(|axes| vec![axes]),
            "ConvTranspose" => self.conv_transpose(&inputs, &x).map(|axes| vec![axes]),
            "MaxPool" | "AveragePool" | "LpPool" if op.arity == 1 => Some(vec![self.pool(op, &x)]),
            "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => {
                Some(vec![self.reduce(&x, &(2..x.len()).collect::<Vec<_>>(), true)])
            }
            "Softmax"
            | "LogSoftmax"
            | "LpNormalization"
            | "MeanVarianceNormalization"
            | "LRN"
            | "CumSum"
            | "Trilu" => self.along(&inputs, &x)?.map(|axes| vec![axes]),
            "BatchNormalization"
            | "InstanceNormalization"
            | "GroupNormalization"
            | "LayerNormalization"
            | "RMSNormalization" => self.norm(&inputs, &x)?,
            "LSTM" | "GRU" | "RNN" => self.recurrent(op, &x),
            "ArgMax" | "ArgMin" => {
                let axis = inputs.axis(op.int("axis").unwrap_or(0), x.len())?;
                self.domain.pin(x[axis]);
                Some(vec![self.reduce(&x, &[axis], op.int("keepdims") != Some(0))])
            }
            name if name.starts_with("Reduce") => reduced_axes(&inputs, x.len())?
                .map(|axes| vec![self.reduce(&x, &axes, op.int("keepdims") != Some(0))]),
            "ConstantOfShape" => {
                let shape =
                    op.outputs.first().copied().flatten().and_then(|id| graph.values[id].shape.clone());
                shape.map(|shape| {
                    let open = |axis: usize| inputs.output(0).is_some_and(|value| value.is_open(axis));
                    let mut axes = Axes::new();
                    let mut within = Axes::new();
                    for (axis, extent) in shape.into_iter().enumerate() {
                        if open(axis) {
                            axes.push(self.pinned(extent));
                        } else {
                            axes.push(self.neutral(extent, &within));
                            within.push(axes[axis]);
                        }
                    }
                    vec![axes]
                })
            }
            _ => self.layout(&inputs, &x)?,
        })
    }

    /// Same positions in, same positions out; axes that are 1 long broadcast and say nothing.
    fn elementwise(&mut self, op: &Op) -> Axes {
        let operands: Vec<Axes> = (0..operands(op)).filter_map(|index| self.input(op, index)).collect();
        let rank = operands.iter().map(Vec::len).max().unwrap_or(0);
        let mut out = vec![UNIT; rank];
        let mut pairs = Vec::new();
        for axes in &operands {
            for (&axis, place) in axes.iter().rev().zip(out.iter_mut().rev()) {
                if self.domain.extent(axis) == 1 {
                    continue;
                }
                if *place == UNIT {
                    *place = axis;
                } else {
                    pairs.push((*place, axis));
                }
            }
        }
        self.domain.unify_all(&pairs);
        out
    }
}

/// How many operands say something by their content: the second one of `CastLike` gives its type only.
fn operands(op: &Op) -> usize {
    if op.op == "CastLike" { op.inputs.len().min(1) } else { op.inputs.len() }
}

/// Whether a constant holds the same at all positions of an axis.
fn is_uniform(value: &Value, axis: usize) -> bool {
    if value.sized {
        return value.filled;
    }
    if let Some(tensor) = &value.tensor {
        return tensor.is_uniform(axis);
    }
    let (Some(shape), Some(known)) = (&value.shape, &value.known) else { return false };
    known.is_uniform(shape[axis], shape[axis + 1..].iter().product())
}
