//! `LSTM`, `GRU` and `RNN`.

use super::{Axes, Rules};
use crate::{
    domain::{Atom, UNIT},
    graph::{Graph, Known, Op},
};

impl Rules<'_> {
    /// The same units in each gate, in the recurrent weight's columns, and in the state; one family for each direction.
    pub(super) fn recurrent(&mut self, op: &Op, x: &Axes) -> Option<Vec<Axes>> {
        let (w, r) = (self.input(op, 1)?, self.input(op, 2)?);
        if op.int("layout").unwrap_or(0) != 0 || x.len() != 3 || w.len() != 3 || r.len() != 3 {
            return None;
        }
        let hidden = self.domain.extent(r[2]);
        for pinned in [x[0], w[0]] {
            self.domain.pin(pinned);
        }
        // Where sequences end early, each stands for itself: their axis is that of the lengths.
        if let Some(lengths) = self.input(op, 4)
            && !full_length(self.graph, op)
        {
            self.domain.pin(x[1]);
            lengths.iter().for_each(|&axis| self.domain.pin(axis));
        }
        let direction = w[0];
        // Inputs and batch are the same for each direction.
        let directions = self.domain.atoms_of(&[direction, r[0]]);
        self.domain.forget(w[2], &directions);
        let unit = self.gates(r[1], hidden);
        let mut pairs = vec![(direction, r[0]), (x[2], w[2]), (unit, self.gates(w[1], hidden)), (unit, r[2])];
        // B and P: gates of units; initial states: [directions, batch, units].
        for index in [3, 7] {
            if let Some(other) = self.input(op, index) {
                pairs.extend([(direction, *other.first()?), (unit, self.gates(*other.get(1)?, hidden))]);
            }
        }
        for index in [5, 6] {
            if let Some(state) = self.input(op, index) {
                if index == 6 && op.op == "GRU" {
                    return None;
                }
                pairs.extend([(direction, *state.first()?), (x[1], *state.get(1)?), (unit, *state.get(2)?)]);
            }
        }
        let pairs: Vec<(Atom, Atom)> =
            pairs.into_iter().filter(|&(_, b)| self.domain.extent(b) != 1).collect();
        self.domain.unify_all(&pairs);
        let directions = self.domain.atoms_of(&[direction]);
        self.domain.restrict(unit, &directions);
        self.domain.restrict(x[2], &self.domain.atoms_of(&[x[2]]));
        self.domain.restrict(x[1], &self.domain.atoms_of(&[x[1]]));
        self.domain.unify_all(&[]);
        let direction = if self.domain.extent(direction) == 1 { UNIT } else { direction };
        let last = vec![direction, x[1], unit];
        Some(vec![vec![x[0], direction, x[1], unit], last.clone(), last])
    }

    /// The units of an axis that stacks gates.
    fn gates(&mut self, axis: Atom, hidden: usize) -> Atom {
        let (gate, unit) = self.split_or_pin(axis, hidden);
        self.domain.pin(gate);
        unit
    }
}

/// Whether no sequence of a batch ends early: no lengths are given, or all of them are the whole length, always.
pub(crate) fn full_length(graph: &Graph, op: &Op) -> bool {
    let value = |index: usize| Some(&graph.values[op.inputs.get(index).copied().flatten()?]);
    let Some(lengths) = value(4) else { return true };
    let steps = value(0).and_then(|x| i64::try_from(*x.shape.as_ref()?.first()?).ok());
    lengths
        .known
        .as_ref()
        .and_then(Known::ints)
        .is_some_and(|lengths| lengths.iter().all(|&length| Some(length) == steps))
}
