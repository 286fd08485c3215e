//! What the runtime lacks, written in operators that it has: `GroupNormalization`, convolutions and pools over three axes,
//! `RNN`.

use super::{FLOAT, failed};
use crate::{
    GraphError,
    graph::{Graph, Op, Value},
    onnx::{Attribute, dtype},
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

/// Writes other nodes for one that the runtime lacks; `false` if it has it.
pub(super) fn node(graph: &Graph, op: &Op, out: &mut Writer) -> Result<bool, GraphError> {
    let rank =
        op.inputs.first().copied().flatten().and_then(|id| graph.values[id].shape.as_ref()).map(Vec::len);
    let write: fn(&mut Lower<'_>) -> Option<()> = match (op.op.as_str(), rank) {
        _ if !op.domain.is_empty() => return Ok(false),
        ("GroupNormalization", _) => group_norm,
        ("Conv", Some(5)) => conv3,
        ("AveragePool" | "MaxPool", Some(5)) => pool3,
        ("RNN", _) => rnn,
        _ => return Ok(false),
    };
    let first = op.outputs.iter().flatten().next().map_or("", |&id| graph.values[id].name.as_str());
    let mut lower = Lower { graph, op, out, stem: first.to_owned(), count: 0 };
    match write(&mut lower) {
        Some(()) => Ok(true),
        None => Err(failed(format!("this form of {} cannot be run", op.label()))),
    }
}

struct Lower<'a> {
    graph: &'a Graph,
    op: &'a Op,
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
            for attribute in attributes {
                node.message(5, |out| match attribute {
                    Attr::Int(name, value) => {
                        out.bytes(1, name.as_bytes());
                        out.int(3, *value);
                        out.int(20, 2);
                    }
                    Attr::Ints(name, values) => {
                        out.bytes(1, name.as_bytes());
                        values.iter().for_each(|&value| out.int(8, value));
                        out.int(20, 7);
                    }
                    Attr::Float(name, value) => {
                        out.bytes(1, name.as_bytes());
                        out.float(2, *value);
                        out.int(20, 1);
                    }
                });
            }
        });
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

