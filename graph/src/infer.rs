//! Shapes, and the values of what follows from shapes alone.
//!
//! Only operators that [`crate::rules`] knows are inferred; of any other the file's own declaration is taken, or nothing,
//! and then everything that touches it is pinned.

mod fold;
mod shape;

pub(crate) use self::{
    fold::{broadcast, places},
    shape::keeps_shape,
};
use crate::{
    GraphError,
    graph::{Graph, Known, Op, Origin, Parts, Value},
    onnx::{Attribute, Tensor, dtype},
};

/// Most elements that are folded: shapes, and the small tables they are made with.
const MAX_KNOWN: usize = 1 << 16;

/// What is known of an output.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inferred {
    pub(crate) dtype: i64,
    pub(crate) shape: Option<Vec<usize>>,
    pub(crate) known: Option<Known>,
    pub(crate) tensor: Option<Tensor>,
    pub(crate) parts: Option<Parts>,
    /// Whether the shape follows from one that only the file declares.
    pub(crate) declared: bool,
}

impl Inferred {
    pub(crate) fn into_value(self, name: &str) -> Value {
        let origin = if self.tensor.is_some() { Origin::Constant } else { Origin::Node };
        Value {
            name: name.to_owned(),
            dtype: self.dtype,
            shape: self.shape,
            declared: self.declared,
            origin,
            tensor: self.tensor,
            known: self.known,
            parts: self.parts,
            open: Vec::new(),
            sized: false,
            filled: false,
        }
    }
}

/// The elements of a small tensor of the file.
pub(crate) fn known(tensor: &Tensor) -> Option<Known> {
    let elements: usize = tensor.dims.iter().product();
    if elements > MAX_KNOWN {
        return None;
    }
    tensor.ints().map(Known::Ints).or_else(|| tensor.floats().map(Known::Floats))
}

/// A node's inputs, with what a rule asks of them.
pub(crate) struct Inputs<'a> {
    pub(crate) op: &'a Op,
    pub(crate) graph: &'a Graph,
}

impl<'a> Inputs<'a> {
    pub(crate) fn value(&self, index: usize) -> Option<&'a Value> {
        let id = (*self.op.inputs.get(index)?)?;
        self.graph.values.get(id)
    }

    /// What it writes.
    pub(crate) fn output(&self, index: usize) -> Option<&'a Value> {
        let id = (*self.op.outputs.get(index)?)?;
        self.graph.values.get(id)
    }

    /// Whether an axis of an input has another length for other sizes.
    pub(crate) fn is_open(&self, index: usize, axis: usize) -> bool {
        self.value(index).is_some_and(|value| value.is_open(axis))
    }

    pub(crate) fn shape(&self, index: usize) -> Option<&'a [usize]> {
        self.value(index)?.shape.as_deref()
    }

    pub(crate) fn ints(&self, index: usize) -> Option<Vec<i64>> {
        Some(self.value(index)?.known.as_ref()?.ints()?.to_vec())
    }

    /// An attribute of old opsets, an input of new ones.
    pub(crate) fn ints_or_attribute(&self, index: usize, name: &str) -> Option<Vec<i64>> {
        match self.op.ints(name) {
            Some(values) => Some(values.to_vec()),
            None => self.ints(index),
        }
    }

    pub(crate) fn has(&self, index: usize) -> bool {
        self.op.inputs.get(index).is_some_and(Option::is_some)
    }

    pub(crate) fn wrong<T>(&self, why: impl Into<String>) -> Result<T, GraphError> {
        Err(GraphError::Shape { node: self.op.label(), why: why.into() })
    }

    /// An axis, counted from the end if negative.
    pub(crate) fn axis(&self, axis: i64, rank: usize) -> Result<usize, GraphError> {
        let signed = i64::try_from(rank).unwrap_or(0);
        let place = if axis < 0 { axis.checked_add(signed) } else { Some(axis) };
        match place.and_then(|place| usize::try_from(place).ok()) {
            Some(place) if place < rank => Ok(place),
            _ => self.wrong(format!("axis {axis} of {rank}")),
        }
    }

    pub(crate) fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>, GraphError> {
        let mut out = axes.iter().map(|&axis| self.axis(axis, rank)).collect::<Result<Vec<_>, _>>()?;
        out.sort_unstable();
        out.dedup();
        if out.len() != axes.len() {
            return self.wrong("an axis stands twice");
        }
        Ok(out)
    }
}

