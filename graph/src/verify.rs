//! Verifying a spec by running the network before and after.

mod draw;

use std::collections::BTreeMap;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rebasin::{Alignment, CheckedSpec, Checkpoint, Digest, Permutation, Spec};
use serde::{Deserialize, Serialize};

use self::draw::{disturbed, input, nudged};
use crate::{
    GraphError,
    graph::Graph,
    runtime::{self, Data, Network},
};

/// How often the parameters' last bits are changed, to see what rounding does.
const NUDGES: usize = 4;

/// How to verify.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Where all randomness comes from.
    pub seed: u64,
    /// How many random elements of the whole group are tried; one more is tried for each group alone.
    pub elements: usize,
    /// Largest difference, divided by the output's scale, that is taken for rounding.
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
    /// The largest difference in an output, divided by its scale.
    pub difference: f64,
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
    /// Groups, each of which was also moved alone.
    pub groups: usize,
    /// Scale symmetries that were tried too, each alone.
    #[serde(default)]
    pub scales: usize,
    /// The largest difference found, divided by the output's scale.
    pub residual: f64,
    /// The difference that a change of each parameter's last bit makes, divided by the output's scale.
    pub noise: f64,
    /// The largest that would have been taken for rounding.
    pub tolerance: f64,
    /// One for each group: an axis that was left out, and noticed.
    pub noticed: Vec<Mutation>,
    /// Axes that were left out without a difference: what they hold is symmetric, or does not matter.
    pub unnoticed: Vec<Mutation>,
}

/// Applies random elements of the spec's group to the graph's parameters and requires the same outputs; leaves out one axis
/// for each group and requires that it shows.
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
    let (mut noticed, mut unnoticed) = (Vec::new(), Vec::new());
    for (index, group) in checked.groups().iter().enumerate() {
        let Some(alignment) = alone(&checked, index, &mut trial.rng) else { continue };
        residual = residual.max(trial.unchanged(&alignment, &format!("group {:?}", group.name))?);
        trial.mutate(&alignment, index, &mut noticed, &mut unnoticed)?;
    }
    Ok(Certificate {
        graph: graph.digest(),
        spec: spec.digest(),
        operators: graph.operators().into_iter().collect(),
        runtime: runtime::NAME.into(),
        runtime_version: runtime::VERSION.into(),
        seed: options.seed,
        disturbed: options.disturb,
        elements: options.elements,
        groups: checked.groups().len(),
        scales: checked.scales().len(),
        residual,
        noise: trial.noise,
        tolerance: options.tolerance,
        noticed,
        unnoticed,
    })
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

struct Trial<'a> {
    network: Network,
    spec: &'a Spec,
    checked: &'a CheckedSpec,
    weights: Checkpoint,
    inputs: Vec<Data>,
    expected: Vec<Vec<f32>>,
    names: Vec<String>,
    tolerance: f64,
    noise: f64,
    rng: ChaCha8Rng,
}

impl<'a> Trial<'a> {
    fn new(
        graph: &Graph,
        spec: &'a Spec,
        checked: &'a CheckedSpec,
        options: &VerifyOptions,
    ) -> Result<Self, GraphError> {
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        let network = Network::new(graph)?;
        let mut weights = graph.checkpoint()?;
        if options.disturb {
            weights = disturbed(&weights, &mut rng)?;
        }
        let draw = |rng: &mut ChaCha8Rng| -> Result<Vec<Data>, GraphError> {
            graph.inputs.iter().map(|&id| input(graph, id, options, rng)).collect()
        };
        let (inputs, others) = (draw(&mut rng)?, draw(&mut rng)?);
        let expected = network.run(&weights, &inputs)?;
        let other = network.run(&weights, &others)?;
        let names: Vec<String> =
            graph.outputs.iter().map(|&output| graph.values[output].name.clone()).collect();
        telling(&names, &expected, &other, graph.inputs.is_empty())?;
        let tolerance = options.tolerance;
        let mut trial =
            Self { network, spec, checked, weights, inputs, expected, names, tolerance, noise: 0.0, rng };
        for _ in 0..NUDGES {
            let nudged = nudged(&trial.weights, &mut trial.rng)?;
            trial.noise = trial.noise.max(trial.difference(&nudged)?.1);
        }
        if trial.noise * 10.0 > tolerance {
            return Err(GraphError::Degenerate(format!(
                "the last bit of each parameter changes them by {:.1e} of their scale: they are hardly more than rounding",
                trial.noise
            )));
        }
        Ok(trial)
    }

    /// Runs with other weights: the output that differs most, and by how much.
    fn difference(&self, weights: &Checkpoint) -> Result<(usize, f64), GraphError> {
        let found = self.network.run(weights, &self.inputs)?;
        let mut worst = (0, 0.0);
        for (index, (found, expected)) in found.iter().zip(&self.expected).enumerate() {
            let difference = relative(found, expected);
            if difference > worst.1 {
                worst = (index, difference);
            }
        }
        Ok(worst)
    }

    fn unchanged(&self, alignment: &Alignment, what: &str) -> Result<f64, GraphError> {
        self.same(&alignment.apply(self.checked, &self.weights)?, what)
    }

