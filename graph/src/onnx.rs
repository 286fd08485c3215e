//! The part of ONNX's messages that is needed, decoded strictly and within bounds.

mod tensor;

use std::collections::{BTreeMap, BTreeSet};

use self::tensor::tensor;
pub(crate) use self::tensor::{Tensor, dtype};
use crate::{
    GraphError,
    wire::{Field, Reader},
};

/// Most bytes of a model file: the format's own limit.
pub(crate) const MAX_BYTES: usize = (1 << 31) - 1;
pub(crate) const MAX_NODES: usize = 100_000;
pub(crate) const MAX_TENSORS: usize = 100_000;
const MAX_EDGES: usize = 4096;
const MAX_RANK: usize = 16;
const MAX_DEPTH: usize = 8;
const MAX_NAME: usize = 1024;

#[derive(Debug, Clone)]
pub(crate) enum Attribute {
    Float(f32),
    Int(i64),
    Text(String),
    Tensor(Tensor),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Texts(Vec<String>),
    /// A subgraph, of which only the names that it reads are kept.
    Graph(BTreeSet<String>),
    Other,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) domain: String,
    pub(crate) op: String,
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
    pub(crate) attributes: BTreeMap<String, Attribute>,
}

/// One dimension of a declared shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Dim {
    Known(usize),
    Named(String),
    Unknown,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct ValueInfo {
    pub(crate) name: String,
    pub(crate) dtype: i64,
    pub(crate) shape: Option<Vec<Dim>>,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) opsets: Vec<(String, i64)>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) initializers: Vec<Tensor>,
    pub(crate) inputs: Vec<ValueInfo>,
    pub(crate) outputs: Vec<ValueInfo>,
    pub(crate) infos: Vec<ValueInfo>,
}

fn push<T>(list: &mut Vec<T>, item: T, what: &'static str, most: usize) -> Result<(), GraphError> {
    if list.len() >= most {
        return Err(GraphError::Limit { what, found: list.len() + 1, most });
    }
    list.push(item);
    Ok(())
}

fn name(field: Field<'_>) -> Result<String, GraphError> {
    let text = field.text()?;
    if text.len() > MAX_NAME {
        return Err(GraphError::Limit { what: "bytes in one name", found: text.len(), most: MAX_NAME });
    }
    Ok(text.to_owned())
}

/// A text for a message: never more of it than one wants to read.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

impl Model {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, GraphError> {
        if bytes.len() > MAX_BYTES {
            return Err(GraphError::Limit { what: "bytes", found: bytes.len(), most: MAX_BYTES });
        }
        let mut model = Self::default();
        let mut graphs = 0;
        let mut reader = Reader::new(bytes);
        while let Some((number, field)) = reader.next()? {
            match number {
                7 => {
                    graphs += 1;
                    model.graph(field.bytes()?)?;
                }
                8 => push(&mut model.opsets, opset(field.bytes()?)?, "opset imports", 64)?,
                25 => {
                    return Err(GraphError::Unsupported(
                        "the model defines functions of its own; inline them first (onnx.inliner.inline_local_functions)"
                            .into(),
                    ));
                }
                _ => {}
            }
        }
        if graphs != 1 {
            return Err(GraphError::Wire { what: "not exactly one graph in the model", at: bytes.len() });
        }
        Ok(model)
    }

