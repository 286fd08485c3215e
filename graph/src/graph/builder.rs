//! Building a graph from a decoded model: names to numbers, shapes inferred on the way.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rebasin::Digest;

use super::{Graph, Op, Origin, Value};
use crate::{
    GraphError, infer,
    onnx::{self, Attribute, Dim, Model, ValueInfo, dtype},
};

/// Most elements of one value: beyond it, a shape is a mistake or an attack.
const MAX_ELEMENTS: usize = 1 << 40;
/// What a symbolic dimension is bound to, in order of appearance: small and distinct, so that no two of them agree by chance.
const SIZES: [usize; 8] = [2, 3, 5, 7, 11, 13, 17, 19];

/// Names of initializers that at least one node reads in a place where it configures the operator.
pub(super) fn structural_inputs(model: &Model) -> BTreeMap<&str, bool> {
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

pub(super) struct Builder<'a> {
    pub(super) graph: Graph,
    names: HashMap<String, usize>,
    sizes: &'a BTreeMap<String, usize>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(bytes: &[u8], opset: i64, sizes: &'a BTreeMap<String, usize>) -> Self {
        let graph = Graph {
            file: bytes.to_vec(),
            digest: Digest::of(bytes),
            opset,
            ops: Vec::new(),
            values: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            bound: Vec::new(),
            open: BTreeMap::new(),
        };
        Self { graph, names: HashMap::new(), sizes }
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

    pub(super) fn find(&self, name: &str, place: impl FnOnce() -> String) -> Result<usize, GraphError> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| GraphError::Unwritten { place: place(), value: name.chars().take(80).collect() })
    }

    pub(super) fn sources(
        &mut self,
        model: &Model,
        structural: &BTreeMap<&str, bool>,
    ) -> Result<(), GraphError> {
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
            let bound: Vec<(usize, Option<usize>)> = match &input.shape {
                Some(dims) => dims.iter().map(|dim| self.bind(dim)).collect(),
                None => {
                    return Err(GraphError::Unsupported(format!(
                        "input {:?} has no shape; export the model with one",
                        input.name
                    )));
                }
            };
            let (shape, dimensions): (Vec<usize>, Vec<Option<usize>>) = bound.into_iter().unzip();
            let id = self.add(Value {
                name: input.name.clone(),
                dtype: input.dtype,
                shape: Some(shape),
                declared: false,
                origin: Origin::Input,
                tensor: None,
                known: None,
                parts: None,
                open: Vec::new(),
                sized: false,
                filled: false,
            })?;
            self.graph.inputs.push(id);
            if dimensions.iter().any(Option::is_some) {
                self.graph.open.insert(id, dimensions);
            }
        }
        Ok(())
    }

    /// A dimension's size, and which symbolic one it is.
    fn bind(&mut self, dim: &Dim) -> (usize, Option<usize>) {
        let name = match dim {
            Dim::Known(size) => return (*size, None),
            // A name that begins so could be that of one that has none.
            Dim::Named(name) if !name.starts_with('?') => name.clone(),
            Dim::Named(_) | Dim::Unknown => format!("?{}", self.graph.bound.len()),
        };
        if let Some(index) = self.graph.bound.iter().position(|(known, _)| *known == name) {
            return (self.graph.bound[index].1, Some(index));
        }
        let next = SIZES.get(self.graph.bound.len()).copied().unwrap_or(23);
        let size = self.sizes.get(&name).copied().unwrap_or(next);
        self.graph.bound.push((name, size));
        (size, Some(self.graph.bound.len() - 1))
    }

    pub(super) fn node(
        &mut self,
        node: &onnx::Node,
        infos: &HashMap<&str, &ValueInfo>,
    ) -> Result<(), GraphError> {
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
        let results = infer::node(&op, &self.graph).map_err(|error| self.with_sizes(error))?;
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

    /// Says which sizes stand for symbolic ones where shapes do not fit: they may be too small for the network.
    fn with_sizes(&self, error: GraphError) -> GraphError {
        let GraphError::Shape { node, why } = error else { return error };
        if self.graph.bound.is_empty() {
            return GraphError::Shape { node, why };
        }
        let sizes = self.graph.bound.iter().map(|(name, size)| format!("{name} = {size}"));
        let sizes = sizes.collect::<Vec<_>>().join(", ").chars().take(400).collect();
        GraphError::Sizes { node, why, sizes }
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
        open: Vec::new(),
        sized: false,
        filled: false,
    }
}
