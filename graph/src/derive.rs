//! Deriving a spec from a graph.

use rebasin::{Coverage, Spec};
use serde::{Deserialize, Serialize};

use crate::{
    GraphError, emit,
    graph::{Graph, Origin},
    rules::Rules,
    scale, sizes,
};

/// An axis that does not move, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// The tensor.
    pub tensor: String,
    /// The axis, from 0.
    pub axis: usize,
    /// The operator and node that pinned it, or what else did.
    pub reason: String,
}

/// What follows from a graph.
#[derive(Debug, Clone)]
pub struct Derived {
    /// Which axes move together.
    pub spec: Spec,
    /// Every axis of every parameter that does not move; not those that are 1 long.
    pub pinned: Vec<Pinned>,
    /// How much moves.
    pub coverage: Coverage,
}

/// Derives which axes of the graph's parameters move together. The same graph always gives the same spec, whatever its symbolic
/// dimensions were bound to: it holds for all sizes.
///
/// # Errors
/// [`GraphError`] for nodes that do not fit their inputs, or parameters that a checkpoint cannot have.
pub fn derive(graph: &Graph) -> Result<Derived, GraphError> {
    // What a symbolic dimension was bound to must not decide.
    let view = sizes::view(graph)?;
    let mut rules = Rules::new(view.as_ref().unwrap_or(graph));
    rules.run()?;
    let (spec, names) = emit::spec(&mut rules)?;
    let scales = scale::scales(&rules, &names, &spec)?;
    let spec = spec.with_scales(scales);
    let layout = graph.layout()?;
    let coverage = spec.check(&layout)?.coverage();
    let mut pinned = Vec::new();
    for (id, value) in graph.values.iter().enumerate() {
        let Origin::Parameter(name) = &value.origin else { continue };
        let axes = rules.axes[id].clone().unwrap_or_default();
        for (axis, atom) in axes.into_iter().enumerate() {
            let stays = spec.tensors().get(name).is_some_and(|axes| axes[axis].is_none());
            if stays && rules.domain.extent(atom) != 1 {
                let reason = rules.domain.reason_of(atom).to_owned();
                pinned.push(Pinned { tensor: name.clone(), axis, reason });
            }
        }
    }
    pinned.sort_by(|a, b| (&a.tensor, a.axis).cmp(&(&b.tensor, b.axis)));
    Ok(Derived { spec, pinned, coverage })
}
