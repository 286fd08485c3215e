//! Coordinate ascent over all steps, from a start to a fixed point.

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::{
    AlignError, MatchOptions, Progress,
    ascent::{Ascent, Observe, State, Visit, tell},
    step::Found,
};
use crate::Permutation;

/// Two sweeps in a row that raise the objective by less than this part of it end an ascent. On unrelated models of ResNet-50's shape that
/// leaves out 7 of 29 sweeps and a ten-thousandth of the objective; trained models mostly come to an end before.
const LITTLE: f64 = 1e-4;

/// One start on its way.
pub(super) struct Climb {
    /// Which start it is.
    start: usize,
    pub(super) state: State,
    sweep: Sweep,
    /// Of the next sweep.
    order: Vec<usize>,
    max_sweeps: usize,
    /// Of the orders after that.
    rng: ChaCha8Rng,
    /// Sweeps in a row that hardly helped.
    little: u32,
}

/// What one sweep visits.
struct Sweep {
    /// Steps that were not visited yet.
    left: Vec<usize>,
    /// The groups whose permutations it has an opinion of.
    known: Vec<bool>,
    /// Whether it began with no opinion.
    is_first: bool,
    /// The objective before it.
    before: f64,
}

impl Climb {
    /// From where a state stands. The first order is given, others are random.
    pub(super) fn from(
        ascent: &Ascent<'_>,
        start: usize,
        state: State,
        order: Vec<usize>,
        max_sweeps: usize,
        rng: ChaCha8Rng,
    ) -> Self {
        let known = vec![true; ascent.pair.spec.groups().len()];
        let sweep = Sweep { left: Vec::new(), known, is_first: false, before: state.objective };
        let mut climb = Self { start, state, sweep, order, max_sweeps, rng, little: 0 };
        climb.begin_sweep();
        climb
    }

    /// With no opinion: the first sweep visits next the step of whose gain most is known, and leaves out what depends on groups not yet
    /// visited.
    pub(super) fn with_no_opinion(mut self, ascent: &Ascent<'_>) -> Self {
        self.order = std::mem::replace(&mut self.sweep.left, ascent.most_known_first());
        self.sweep.known.fill(false);
        self.sweep.is_first = true;
        // Each piece is in the gain of the last of its groups that is visited, and in no earlier one.
        self.state.objective = 0.0;
        self
    }

    /// Begins the next sweep, if one could help.
    fn begin_sweep(&mut self) {
        let ended = self.state.sweeps as usize >= self.max_sweeps || self.little >= 2;
        if !ended && self.state.settled.contains(&false) {
            self.sweep.before = self.state.objective;
            self.sweep.left = std::mem::take(&mut self.order);
        }
    }

    fn end_sweep(&mut self, ascent: &Ascent<'_>, observe: Observe<'_>) -> Result<(), AlignError> {
        self.state.sweeps += 1;
        if std::mem::take(&mut self.sweep.is_first) {
            self.state.settled.fill(false);
        } else {
            let rise = self.state.objective - self.sweep.before;
            self.little = if rise < LITTLE * self.state.objective.abs() { self.little + 1 } else { 0 };
        }
        let objective = ascent.pinned_objective + self.state.objective;
        tell(observe, Progress::Sweep { start: self.start, sweep: self.state.sweeps, objective })?;
        if self.order.is_empty() {
            self.order = random_order(ascent.steps.len(), &mut self.rng);
        }
        self.begin_sweep();
        Ok(())
    }

    /// The steps to visit next; none if it is at its end.
    fn next(&mut self, ascent: &Ascent<'_>, observe: Observe<'_>) -> Result<Vec<usize>, AlignError> {
        while !self.sweep.left.is_empty() {
            // What a step knows of its neighbours is the same as in turn: those before it were visited, those behind it wait for it.
            let batch = ascent.batch(&mut self.sweep.left, &self.state.settled);
            if !batch.is_empty() {
                ascent.tell_step(batch[0], observe)?;
                return Ok(batch);
            }
            if self.sweep.left.is_empty() {
                self.end_sweep(ascent, observe)?;
            }
        }
        Ok(Vec::new())
    }

    /// Takes what a visit found.
    fn take(
        &mut self,
        ascent: &Ascent<'_>,
        batch: &[usize],
        found: Vec<Found>,
        observe: Observe<'_>,
    ) -> Result<(), AlignError> {
        for (&index, found) in batch.iter().zip(found) {
            // Another step of these groups was visited: what they contribute is counted.
            let counted = !self.sweep.is_first || self.sweep.known[ascent.steps[index].top];
            self.state.objective += match &found {
                Found::Better(better) if counted => better.rise,
                Found::Better(better) => better.value,
                Found::Nothing { value, .. } if !counted => *value,
                Found::Nothing { .. } | Found::Overflow(_) => 0.0,
            };
            ascent.take(&mut self.state, index, found);
        }
        for group in batch.iter().flat_map(|&index| ascent.steps[index].groups()) {
            self.sweep.known[group] = true;
        }
        if self.sweep.left.is_empty() { self.end_sweep(ascent, observe) } else { Ok(()) }
    }
}

