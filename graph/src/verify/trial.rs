//! One network with disturbed parameters, and what it answers to several inputs.

use std::collections::BTreeSet;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rebasin::{Alignment, CheckedSpec, Checkpoint, Spec};

use super::{
    Certificate, Mutation, VerifyOptions,
    compare::Scale,
    draw::{changed, disturbed, input, nudged},
};
use crate::{
    GraphError,
    graph::Graph,
    runtime::{Data, Network},
};

/// How many random inputs the outputs must stay the same for: a unit that one input leaves dead shows nothing.
const DRAWS: usize = 3;
/// How often the parameters' last bits are changed, to see what rounding does.
const NUDGES: usize = 4;
/// So many times as much as rounding does must fit into what is taken for rounding.
const LEAST_SAID: f64 = 5.0;
/// Most axes of one group that are left out, each alone: fewer where the network is so large that all of them together would
/// take longer than the rest of the verification. So many elements are moved for all mutations together.
const MAX_MUTATIONS: usize = 64;
const MAX_MUTATED: usize = 1 << 29;

/// An input, and what the network answers.
struct Draw {
    inputs: Vec<Data>,
    expected: Vec<Vec<f32>>,
    scales: Vec<Scale>,
}

pub(super) struct Trial<'a> {
    network: Network,
    spec: &'a Spec,
    checked: &'a CheckedSpec,
    weights: Checkpoint,
    draws: Vec<Draw>,
    names: Vec<String>,
    tolerance: f64,
    /// Most axes that are left out of each group.
    mutations: usize,
    pub(super) noise: f64,
    pub(super) rng: ChaCha8Rng,
}

impl<'a> Trial<'a> {
    pub(super) fn new(
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
        let names: Vec<String> =
            graph.outputs.iter().map(|&output| graph.values[output].name.clone()).collect();
        let draws = drawn(graph, &network, &weights, options, &mut rng)?;
        telling(&names, &draws)?;
        let tolerance = options.tolerance;
        let elements: usize = weights.tensors().iter().map(|tensor| tensor.bytes().len() / 4).sum();
        let mutations = MAX_MUTATED / (elements * checked.groups().len()).max(1);
        let mutations = mutations.clamp(1, MAX_MUTATIONS);
        let mut trial =
            Self { network, spec, checked, weights, draws, names, tolerance, mutations, noise: 0.0, rng };
        for nudge in 0..NUDGES {
            let nudged = nudged(&trial.weights, &mut trial.rng)?;
            let draw = &trial.draws[nudge % trial.draws.len()];
            trial.noise = trial.noise.max(trial.difference(&nudged, draw)?.1);
        }
        if trial.noise * LEAST_SAID > tolerance {
            return Err(GraphError::Degenerate(format!(
                "the last bit of each parameter changes them by {:.1e} of their scale: they are hardly more than rounding",
                trial.noise
            )));
        }
        Ok(trial)
    }

    pub(super) fn draws(&self) -> usize {
        self.draws.len()
    }

    /// Runs with other weights: the output that differs most, and by how much.
    fn difference(&self, weights: &Checkpoint, draw: &Draw) -> Result<(usize, f64), GraphError> {
        let found = self.network.run(weights, &draw.inputs)?;
        let mut worst = (0, 0.0);
        for (index, (found, expected)) in found.iter().zip(&draw.expected).enumerate() {
            let difference = draw.scales[index].difference(found, expected);
            if difference > worst.1 {
                worst = (index, difference);
            }
        }
        Ok(worst)
    }

    pub(super) fn unchanged(&self, alignment: &Alignment, what: &str) -> Result<f64, GraphError> {
        self.same(&alignment.apply(self.checked, &self.weights)?, what)
    }

