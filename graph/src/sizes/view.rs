//! A graph as the rules see it: for all sizes at once.

use std::collections::BTreeSet;

use super::{Size, content::Content, shape::Pass};
use crate::{
    GraphError,
    graph::{Graph, Origin, Value},
    onnx::Attribute,
};

/// From here up primes are taken for symbols: larger than most widths, and small enough that four of them fit into a number.
const FIRST: usize = 4099;
/// A value of more elements than this is not reasoned about.
const MOST_ELEMENTS: usize = 1 << 62;
/// Most symbols: no network comes near.
const MOST_SYMBOLS: usize = 50_000;
const MOST_DIVISIONS: usize = 1 << 28;

/// The graph with a prime for each symbol; `None` if no size is open.
pub(crate) fn view(graph: &Graph) -> Result<Option<Graph>, GraphError> {
    if graph.open.is_empty() {
        return Ok(None);
    }
    let pass = Pass::run(graph);
    let found = pass.sizes.symbols.len();
    if found > MOST_SYMBOLS {
        return Err(GraphError::Limit { what: "sizes that it leaves open", found, most: MOST_SYMBOLS });
    }
    let primes = primes(&pass)?;
    let mut values = Vec::with_capacity(graph.values.len());
    for (id, value) in graph.values.iter().enumerate() {
        values.push(seen(&pass, &primes, id, value));
    }
    Ok(Some(Graph {
        file: Vec::new(),
        digest: graph.digest,
        opset: graph.opset,
        ops: graph.ops.clone(),
        values,
        inputs: graph.inputs.clone(),
        outputs: graph.outputs.clone(),
        bound: graph.bound.clone(),
        open: graph.open.clone(),
    }))
}

fn seen(pass: &Pass<'_>, primes: &[usize], id: usize, value: &Value) -> Value {
    let axes = pass.axes[id].as_ref();
    let lengths = |size: &Size| {
        let factor = usize::try_from(size.factor).ok()?;
        size.symbols.iter().try_fold(factor, |product, &symbol| product.checked_mul(primes[symbol]))
    };
    let shape: Option<Vec<usize>> = axes.and_then(|axes| axes.iter().map(lengths).collect());
    let elements = |shape: &Vec<usize>| {
        shape.iter().try_fold(1_usize, |product, &axis| product.checked_mul(axis.max(1)))
    };
    let shape = shape.filter(|shape| elements(shape).is_some_and(|elements| elements <= MOST_ELEMENTS));
    let unsure = pass.unsure[id];
    let content = &pass.content[id];
    let fixed = !unsure && matches!(content, Content::Fixed | Content::Data);
    Value {
        name: value.name.clone(),
        dtype: value.dtype,
        shape,
        declared: value.declared || unsure,
        origin: value.origin.clone(),
        // What parameters hold says nothing.
        tensor: value.tensor.clone().filter(|_| !matches!(value.origin, Origin::Parameter(_))),
        known: value.known.clone().filter(|_| fixed),
        parts: value.parts.clone().filter(|_| !unsure),
        open: axes.map(|axes| axes.iter().map(Size::is_open).collect()).unwrap_or_default(),
        sized: !unsure && !fixed,
        filled: !unsure && *content == Content::Filled,
    }
}

/// A prime for each symbol, which divides no number of the graph's own.
fn primes(pass: &Pass<'_>) -> Result<Vec<usize>, GraphError> {
    let mut numbers: BTreeSet<usize> = BTreeSet::new();
    for axes in pass.axes.iter().flatten() {
        numbers.extend(axes.iter().filter_map(|size| usize::try_from(size.factor).ok()));
    }
    for op in &pass.graph.ops {
        let ints = op.attributes.values().filter_map(|attribute| {
            if let Attribute::Int(value) = attribute { usize::try_from(*value).ok() } else { None }
        });
        numbers.extend(ints);
    }
    numbers.retain(|&number| number >= FIRST);
    if numbers.len().saturating_mul(pass.sizes.symbols.len()) > MOST_DIVISIONS {
        return Err(GraphError::Exhausted);
    }
    let mut out = Vec::new();
    let mut next = FIRST;
    while out.len() < pass.sizes.symbols.len() {
        let prime =
            (2..).take_while(|factor| factor * factor <= next).all(|factor| !next.is_multiple_of(factor));
        if prime && !numbers.iter().any(|number| number.is_multiple_of(next)) {
            out.push(next);
        }
        next += 2;
    }
    Ok(out)
}
