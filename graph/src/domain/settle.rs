//! Making sure that a value's atoms say something definite.

use std::collections::{BTreeMap, BTreeSet};

use super::{Atom, Domain, State};

impl Domain {
    /// Checks what the atoms of a value's axes are within: it must stand in the value, once, where the dependent atom is.
    /// What does not is forgotten: the permutation is then the same everywhere, which is always right.
    pub(crate) fn settle(&mut self, axes: &[Atom]) {
        loop {
            let before = self.changes;
            let tops: Vec<Atom> = axes.iter().flat_map(|&axis| self.factors(axis)).collect();
            let mut count: BTreeMap<Atom, usize> = BTreeMap::new();
            let mut all = Vec::new();
            for &axis in axes {
                self.all(axis, &mut all);
            }
            for atom in all {
                *count.entry(atom).or_default() += 1;
            }
            let allowed: BTreeSet<Atom> =
                tops.iter().copied().filter(|top| count.get(top) == Some(&1)).collect();
            for &top in &tops {
                self.settle_atom(top, &allowed, &count);
            }
            self.reconcile();
            if self.changes == before {
                return;
            }
        }
    }

    fn settle_atom(&mut self, atom: Atom, allowed: &BTreeSet<Atom>, count: &BTreeMap<Atom, usize>) {
        match self.state(atom).clone() {
            State::Free => {
                let within = self.within(atom);
                let fits = |&outer: &Atom| {
                    allowed.contains(&outer) && matches!(self.state(outer), State::Free | State::Pinned(_))
                };
                if !within.iter().all(fits) {
                    let kept = within.iter().copied().filter(|outer| fits(outer)).collect();
                    self.set_within(atom, kept);
                }
            }
            State::Product(parts) => {
                for part in parts {
                    self.settle_atom(part, allowed, count);
                }
            }
            State::Sum(parts) => {
                for part in parts {
                    let inside = self.widened(allowed, part, count);
                    self.settle_atom(part, &inside, count);
                }
            }
            State::Cases { over, members } => {
                let over = self.find(over);
                match self.state(over).clone() {
                    State::Sum(parts) if parts.len() == members.len() && allowed.contains(&over) => {
                        for (part, member) in parts.into_iter().zip(members) {
                            let inside = self.widened(allowed, part, count);
                            let inside = self.widened(&inside, member, count);
                            self.settle_atom(member, &inside, count);
                        }
                    }
                    _ => self.collapse(atom),
                }
            }
            State::Pinned(_) | State::Link(_) => {}
        }
    }

    fn widened(&self, allowed: &BTreeSet<Atom>, part: Atom, count: &BTreeMap<Atom, usize>) -> BTreeSet<Atom> {
        let mut out = allowed.clone();
        out.extend(self.factors(part).into_iter().filter(|atom| count.get(atom) == Some(&1)));
        out
    }
}