    /// As [`Trial::unchanged`], for one of the inputs: enough for what was tried before for all of them, along with others.
    pub(super) fn unchanged_once(
        &self,
        alignment: &Alignment,
        what: &str,
        number: usize,
    ) -> Result<f64, GraphError> {
        self.same_for(self.once(number), &alignment.apply(self.checked, &self.weights)?, what)
    }

    /// One of the inputs, each in its turn.
    fn once(&self, number: usize) -> &[Draw] {
        let number = number % self.draws.len();
        &self.draws[number..=number]
    }

    /// Requires the same outputs from other weights, for every input.
    fn same(&self, weights: &Checkpoint, what: &str) -> Result<f64, GraphError> {
        self.same_for(&self.draws, weights, what)
    }

    fn same_for(&self, draws: &[Draw], weights: &Checkpoint, what: &str) -> Result<f64, GraphError> {
        let mut most = 0_f64;
        for draw in draws {
            let (output, residual) = self.difference(weights, draw)?;
            if residual > self.tolerance {
                return Err(GraphError::Changed {
                    what: what.to_owned(),
                    output: self.names[output].clone(),
                    residual,
                    tolerance: self.tolerance,
                });
            }
            most = most.max(residual);
        }
        Ok(most)
    }

    /// Scales each unit of each scale symmetry by a factor of its own: each alone for one input, because its name says what is
    /// wrong, and all at once for every input.
    pub(super) fn rescaled(&mut self) -> Result<f64, GraphError> {
        let sizes: Vec<usize> =
            self.checked.scales().iter().map(|scale| self.checked.groups()[scale.group].units).collect();
        let random = |rng: &mut ChaCha8Rng, units: usize| -> Vec<f64> {
            (0..units).map(|_| f64::exp2(rng.random_range(-1.0..1.0))).collect()
        };
        let mut residual = 0_f64;
        for scale in 0..sizes.len() {
            let mut factors: Vec<Vec<f64>> = sizes.iter().map(|&units| vec![1.0; units]).collect();
            factors[scale] = random(&mut self.rng, sizes[scale]);
            let name = &self.checked.groups()[self.checked.scales()[scale].group].name;
            let scaled = rebasin::rescale(self.checked, &self.weights, &factors)?;
            let what = format!("scale {scale}, of group {name:?}");
            residual = residual.max(self.same_for(self.once(scale), &scaled, &what)?);
        }
        let factors: Vec<Vec<f64>> = sizes.iter().map(|&units| random(&mut self.rng, units)).collect();
        let scaled = rebasin::rescale(self.checked, &self.weights, &factors)?;
        Ok(residual.max(self.same(&scaled, "all scales")?))
    }

    /// The axes that a group stands on: tensor and axis.
    fn places(&self, group: usize) -> Vec<(usize, usize)> {
        let mut places = Vec::new();
        for index in 0..self.checked.layout().tensors().len() {
            for (axis, form) in self.checked.axes(index).iter().enumerate() {
                if form.as_ref().is_some_and(|form| form.groups().any(|found| found == group)) {
                    places.push((index, axis));
                }
            }
        }
        places
    }

    /// Leaves out each axis of a group, one after the other: at least one must show.
    pub(super) fn mutate(
        &mut self,
        alignment: &Alignment,
        group: usize,
        certificate: &mut Certificate,
    ) -> Result<(), GraphError> {
        let name = &self.checked.groups()[group].name;
        let places = self.places(group);
        let tensors: BTreeSet<usize> = places.iter().map(|&(index, _)| index).collect();
        if let (Some(&index), 1) = (tensors.first(), tensors.len()) {
            return self.single(group, index, certificate);
        }
        let moved = alignment.apply(self.checked, &self.weights)?;
        let (mut tried, mut shown) = (0, false);
        for &(index, axis) in &places {
            if shown && tried >= self.mutations {
                certificate.untried += places.len() - tried;
                break;
            }
            tried += 1;
            let (weights, axis) = self.without(alignment, &moved, index, axis)?;
            if weights == moved {
                continue; // what stands there is the same in all places
            }
            let difference = self.shows(&weights, certificate.noticeable)?;
            let tensor = self.checked.layout().tensors()[index].name.clone();
            let mutation = Mutation { group: name.clone(), tensor, axis, difference };
            if difference > certificate.noticeable {
                certificate.noticed.push(mutation);
                shown = true;
            } else {
                certificate.unnoticed.push(mutation);
            }
        }
        if shown { Ok(()) } else { Err(hidden(name)) }
    }