/// All steps, in a random order.
pub(super) fn random_order(steps: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    Permutation::random(steps, rng).as_slice().iter().map(|&step| step as usize).collect()
}

/// Goes on with all of them, each a batch at a time, until each is at its end: one alone leaves threads idle while it solves one
/// assignment.
pub(super) fn climb(
    ascent: &Ascent<'_>,
    climbs: &mut [Climb],
    observe: Observe<'_>,
) -> Result<(), AlignError> {
    loop {
        let mut batches = Vec::with_capacity(climbs.len());
        for climb in &mut *climbs {
            batches.push(climb.next(ascent, observe)?);
        }
        let mut visits: Vec<Visit<'_>> = climbs
            .iter_mut()
            .zip(&batches)
            .filter(|(_, batch)| !batch.is_empty())
            .map(|(climb, batch)| Visit { state: &mut climb.state, batch, known: &climb.sweep.known })
            .collect();
        if visits.is_empty() {
            return Ok(());
        }
        let mut found = ascent.visit(&mut visits)?.into_iter();
        for (climb, batch) in climbs.iter_mut().zip(&batches).filter(|(_, batch)| !batch.is_empty()) {
            climb.take(ascent, batch, found.next().unwrap_or_default(), observe)?;
        }
    }
}

/// One ascent from a state, the first sweep in the steps' order. Of the state's objective only differences count.
pub(super) fn climb_from(
    ascent: &Ascent<'_>,
    state: State,
    options: &MatchOptions,
    observe: Observe<'_>,
) -> Result<State, AlignError> {
    let rng = ChaCha8Rng::seed_from_u64(options.seed);
    let order = (0..ascent.steps.len()).collect();
    let mut only = [Climb::from(ascent, 0, state, order, options.max_sweeps, rng)];
    climb(ascent, &mut only, observe)?;
    let [Climb { state, .. }] = only;
    Ok(state)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;
    use crate::{
        Checkpoint, Dtype, Layout, Spec, Tensor, TensorInfo,
        matching::{gains::Pair, quietly},
        report::{self, Measure},
    };

    fn layout() -> Layout {
        let widths = [6, 20, 20, 20, 4];
        let tensors = widths.windows(2).enumerate().flat_map(|(layer, ends)| {
            let info = |name: &str, shape| TensorInfo {
                name: format!("fc{layer}.{name}"),
                dtype: Dtype::F32,
                shape,
            };
            [info("bias", vec![ends[1]]), info("weight", vec![ends[1], ends[0]])]
        });
        Layout::new(tensors.collect()).expect("a chain of layers")
    }

    fn numbers(layout: &Layout, seed: u64) -> Checkpoint {
        use rand::RngExt as _;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let tensors = layout.tensors().iter().map(|info| {
            let values: Vec<f64> = (0..info.num_elements()).map(|_| rng.random_range(-1.0..1.0)).collect();
            Tensor::from_f64(info, &values).expect("finite")
        });
        Checkpoint::new(layout.clone(), tensors.collect()).expect("fits")
    }

    #[test]
    fn starts_side_by_side_end_where_each_ends_alone() {
        let layout = layout();
        let spec = Spec::mlp(&layout).expect("a chain").check(&layout).expect("fits");
        let (reference, update) = (numbers(&layout, 1), numbers(&layout, 2));
        let measures = report::measure(&spec, &reference, &update, None);
        let objective = Measure::sum(&measures).objective;
        let ascent = Ascent::new(Pair::new(&spec, &reference, &update, &measures), 0.0);
        let starts = || -> Vec<Climb> {
            let all = (0..5).map(|start| {
                let mut rng = ChaCha8Rng::seed_from_u64(start);
                let order = random_order(ascent.steps.len(), &mut rng);
                let start = usize::try_from(start).expect("small");
                let climb = Climb::from(&ascent, start, ascent.identity(objective), order, 100, rng);
                if start % 2 == 0 { climb.with_no_opinion(&ascent) } else { climb }
            });
            all.collect()
        };
        let (mut together, mut alone) = (starts(), starts());
        climb(&ascent, &mut together, &mut quietly).expect("climbs");
        for one in &mut alone {
            climb(&ascent, std::slice::from_mut(one), &mut quietly).expect("climbs");
        }
        for (one, other) in together.iter().zip(&alone) {
            assert_eq!(one.state.alignment, other.state.alignment);
            assert_eq!(one.state.objective.to_bits(), other.state.objective.to_bits());
            assert_eq!(one.state.sweeps, other.state.sweeps);
            assert!(one.state.sweeps > 1, "a start that is at its end at once shows nothing");
        }
        assert!(together.iter().any(|one| one.state.alignment != together[0].state.alignment));
    }
}
