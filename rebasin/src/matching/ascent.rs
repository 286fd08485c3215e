//! The steps of an ascent, which of them bear on which, and what visiting some of them finds.

use std::ops::ControlFlow;

use rayon::prelude::*;

use super::{
    AlignError, Margins, Progress, Work,
    gains::{Gain, Pair},
    nearby,
    step::{Found, Step},
};
use crate::Alignment;

/// All steps of a pair of models, and which of them bear on which.
pub(super) struct Ascent<'a> {
    pub(super) pair: Pair<'a>,
    pub(super) steps: Vec<Step>,
    /// The objective over the tensors that no group moves.
    pub(super) pinned_objective: f64,
    /// For each step: the steps whose gains depend on what it sets.
    neighbours: Vec<Vec<usize>>,
}

/// Where an ascent stands.
#[derive(Clone)]
pub(super) struct State {
    pub(super) alignment: Alignment,
    gains: Vec<Gain>,
    /// For each step: whether it found nothing with all that holds now.
    pub(super) settled: Vec<bool>,
    /// For each step: whether the last visit found every unit's best partner its own.
    all_best: Vec<bool>,
    pub(super) sweeps: u32,
    /// For each group: visits that changed it.
    pub(super) changes: Vec<u32>,
    /// The objective over the tensors that move, by the gains' sums.
    pub(super) objective: f64,
    pub(super) work: u64,
}

/// Steps of one start that do not bear on one another, and the groups whose permutations it has an opinion of.
pub(super) struct Visit<'v> {
    pub(super) state: &'v mut State,
    pub(super) batch: &'v [usize],
    pub(super) known: &'v [bool],
}

/// Whoever watches a search and may end it.
pub(super) type Observe<'o> = &'o mut dyn FnMut(Progress) -> ControlFlow<()>;

/// Tells of an event.
pub(super) fn tell(observe: Observe<'_>, event: Progress) -> Result<(), AlignError> {
    match observe(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(AlignError::Cancelled),
    }
}

impl<'a> Ascent<'a> {
    pub(super) fn new(pair: Pair<'a>, pinned_objective: f64) -> Self {
        let steps = Step::all(&pair);
        let mut of_group = vec![Vec::new(); pair.spec.groups().len()];
        for (index, step) in steps.iter().enumerate() {
            for group in step.groups() {
                of_group[group].push(index);
            }
        }
        let neighbours = steps.iter().enumerate().map(|(index, step)| {
            let mut found: Vec<usize> = step
                .groups()
                .flat_map(|group| pair.neighbours(group))
                .flat_map(|group| of_group[group].iter().copied())
                // Other steps of the same groups: what this one carries along, they decide.
                .chain(of_group[step.top].iter().copied().filter(|&other| other != index))
                .collect();
            found.sort_unstable();
            found.dedup();
            found
        });
        let neighbours: Vec<Vec<usize>> = neighbours.collect();
        // What `batch` relies on.
        debug_assert!(
            (0..steps.len()).all(|one| neighbours[one].iter().all(|&other| neighbours[other].contains(&one)))
        );
        Self { pair, steps, pinned_objective, neighbours }
    }

    /// Nothing spent yet, and what a sweep costs that computes every gain whole.
    pub(super) fn work(&self) -> Work {
        Work {
            multiply_adds: 0,
            dense_sweep: (0..self.pair.spec.groups().len()).map(|group| self.pair.dense_work(group)).sum(),
            sweeps: 0,
        }
    }

    /// Where nothing moves; the objective there is given.
    pub(super) fn identity(&self, objective: f64) -> State {
        self.at(Alignment::identity(self.pair.spec), objective)
    }

    /// Where an alignment is held, nothing else being known but the objective there.
    pub(super) fn at(&self, alignment: Alignment, objective: f64) -> State {
        let groups = self.pair.spec.groups().len();
        State {
            alignment,
            gains: self.pair.no_gains(),
            settled: vec![false; self.steps.len()],
            all_best: vec![false; self.steps.len()],
            sweeps: 0,
            changes: vec![0; groups],
            objective,
            work: 0,
        }
    }

