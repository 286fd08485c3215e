//! A graph that was read: nodes in order, values with shapes, constants and parameters told apart.

mod builder;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rebasin::{Checkpoint, Digest, Dtype, Layout, Tensor as Weights, TensorInfo};

use self::builder::{Builder, structural_inputs};
use crate::{
    GraphError,
    onnx::{self, Attribute, Model, ValueInfo, dtype},
};

/// Lowest and highest opset of `ai.onnx` that shapes and rules were written for.
pub(crate) const OPSETS: (i64, i64) = (9, 24);

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The caller gives it.
    Input,
    /// An initializer that is part of the checkpoint, under this name.
    Parameter(String),
    /// An initializer or `Constant` that is not.
    Constant,
    /// A node writes it.
    Node,
}

/// A value's elements, where they follow from shapes and constants alone, exactly as a runtime has them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Known {
    /// Whole numbers, and truths as 0 and 1.
    Ints(Vec<i64>),
    /// Elements of 64-bit floats, or of 32-bit ones, which these hold exactly.
    Floats(Vec<f64>),
}

impl Known {
    pub(crate) fn ints(&self) -> Option<&[i64]> {
        if let Self::Ints(values) = self { Some(values) } else { None }
    }

    pub(crate) fn floats(&self) -> Option<&[f64]> {
        if let Self::Floats(values) = self { Some(values) } else { None }
    }

    /// The elements at some places, in their order.
    pub(crate) fn pick(&self, places: &[usize]) -> Option<Self> {
        fn from<T: Copy>(values: &[T], places: &[usize]) -> Option<Vec<T>> {
            places.iter().map(|&place| values.get(place).copied()).collect()
        }
        Some(match self {
            Self::Ints(values) => Self::Ints(from(values, places)?),
            Self::Floats(values) => Self::Floats(from(values, places)?),
        })
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Ints(values) => values.len(),
            Self::Floats(values) => values.len(),
        }
    }

    /// Whether blocks of so many positions hold the same at each of them, `inner` elements a position.
    pub(crate) fn is_uniform(&self, length: usize, inner: usize) -> bool {
        // Bit by bit: 0 and -0 are two numbers.
        let bits: Vec<u64> = match self {
            _ if inner == 0 || length == 0 => return true,
            Self::Ints(values) => values.iter().map(|value| value.cast_unsigned()).collect(),
            Self::Floats(values) => values.iter().map(|value| value.to_bits()).collect(),
        };
        bits.chunks(inner * length).all(|block| block.chunks(inner).all(|part| part == &block[..inner]))
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub(crate) name: String,
    pub(crate) dtype: i64,
    /// `None`: an operator gives it that is not known.
    pub(crate) shape: Option<Vec<usize>>,
    /// Whether the shape is only what the file says, and does not follow from the operator.
    pub(crate) declared: bool,
    pub(crate) origin: Origin,
    pub(crate) tensor: Option<onnx::Tensor>,
    pub(crate) known: Option<Known>,
    /// For a sequence of tensors: which parts of which value it holds.
    pub(crate) parts: Option<Parts>,
    /// For each axis: whether it has another length for other sizes. Only `sizes::view` says so; else it is empty.
    pub(crate) open: Vec<bool>,
    /// Whether its elements follow from sizes that are left open, so that they are not known.
    pub(crate) sized: bool,
    /// Whether they are all the same number, for all sizes.
    pub(crate) filled: bool,
}

/// What `SplitToSequence` makes: stretches of one axis of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) of: usize,
    pub(crate) axis: usize,
    pub(crate) lengths: Vec<usize>,
    /// Whether parts keep the axis.
    pub(crate) keep: bool,
}

impl Parts {
    /// Where a part begins, and how long it is.
    pub(crate) fn stretch(&self, index: i64) -> Option<(usize, usize)> {
        let count = i64::try_from(self.lengths.len()).ok()?;
        let place = usize::try_from(if index < 0 { index.checked_add(count)? } else { index }).ok()?;
        let length = *self.lengths.get(place)?;
        Some((self.lengths[..place].iter().sum(), length))
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Op {
    /// Its name, or what stands for one.
    pub(crate) name: String,
    pub(crate) domain: String,
    pub(crate) op: String,
    pub(crate) inputs: Vec<Option<usize>>,
    pub(crate) outputs: Vec<Option<usize>>,
    /// How many outputs it lists, also while they are not yet known.
    pub(crate) arity: usize,
    pub(crate) attributes: BTreeMap<String, Attribute>,
    /// Values that its subgraphs read.
    pub(crate) captures: Vec<usize>,
}

/// An ONNX network: read, checked, with the shape of every value that a known operator gives.
#[derive(Debug, Clone)]
pub struct Graph {
    pub(crate) file: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) opset: i64,
    pub(crate) ops: Vec<Op>,
    pub(crate) values: Vec<Value>,
    pub(crate) inputs: Vec<usize>,
    pub(crate) outputs: Vec<usize>,
    /// Each symbolic dimension and the size it was bound to.
    pub(crate) bound: Vec<(String, usize)>,
    /// For inputs with symbolic dimensions: for each axis, which of `bound` it is.
    pub(crate) open: BTreeMap<usize, Vec<Option<usize>>>,
}

impl Graph {
    /// Reads a model file's bytes. Symbolic dimensions become small sizes, all different.
    ///
    /// # Errors
    /// [`GraphError`] with what is wrong, where, and what to do.
    pub fn read(bytes: &[u8]) -> Result<Self, GraphError> {
        Self::read_with(bytes, &BTreeMap::new())
    }

