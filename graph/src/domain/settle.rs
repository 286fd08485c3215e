//! Making sure that a value's atoms say something definite.

use std::collections::{BTreeMap, BTreeSet};

use super::{Atom, Domain, State};

/// Most combinations of stretches of one value's axes that are looked at; beyond it, nothing depends on anything there.
const MAX_CONTEXTS: usize = 4096;

/// What was found not to be definite.
#[derive(Default)]
struct Findings {
    dependences: BTreeSet<(Atom, Atom)>,
    cases: BTreeSet<Atom>,
    contexts: usize,
}

impl Domain {
    /// Checks what the atoms of a value's axes are within: wherever in the value such an atom stands, what it is within must
    /// stand there too, once. What does not is forgotten: the permutation is then the same everywhere, which is always right.
    pub(crate) fn settle(&mut self, axes: &[Atom]) {
        loop {
            let before = self.changes;
            let tops: Vec<Atom> = axes.iter().flat_map(|&axis| self.factors(axis)).collect();
            let mut findings = Findings::default();
            self.look(&tops, &mut findings);
            if findings.contexts > MAX_CONTEXTS {
                for &top in &tops {
                    self.restrict(top, &BTreeSet::new());
                }
            }
            for (atom, outer) in findings.dependences {
                let outer = [outer].into_iter().collect();
                self.forget(atom, &outer);
            }
            for cases in findings.cases {
                self.collapse(cases);
            }
            self.reconcile();
            if self.changes == before {
                return;
            }
        }
    }

    /// Looks at a value with one stretch of each sum chosen: what remains is a plain product.
    fn look(&self, list: &[Atom], findings: &mut Findings) {
        if findings.contexts > MAX_CONTEXTS || !list.iter().any(|&atom| self.depends_on_something(atom)) {
            return;
        }
        let place = list.iter().position(|&atom| matches!(self.state(atom), State::Sum(_)));
        let Some(place) = place else {
            findings.contexts += 1;
            return self.look_closely(list, findings);
        };
        let sum = list[place];
        let State::Sum(stretches) = self.state(sum) else { return };
        let once = list.iter().filter(|&&atom| atom == sum).count() == 1;
        for (index, &stretch) in stretches.iter().enumerate() {
            let mut chosen = Vec::new();
            for (at, &atom) in list.iter().enumerate() {
                match self.state(atom) {
                    _ if at == place => chosen.extend(self.factors(stretch)),
                    State::Cases { over, members }
                        if once && self.find(*over) == sum && members.len() == stretches.len() =>
                    {
                        chosen.extend(self.factors(members[index]));
                    }
                    _ => chosen.push(atom),
                }
            }
            self.look(&chosen, findings);
        }
    }

    fn look_closely(&self, list: &[Atom], findings: &mut Findings) {
        let mut count: BTreeMap<Atom, usize> = BTreeMap::new();
        for &atom in list {
            *count.entry(atom).or_default() += 1;
        }
        for &atom in list {
            if let State::Cases { .. } = self.state(atom) {
                findings.cases.insert(atom);
            }
            for outer in self.within(atom) {
                let plain = matches!(self.state(outer), State::Free | State::Pinned(_));
                if !plain || count.get(&outer) != Some(&1) {
                    findings.dependences.insert((atom, outer));
                }
            }
        }
    }

    fn depends_on_something(&self, atom: Atom) -> bool {
        let atom = self.find(atom);
        match self.state(atom) {
            State::Free => !self.within(atom).is_empty(),
            State::Pinned(_) | State::Link(_) => false,
            State::Cases { .. } => true,
            State::Product(parts) | State::Sum(parts) => {
                parts.iter().any(|&part| self.depends_on_something(part))
            }
        }
    }
}