    fn graph(&mut self, bytes: &[u8]) -> Result<(), GraphError> {
        let mut reader = Reader::new(bytes);
        while let Some((number, field)) = reader.next()? {
            match number {
                1 => push(&mut self.nodes, node(field.bytes()?, 0)?, "nodes", MAX_NODES)?,
                5 => push(&mut self.initializers, tensor(field.bytes()?)?, "initializers", MAX_TENSORS)?,
                11 => push(&mut self.inputs, value_info(field.bytes()?)?, "inputs", MAX_TENSORS)?,
                12 => push(&mut self.outputs, value_info(field.bytes()?)?, "outputs", MAX_TENSORS)?,
                13 => push(&mut self.infos, value_info(field.bytes()?)?, "value infos", 2 * MAX_NODES)?,
                15 => {
                    return Err(GraphError::Unsupported(
                        "the model has sparse initializers; export it with dense ones".into(),
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn opset(bytes: &[u8]) -> Result<(String, i64), GraphError> {
    let mut out = (String::new(), 0);
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        match number {
            1 => out.0 = name(field)?,
            2 => out.1 = field.int()?,
            _ => {}
        }
    }
    Ok(out)
}

fn node(bytes: &[u8], depth: usize) -> Result<Node, GraphError> {
    let mut node = Node::default();
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        match number {
            1 => push(&mut node.inputs, name(field)?, "inputs of one node", MAX_EDGES)?,
            2 => push(&mut node.outputs, name(field)?, "outputs of one node", MAX_EDGES)?,
            3 => node.name = name(field)?,
            4 => node.op = name(field)?,
            5 => {
                let (key, value) = attribute(field.bytes()?, depth)?;
                if node.attributes.len() >= MAX_EDGES {
                    return Err(GraphError::Limit {
                        what: "attributes of one node",
                        found: MAX_EDGES + 1,
                        most: MAX_EDGES,
                    });
                }
                if node.attributes.insert(key.clone(), value).is_some() {
                    return Err(GraphError::Duplicate { what: "attribute", name: short(&key) });
                }
            }
            7 => node.domain = name(field)?,
            _ => {}
        }
    }
    if node.domain == "ai.onnx" {
        node.domain.clear();
    }
    Ok(node)
}

#[derive(Default)]
struct Parts {
    float: f32,
    int: i64,
    text: String,
    tensor: Option<Tensor>,
    graph: Option<BTreeSet<String>>,
    floats: Vec<u8>,
    ints: Vec<i64>,
    texts: Vec<String>,
}

fn attribute(bytes: &[u8], depth: usize) -> Result<(String, Attribute), GraphError> {
    let (mut key, mut kind) = (String::new(), 0);
    let mut parts = Parts::default();
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        match number {
            1 => key = name(field)?,
            2 => parts.float = field.float()?,
            3 => parts.int = field.int()?,
            4 => parts.text = String::from_utf8_lossy(field.bytes()?).into_owned(),
            5 => parts.tensor = Some(tensor(field.bytes()?)?),
            6 => parts.graph = Some(reads(field.bytes()?, depth + 1)?),
            7 => field.fixed32_into(&mut parts.floats)?,
            8 => field.ints_into(&mut parts.ints)?,
            9 => {
                let text = String::from_utf8_lossy(field.bytes()?).into_owned();
                push(&mut parts.texts, text, "texts of one attribute", MAX_EDGES)?;
            }
            20 => kind = field.int()?,
            21 => {
                return Err(GraphError::Unsupported("an attribute refers to a function's attribute".into()));
            }
            _ => {}
        }
    }
    let value = match kind {
        1 => Attribute::Float(parts.float),
        2 => Attribute::Int(parts.int),
        3 => Attribute::Text(parts.text),
        4 => parts.tensor.map_or(Attribute::Other, Attribute::Tensor),
        5 => Attribute::Graph(parts.graph.unwrap_or_default()),
        6 => Attribute::Floats(parts.floats.chunks_exact(4).map(f32_of).collect()),
        7 => Attribute::Ints(parts.ints),
        8 => Attribute::Texts(parts.texts),
        _ => Attribute::Other,
    };
    Ok((key, value))
}

fn f32_of(bytes: &[u8]) -> f32 {
    let mut four = [0; 4];
    four.copy_from_slice(bytes);
    f32::from_le_bytes(four)
}

/// The names that a subgraph's nodes read or that it gives out, its own ones among them.
fn reads(bytes: &[u8], depth: usize) -> Result<BTreeSet<String>, GraphError> {
    if depth > MAX_DEPTH {
        return Err(GraphError::Limit { what: "levels of subgraphs", found: depth, most: MAX_DEPTH });
    }
    let mut names = BTreeSet::new();
    let mut nodes = 0;
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        match number {
            1 => {
                nodes += 1;
                if nodes > MAX_NODES {
                    return Err(GraphError::Limit { what: "nodes", found: nodes, most: MAX_NODES });
                }
                let node = node(field.bytes()?, depth)?;
                names.extend(node.inputs);
                for attribute in node.attributes.into_values() {
                    if let Attribute::Graph(inner) = attribute {
                        names.extend(inner);
                    }
                }
            }
            12 => {
                names.insert(value_info(field.bytes()?)?.name);
            }
            _ => {}
        }
    }
    Ok(names)
}

fn value_info(bytes: &[u8]) -> Result<ValueInfo, GraphError> {
    let mut info = ValueInfo::default();
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        match number {
            1 => info.name = name(field)?,
            2 => {
                let mut kinds = Reader::new(field.bytes()?);
                while let Some((number, field)) = kinds.next()? {
                    if number == 1 {
                        tensor_type(field.bytes()?, &mut info)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(info)
}

fn tensor_type(bytes: &[u8], info: &mut ValueInfo) -> Result<(), GraphError> {
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        match number {
            1 => info.dtype = field.int()?,
            2 => {
                let mut shape = Vec::new();
                let mut dims = Reader::new(field.bytes()?);
                while let Some((number, field)) = dims.next()? {
                    if number == 1 {
                        push(&mut shape, dim(field.bytes()?)?, "axes of one value", MAX_RANK)?;
                    }
                }
                info.shape = Some(shape);
            }
            _ => {}
        }
    }
    Ok(())
}

fn dim(bytes: &[u8]) -> Result<Dim, GraphError> {
    let mut out = Dim::Unknown;
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        match number {
            1 => {
                out = usize::try_from(field.int()?).map_or(Dim::Unknown, Dim::Known);
            }
            2 => {
                let name = name(field)?;
                out = if name.is_empty() { Dim::Unknown } else { Dim::Named(name) };
            }
            _ => {}
        }
    }
    Ok(out)
}
