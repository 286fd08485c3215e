//! A graph that was read: nodes in order, values with shapes, constants and parameters told apart.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rebasin::{Checkpoint, Digest, Dtype, Layout, Tensor as Weights, TensorInfo};

use crate::{
    GraphError, infer,
    onnx::{self, Attribute, Dim, Model, ValueInfo, dtype},
};

/// Lowest and highest opset of `ai.onnx` that shapes and rules were written for.
pub(crate) const OPSETS: (i64, i64) = (9, 24);
/// Most elements of one value: beyond it, a shape is a mistake or an attack.
const MAX_ELEMENTS: usize = 1 << 40;
/// What a symbolic dimension is bound to, in order of appearance: small and distinct, so that no two of them agree by chance.
const SIZES: [usize; 8] = [2, 3, 5, 7, 11, 13, 17, 19];

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

/// A value's elements, where they follow from shapes and constants alone. Integers are exact: shapes are far below 2^53.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Known(pub(crate) Vec<f64>);

impl Known {
    #[expect(clippy::cast_possible_truncation, reason = "saturates, as ends of slices are meant to")]
    pub(crate) fn ints(&self) -> Vec<i64> {
        self.0.iter().map(|&value| value as i64).collect()
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
        let mut builder = Builder { sizes, ..Builder::new(bytes, opset(&model)?) };
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

/// Names of initializers that at least one node reads in a place where it configures the operator.
fn structural_inputs(model: &Model) -> BTreeMap<&str, bool> {
    let mut out: BTreeMap<&str, bool> = BTreeMap::new();
    for node in &model.nodes {
        for (index, name) in node.inputs.iter().enumerate() {
            let structural = match node.op.as_str() {
                "Resize" | "Upsample" | "Clip" | "Dropout" | "Range" | "OneHot" => index >= 1,
                "Pad" => index == 1 || index == 2,
                _ => false,
            };
            let only = out.entry(name).or_insert(true);
            *only &= structural;
        }
    }
    out
}

/// A tensor's name as a checkpoint allows it: other characters than letters, digits, `_`, `.` and `-` become `_`.
fn checkpoint_name(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    name.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
}

struct Builder<'a> {
    graph: Graph,
    names: HashMap<String, usize>,
    sizes: &'a BTreeMap<String, usize>,
}

impl Builder<'_> {
    fn new(bytes: &[u8], opset: i64) -> Self {
        static NONE: BTreeMap<String, usize> = BTreeMap::new();
        let graph = Graph {
            file: bytes.to_vec(),
            digest: Digest::of(bytes),
            opset,
            ops: Vec::new(),
            values: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            bound: Vec::new(),
        };
        Self { graph, names: HashMap::new(), sizes: &NONE }
    }

    fn add(&mut self, value: Value) -> Result<usize, GraphError> {
        let id = self.graph.values.len();
        if let Some(shape) = &value.shape {
            let elements = shape.iter().try_fold(1_usize, |product, &axis| product.checked_mul(axis.max(1)));
            let found = elements.unwrap_or(usize::MAX);
            if found > MAX_ELEMENTS {
                return Err(GraphError::Limit { what: "elements in one value", found, most: MAX_ELEMENTS });
            }
        }
        if self.names.insert(value.name.clone(), id).is_some() {
            let name = value.name.chars().take(80).collect();
            return Err(GraphError::Duplicate { what: "value", name });
        }
        self.graph.values.push(value);
        Ok(id)
    }