    /// Requires the same outputs from other weights.
    fn same(&self, weights: &Checkpoint, what: &str) -> Result<f64, GraphError> {
        let (output, residual) = self.difference(weights)?;
        if residual <= self.tolerance {
            return Ok(residual);
        }
        Err(GraphError::Changed {
            what: what.to_owned(),
            output: self.names[output].clone(),
            residual,
            tolerance: self.tolerance,
        })
    }

    /// Scales each unit of each scale symmetry by a factor of its own, one symmetry at a time.
    fn rescaled(&mut self) -> Result<f64, GraphError> {
        let sizes: Vec<usize> =
            self.checked.scales().iter().map(|scale| self.checked.groups()[scale.group].units).collect();
        let mut residual = 0_f64;
        for scale in 0..sizes.len() {
            let mut factors: Vec<Vec<f64>> = sizes.iter().map(|&units| vec![1.0; units]).collect();
            for factor in &mut factors[scale] {
                *factor = f64::exp2(self.rng.random_range(-1.0..1.0));
            }
            let name = &self.checked.groups()[self.checked.scales()[scale].group].name;
            let scaled = rebasin::rescale(self.checked, &self.weights, &factors)?;
            residual = residual.max(self.same(&scaled, &format!("scale {scale}, of group {name:?}"))?);
        }
        Ok(residual)
    }

    /// Leaves out one axis after the other, until it shows.
    fn mutate(
        &self,
        alignment: &Alignment,
        group: usize,
        noticed: &mut Vec<Mutation>,
        unnoticed: &mut Vec<Mutation>,
    ) -> Result<(), GraphError> {
        let name = &self.checked.groups()[group].name;
        let moved = alignment.apply(self.checked, &self.weights)?;
        for (index, info) in self.checked.layout().tensors().iter().enumerate() {
            for (axis, form) in self.checked.axes(index).iter().enumerate() {
                if !form.as_ref().is_some_and(|form| form.groups().any(|found| found == group)) {
                    continue;
                }
                let (weights, axis) = self.without(alignment, &moved, index, axis)?;
                if weights == moved {
                    continue; // what stands there is the same in all places
                }
                let (_, difference) = self.difference(&weights)?;
                let mutation = Mutation { group: name.clone(), tensor: info.name.clone(), axis, difference };
                if difference > self.tolerance {
                    noticed.push(mutation);
                    return Ok(());
                }
                unnoticed.push(mutation);
            }
        }
        Err(GraphError::Degenerate(format!("no output shows whether group {name:?} moves as a whole")))
    }

    /// The moved parameters, but for one axis of one tensor (or, where the spec needs that axis for another, all of it).
    fn without(
        &self,
        alignment: &Alignment,
        moved: &Checkpoint,
        index: usize,
        axis: usize,
    ) -> Result<(Checkpoint, Option<usize>), GraphError> {
        let name = &self.checked.layout().tensors()[index].name;
        let mut tensors = self.spec.tensors().clone();
        if let Some(axes) = tensors.get_mut(name) {
            axes[axis] = None;
        }
        let less =
            Spec::new(self.spec.groups().clone(), tensors).and_then(|spec| spec.check(self.checked.layout()));
        if let Ok(less) = less {
            return Ok((alignment.apply(&less, &self.weights)?, Some(axis)));
        }
        let mut tensors = moved.tensors().to_vec();
        tensors[index] = self.weights.tensor(index).clone();
        Ok((Checkpoint::new(moved.layout().clone(), tensors)?, None))
    }
}

/// The largest difference, divided by the largest magnitude. Where both are not finite in the same way, there is none.
fn relative(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let finite = |values: &[f32]| {
        values
            .iter()
            .filter(|value| value.is_finite())
            .fold(0_f64, |most, &value| most.max(f64::from(value).abs()))
    };
    let scale = finite(expected).max(f64::MIN_POSITIVE);
    let mut worst = 0_f64;
    for (&found, &expected) in found.iter().zip(expected) {
        if found == expected {
            continue;
        }
        let difference = (f64::from(found) - f64::from(expected)).abs() / scale;
        worst = if difference.is_nan() { f64::INFINITY } else { worst.max(difference) };
    }
    worst
}

/// Outputs must be numbers, not all the same, and depend on the input.
fn telling(
    names: &[String],
    first: &[Vec<f32>],
    second: &[Vec<f32>],
    no_inputs: bool,
) -> Result<(), GraphError> {
    if let Some((name, _)) =
        names.iter().zip(first).find(|(_, values)| values.iter().any(|value| value.is_nan()))
    {
        return Err(GraphError::Degenerate(format!("output {name:?} is not a number")));
    }
    let varied = |values: &[f32]| values.iter().any(|value| *value != values[0]);
    if !first.iter().any(|values| values.len() < 2 || varied(values)) {
        return Err(GraphError::Degenerate("every output is the same number everywhere".into()));
    }
    if first == second && !no_inputs {
        return Err(GraphError::Degenerate("other inputs give the same outputs".into()));
    }
    Ok(())
}