    /// Whether no single step from the identity helps. A bound is asked first, which costs a part of the gain where the update is
    /// near the reference, until it once cannot tell. Keeps the gains that it computed; stops at the first step that does help, cheap
    /// ones first.
    pub(super) fn identity_is_best(
        &self,
        state: &mut State,
        observe: Observe<'_>,
    ) -> Result<bool, AlignError> {
        let mut order: Vec<usize> = (0..self.steps.len()).collect();
        order.sort_by_key(|&step| {
            self.steps[step].groups().map(|group| self.pair.dense_work(group)).sum::<u64>()
        });
        let known = vec![true; self.pair.spec.groups().len()];
        let mut near = self.pair.surely_finite;
        for index in order {
            self.tell_step(index, observe)?;
            if near && self.steps[index].is_plain() {
                let (best, work) = nearby::identity_is_best(&self.pair, self.steps[index].top);
                state.work += work;
                near = best;
                if best {
                    continue;
                }
            }
            let visit = Visit { state: &mut *state, batch: &[index], known: &known };
            if let Found::Better(_) = self.visit(&mut [visit])?.remove(0).remove(0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn tell_step(&self, step: usize, observe: Observe<'_>) -> Result<(), AlignError> {
        tell(observe, Progress::Group { group: self.steps[step].top })
    }

    /// Solves steps side by side, and changes nothing but gains. Gives what was found, in the order of the visits and their steps.
    pub(super) fn visit(&self, visits: &mut [Visit<'_>]) -> Result<Vec<Vec<Found>>, AlignError> {
        if visits.len() > 1 {
            // Several may ask for the same gain of what never changes: a thread that took up another visit while it computes one
            // would wait for itself.
            for visit in &mut *visits {
                for group in visit.batch.iter().flat_map(|&index| self.steps[index].groups()) {
                    visit.state.work += self.pair.constant_gain(group).1;
                }
            }
        }
        let mut taken: Vec<(usize, usize, Vec<Gain>)> = Vec::new();
        for (of, visit) in visits.iter_mut().enumerate() {
            for &index in visit.batch {
                let groups = self.steps[index].groups();
                taken.push((
                    of,
                    index,
                    groups.map(|group| std::mem::take(&mut visit.state.gains[group])).collect(),
                ));
            }
        }
        let held = &*visits;
        let outcomes: Vec<(Found, u64)> = taken
            .par_iter_mut()
            .with_max_len(1)
            .map(|(of, index, gains)| {
                let (step, known, alignment) =
                    (&self.steps[*index], held[*of].known, &held[*of].state.alignment);
                let mut work = 0;
                for (group, gain) in step.groups().zip(gains.iter_mut()) {
                    work += self.pair.refresh(group, gain, alignment, known);
                }
                let (found, general) = step.solve(&self.pair, gains, alignment, known);
                (found, work + general)
            })
            .collect();
        let mut all: Vec<Vec<Found>> = visits.iter().map(|_| Vec::new()).collect();
        for ((of, index, gains), (found, work)) in taken.into_iter().zip(outcomes) {
            let state = &mut *visits[of].state;
            state.work += work;
            for (group, gain) in self.steps[index].groups().zip(gains) {
                state.gains[group] = gain;
            }
            if let Found::Overflow(group) = found {
                let group = self.pair.spec.groups()[group].name.clone();
                return Err(AlignError::Overflow { group });
            }
            all[of].push(found);
        }
        Ok(all)
    }

    /// Takes what a step found.
    pub(super) fn take(&self, state: &mut State, index: usize, found: Found) {
        state.settled[index] = true;
        match found {
            Found::Better(better) => {
                state.all_best[index] = better.all_best;
                for (group, permutation) in better.permutations {
                    if state.alignment.permutations[group] != permutation {
                        state.changes[group] += 1;
                        state.alignment.permutations[group] = permutation;
                    }
                }
                for &neighbour in &self.neighbours[index] {
                    state.settled[neighbour] = false;
                }
            }
            Found::Nothing { all_best, .. } => state.all_best[index] = all_best,
            Found::Overflow(_) => unreachable!("a visit reports an overflow as an error"),
        }
    }

    /// All steps; next is always the one of whose gain most is known once those before it were visited.
    pub(super) fn most_known_first(&self) -> Vec<usize> {
        let mut known = vec![false; self.pair.spec.groups().len()];
        let mut left: Vec<usize> = (0..self.steps.len()).collect();
        let mut order = Vec::with_capacity(left.len());
        while !left.is_empty() {
            let index = left.remove(self.best_known(&left, &known));
            for group in self.steps[index].groups() {
                known[group] = true;
            }
            order.push(index);
        }
        order
    }

    /// The place in `left` of the step with the largest known part of its elements; the first among equals.
    fn best_known(&self, left: &[usize], known: &[bool]) -> usize {
        let part = |index: usize| {
            let sums = self.steps[index].groups().map(|group| self.pair.known_elements(group, known));
            sums.fold((0, 0), |(all, usable), (more, known)| (all + more, usable + known))
        };
        let mut best = (0, part(left[0]));
        for (place, &index) in left.iter().enumerate().skip(1) {
            let (all, usable) = part(index);
            let (best_all, best_usable) = best.1;
            // Compares usable / all without dividing.
            if (usable as u128) * (best_all as u128) > (best_usable as u128) * (all as u128) {
                best = (place, (all, usable));
            }
        }
        best.0
    }

    /// Takes out of an order the steps that are not settled and that neither bear on one another nor on a step that stands before them
    /// and is left: solving them now, side by side, is solving all in turn. Drops the settled ones that nothing before them can
    /// unsettle; one step at least goes each time.
    pub(super) fn batch(&self, left: &mut Vec<usize>, settled: &[bool]) -> Vec<usize> {
        let (mut batch, mut waiting) = (Vec::new(), Vec::new());
        for &index in &*left {
            let bears_on = |earlier: &usize| self.neighbours[*earlier].contains(&index);
            if batch.iter().chain(&waiting).any(bears_on) {
                waiting.push(index);
            } else if !settled[index] {
                batch.push(index);
            }
        }
        *left = waiting;
        batch
    }

    /// How surely units have their partners, by the gains that the search ended with: of the groups that stand alone and that it visited.
    pub(super) fn margins(&self, state: &mut State) -> Vec<Option<Margins>> {
        let known = vec![true; self.pair.spec.groups().len()];
        let mut margins = vec![None; known.len()];
        for group in self.steps.iter().filter(|step| step.is_plain()).map(|step| step.top) {
            let (gain, n) = (&mut state.gains[group], self.pair.spec.groups()[group].units);
            if n < 2 || gain.matrix.is_empty() {
                continue;
            }
            state.work += self.pair.refresh(group, gain, &state.alignment, &known);
            let partner = |unit| state.alignment.permutations[group].map(unit);
            margins[group] = Some(Margins::of(&gain.matrix, n, partner));
        }
        margins
    }

    /// Whether every unit has the best partner that it has anywhere: what a planted permutation looks like, and other starts
    /// would only find again.
    pub(super) fn every_unit_has_its_best(&self, state: &State) -> bool {
        state.settled.iter().chain(&state.all_best).all(|&holds| holds)
    }
}
