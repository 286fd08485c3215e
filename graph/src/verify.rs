//! Verifying a spec by running the network before and after.

mod compare;
mod draw;
mod resize;
mod trial;

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rebasin::{Alignment, CheckedSpec, Digest, Permutation, Spec};
use serde::{Deserialize, Serialize};

use self::{resize::resized, trial::Trial};
use crate::{GraphError, graph::Graph, runtime};

/// A mutation is noticed if it does so many times what rounding was seen to do, and at least so much.
const BEYOND_ROUNDING: f64 = 100.0;
const LEAST_NOTICED: f64 = 1e-6;

/// How to verify.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Where all randomness comes from.
    pub seed: u64,
    /// How many random elements of the whole group are tried; one more is tried for each group alone.
    pub elements: usize,
    /// Largest difference, in terms of what the output says, that is taken for rounding.
    pub tolerance: f64,
    /// Whether to disturb the parameters first, each a little and differently. Without it, a gain that is 1 everywhere
    /// hides whether it moves.
    pub disturb: bool,
    /// Ranges from which inputs are drawn, by name: from the first number up to, but without, the second.
    pub ranges: BTreeMap<String, (f64, f64)>,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self { seed: 1, elements: 3, tolerance: 1e-4, disturb: true, ranges: BTreeMap::new() }
    }
}

/// An axis that was left out on purpose, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mutation {
    /// The group that was moved.
    pub group: String,
    /// The tensor that did not follow.
    pub tensor: String,
    /// Its axis; none where the tensor could only be left out as a whole.
    pub axis: Option<usize>,
    /// The largest difference in an output, in terms of what it says.
    pub difference: f64,
}

/// Other sizes of what the graph leaves open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resized {
    /// Each symbolic dimension with its size.
    pub sizes: BTreeMap<String, usize>,
    /// Why nothing was tried there; none if the spec held there too.
    pub untried: Option<String>,
}

/// What was tried, and that it held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// SHA-256 of the model file.
    pub graph: Digest,
    /// SHA-256 of the spec.
    pub spec: Digest,
    /// The operators of the graph.
    pub operators: Vec<String>,
    /// What ran it.
    pub runtime: String,
    /// Its version.
    pub runtime_version: String,
    /// The options' seed.
    pub seed: u64,
    /// Whether the parameters were disturbed first.
    pub disturbed: bool,
    /// Random elements of the whole group that left all outputs as they were.
    pub elements: usize,
    /// Random inputs, on each of which that was so.
    #[serde(default)]
    pub draws: usize,
    /// Groups, each of which was also moved alone.
    pub groups: usize,
    /// Scale symmetries that were tried too, each alone.
    #[serde(default)]
    pub scales: usize,
    /// The largest difference found: an output's difference, divided by how much of it depends on the input.
    pub residual: f64,
    /// The difference that a change of each parameter's last bit makes, measured alike.
    pub noise: f64,
    /// The largest that would have been taken for rounding.
    pub tolerance: f64,
    /// The smallest difference that an axis left out must make to be noticed: far beyond `residual` and `noise`.
    #[serde(default)]
    pub noticeable: f64,
    /// Axes that were left out, and noticed: for each group, all that make a difference.
    pub noticed: Vec<Mutation>,
    /// Axes that were left out without a difference: what they hold is symmetric, or does not matter.
    pub unnoticed: Vec<Mutation>,
    /// Of groups that stand on one tensor only: nothing can be left out, that the outputs stay the same is all there is to
    /// show. The tensor was changed in another way, to see that the outputs depend on it.
    #[serde(default)]
    pub single: Vec<Mutation>,
    /// Axes that were not left out, because their group has more of them than are tried.
    #[serde(default)]
    pub untried: usize,
    /// The symbolic dimensions' sizes in all that is said above.
    #[serde(default)]
    pub sizes: BTreeMap<String, usize>,
    /// Other sizes, for which random elements of the whole group left all outputs as they were, or which could not be tried.
    #[serde(default)]
    pub resized: Vec<Resized>,
    /// Symbolic dimensions for which the network could not be run at any other size than the first.
    #[serde(default)]
    pub one_size: Vec<String>,
}