    /// The same, with sizes for symbolic dimensions by name.
    ///
    /// # Errors
    /// As [`Graph::read`].
    pub fn read_with(bytes: &[u8], sizes: &BTreeMap<String, usize>) -> Result<Self, GraphError> {
        let model = Model::decode(bytes)?;
        let mut builder = Builder::new(bytes, opset(&model)?, sizes);
        let structural = structural_inputs(&model);
        builder.sources(&model, &structural)?;
        let infos: HashMap<&str, &ValueInfo> =
            model.infos.iter().chain(&model.outputs).map(|info| (info.name.as_str(), info)).collect();
        for node in &model.nodes {
            builder.node(node, &infos)?;
        }
        for output in &model.outputs {
            let place = || "the graph's output list".to_owned();
            let id = builder.find(&output.name, place)?;
            builder.graph.outputs.push(id);
        }
        if builder.graph.outputs.is_empty() {
            return Err(GraphError::Unsupported("the graph has no outputs".into()));
        }
        Ok(builder.graph)
    }

    /// The parameters' names, dtypes and shapes: all float initializers, but for those that only configure an operator.
    ///
    /// # Errors
    /// [`GraphError::Layout`] for names or shapes that a checkpoint cannot have.
    pub fn layout(&self) -> Result<Layout, GraphError> {
        let infos = self.parameters().map(|(name, value)| info(name, value));
        Ok(Layout::new(infos.collect::<Result<_, _>>()?)?)
    }

    /// The parameters, as the file holds them.
    ///
    /// # Errors
    /// [`GraphError::Layout`] or [`GraphError::Checkpoint`].
    pub fn checkpoint(&self) -> Result<Checkpoint, GraphError> {
        let mut tensors = Vec::new();
        for (name, value) in self.parameters() {
            let data = value.tensor.as_ref().map(|tensor| tensor.data.clone()).unwrap_or_default();
            tensors.push(Weights::from_bytes(&info(name, value)?, data)?);
        }
        Ok(Checkpoint::new(self.layout()?, tensors)?)
    }

    /// SHA-256 of the file.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The operators that it uses, each once.
    #[must_use]
    pub fn operators(&self) -> BTreeSet<String> {
        self.ops.iter().map(Op::kind).collect()
    }

    /// The symbolic dimensions and the sizes that stand for them.
    #[must_use]
    pub fn bound_dimensions(&self) -> &[(String, usize)] {
        &self.bound
    }

    pub(crate) fn parameters(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().filter_map(|value| match &value.origin {
            Origin::Parameter(name) => Some((name.as_str(), value)),
            _ => None,
        })
    }
}

impl Value {
    /// Whether an axis has another length for other sizes.
    pub(crate) fn is_open(&self, axis: usize) -> bool {
        self.open.get(axis).copied().unwrap_or(false)
    }
}

impl Op {
    /// Its operator, with the domain if that is not ONNX's own.
    pub(crate) fn kind(&self) -> String {
        if self.domain.is_empty() { self.op.clone() } else { format!("{}.{}", self.domain, self.op) }
    }

    /// For messages: `Conv conv1`.
    pub(crate) fn label(&self) -> String {
        format!("{} {}", self.kind(), self.name).chars().take(160).collect()
    }

    pub(crate) fn int(&self, name: &str) -> Option<i64> {
        if let Some(Attribute::Int(value)) = self.attributes.get(name) { Some(*value) } else { None }
    }

    pub(crate) fn ints(&self, name: &str) -> Option<&[i64]> {
        if let Some(Attribute::Ints(values)) = self.attributes.get(name) { Some(values) } else { None }
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        if let Some(Attribute::Text(value)) = self.attributes.get(name) { Some(value) } else { None }
    }

    pub(crate) fn float(&self, name: &str) -> Option<f32> {
        if let Some(Attribute::Float(value)) = self.attributes.get(name) { Some(*value) } else { None }
    }
}

fn info(name: &str, value: &Value) -> Result<TensorInfo, GraphError> {
    let dtype = match value.dtype {
        dtype::F32 => Dtype::F32,
        dtype::F64 => Dtype::F64,
        dtype::F16 => Dtype::F16,
        dtype::BF16 => Dtype::BF16,
        other => return Err(GraphError::Unsupported(format!("parameter {name} has element type {other}"))),
    };
    Ok(TensorInfo { name: name.to_owned(), dtype, shape: value.shape.clone().unwrap_or_default() })
}

fn opset(model: &Model) -> Result<i64, GraphError> {
    let ours = |domain: &str| domain.is_empty() || domain == "ai.onnx";
    let mut found = model.opsets.iter().filter(|(domain, _)| ours(domain));
    let (from, to) = OPSETS;
    match (found.next(), found.next()) {
        (Some(&(_, version)), None) if (from..=to).contains(&version) => Ok(version),
        (first, _) => Err(GraphError::Opset {
            domain: "ai.onnx".into(),
            version: first.map_or(0, |&(_, version)| version),
            from,
            to,
        }),
    }
}
