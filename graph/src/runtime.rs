//! Running the network: the file, rewritten so that parameters are inputs, in rten.
//!
//! The runtime sees the file's own nodes and infers shapes itself, so that a mistake of [`crate::infer`] or [`crate::rules`]
//! does not hide in it.

use std::collections::BTreeMap;

use rebasin::Checkpoint;
use rten::{Model, ModelOptions, NodeId, Value, ValueOrView, ValueView};
use rten_tensor::prelude::*;

use crate::{
    GraphError,
    graph::{Graph, Op, Origin},
    onnx::dtype,
    wire::{Reader, Writer},
};

pub(crate) const NAME: &str = "rten";
pub(crate) const VERSION: &str = "0.27.0";

/// Element type and shape of the parameters: 32-bit floats.
const FLOAT: i64 = dtype::F32;

/// A network that is ready to run.
pub(crate) struct Network {
    model: Model,
    parameters: Vec<(NodeId, String, Vec<usize>)>,
    inputs: Vec<NodeId>,
    outputs: Vec<NodeId>,
}

/// The value of a graph input.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    Floats(Vec<usize>, Vec<f32>),
    Ints(Vec<usize>, Vec<i32>),
    Bytes(Vec<usize>, Vec<u8>),
}

fn failed(error: impl std::fmt::Display) -> GraphError {
    GraphError::Runtime(error.to_string().chars().take(400).collect())
}

impl Network {
    pub(crate) fn new(graph: &Graph) -> Result<Self, GraphError> {
        if let Some((name, _)) = graph.parameters().find(|(_, value)| value.dtype != FLOAT) {
            return Err(GraphError::Runtime(format!(
                "parameter {name} is not in 32-bit floats; export the network in them, the spec is the same"
            )));
        }
        let mut options = ModelOptions::with_all_ops();
        options.enable_optimization(false);
        let model = options.load(rewritten(graph)?).map_err(failed)?;
        let id = |name: &str| model.node_id(name).map_err(failed);
        let mut parameters = Vec::new();
        for value in &graph.values {
            if let Origin::Parameter(name) = &value.origin {
                let shape = value.shape.clone().unwrap_or_default();
                parameters.push((id(&value.name)?, name.clone(), shape));
            }
        }
        let ids = |values: &[usize]| {
            values.iter().map(|&value| id(&graph.values[value].name)).collect::<Result<Vec<_>, _>>()
        };
        let (inputs, outputs) = (ids(&graph.inputs)?, ids(&graph.outputs)?);
        Ok(Self { model, parameters, inputs, outputs })
    }

    /// The outputs as numbers, one list for each.
    pub(crate) fn run(&self, weights: &Checkpoint, inputs: &[Data]) -> Result<Vec<Vec<f32>>, GraphError> {
        let mut given: Vec<(NodeId, ValueOrView<'_>)> = Vec::new();
        let floats: Vec<Vec<f32>> = self
            .parameters
            .iter()
            .map(|(_, name, _)| weights.get(name).map(rebasin::Tensor::to_f32).unwrap_or_default())
            .collect();
        for ((id, _, shape), values) in self.parameters.iter().zip(&floats) {
            let view = ValueView::from_shape(shape, values.as_slice()).map_err(failed)?;
            given.push((*id, view.into()));
        }
        for (&id, data) in self.inputs.iter().zip(inputs) {
            let value = match data {
                Data::Floats(shape, values) => {
                    ValueView::from_shape(shape, values.as_slice()).map_err(failed)?
                }
                Data::Ints(shape, values) => {
                    ValueView::from_shape(shape, values.as_slice()).map_err(failed)?
                }
                Data::Bytes(shape, values) => {
                    ValueView::from_shape(shape, values.as_slice()).map_err(failed)?
                }
            };
            given.push((id, value.into()));
        }
        let outputs = self.model.run(given, &self.outputs, None).map_err(failed)?;
        outputs.into_iter().map(numbers).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "indices and truths are small")]
fn numbers(value: Value) -> Result<Vec<f32>, GraphError> {
    Ok(match value {
        Value::FloatTensor(tensor) => tensor.to_vec(),
        Value::Int32Tensor(tensor) => tensor.iter().map(|&value| value as f32).collect(),
        Value::Int8Tensor(tensor) => tensor.iter().map(|&value| f32::from(value)).collect(),
        Value::UInt8Tensor(tensor) => tensor.iter().map(|&value| f32::from(value)).collect(),
        _ => return Err(failed("an output is no tensor of numbers")),
    })
}

/// The file with its parameters as inputs, and with what the runtime lacks written in other operators.
fn rewritten(graph: &Graph) -> Result<Vec<u8>, GraphError> {
    let mut out = Writer::default();
    let mut reader = Reader::new(&graph.file);
    while let Some((number, field)) = reader.next()? {
        if number == 7 {
            let inner = rewritten_graph(graph, field.bytes()?)?;
            out.bytes(7, &inner);
        } else {
            out.copy(number, field);
        }
    }
    Ok(out.0)
}

fn rewritten_graph(graph: &Graph, bytes: &[u8]) -> Result<Vec<u8>, GraphError> {
    let parameters: BTreeMap<&str, &[usize]> = graph
        .values
        .iter()
        .filter(|value| matches!(value.origin, Origin::Parameter(_)))
        .map(|value| (value.name.as_str(), value.shape.as_deref().unwrap_or_default()))
        .collect();
    let mut out = Writer::default();
    let mut ops = graph.ops.iter();
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        let named = |at: u64| -> Result<String, GraphError> {
            let mut name = String::new();
            let mut inner = Reader::new(field.bytes()?);
            while let Some((number, field)) = inner.next()? {
                if number == at {
                    name = field.text()?.to_owned();
                }
            }
            Ok(name)
        };
        match number {
            1 => {
                let op = ops.next();
                match op.filter(|op| op.domain.is_empty() && op.op == "GroupNormalization") {
                    Some(op) => group_norm(graph, op, &mut out)?,
                    None => out.copy(number, field),
                }
            }
            5 if parameters.contains_key(named(8)?.as_str()) => {}
            11 if parameters.contains_key(named(1)?.as_str()) => {}
            13 => {}
            _ => out.copy(number, field),
        }
    }
    for (name, shape) in parameters {
        out.message(11, |info| {
            info.bytes(1, name.as_bytes());
            info.message(2, |kind| {
                kind.message(1, |tensor| {
                    tensor.int(1, FLOAT);
                    tensor.message(2, |dims| {
                        for &dim in shape {
                            dims.message(1, |out| out.int(1, i64::try_from(dim).unwrap_or(0)));
                        }
                    });
                });
            });
        });
    }
    Ok(out.0)
}