/// Applies random elements of the spec's group to the graph's parameters and requires the same outputs for several random
/// inputs; leaves out each axis of each group and requires of every group that this shows. Where the graph leaves sizes open,
/// outputs must stay the same for other sizes too, as far as the network can be run for them.
///
/// # Errors
/// [`GraphError::Changed`] if the spec is wrong; [`GraphError::Degenerate`] if the outputs cannot tell;
/// [`GraphError::Runtime`] if the network cannot be run; others if spec and graph do not belong together.
pub fn verify(graph: &Graph, spec: &Spec, options: &VerifyOptions) -> Result<Certificate, GraphError> {
    let checked = spec.check(&graph.layout()?)?;
    let mut trial = Trial::new(graph, spec, &checked, options)?;
    let mut residual = 0_f64;
    for element in 0..options.elements {
        let alignment = Alignment::random(&checked, options.seed.wrapping_add(element as u64));
        residual = residual.max(trial.unchanged(&alignment, "all groups")?);
    }
    if !checked.scales().is_empty() {
        residual = residual.max(trial.rescaled()?);
    }
    let mut moved = Vec::new();
    for (index, group) in checked.groups().iter().enumerate() {
        let Some(alignment) = alone(&checked, index, &mut trial.rng) else { continue };
        residual =
            residual.max(trial.unchanged_once(&alignment, &format!("group {:?}", group.name), index)?);
        moved.push((index, alignment));
    }
    // Only now is it known how much rounding does.
    let noticeable = LEAST_NOTICED.max(BEYOND_ROUNDING * residual.max(trial.noise));
    let mut certificate = Certificate {
        graph: graph.digest(),
        spec: spec.digest(),
        operators: graph.operators().into_iter().collect(),
        runtime: runtime::NAME.into(),
        runtime_version: runtime::VERSION.into(),
        seed: options.seed,
        disturbed: options.disturb,
        elements: options.elements,
        draws: trial.draws(),
        groups: checked.groups().len(),
        scales: checked.scales().len(),
        residual,
        noise: trial.noise,
        tolerance: options.tolerance,
        noticeable,
        noticed: Vec::new(),
        unnoticed: Vec::new(),
        single: Vec::new(),
        untried: 0,
        sizes: graph.bound_dimensions().iter().cloned().collect(),
        resized: Vec::new(),
        one_size: Vec::new(),
    };
    for (index, alignment) in moved {
        trial.mutate(&alignment, index, &mut certificate)?;
    }
    drop(trial);
    resized(graph, spec, &checked, options, &mut certificate)?;
    Ok(certificate)
}

/// A random element that moves one group only, and what is within it along; `None` if the group allows nothing but standing
/// still.
fn alone(spec: &CheckedSpec, index: usize, rng: &mut ChaCha8Rng) -> Option<Alignment> {
    let group = &spec.groups()[index];
    if group.kind == rebasin::Kind::Fixed || group.size < 2 {
        return None;
    }
    let mut alignment = Alignment::identity(spec);
    let moved = |rng: &mut ChaCha8Rng| loop {
        let permutation = Permutation::random(group.size, rng);
        if permutation.moved() > 0 {
            return permutation;
        }
    };
    if let Some(parent) = group.within {
        let inner: Vec<Permutation> = (0..group.units / group.size).map(|_| moved(rng)).collect();
        alignment.permutations[index] = Permutation::wreath(&alignment.permutations[parent], &inner);
        return Some(alignment);
    }
    alignment.permutations[index] = moved(rng);
    for (other, inner) in spec.groups().iter().enumerate() {
        if inner.within == Some(index) {
            let still = vec![Permutation::identity(inner.size); group.size];
            alignment.permutations[other] = Permutation::wreath(&alignment.permutations[index], &still);
        }
    }
    Some(alignment)
}
