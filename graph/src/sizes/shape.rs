//! How long each operator's outputs are, as sizes.
//!
//! An operator that is not here, or a form of one, gives lengths of which nothing is known. Where sizes decide how many axes
//! there are, or which ones an operator is about, nothing at all is believed of what comes after.

use super::{Size, Sizes, content::Content};
use crate::{
    graph::{Graph, Op, Origin},
    infer::{Inputs, keeps_shape},
    rules::{self, einsum_terms},
};

type Axes = Vec<Size>;

/// What is known of an operator's outputs.
pub(super) enum Outputs {
    /// Their axes' lengths.
    Known(Vec<Axes>),
    /// How many axes they have.
    Ranks,
    /// Not even that.
    Nothing,
}

/// All values of a graph, one operator after the other.
pub(super) struct Pass<'a> {
    pub(super) graph: &'a Graph,
    pub(super) sizes: Sizes,
    /// For each value; `None` where the graph does not know its shape either.
    pub(super) axes: Vec<Option<Axes>>,
    pub(super) content: Vec<Content>,
    /// Values whose number of axes may be another for other sizes, and what is computed from them.
    pub(super) unsure: Vec<bool>,
}

impl<'a> Pass<'a> {
    pub(super) fn run(graph: &'a Graph) -> Self {
        let mut pass = Self {
            graph,
            sizes: Sizes::default(),
            axes: Vec::new(),
            content: Vec::new(),
            unsure: vec![false; graph.values.len()],
        };
        for (id, value) in graph.values.iter().enumerate() {
            let axes = match (&value.shape, graph.open.get(&id)) {
                (Some(shape), Some(dimensions)) => {
                    let axis = |(&length, dimension): (&usize, &Option<usize>)| match dimension {
                        Some(index) => pass.sizes.dimension(*index, length),
                        None => Size::of(length),
                    };
                    Some(shape.iter().zip(dimensions).map(axis).collect())
                }
                (shape, _) => shape.as_ref().map(|shape| shape.iter().copied().map(Size::of).collect()),
            };
            pass.axes.push(axes);
            pass.content.push(Content::Data);
        }
        for (id, value) in graph.values.iter().enumerate() {
            if value.origin != Origin::Node {
                pass.content[id] = pass.source_content(id);
            }
        }
        for op in &graph.ops {
            pass.node(op);
        }
        pass
    }

    fn node(&mut self, op: &Op) {
        let read: Vec<usize> = op.inputs.iter().flatten().chain(&op.captures).copied().collect();
        let unsure = read.iter().any(|&id| self.unsure[id]);
        let open = read.iter().any(|&id| self.is_open(id));
        let outputs = if unsure {
            Outputs::Nothing
        } else if open {
            self.outputs(op).unwrap_or(Outputs::Ranks)
        } else {
            Outputs::Known(Vec::new()) // as the graph has them
        };
        for (index, id) in op.outputs.iter().enumerate() {
            let Some(id) = *id else { continue };
            let value = &self.graph.values[id];
            self.unsure[id] = matches!(outputs, Outputs::Nothing);
            if let (true, Some(shape)) = (open || unsure, &value.shape) {
                let claimed = if let Outputs::Known(all) = &outputs { all.get(index).cloned() } else { None };
                self.axes[id] = Some(self.checked(claimed, shape));
            }
            if value.known.is_none() || self.unsure[id] {
                continue; // nothing is known of its elements
            }
            let axes = self.axes[id].clone().unwrap_or_default();
            self.content[id] = self.output_content(op, &axes);
            if !self.agrees(id) {
                self.content[id] = Content::Varies;
            }
        }
    }

    /// Whether a value's shape or elements are others for other sizes.
    fn is_open(&self, id: usize) -> bool {
        let of = self.graph.values[id].parts.as_ref().map_or(id, |parts| parts.of);
        let open = self.axes[of].iter().flatten().any(Size::is_open);
        open || !matches!(self.content[id], Content::Data | Content::Fixed)
    }

    /// Lengths as claimed, where they are those of the bound sizes; of others nothing is known.
    fn checked(&mut self, claimed: Option<Axes>, shape: &[usize]) -> Axes {
        let claimed = claimed.filter(|axes| axes.len() == shape.len());
        let axis = |(index, &length): (usize, &usize)| {
            let size = claimed.as_ref().map(|axes| axes[index].clone());
            let fits = |size: &Size| self.sizes.value(size) == Some(Size::of(length).factor);
            size.filter(fits).unwrap_or_else(|| self.sizes.fresh(length))
        };
        shape.iter().enumerate().map(axis).collect()
    }

    pub(super) fn of(&self, op: &Op, index: usize) -> Option<Axes> {
        self.axes[(*op.inputs.get(index)?)?].clone()
    }