/// Writes nodes and the tensors that they need.
struct Lowering<'a> {
    out: &'a mut Writer,
    stem: String,
    count: usize,
}

impl Lowering<'_> {
    fn name(&mut self) -> String {
        self.count += 1;
        format!("{}/fedbasin.{}", self.stem, self.count)
    }

    fn shape(&mut self, dims: &[usize]) -> String {
        let name = self.name();
        self.out.message(5, |tensor| {
            tensor.int(1, i64::try_from(dims.len()).unwrap_or(0));
            tensor.int(2, dtype::I64);
            tensor.bytes(8, name.as_bytes());
            let values = dims.iter().flat_map(|&dim| i64::try_from(dim).unwrap_or(0).to_le_bytes());
            tensor.bytes(9, &values.collect::<Vec<u8>>());
        });
        name
    }

    fn fill(&mut self, length: usize, value: f32) -> String {
        let name = self.name();
        self.out.message(5, |tensor| {
            tensor.int(1, i64::try_from(length).unwrap_or(0));
            tensor.int(2, FLOAT);
            tensor.bytes(8, name.as_bytes());
            tensor.bytes(9, &value.to_le_bytes().repeat(length));
        });
        name
    }

    fn node(&mut self, op: &str, inputs: &[&str], output: &str, epsilon: Option<f32>) {
        self.out.message(1, |node| {
            for input in inputs {
                node.bytes(1, input.as_bytes());
            }
            node.bytes(2, output.as_bytes());
            node.bytes(4, op.as_bytes());
            if let Some(epsilon) = epsilon {
                node.message(5, |attribute| {
                    attribute.bytes(1, b"epsilon");
                    attribute.float(2, epsilon);
                    attribute.int(20, 1);
                });
            }
        });
    }

    fn reshape(&mut self, value: &str, dims: &[usize]) -> String {
        let (shape, out) = (self.shape(dims), self.name());
        self.node("Reshape", &[value, &shape], &out, None);
        out
    }
}

/// `GroupNormalization`, which the runtime lacks: an instance normalisation of groups, then gain and bias.
fn group_norm(graph: &Graph, op: &Op, out: &mut Writer) -> Result<(), GraphError> {
    let value = |index: usize| op.inputs.get(index).copied().flatten().map(|id| &graph.values[id]);
    let (Some(x), Some(scale), Some(bias), Some(Some(output))) =
        (value(0), value(1), value(2), op.outputs.first().copied())
    else {
        return Err(failed(format!("{} lacks an input", op.label())));
    };
    let groups = op.int("num_groups").and_then(|groups| usize::try_from(groups).ok()).unwrap_or(0);
    let Some(shape) =
        x.shape.as_ref().filter(|shape| shape.len() > 2 && groups > 0 && shape[1] % groups == 0)
    else {
        return Err(failed(format!("{} has no static shape", op.label())));
    };
    let mut lower = Lowering { out, stem: graph.values[output].name.clone(), count: 0 };
    let rest = shape[2..].iter().product::<usize>() * (shape[1] / groups);
    let flat = lower.reshape(&x.name, &[shape[0], groups, rest]);
    let (one, zero, normal) = (lower.fill(groups, 1.0), lower.fill(groups, 0.0), lower.name());
    lower.node(
        "InstanceNormalization",
        &[&flat, &one, &zero],
        &normal,
        Some(op.float("epsilon").unwrap_or(1e-5)),
    );
    let back = lower.reshape(&normal, shape);
    let mut broad = vec![1; shape.len() - 1];
    broad[0] = shape[1];
    let mut gains = Vec::new();
    for gain in [scale, bias] {
        let mut name = gain.name.clone();
        if gain.shape.as_deref() == Some(&[groups]) && groups != shape[1] {
            let column = lower.reshape(&name, &[groups, 1]);
            let (target, wide) = (lower.shape(&[groups, shape[1] / groups]), lower.name());
            lower.node("Expand", &[&column, &target], &wide, None);
            name = wide;
        }
        gains.push(lower.reshape(&name, &broad));
    }
    let scaled = lower.name();
    lower.node("Mul", &[&back, &gains[0]], &scaled, None);
    lower.node("Add", &[&scaled, &gains[1]], &graph.values[output].name, None);
    Ok(())
}
