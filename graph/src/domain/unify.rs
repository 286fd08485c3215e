//! Making two atoms one.

use std::collections::BTreeSet;

use super::{Atom, Domain, State};

/// Beyond so many steps within one identification both sides are pinned: no network comes near, and it surely ends.
const MOST_STEPS: usize = 20_000;

impl Domain {
    /// Identifies pairs of atoms; what each may depend on is what both sides may, seen after all pairs are identified.
    pub(crate) fn unify_all(&mut self, pairs: &[(Atom, Atom)]) {
        self.steps = 0;
        for &(a, b) in pairs {
            self.unify(a, b);
        }
        self.reconcile();
    }

    /// Intersects what identified atoms are within.
    pub(super) fn reconcile(&mut self) {
        while let Some((within, atom)) = self.pending.pop() {
            let mut allowed: BTreeSet<Atom> = self.atoms_of(&[atom]);
            for outer in within {
                self.all_into(outer, &mut allowed);
            }
            self.restrict(atom, &allowed);
        }
    }

    fn all_into(&self, atom: Atom, out: &mut BTreeSet<Atom>) {
        let mut found = Vec::new();
        self.all(atom, &mut found);
        out.extend(found);
    }

    pub(super) fn unify(&mut self, a: Atom, b: Atom) {
        let (a, b) = (self.find(a), self.find(b));
        if a == b {
            return;
        }
        self.steps += 1;
        if self.steps > MOST_STEPS || self.extent(a) != self.extent(b) {
            self.flatten(a);
            self.flatten(b);
            return;
        }
        // Two that are pinned already need one name only where something is within them; without it that something is
        // forgotten, which is right too. So a structure of pinned parts cannot keep the rules busy.
        let structured = |atom: Atom| !matches!(self.nodes[atom].state, State::Pinned(_));
        if structured(a) && structured(b) && self.is_plain(a) && self.is_plain(b) {
            return;
        }
        let (left, right) = (self.nodes[a].state.clone(), self.nodes[b].state.clone());
        match (left, right) {
            (State::Free, _) => self.bind(a, b),
            (_, State::Free) => self.bind(b, a),
            (State::Pinned(_), _) => self.pin_to(a, b),
            (_, State::Pinned(_)) => self.pin_to(b, a),
            (State::Product(_), State::Product(_)) => self.products(a, b),
            (State::Sum(left), State::Sum(right)) => self.sums((a, &left), (b, &right)),
            (State::Product(_), State::Sum(_)) => self.product_and_sum(a, b),
            (State::Sum(_), State::Product(_)) => self.product_and_sum(b, a),
            (State::Cases { over, members }, State::Cases { over: other, members: others })
                if self.find(over) == self.find(other) && members.len() == others.len() =>
            {
                for (member, other) in members.into_iter().zip(others) {
                    self.unify(member, other);
                }
            }
            (State::Cases { .. }, _) => self.cases_and(a, b),
            (_, State::Cases { .. }) => self.cases_and(b, a),
            (State::Link(_), _) | (_, State::Link(_)) => {}
        }
    }

    fn bind(&mut self, free: Atom, to: Atom) {
        if self.untangle(free, to) {
            return;
        }
        let within = self.within(free);
        self.pending.push((within, to));
        self.set(free, State::Link(to));
        self.lift_dependents_of(to);
    }

    /// Identifies an atom with cases of which it is one: the only way in which an atom can hold another of its own length.
    fn untangle(&mut self, part: Atom, whole: Atom) -> bool {
        if !self.atoms_of(&[whole]).contains(&part) {
            return false;
        }
        for inner in self.atoms_of(&[whole]) {
            self.collapse(inner);
        }
        if self.find(part) != self.find(whole) {
            self.flatten(part);
            self.flatten(whole);
        }
        true
    }

    fn pin_to(&mut self, pinned: Atom, to: Atom) {
        let reason = self.reason;
        if let State::Pinned(why) = self.nodes[pinned].state {
            self.reason = why; // what pins this one pins the other
        }
        self.pin(to);
        self.reason = reason;
        if self.untangle(pinned, to) {
            return;
        }
        let to = self.find(to);
        if to != pinned {
            self.set(pinned, State::Link(to));
            self.lift_dependents_of(to);
        }
    }

    /// Refines both until their factors have the same extents.
    fn products(&mut self, a: Atom, b: Atom) {
        let (mut left, mut right) = (self.factors(a), self.factors(b));
        let mut pairs = Vec::new();
        while let (Some(x), Some(y)) = (left.pop(), right.pop()) {
            let (m, n) = (self.extent(x), self.extent(y));
            let split = if m == n {
                pairs.push((x, y));
                continue;
            } else if m > n && m % n == 0 {
                self.split(x, n).map(|(outer, inner)| {
                    left.push(outer);
                    pairs.push((inner, y));
                })
            } else if n > m && n % m == 0 {
                self.split(y, m).map(|(outer, inner)| {
                    right.push(outer);
                    pairs.push((x, inner));
                })
            } else {
                None
            };
            if split.is_none() {
                self.flatten(a);
                self.flatten(b);
                return self.unify(a, b);
            }
        }
        for (x, y) in pairs {
            self.unify(x, y);
        }
    }

    fn sums(&mut self, a: (Atom, &[Atom]), b: (Atom, &[Atom])) {
        let lengths = |parts: &[Atom]| parts.iter().map(|&part| self.extent(part)).collect::<Vec<_>>();
        if lengths(a.1) == lengths(b.1) {
            for (&x, &y) in a.1.iter().zip(b.1) {
                self.unify(x, y);
            }
            let (a, b) = (self.find(a.0), self.find(b.0));
            let same_parts = |domain: &Self| match (domain.state(a), domain.state(b)) {
                (State::Sum(left), State::Sum(right)) => left.len() == right.len(),
                _ => false,
            };
            if a != b && same_parts(self) {
                self.set(a, State::Link(b));
            }
            return;
        }
        let mut points = self.points(a.0, 0);
        points.extend(self.points(b.0, 0));
        points.sort_unstable();
        points.dedup();
        self.cut(a.0, &points);
        self.cut(b.0, &points);
        self.stretch_by_stretch(a.0, b.0);
    }

    fn product_and_sum(&mut self, product: Atom, sum: Atom) {
        self.cut(product, &self.points(sum, 0));
        self.cut(sum, &self.points(product, 0));
        let still =
            matches!(self.state(product), State::Product(_)) && matches!(self.state(sum), State::Sum(_));
        if still {
            self.stretch_by_stretch(product, sum);
        } else {
            self.unify(product, sum);
        }
    }

    /// Identifies the stretches of two atoms, if they meet at the same points.
    fn stretch_by_stretch(&mut self, a: Atom, b: Atom) {
        let (left, right) = (self.stretches(a), self.stretches(b));
        let lengths = |parts: &[Atom]| parts.iter().map(|&part| self.extent(part)).collect::<Vec<_>>();
        if left.len() > 1 && lengths(&left) == lengths(&right) {
            for (x, y) in left.into_iter().zip(right) {
                self.unify(x, y);
            }
        } else {
            self.flatten(a);
            self.flatten(b);
            self.unify(a, b);
        }
    }

    fn cases_and(&mut self, cases: Atom, other: Atom) {
        if let State::Product(_) = self.state(other)
            && let Some(&minor) = self.factors(other).last()
            && self.split(cases, self.extent(minor)).is_some()
        {
            return self.unify(cases, other);
        }
        self.collapse(cases);
        self.unify(cases, other);
    }
}
