//! Numbers that are computed from sizes.

use super::{Size, shape::Pass};
use crate::{
    graph::{Known, Op, Origin},
    infer::{self, Inputs},
    onnx::dtype,
    rules,
};

/// Most elements that are followed one by one: shapes have few.
const MAX_ELEMENTS: usize = 1024;

/// What is known of a value's elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// They are data, or nothing is known of them.
    Data,
    /// They are known, and the same for all sizes.
    Fixed,
    /// Of a value of fixed shape: each is a number or a size.
    Sizes(Vec<Size>),
    /// As many as there are: all are the same number, for all sizes.
    Filled,
    /// They follow from sizes.
    Varies,
}

impl Pass<'_> {
    /// Whether inputs are not given, or hold the same for all sizes.
    pub(super) fn settled(&self, op: &Op, indices: &[usize]) -> bool {
        indices.iter().all(|&index| match op.inputs.get(index) {
            Some(&Some(id)) => self.content[id] == Content::Fixed,
            _ => true,
        })
    }

    /// An input's elements as sizes.
    pub(super) fn elements(&self, op: &Op, index: usize) -> Option<Vec<Size>> {
        let id = (*op.inputs.get(index)?)?;
        match &self.content[id] {
            Content::Sizes(sizes) => Some(sizes.clone()),
            Content::Fixed => {
                let known = self.graph.values[id].known.as_ref()?.ints()?;
                (known.len() <= MAX_ELEMENTS).then_some(())?;
                Some(known.iter().map(|&value| Size::number(value)).collect())
            }
            _ => None,
        }
    }

    /// Elements of an operator's first output, which are known for the sizes that were bound.
    pub(super) fn output_content(&mut self, op: &Op, axes: &[Size]) -> Content {
        let ids: Vec<usize> = op.inputs.iter().flatten().copied().collect();
        let settled = ids.iter().all(|&id| self.content[id] == Content::Fixed);
        let of_shape = matches!(op.op.as_str(), "Shape" | "Size");
        let open = axes.iter().any(Size::is_open);
        if settled && !open && !of_shape {
            return Content::Fixed;
        }
        if self.is_filled(op, &ids) {
            return Content::Filled;
        }
        if open {
            return Content::Varies;
        }
        match self.computed(op) {
            Some(sizes) if sizes.iter().any(Size::is_open) => Content::Sizes(sizes),
            Some(_) => Content::Fixed,
            None => Content::Varies,
        }
    }

    /// Whether all elements are one number, which no size changes.
    fn is_filled(&self, op: &Op, ids: &[usize]) -> bool {
        let one_number = |id: usize| match self.content[id] {
            Content::Filled => true,
            Content::Fixed => {
                let known = self.graph.values[id].known.as_ref();
                known.is_some_and(|known| known.len() > 0 && known.is_uniform(known.len(), 1))
            }
            _ => false,
        };
        match op.op.as_str() {
            "ConstantOfShape" => true,
            "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" | "Transpose" | "Expand"
            | "Slice" | "CastLike" => ids.first().is_some_and(|&id| one_number(id)),
            name if rules::is_elementwise(name) => ids.iter().all(|&id| one_number(id)),
            _ => false,
        }
    }

    /// Elements of an output of fixed shape, as sizes.
    fn computed(&mut self, op: &Op) -> Option<Vec<Size>> {
        let inputs = Inputs { op, graph: self.graph };
        let output = &self.graph.values[(*op.outputs.first()?)?];
        let shape = output.shape.as_ref()?;
        match op.op.as_str() {
            "Shape" => {
                let axes = self.axes[(*op.inputs.first()?)?].clone()?;
                let (start, end) = rules::shape_range(&inputs, axes.len());
                Some(axes.get(start..end)?.to_vec())
            }
            "Size" => Some(vec![Size::product(&self.axes[(*op.inputs.first()?)?].clone()?)?]),
            "Cast" if !matches!(output.dtype, dtype::I64 | dtype::I32) => None,
            "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" | "Cast" => self.elements(op, 0),
            "Transpose" | "Gather" | "Slice" | "Expand" if self.settled(op, &[1, 2, 3, 4]) => {
                let elements = self.elements(op, 0)?;
                let places = infer::places(&inputs, shape)?;
                places.into_iter().map(|place| elements.get(place).cloned()).collect()
            }
            "Concat" if shape.len() == 1 => {
                let mut out = Vec::new();
                for index in 0..op.inputs.len() {
                    out.extend(self.elements(op, index)?);
                }
                Some(out)
            }
            "ReduceProd" if shape.iter().product::<usize>() == 1 => {
                Some(vec![Size::product(&self.elements(op, 0)?)?])
            }
            "Where" => {
                let condition = self.spread(&inputs, 0, shape)?;
                let (x, y) = (self.spread(&inputs, 1, shape)?, self.spread(&inputs, 2, shape)?);
                let mut out = Vec::new();
                for (condition, (x, y)) in condition.iter().zip(x.into_iter().zip(y)) {
                    out.push(if condition.fixed()? == 0 { y } else { x });
                }
                Some(out)
            }
            "Add" | "Sub" | "Mul" | "Div" | "Equal" => {
                let (a, b) = (self.spread(&inputs, 0, shape)?, self.spread(&inputs, 1, shape)?);
                a.iter().zip(&b).map(|(a, b)| self.step(&op.op, a, b)).collect()
            }
            _ => None,
        }
    }

    /// An operand's elements, broadcast.
    fn spread(&self, inputs: &Inputs<'_>, index: usize, shape: &[usize]) -> Option<Vec<Size>> {
        let elements = self.elements(inputs.op, index)?;
        let places = infer::broadcast(inputs.shape(index)?, shape)?;
        places.into_iter().map(|place| elements.get(place).cloned()).collect()
    }

    fn step(&mut self, op: &str, a: &Size, b: &Size) -> Option<Size> {
        match op {
            "Add" => self.sizes.sum(&[(a, 1), (b, 1)]),
            "Sub" => self.sizes.sum(&[(a, 1), (b, -1)]),
            "Mul" => a.times(b),
            "Div" => a.over(b),
            _ => match (a.fixed(), b.fixed()) {
                (Some(a), Some(b)) => Some(Size::number(i64::from(a == b))),
                _ if a == b => Some(Size::number(1)),
                // A size is never as small as that.
                (Some(number), None) if number < self.sizes.least(b) => Some(Size::number(0)),
                (None, Some(number)) if number < self.sizes.least(a) => Some(Size::number(0)),
                _ => None,
            },
        }
    }

    /// What is known of the elements of what no node writes.
    pub(super) fn source_content(&self, id: usize) -> Content {
        let value = &self.graph.values[id];
        let fixed = value.known.is_some() && !matches!(value.origin, Origin::Input | Origin::Parameter(_));
        if fixed { Content::Fixed } else { Content::Data }
    }

    /// Whether the elements that were folded for the bound sizes are those that the sizes say.
    pub(super) fn agrees(&self, id: usize) -> bool {
        let Content::Sizes(sizes) = &self.content[id] else { return true };
        let known = self.graph.values[id].known.as_ref().and_then(Known::ints);
        known.is_some_and(|known| {
            known.len() == sizes.len()
                && known.iter().zip(sizes).all(|(&known, size)| self.sizes.value(size) == Some(known))
        })
    }
}
