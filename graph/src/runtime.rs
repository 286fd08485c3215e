//! Running the network: the file, rewritten so that parameters are inputs, in rten.
//!
//! The runtime sees the file's own nodes and infers shapes itself, so that a mistake of [`crate::infer`] or [`crate::rules`]
//! does not hide in it.

mod lower;

use std::collections::BTreeMap;

use rebasin::Checkpoint;
use rten::{Model, ModelOptions, NodeId, Value, ValueOrView, ValueView};
use rten_tensor::prelude::*;

use crate::{
    GraphError,
    graph::{Graph, Origin},
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

/// Parameters of a [`Network`], in its order.
pub(crate) struct Loaded(Vec<Vec<f32>>);

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
        self.run_loaded(&self.load(weights), inputs)
    }

    /// The parameters as the network takes them.
    pub(crate) fn load(&self, weights: &Checkpoint) -> Loaded {
        let floats = |name: &str| weights.get(name).map(rebasin::Tensor::to_f32).unwrap_or_default();
        Loaded(self.parameters.iter().map(|(_, name, _)| floats(name)).collect())
    }

    /// Whether a checkpoint has all parameters, in their shapes.
    pub(crate) fn fits(&self, weights: &Checkpoint) -> Result<(), GraphError> {
        for (_, name, shape) in &self.parameters {
            let why = match weights.get(name) {
                None => "the checkpoint has no such tensor".to_owned(),
                Some(tensor) if tensor.info().shape != *shape => {
                    format!(
                        "the checkpoint has it in shape {:?}, the graph in {shape:?}",
                        tensor.info().shape
                    )
                }
                Some(_) => continue,
            };
            return Err(GraphError::Input { name: name.clone(), why });
        }
        Ok(())
    }

    /// As [`Network::run`], with parameters that were loaded before.
    pub(crate) fn run_loaded(&self, weights: &Loaded, inputs: &[Data]) -> Result<Vec<Vec<f32>>, GraphError> {
        let mut given: Vec<(NodeId, ValueOrView<'_>)> = Vec::new();
        for ((id, _, shape), values) in self.parameters.iter().zip(&weights.0) {
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
                let lowered = match ops.next() {
                    Some(op) => lower::node(graph, op, field.bytes()?, &mut out)?,
                    None => false,
                };
                if !lowered {
                    out.copy(number, field);
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