    fn find(&self, name: &str, place: impl FnOnce() -> String) -> Result<usize, GraphError> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| GraphError::Unwritten { place: place(), value: name.chars().take(80).collect() })
    }

    fn sources(&mut self, model: &Model, structural: &BTreeMap<&str, bool>) -> Result<(), GraphError> {
        let mut taken = BTreeSet::new();
        for tensor in &model.initializers {
            let configures = structural.get(tensor.name.as_str()).copied().unwrap_or(false);
            let origin = if dtype::is_float(tensor.dtype) && !configures {
                let name = checkpoint_name(&tensor.name);
                if !taken.insert(name.clone()) {
                    return Err(GraphError::Duplicate { what: "parameter", name });
                }
                Origin::Parameter(name)
            } else {
                Origin::Constant
            };
            self.add(constant(&tensor.name, tensor, origin))?;
        }
        for input in &model.inputs {
            if self.names.contains_key(&input.name) {
                continue; // old files list initializers among the inputs
            }
            let shape = match &input.shape {
                Some(dims) => dims.iter().map(|dim| self.bind(dim)).collect(),
                None => {
                    return Err(GraphError::Unsupported(format!(
                        "input {:?} has no shape; export the model with one",
                        input.name
                    )));
                }
            };
            let id = self.add(Value {
                name: input.name.clone(),
                dtype: input.dtype,
                shape: Some(shape),
                declared: false,
                origin: Origin::Input,
                tensor: None,
                known: None,
                parts: None,
            })?;
            self.graph.inputs.push(id);
        }
        Ok(())
    }

    fn bind(&mut self, dim: &Dim) -> usize {
        let name = match dim {
            Dim::Known(size) => return *size,
            Dim::Named(name) => name.clone(),
            Dim::Unknown => format!("?{}", self.graph.bound.len()),
        };
        if let Some((_, size)) = self.graph.bound.iter().find(|(known, _)| *known == name) {
            return *size;
        }
        let next = SIZES.get(self.graph.bound.len()).copied().unwrap_or(23);
        let size = self.sizes.get(&name).copied().unwrap_or(next);
        self.graph.bound.push((name, size));
        size
    }

    fn node(&mut self, node: &onnx::Node, infos: &HashMap<&str, &ValueInfo>) -> Result<(), GraphError> {
        let first = node.outputs.iter().find(|name| !name.is_empty());
        let name = if node.name.is_empty() { first.cloned().unwrap_or_default() } else { node.name.clone() };
        let mut op = Op {
            name,
            domain: node.domain.clone(),
            op: node.op.clone(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            arity: node.outputs.len(),
            attributes: node.attributes.clone(),
            captures: Vec::new(),
        };
        for input in &node.inputs {
            let found = if input.is_empty() { None } else { Some(self.find(input, || op.label())?) };
            op.inputs.push(found);
        }
        for attribute in node.attributes.values() {
            if let Attribute::Graph(names) = attribute {
                op.captures.extend(names.iter().filter_map(|name| self.names.get(name)));
            }
        }
        let results = infer::node(&op, &self.graph)?;
        for (index, output) in node.outputs.iter().enumerate() {
            if output.is_empty() {
                op.outputs.push(None);
                continue;
            }
            let mut value = results.get(index).cloned().unwrap_or_default().into_value(output);
            if let Some(info) = infos.get(output.as_str()) {
                self.declared(&mut value, info);
            }
            op.outputs.push(Some(self.add(value)?));
        }
        self.graph.ops.push(op);
        Ok(())
    }

    /// Fills in from what the file declares what could not be inferred, where all of it is a number.
    fn declared(&mut self, value: &mut Value, info: &ValueInfo) {
        if value.dtype == 0 {
            value.dtype = info.dtype;
        }
        if value.shape.is_none() && value.parts.is_none() {
            value.declared = true;
            let dims = info.shape.iter().flatten().map(|dim| match dim {
                Dim::Known(size) => Some(*size),
                Dim::Named(name) => {
                    self.graph.bound.iter().find(|(known, _)| known == name).map(|&(_, size)| size)
                }
                Dim::Unknown => None,
            });
            value.shape = info.shape.as_ref().and_then(|_| dims.collect());
        }
    }
}

/// A tensor of the file as a value.
fn constant(name: &str, tensor: &onnx::Tensor, origin: Origin) -> Value {
    let known = if origin == Origin::Constant { infer::known(tensor) } else { None };
    Value {
        name: name.to_owned(),
        dtype: tensor.dtype,
        shape: Some(tensor.dims.clone()),
        declared: false,
        origin,
        tensor: Some(tensor.clone()),
        known,
        parts: None,
    }
}