    /// How long an output's axes are for the bound sizes.
    pub(super) fn shape(&self, op: &Op, index: usize) -> Vec<usize> {
        let id = op.outputs.get(index).copied().flatten();
        id.and_then(|id| self.graph.values[id].shape.clone()).unwrap_or_default()
    }

    /// Of the outputs; `None` for a form that is not here.
    fn outputs(&mut self, op: &Op) -> Option<Outputs> {
        let inputs = Inputs { op, graph: self.graph };
        if !op.domain.is_empty() || !op.captures.is_empty() {
            return Some(Outputs::Nothing);
        }
        let one = |axes: Axes| Some(Outputs::Known(vec![axes]));
        if rules::is_elementwise(&op.op) {
            let operands = if op.op == "CastLike" { 1 } else { op.inputs.len() };
            let all: Vec<Axes> = (0..operands).filter_map(|index| self.of(op, index)).collect();
            return one(self.broadcast(&all, &self.shape(op, 0)));
        }
        match op.op.as_str() {
            "SequenceAt" => return self.part(op),
            // Their only axis is as long as there are axes, or they have none.
            "Shape" | "Size" => return one(self.shape(op, 0).into_iter().map(Size::of).collect()),
            "ConstantOfShape" => {
                return Some(
                    self.target(op, 0).map_or_else(|other| other, |axes| Outputs::Known(vec![axes])),
                );
            }
            "Range" => return one(vec![self.range(op)?]),
            _ => {}
        }
        let x = self.of(op, 0)?;
        let axis_of =
            |name: &str, default: i64| inputs.axis(inputs.op.int(name).unwrap_or(default), x.len()).ok();
        match op.op.as_str() {
            "BatchNormalization" | "EyeLike" => one(x),
            op if keeps_shape(op) => one(x),
            "Dropout" => Some(Outputs::Known(vec![x.clone(), x])),
            "LayerNormalization" => {
                let mut stats = x.clone();
                stats[axis_of("axis", -1)?..].fill(Size::number(1));
                Some(Outputs::Known(vec![x, stats.clone(), stats]))
            }
            "MatMul" => one(self.matmul(op, &x)?),
            "Gemm" => {
                let b = self.of(op, 1)?;
                let place =
                    |name: &str, plain: usize| if op.int(name).unwrap_or(0) == 0 { plain } else { 1 - plain };
                one(vec![x.get(place("transA", 0))?.clone(), b.get(place("transB", 1))?.clone()])
            }
            "Einsum" => one(self.einsum(&inputs)?),
            "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => {
                let mut axes = x;
                axes.iter_mut().skip(2).for_each(|axis| *axis = Size::number(1));
                one(axes)
            }
            "LSTM" | "GRU" | "RNN" if op.int("layout").unwrap_or(0) == 0 => {
                let r = self.of(op, 2)?;
                let ([steps, batch, _], [directions, _, hidden]) = (&x[..], &r[..]) else { return None };
                let last = vec![directions.clone(), batch.clone(), hidden.clone()];
                let all = [std::slice::from_ref(steps), &last[..]].concat();
                Some(Outputs::Known(vec![all, last.clone(), last]))
            }
            _ => self.picked(&inputs, &x),
        }
    }

    /// Of operators that pick positions, put them together or reduce them.
    fn picked(&mut self, inputs: &Inputs<'_>, x: &Axes) -> Option<Outputs> {
        let op = inputs.op;
        let one = |axes: Axes| Some(Outputs::Known(vec![axes]));
        let axis_of = |default: i64| inputs.axis(op.int("axis").unwrap_or(default), x.len()).ok();
        match op.op.as_str() {
            "Transpose" => {
                let order = rules::permutation(inputs, x.len()).ok()?;
                one(order.into_iter().map(|axis| x[axis].clone()).collect())
            }
            "Concat" => one(self.concat(op, axis_of(0)?)?),
            "Split" => {
                let axis = axis_of(0)?;
                self.split(op, x, axis)
            }
            "SplitToSequence" => {
                let axis = axis_of(0)?;
                let plain = x.get(axis)?.fixed().is_some() && self.settled(op, &[1]);
                Some(if plain { Outputs::Known(Vec::new()) } else { Outputs::Nothing })
            }
            "GatherND" if op.int("batch_dims").unwrap_or(0) == 0 => {
                let indices = self.of(op, 1)?;
                let (depth, outer) = indices.split_last()?;
                let depth = usize::try_from(depth.fixed()?).ok()?;
                one([outer, x.get(depth..)?].concat())
            }
            "Gather" => {
                let (axis, indices) = (axis_of(0)?, self.of(op, 1)?);
                one([&x[..axis], &indices, &x[axis + 1..]].concat())
            }
            "GatherElements" => one(self.of(op, 1)?),
            "ArgMax" | "ArgMin" => {
                let axis = axis_of(0)?;
                one(reduced(x, &[axis], op.int("keepdims") != Some(0)))
            }
            name if name.starts_with("Reduce") => {
                if !self.settled(op, &[1]) {
                    return Some(Outputs::Nothing);
                }
                let axes = rules::reduced_axes(inputs, x.len()).ok()??;
                one(reduced(x, &axes, op.int("keepdims") != Some(0)))
            }
            _ => self.moved(inputs, x),
        }
    }

    /// Axes that broadcast, aligned from the right.
    pub(super) fn broadcast(&mut self, all: &[Axes], shape: &[usize]) -> Axes {
        let mut out = vec![Size::number(1); shape.len()];
        for axes in all {
            let Some(skip) = shape.len().checked_sub(axes.len()) else { return out };
            for (index, axis) in axes.iter().enumerate() {
                out[skip + index] = self.sizes.join(&out[skip + index], axis, shape[skip + index]);
            }
        }
        out
    }

    /// A shape that is computed.
    pub(super) fn target(&self, op: &Op, index: usize) -> Result<Axes, Outputs> {
        if let Some(elements) = self.elements(op, index) {
            return Ok(elements);
        }
        // How many numbers it has is how many axes there will be.
        let fixed = self.of(op, index).is_some_and(|axes| axes.iter().all(|axis| !axis.is_open()));
        Err(if fixed { Outputs::Ranks } else { Outputs::Nothing })
    }

    fn range(&mut self, op: &Op) -> Option<Size> {
        let number = |index: usize| self.elements(op, index).and_then(|elements| elements.first().cloned());
        let (start, limit, step) = (number(0)?, number(1)?, number(2)?);
        if step.fixed() != Some(1) {
            return None;
        }
        let length = self.sizes.sum(&[(&limit, 1), (&start, -1)])?;
        self.sizes.is_positive(&length).then_some(length)
    }

    fn matmul(&mut self, op: &Op, a: &Axes) -> Option<Axes> {
        let (b, shape) = (self.of(op, 1)?, self.shape(op, 0));
        let batch = |axes: &Axes| axes[..axes.len().saturating_sub(2)].to_vec();
        let ranks = batch(a).len().max(batch(&b).len());
        let mut out = self.broadcast(&[batch(a), batch(&b)], shape.get(..ranks)?);
        if a.len() > 1 {
            out.push(a[a.len() - 2].clone());
        }
        if b.len() > 1 {
            out.push(b[b.len() - 1].clone());
        }
        Some(out)
    }

    fn einsum(&mut self, inputs: &Inputs<'_>) -> Option<Axes> {
        let (terms, output) = einsum_terms(inputs)?;
        let shape = self.shape(inputs.op, 0);
        let mut out = vec![Size::number(1); output.len()];
        for (index, letters) in terms.iter().enumerate() {
            for (letter, axis) in letters.iter().zip(&self.of(inputs.op, index)?) {
                if let Some(place) = output.iter().position(|other| other == letter) {
                    out[place] = self.sizes.join(&out[place], axis, *shape.get(place)?);
                }
            }
        }
        Some(out)
    }

    fn concat(&mut self, op: &Op, axis: usize) -> Option<Axes> {
        let mut out = self.of(op, 0)?;
        for index in 1..op.inputs.len() {
            let other = self.of(op, index)?;
            for (at, size) in other.iter().enumerate() {
                let known = out.get(at)?;
                out[at] = if at == axis {
                    self.sizes.sum(&[(known, 1), (size, 1)])?
                } else {
                    self.sizes.same(known, size)
                };
            }
        }
        Some(out)
    }

    fn split(&mut self, op: &Op, x: &Axes, axis: usize) -> Option<Outputs> {
        let given =
            op.ints("split").map(|lengths| lengths.iter().map(|&length| Size::number(length)).collect());
        let lengths: Axes = match given {
            Some(lengths) => lengths,
            None if op.inputs.get(1).is_some_and(Option::is_some) => self.elements(op, 1)?,
            None => match x[axis].fixed() {
                Some(_) => (0..op.arity)
                    .map(|part| Size::of(self.shape(op, part).get(axis).copied().unwrap_or(0)))
                    .collect(),
                None => vec![x[axis].over(&Size::of(op.arity))?; op.arity],
            },
        };
        let part = |length: Size| {
            let mut axes = x.clone();
            axes[axis] = length;
            axes
        };
        Some(Outputs::Known(lengths.into_iter().map(part).collect()))
    }
}

fn reduced(x: &[Size], axes: &[usize], keep: bool) -> Axes {
    let mut out = Axes::new();
    for (axis, size) in x.iter().enumerate() {
        match (axes.contains(&axis), keep) {
            (false, _) => out.push(size.clone()),
            (true, true) => out.push(Size::number(1)),
            (true, false) => {}
        }
    }
    out
}