/// One convolution over two axes for each position of the first, with that axis's window among the channels.
fn conv3(lower: &mut Lower<'_>) -> Option<()> {
    let (x, w, output) = (lower.shape(0)?, lower.shape(1)?, lower.output(0)?);
    let (&[n, c, depth, h, width], &[m, per, kd, kh, kw]) = (x, w) else { return None };
    let &[_, _, out_depth, out_h, out_w] = output.shape.as_deref()? else { return None };
    if !matches!(lower.op.text("auto_pad").unwrap_or("NOTSET"), "NOTSET" | "") || out_depth > MAX_UNROLLED {
        return None;
    }
    let (pads, strides) = (lower.list("pads", 6, 0), lower.list("strides", 3, 1));
    let dilations = lower.list("dilations", 3, 1);
    let around = lower.ints(&[0, 0, pads[0], 0, 0, 0, 0, pads[3], 0, 0]);
    let padded = lower.made("Pad", &[&lower.input(0)?.name, &around], &[]);
    let weight = lower.reshape(&lower.input(1)?.name, &[m, per * kd, kh, kw]);
    let stride = usize::try_from(strides[0]).ok()?;
    let dilation = usize::try_from(dilations[0]).ok()?;
    let _ = depth;
    let mut parts = Vec::new();
    for place in 0..out_depth {
        let start = place * stride;
        let window = lower.slice(&padded, 2, start, start + (kd - 1) * dilation + 1, dilation);
        let flat = lower.reshape(&window, &[n, c * kd, h, width]);
        let mut inputs = vec![flat.as_str(), weight.as_str()];
        if let Some(bias) = lower.input(2) {
            inputs.push(&bias.name);
        }
        let attributes = [
            Attr::Int("group", lower.op.int("group").unwrap_or(1)),
            Attr::Ints("pads", vec![pads[1], pads[2], pads[4], pads[5]]),
            Attr::Ints("strides", strides[1..].to_vec()),
            Attr::Ints("dilations", dilations[1..].to_vec()),
        ];
        let plane = lower.made("Conv", &inputs, &attributes);
        parts.push(lower.reshape(&plane, &[n, m, 1, out_h, out_w]));
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    lower.write("Concat", &parts, &output.name, &[Attr::Int("axis", 2)]);
    Some(())
}

/// A pool over the first axis, then one over the other two: averages and maxima allow that.
fn pool3(lower: &mut Lower<'_>) -> Option<()> {
    let (x, output) = (lower.shape(0)?, lower.output(0)?);
    let &[n, c, depth, h, w] = x else { return None };
    let out = output.shape.clone()?;
    let plain = matches!(lower.op.text("auto_pad").unwrap_or("NOTSET"), "NOTSET" | "");
    if !plain || lower.op.arity != 1 {
        return None;
    }
    let (pads, strides) = (lower.list("pads", 6, 0), lower.list("strides", 3, 1));
    let (kernel, dilations) = (lower.list("kernel_shape", 3, 1), lower.list("dilations", 3, 1));
    let common = |kernel: Vec<i64>, strides: Vec<i64>, pads: Vec<i64>, dilations: Vec<i64>, op: &Op| {
        let mut attributes = vec![
            Attr::Ints("kernel_shape", kernel),
            Attr::Ints("strides", strides),
            Attr::Ints("pads", pads),
            Attr::Int("ceil_mode", op.int("ceil_mode").unwrap_or(0)),
        ];
        if op.op == "AveragePool" {
            attributes.push(Attr::Int("count_include_pad", op.int("count_include_pad").unwrap_or(0)));
        }
        if dilations.iter().any(|&dilation| dilation != 1) {
            attributes.push(Attr::Ints("dilations", dilations));
        }
        attributes
    };
    let op = lower.op;
    let flat = lower.reshape(&lower.input(0)?.name, &[n * c, 1, depth, h * w]);
    let first = common(
        vec![kernel[0], 1],
        vec![strides[0], 1],
        vec![pads[0], 0, pads[3], 0],
        vec![dilations[0], 1],
        op,
    );
    let deep = lower.made(&op.op, &[&flat], &first);
    let planes = lower.reshape(&deep, &[n * c * out[2], 1, h, w]);
    let second = common(
        kernel[1..].to_vec(),
        strides[1..].to_vec(),
        vec![pads[1], pads[2], pads[4], pads[5]],
        dilations[1..].to_vec(),
        op,
    );
    let pooled = lower.made(&op.op, &[&planes], &second);
    lower.reshape_to(&pooled, &out, &output.name);
    Some(())
}

/// The steps one after the other.
fn rnn(lower: &mut Lower<'_>) -> Option<()> {
    let (&[steps, batch, features], &[directions, hidden, _]) = (lower.shape(0)?, lower.shape(1)?) else {
        return None;
    };
    let activations = match lower.op.attributes.get("activations") {
        Some(Attribute::Texts(names)) => names.clone(),
        _ => vec!["Tanh".to_owned(); directions],
    };
    let known = |name: &String| matches!(name.as_str(), "Tanh" | "Relu");
    if activations.len() != directions
        || !activations.iter().all(known)
        || lower.op.int("layout").unwrap_or(0) != 0
        || lower.input(4).is_some()
        || steps > MAX_UNROLLED
    {
        return None;
    }
    let reverse = lower.op.text("direction") == Some("reverse");
    let (mut sequences, mut lasts) = (Vec::new(), Vec::new());
    for (direction, activation) in activations.iter().enumerate() {
        let part = |lower: &mut Lower<'_>, index: usize, dims: &[usize]| -> Option<String> {
            let whole = lower.input(index)?.name.clone();
            let own = lower.slice(&whole, 0, direction, direction + 1, 1);
            Some(lower.reshape(&own, dims))
        };
        let w = part(lower, 1, &[hidden, features])?;
        let r = part(lower, 2, &[hidden, hidden])?;
        let b = match part(lower, 3, &[2 * hidden]) {
            Some(b) => b,
            None => lower.fill(2 * hidden, 0.0),
        };
        let (wb, rb) = (lower.slice(&b, 0, 0, hidden, 1), lower.slice(&b, 0, hidden, 2 * hidden, 1));
        let mut state = match part(lower, 5, &[batch, hidden]) {
            Some(state) => state,
            None => {
                let zeros = lower.fill(batch * hidden, 0.0);
                lower.reshape(&zeros, &[batch, hidden])
            }
        };
        let mut outputs = vec![String::new(); steps];
        for step in 0..steps {
            let at = if reverse || direction == 1 { steps - 1 - step } else { step };
            let now = lower.slice(&lower.input(0)?.name, 0, at, at + 1, 1);
            let now = lower.reshape(&now, &[batch, features]);
            let from_input = lower.made("Gemm", &[&now, &w, &wb], &[Attr::Int("transB", 1)]);
            let from_state = lower.made("Gemm", &[&state, &r, &rb], &[Attr::Int("transB", 1)]);
            let sum = lower.made("Add", &[&from_input, &from_state], &[]);
            state = lower.made(activation, &[&sum], &[]);
            outputs[at] = lower.reshape(&state, &[1, 1, batch, hidden]);
        }
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        sequences.push(lower.made("Concat", &outputs, &[Attr::Int("axis", 0)]));
        lasts.push(lower.reshape(&state, &[1, batch, hidden]));
    }
    for (index, (parts, axis)) in [(sequences, 1), (lasts, 0)].into_iter().enumerate() {
        if let Some(output) = lower.output(index) {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            lower.write("Concat", &parts, &output.name, &[Attr::Int("axis", axis)]);
        }
    }
    Some(())
}
