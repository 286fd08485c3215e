//! What the runtime lacks, written in operators that it has: `GroupNormalization`, convolutions and pools over three axes,
//! `SpaceToDepth`, `RNN` and some forms of others. What it would silently run as something else is refused.

mod recurrent;
mod space;

use super::{FLOAT, failed};
use crate::{
    GraphError,
    graph::{Graph, Known, Op, Value},
    onnx::dtype,
    rules,
    wire::Writer,
};

/// Most steps or slices that one operator is unrolled into.
const MAX_UNROLLED: usize = 1024;

/// An attribute to write.
enum Attr<'a> {
    Int(&'a str, i64),
    Ints(&'a str, Vec<i64>),
    Float(&'a str, f32),
}

/// Writes other nodes for one that the runtime lacks; `false` if it has it. `raw` is the node as the file has it.
pub(super) fn node(graph: &Graph, op: &Op, raw: &[u8], out: &mut Writer) -> Result<bool, GraphError> {
    if !op.domain.is_empty() {
        return Ok(false);
    }
    let first = op.outputs.iter().flatten().next().map_or("", |&id| graph.values[id].name.as_str());
    let mut lower = Lower { graph, op, raw, out, stem: first.to_owned(), count: 0 };
    let rank = lower.shape(0).map(<[usize]>::len);
    let write: fn(&mut Lower<'_>) -> Option<()> = match (op.op.as_str(), rank) {
        ("GroupNormalization", _) => group_norm,
        ("Conv", Some(5)) => space::conv3,
        ("AveragePool" | "MaxPool", Some(5)) => space::pool3,
        ("Conv" | "ConvTranspose" | "AveragePool" | "MaxPool", Some(3 | 4)) => space::defaults,
        ("SpaceToDepth", Some(4)) => space::space_to_depth,
        // The runtime would take no notice of the lengths.
        ("LSTM" | "GRU" | "RNN", _) if !rules::full_length(graph, op) => |_| None,
        ("RNN", _) => recurrent::rnn,
        ("GRU", _) if op.int("linear_before_reset").unwrap_or(0) == 0 => recurrent::gru,
        // Nor would it round: of constants, places can be computed.
        ("Cast" | "CastLike", _) if lower.is_rounded_constant() => |_| None,
        ("Dropout", _) if lower.is_inference() => dropout,
        ("Pow", _) if lower.is_mixed_power() => power,
        _ => return Ok(false),
    };
    match write(&mut lower) {
        Some(()) => Ok(true),
        None => Err(failed(format!("this form of {} cannot be run", op.label()))),
    }
}

impl Attr<'_> {
    fn write(&self, node: &mut Writer) {
        node.message(5, |out| match self {
            Self::Int(name, value) => {
                out.bytes(1, name.as_bytes());
                out.int(3, *value);
                out.int(20, 2);
            }
            Self::Ints(name, values) => {
                out.bytes(1, name.as_bytes());
                values.iter().for_each(|&value| out.int(8, value));
                out.int(20, 7);
            }
            Self::Float(name, value) => {
                out.bytes(1, name.as_bytes());
                out.float(2, *value);
                out.int(20, 1);
            }
        });
    }
}

struct Lower<'a> {
    graph: &'a Graph,
    op: &'a Op,
    raw: &'a [u8],
    out: &'a mut Writer,
    stem: String,
    count: usize,
}

