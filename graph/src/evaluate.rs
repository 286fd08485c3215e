//! Running a network for its outputs: what a loss along a path between checkpoints needs.

use std::collections::BTreeMap;

use rebasin::Checkpoint;

use crate::{
    GraphError,
    graph::{Graph, Value},
    onnx::dtype,
    runtime::{Data, Loaded, Network},
};

/// Rows that are run at once where the graph leaves their number open.
const ROWS: usize = 256;

/// What an input of the network is given, row-major; the first axis counts examples.
#[derive(Debug, Clone, PartialEq)]
pub enum InputData {
    /// For inputs of 32-bit floats.
    Floats {
        /// Its axes.
        shape: Vec<usize>,
        /// Its elements.
        values: Vec<f32>,
    },
    /// For inputs of whole numbers or truths.
    Ints {
        /// Its axes.
        shape: Vec<usize>,
        /// Its elements.
        values: Vec<i32>,
    },
}

impl InputData {
    fn shape(&self) -> &[usize] {
        let (Self::Floats { shape, .. } | Self::Ints { shape, .. }) = self;
        shape
    }

    /// Rows `from..to`, the last one repeated up to `rows`.
    fn rows(&self, from: usize, to: usize, rows: usize) -> Data {
        fn cut<T: Copy>(values: &[T], row: usize, from: usize, to: usize, rows: usize) -> Vec<T> {
            let mut cut = values[from * row..to * row].to_vec();
            for _ in to - from..rows {
                cut.extend_from_slice(&values[(to - 1) * row..to * row]);
            }
            cut
        }
        let row: usize = self.shape()[1..].iter().product();
        let mut shape = self.shape().to_vec();
        shape[0] = rows;
        match self {
            Self::Floats { values, .. } => Data::Floats(shape, cut(values, row, from, to, rows)),
            Self::Ints { values, .. } => Data::Ints(shape, cut(values, row, from, to, rows)),
        }
    }
}

/// The first output of a network for all examples.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Numbers an example.
    pub width: usize,
    /// `[examples, width]`, row-major.
    pub values: Vec<f32>,
}

/// A network and examples, ready to be run with any checkpoint.
pub struct Evaluation {
    network: Network,
    inputs: Vec<InputData>,
    examples: usize,
    /// Examples that are run at once.
    rows: usize,
}

impl Evaluation {
    /// Takes one input tensor for each input of the graph, by name, all with the same number of examples. A graph that was
    /// exported for a fixed number of examples is run on so many at a time.
    ///
    /// # Errors
    /// [`GraphError::Input`] if inputs are missing or do not fit; [`GraphError::Runtime`] if the network cannot be run.
    pub fn new(graph: &Graph, mut inputs: BTreeMap<String, InputData>) -> Result<Self, GraphError> {
        let network = Network::new(graph)?;
        let mut given = Vec::with_capacity(graph.inputs.len());
        let (mut examples, mut fixed) = (None, 1);
        for &id in &graph.inputs {
            let value = &graph.values[id];
            let wrong = |why: String| GraphError::Input { name: value.name.clone(), why };
            let data = inputs.remove(&value.name).ok_or_else(|| wrong("it is not given".into()))?;
            fits(graph, value, &data).map_err(wrong)?;
            let count = data.shape()[0];
            if *examples.get_or_insert(count) != count {
                return Err(wrong(format!(
                    "it has {count} examples, another input has {}",
                    examples.unwrap_or(0)
                )));
            }
            fixed = value.shape.as_ref().and_then(|shape| shape.first().copied()).unwrap_or(1).max(1);
            given.push(data);
        }
        let examples = examples
            .filter(|&examples| examples > 0)
            .ok_or_else(|| GraphError::Input { name: "(all)".into(), why: "there are no examples".into() })?;
        let mut evaluation = Self { network, inputs: given, examples, rows: fixed };
        if graph.bound.iter().any(|&(_, size)| size == fixed) {
            // The first axis may be open: if so, more rows at once are faster and give the same.
            evaluation.rows = ROWS.min(examples).max(1);
            let weights = evaluation.network.load(&graph.checkpoint()?);
            if evaluation.batch(&weights, 0).is_err() {
                evaluation.rows = fixed;
            }
        }
        Ok(evaluation)
    }

    /// How many examples there are.
    #[must_use]
    pub fn examples(&self) -> usize {
        self.examples
    }

    /// The network's first output with these weights.
    ///
    /// # Errors
    /// [`GraphError::Input`] if the checkpoint lacks a parameter of the graph or has one of another shape;
    /// [`GraphError::Runtime`].
    pub fn run(&self, weights: &Checkpoint) -> Result<Output, GraphError> {
        self.network.fits(weights)?;
        let weights = self.network.load(weights);
        let mut values = Vec::new();
        for from in (0..self.examples).step_by(self.rows) {
            let mut found = self.batch(&weights, from)?;
            let count = self.rows.min(self.examples - from);
            if found.len() % self.rows != 0 || found.is_empty() {
                return Err(GraphError::Runtime(format!(
                    "the first output has {} numbers for {} examples; its first axis must count examples",
                    found.len(),
                    self.rows
                )));
            }
            found.truncate(found.len() / self.rows * count);
            values.append(&mut found);
        }
        Ok(Output { width: values.len() / self.examples, values })
    }

    fn batch(&self, weights: &Loaded, from: usize) -> Result<Vec<f32>, GraphError> {
        let to = self.examples.min(from + self.rows);
        let inputs: Vec<Data> = self.inputs.iter().map(|input| input.rows(from, to, self.rows)).collect();
        let mut outputs = self.network.run_loaded(weights, &inputs)?;
        Ok(if outputs.is_empty() { Vec::new() } else { outputs.swap_remove(0) })
    }
}

/// Whether data is of an input's kind and shape; the first axis, and axes that the graph leaves open, may have any size.
fn fits(graph: &Graph, value: &Value, data: &InputData) -> Result<(), String> {
    let kind = matches!(
        (value.dtype, data),
        (dtype::F32, InputData::Floats { .. })
            | (dtype::I64 | dtype::I32 | dtype::BOOL, InputData::Ints { .. })
    );
    if !kind {
        return Err(match value.dtype {
            dtype::F32 => "it must hold floats".into(),
            dtype::I64 | dtype::I32 | dtype::BOOL => "it must hold whole numbers".into(),
            other => format!("the graph wants element type {other}, which is not supported"),
        });
    }
    let (InputData::Floats { shape, .. } | InputData::Ints { shape, .. }) = data;
    let count = match data {
        InputData::Floats { values, .. } => values.len(),
        InputData::Ints { values, .. } => values.len(),
    };
    let wanted = value.shape.clone().unwrap_or_default();
    let open = |size: usize| graph.bound.iter().any(|&(_, bound)| bound == size);
    let same = shape.len() == wanted.len()
        && !shape.is_empty()
        && shape[1..].iter().zip(&wanted[1..]).all(|(size, wanted)| size == wanted || open(*wanted));
    if !same || shape.iter().product::<usize>() != count {
        return Err(format!("its shape is {shape:?}, the graph wants {wanted:?} but for the first axis"));
    }
    Ok(())
}