/// What is known of a node's outputs. What follows from a shape that only the file declares is believed no more than that: of
/// such an output there is a shape, but no elements and no parts.
pub(crate) fn node(op: &Op, graph: &Graph) -> Result<Vec<Inferred>, GraphError> {
    if !op.inputs.iter().flatten().any(|&id| graph.values[id].declared) {
        return believed(op, graph);
    }
    // A lie need not fit either.
    let out = believed(op, graph).unwrap_or_default();
    let shape = |out: Inferred| Inferred {
        dtype: out.dtype,
        shape: out.shape,
        declared: true,
        ..Inferred::default()
    };
    let mut out: Vec<Inferred> = out.into_iter().map(shape).collect();
    out.resize_with(op.outputs.len().max(op.arity), || Inferred { declared: true, ..Inferred::default() });
    Ok(out)
}

fn believed(op: &Op, graph: &Graph) -> Result<Vec<Inferred>, GraphError> {
    let inputs = Inputs { op, graph };
    if !op.domain.is_empty() {
        return Ok(Vec::new());
    }
    if op.op == "Constant" {
        return constant(op);
    }
    if op.op == "SequenceAt" {
        return sequence_at(&inputs);
    }
    if op.inputs.iter().flatten().any(|&id| graph.values[id].shape.is_none()) {
        return Ok(Vec::new());
    }
    let mut out = shape::outputs(&inputs)?;
    if let Some(first) = out.first_mut()
        && let Some(shape) = &first.shape
    {
        let small = shape.iter().try_fold(1_usize, |product, &axis| product.checked_mul(axis));
        if small.is_some_and(|elements| elements <= MAX_KNOWN) {
            first.known = fold::output(&inputs, shape, first.dtype);
        }
    }
    Ok(out)
}

fn constant(op: &Op) -> Result<Vec<Inferred>, GraphError> {
    let ints = |values: &[i64], dims: Vec<usize>| Tensor {
        name: String::new(),
        dtype: dtype::I64,
        dims,
        data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    let floats = |values: &[f32], dims: Vec<usize>| Tensor {
        name: String::new(),
        dtype: dtype::F32,
        dims,
        data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    let tensor = match op.attributes.iter().next() {
        Some((_, Attribute::Tensor(tensor))) => tensor.clone(),
        Some((_, Attribute::Int(value))) => ints(&[*value], vec![]),
        Some((_, Attribute::Ints(values))) => ints(values, vec![values.len()]),
        Some((_, Attribute::Float(value))) => floats(&[*value], vec![]),
        Some((_, Attribute::Floats(values))) => floats(values, vec![values.len()]),
        _ => {
            return Err(GraphError::Unsupported(format!(
                "{} holds neither a tensor nor numbers; export it as an initializer",
                op.label()
            )));
        }
    };
    let known = known(&tensor);
    Ok(vec![Inferred {
        dtype: tensor.dtype,
        shape: Some(tensor.dims.clone()),
        known,
        tensor: Some(tensor),
        ..Inferred::default()
    }])
}

/// A part of a sequence that is known.
fn sequence_at(inputs: &Inputs<'_>) -> Result<Vec<Inferred>, GraphError> {
    let Some(sequence) = inputs.value(0) else { return Ok(Vec::new()) };
    let index = inputs.ints(1).and_then(|indices| indices.first().copied());
    let (Some(parts), Some(index)) = (&sequence.parts, index) else { return Ok(Vec::new()) };
    let Some((_, length)) = parts.stretch(index) else { return inputs.wrong("an index beyond the sequence") };
    let mut shape = inputs.graph.values[parts.of].shape.clone().unwrap_or_default();
    if parts.keep {
        shape[parts.axis] = length;
    } else {
        shape.remove(parts.axis);
    }
    Ok(vec![Inferred { dtype: sequence.dtype, shape: Some(shape), ..Inferred::default() }])
}