fn signed(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl<'a> Lower<'a> {
    fn name(&mut self) -> String {
        self.count += 1;
        format!("{}/fedbasin.{}", self.stem, self.count)
    }

    fn input(&self, index: usize) -> Option<&'a Value> {
        let id = (*self.op.inputs.get(index)?)?;
        self.graph.values.get(id)
    }

    fn shape(&self, index: usize) -> Option<&'a [usize]> {
        self.input(index)?.shape.as_deref()
    }

    fn output(&self, index: usize) -> Option<&'a Value> {
        let id = (*self.op.outputs.get(index)?)?;
        self.graph.values.get(id)
    }

    fn tensor(&mut self, dtype: i64, length: usize, data: &[u8]) -> String {
        let name = self.name();
        self.out.message(5, |tensor| {
            tensor.int(1, signed(length));
            tensor.int(2, dtype);
            tensor.bytes(8, name.as_bytes());
            tensor.bytes(9, data);
        });
        name
    }

    fn ints(&mut self, values: &[i64]) -> String {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(dtype::I64, values.len(), &data)
    }

    fn fill(&mut self, length: usize, value: f32) -> String {
        self.tensor(FLOAT, length, &value.to_le_bytes().repeat(length))
    }

    fn write(&mut self, op: &str, inputs: &[&str], output: &str, attributes: &[Attr<'_>]) {
        self.out.message(1, |node| {
            for input in inputs {
                node.bytes(1, input.as_bytes());
            }
            node.bytes(2, output.as_bytes());
            node.bytes(4, op.as_bytes());
            attributes.iter().for_each(|attribute| attribute.write(node));
        });
    }

    /// The node itself, with attributes that it lacks.
    fn with(&mut self, attributes: &[Attr<'_>]) {
        let raw = self.raw;
        self.out.message(1, |node| {
            node.0.extend_from_slice(raw);
            attributes.iter().for_each(|attribute| attribute.write(node));
        });
    }

    /// Whether a `Dropout` lets all through, and nobody asks what it dropped.
    fn is_inference(&self) -> bool {
        let training = self.input(2).map(|value| value.known.as_ref().and_then(Known::ints));
        let off =
            training.is_none_or(|known| known.is_some_and(|values| values.iter().all(|&value| value == 0)));
        off && self.output(1).is_none()
    }

    /// Whether numbers that are known become 16-bit floats, which the runtime keeps in 32 bits.
    fn is_rounded_constant(&self) -> bool {
        let half = self.output(0).is_some_and(|value| matches!(value.dtype, dtype::F16 | dtype::BF16));
        half && self.input(0).is_some_and(|value| value.known.is_some())
    }

    /// Whether a float is raised to the power of a whole number.
    fn is_mixed_power(&self) -> bool {
        let float = |index: usize| self.input(index).is_some_and(|value| dtype::is_float(value.dtype));
        let whole = |value: &Value| matches!(value.dtype, dtype::I32 | dtype::I64);
        float(0) && self.input(1).is_some_and(whole)
    }

    fn made(&mut self, op: &str, inputs: &[&str], attributes: &[Attr<'_>]) -> String {
        let name = self.name();
        self.write(op, inputs, &name, attributes);
        name
    }

    fn reshape_to(&mut self, value: &str, dims: &[usize], output: &str) {
        let shape = self.ints(&dims.iter().map(|&dim| signed(dim)).collect::<Vec<_>>());
        self.write("Reshape", &[value, &shape], output, &[]);
    }

    fn reshape(&mut self, value: &str, dims: &[usize]) -> String {
        let name = self.name();
        self.reshape_to(value, dims, &name);
        name
    }

    fn slice(&mut self, value: &str, axis: usize, start: usize, end: usize, step: usize) -> String {
        let starts = self.ints(&[signed(start)]);
        let ends = self.ints(&[signed(end)]);
        let axes = self.ints(&[signed(axis)]);
        let steps = self.ints(&[signed(step)]);
        self.made("Slice", &[value, &starts, &ends, &axes, &steps], &[])
    }

    /// A list attribute with one number for each place, or the default.
    fn list(&self, name: &str, count: usize, default: i64) -> Vec<i64> {
        let given = self.op.ints(name).unwrap_or_default();
        (0..count).map(|place| given.get(place).copied().unwrap_or(default)).collect()
    }
}

/// An instance normalisation of groups, then gain and bias.
fn group_norm(lower: &mut Lower<'_>) -> Option<()> {
    let (shape, output) = (lower.shape(0)?, lower.output(0)?);
    let groups = usize::try_from(lower.op.int("num_groups")?).ok().filter(|&groups| groups > 0)?;
    let (&[batch, channels], space) = (shape.first_chunk::<2>()?, &shape[2..]);
    let inner = channels / groups;
    let flat =
        lower.reshape(&lower.input(0)?.name, &[batch, groups, inner * space.iter().product::<usize>()]);
    let (one, zero) = (lower.fill(groups, 1.0), lower.fill(groups, 0.0));
    let epsilon = Attr::Float("epsilon", lower.op.float("epsilon").unwrap_or(1e-5));
    let normal = lower.made("InstanceNormalization", &[&flat, &one, &zero], &[epsilon]);
    let back = lower.reshape(&normal, shape);
    let mut broad = vec![1; shape.len() - 1];
    broad[0] = channels;
    let mut gains = Vec::new();
    for index in 1..3 {
        let mut name = lower.input(index)?.name.clone();
        if lower.shape(index)? == [groups] && groups != channels {
            let column = lower.reshape(&name, &[groups, 1]);
            let target = lower.ints(&[signed(groups), signed(inner)]);
            name = lower.made("Expand", &[&column, &target], &[]);
        }
        gains.push(lower.reshape(&name, &broad));
    }
    let scaled = lower.made("Mul", &[&back, &gains[0]], &[]);
    lower.write("Add", &[&scaled, &gains[1]], &output.name, &[]);
    Some(())
}

fn dropout(lower: &mut Lower<'_>) -> Option<()> {
    let (x, output) = (lower.input(0)?, lower.output(0)?);
    lower.write("Identity", &[&x.name], &output.name, &[]);
    Some(())
}

fn power(lower: &mut Lower<'_>) -> Option<()> {
    let (base, exponent, output) = (lower.input(0)?, lower.input(1)?, lower.output(0)?);
    let float = lower.made("Cast", &[&exponent.name], &[Attr::Int("to", FLOAT)]);
    lower.write("Pow", &[&base.name, &float], &output.name, &[]);
    Some(())
}