    /// A group on one tensor: leaving that out would leave out the whole move. Its elements left the outputs as they were; what
    /// remains to be seen is that the outputs depend on the tensor at all.
    fn single(
        &mut self,
        group: usize,
        index: usize,
        certificate: &mut Certificate,
    ) -> Result<(), GraphError> {
        let name = &self.checked.groups()[group].name;
        let weights = changed(&self.weights, index, &mut self.rng)?;
        let difference = self.shows(&weights, certificate.noticeable)?;
        if difference <= certificate.noticeable {
            return Err(hidden(name));
        }
        let tensor = self.checked.layout().tensors()[index].name.clone();
        certificate.single.push(Mutation { group: name.clone(), tensor, axis: None, difference });
        Ok(())
    }

    /// How much other weights show, up to the first input for which that is enough.
    fn shows(&self, weights: &Checkpoint, enough: f64) -> Result<f64, GraphError> {
        let mut most = 0_f64;
        for draw in &self.draws {
            most = most.max(self.difference(weights, draw)?.1);
            if most > enough {
                break;
            }
        }
        Ok(most)
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

fn hidden(group: &str) -> GraphError {
    GraphError::Degenerate(format!("no output shows whether group {group:?} moves as a whole"))
}

/// Random inputs, and the network's answers.
fn drawn(
    graph: &Graph,
    network: &Network,
    weights: &Checkpoint,
    options: &VerifyOptions,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<Draw>, GraphError> {
    let count = if graph.inputs.is_empty() { 1 } else { DRAWS };
    let mut answers = Vec::new();
    for _ in 0..count {
        let inputs =
            graph.inputs.iter().map(|&id| input(graph, id, options, rng)).collect::<Result<Vec<_>, _>>()?;
        let expected = network.run(weights, &inputs)?;
        answers.push((inputs, expected));
    }
    let mut scales = Vec::new();
    for (draw, (_, expected)) in answers.iter().enumerate() {
        let scale = |(output, values): (usize, &Vec<f32>)| {
            let others = answers.iter().enumerate().filter(|&(other, _)| other != draw);
            let others: Vec<&[f32]> = others.map(|(_, (_, answer))| answer[output].as_slice()).collect();
            Scale::new(values, &others)
        };
        scales.push(expected.iter().enumerate().map(scale).collect::<Vec<_>>());
    }
    let draws = answers.into_iter().zip(scales);
    Ok(draws.map(|((inputs, expected), scales)| Draw { inputs, expected, scales }).collect())
}

/// Outputs must be numbers, not all the same, and depend on the input.
fn telling(names: &[String], draws: &[Draw]) -> Result<(), GraphError> {
    for draw in draws {
        let mut outputs = names.iter().zip(&draw.expected);
        if let Some((name, _)) = outputs.find(|(_, values)| values.iter().any(|value| value.is_nan())) {
            return Err(GraphError::Degenerate(format!("output {name:?} is not a number")));
        }
    }
    let first = &draws[0].expected;
    let varied = |values: &[f32]| values.iter().any(|value| *value != values[0]);
    if !first.iter().any(|values| values.len() < 2 || varied(values)) {
        return Err(GraphError::Degenerate("every output is the same number everywhere".into()));
    }
    if draws.len() > 1 && draws.iter().all(|draw| draw.expected == *first) {
        return Err(GraphError::Degenerate("other inputs give the same outputs".into()));
    }
    Ok(())
}
