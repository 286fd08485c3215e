//! What is known of axes: a forest of atoms with union-find.
//!
//! An **atom** stands for a length of positions and for how they may be permuted:
//!
//! - free: every permutation, one for each position of the atoms that it is *within* (a wreath product);
//! - pinned: none;
//! - a product of atoms, major first: positions are numbers with one digit a factor;
//! - a sum of atoms: stretches one after the other;
//! - cases over a sum: another atom for each stretch of that sum, which stands elsewhere in the same value.
//!
//! A network's symmetry group is what the free atoms leave open. Every operation here shrinks it (or leaves it): two atoms
//! become one, an atom is pinned, is split, loses what it is within. So an atom can be refined at any time, and all places
//! where it stands follow. `changes` counts the operations that did something: the rules are applied until none does.

mod cut;
mod settle;
mod unify;

use std::{
    cell::Cell,
    collections::{BTreeSet, HashMap},
};

/// An atom's number.
pub(crate) type Atom = usize;

/// Deepest structure, and most steps: beyond them a graph is refused.
const MAX_DEPTH: usize = 300;
const MAX_WORK: usize = 1 << 30;

/// The atom of axes that are 1 long: nothing to say about them.
pub(crate) const UNIT: Atom = 0;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Link(Atom),
    Free,
    /// With the number of the reason.
    Pinned(usize),
    Product(Vec<Atom>),
    Sum(Vec<Atom>),
    Cases {
        over: Atom,
        members: Vec<Atom>,
    },
}

#[derive(Debug, Clone)]
struct Node {
    extent: usize,
    state: State,
    /// The reason that held when its state was last set.
    why: usize,
    /// Atoms of whose positions a free atom's permutation may depend.
    within: Vec<Atom>,
}

/// All atoms.
#[derive(Debug, Default)]
pub(crate) struct Domain {
    nodes: Vec<Node>,
    reasons: Vec<String>,
    reason: usize,
    pub(crate) changes: usize,
    /// Free atoms that were identified with others: what they were within, to be intersected once all of an operator's
    /// identifications are made.
    pending: Vec<(Vec<Atom>, Atom)>,
    known: HashMap<(u8, Vec<Atom>), Atom>,
    steps: usize,
    /// How much was looked at, and how deep the structure is that is being looked at: both are bounded.
    work: Cell<usize>,
    depth: Cell<usize>,
    too_deep: Cell<bool>,
    /// Whether to leave the structure of pinned atoms alone: two operators that see it in different ways would otherwise undo
    /// each other's work for ever.
    pub(crate) coarse: bool,
}

impl Domain {
    pub(crate) fn new() -> Self {
        let mut domain = Self::default();
        domain.because("an axis of length 1");
        domain.push(1, State::Pinned(0), Vec::new());
        domain
    }

    /// The reason for what is pinned from now on.
    pub(crate) fn because(&mut self, reason: &str) {
        if self.reasons.last().is_none_or(|last| last != reason) {
            self.reasons.push(reason.to_owned());
        }
        self.reason = self.reasons.len() - 1;
    }

    /// Whether an adversary's graph keeps the rules busy, or nests structures in structures: none in use comes near.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.too_deep.get() || self.work.get() > MAX_WORK
    }

    /// Counts a step down; `false` where it goes too deep.
    fn descend(&self) -> bool {
        self.work.set(self.work.get().saturating_add(1));
        self.depth.set(self.depth.get() + 1);
        let fits = self.depth.get() <= MAX_DEPTH;
        if !fits {
            self.too_deep.set(true);
        }
        fits
    }

    fn ascend(&self) {
        self.depth.set(self.depth.get() - 1);
    }

    /// Counts a look at every atom.
    fn scan(&self) -> std::ops::Range<Atom> {
        self.work.set(self.work.get().saturating_add(self.nodes.len()));
        0..self.nodes.len()
    }

    fn push(&mut self, extent: usize, state: State, within: Vec<Atom>) -> Atom {
        self.nodes.push(Node { extent, state, why: self.reason, within });
        self.nodes.len() - 1
    }

    /// A new free atom.
    pub(crate) fn fresh(&mut self, extent: usize, within: &[Atom]) -> Atom {
        match extent {
            0 => self.pinned(0),
            1 => UNIT,
            _ => self.push(extent, State::Free, within.to_vec()),
        }
    }

    /// A new pinned atom.
    pub(crate) fn pinned(&mut self, extent: usize) -> Atom {
        let reason = self.reason;
        if extent == 1 { UNIT } else { self.push(extent, State::Pinned(reason), Vec::new()) }
    }

    /// The pinned atom that stands for so many copies: always the same, so that asking again changes nothing.
    pub(crate) fn repeat(&mut self, extent: usize) -> Atom {
        let state = State::Pinned(self.reason);
        self.made(3, vec![extent], extent, state)
    }

    pub(crate) fn find(&self, mut atom: Atom) -> Atom {
        while let State::Link(next) = self.nodes[atom].state {
            atom = next;
        }
        atom
    }

    pub(crate) fn extent(&self, atom: Atom) -> usize {
        self.nodes[self.find(atom)].extent
    }

    pub(crate) fn state(&self, atom: Atom) -> &State {
        &self.nodes[self.find(atom)].state
    }

    fn set(&mut self, atom: Atom, state: State) {
        self.nodes[atom].state = state;
        self.nodes[atom].why = self.reason;
        self.changes += 1;
    }

    /// Why what is pinned of an axis is.
    pub(crate) fn reason_of(&self, axis: Atom) -> &str {
        let pinned =
            self.leaves(axis).into_iter().filter(|&leaf| leaf != UNIT).find_map(|leaf| {
                if let State::Pinned(reason) = *self.state(leaf) { Some(reason) } else { None }
            });
        &self.reasons[pinned.unwrap_or(self.nodes[self.find(axis)].why)]
    }

    /// A product's factors, none of them a product; without those that are 1 long.
    pub(crate) fn factors(&self, atom: Atom) -> Vec<Atom> {
        let atom = self.find(atom);
        match &self.nodes[atom].state {
            State::Product(factors) => {
                let out = if self.descend() {
                    factors.iter().flat_map(|&factor| self.factors(factor)).collect()
                } else {
                    Vec::new()
                };
                self.ascend();
                out
            }
            _ if self.nodes[atom].extent == 1 => Vec::new(),
            _ => vec![atom],
        }
    }

    fn made(&mut self, kind: u8, parts: Vec<Atom>, extent: usize, state: State) -> Atom {
        if let Some(&atom) = self.known.get(&(kind, parts.clone())) {
            return self.find(atom);
        }
        let atom = self.push(extent, state, Vec::new());
        self.known.insert((kind, parts), atom);
        atom
    }

    pub(crate) fn product(&mut self, parts: &[Atom]) -> Atom {
        let factors: Vec<Atom> = parts.iter().flat_map(|&part| self.factors(part)).collect();
        match factors[..] {
            [] => UNIT,
            [one] => one,
            _ => {
                let extent = factors.iter().map(|&factor| self.extent(factor)).product();
                self.made(0, factors.clone(), extent, State::Product(factors))
            }
        }
    }

    pub(crate) fn sum(&mut self, parts: &[Atom]) -> Atom {
        let parts: Vec<Atom> =
            parts.iter().map(|&part| self.find(part)).filter(|&part| self.extent(part) > 0).collect();
        match parts[..] {
            [] => self.pinned(0),
            [one] => one,
            _ => {
                let extent = parts.iter().map(|&part| self.extent(part)).sum();
                self.made(1, parts.clone(), extent, State::Sum(parts))
            }
        }
    }

    /// One member for each stretch of the sum `over`; the member itself if they are all the same.
    pub(crate) fn cases(&mut self, over: Atom, members: &[Atom]) -> Atom {
        let members: Vec<Atom> = members.iter().map(|&member| self.find(member)).collect();
        let Some(&first) = members.first() else { return UNIT };
        if members.iter().all(|&member| member == first) {
            return first;
        }
        let over = self.find(over);
        let mut key = members.clone();
        key.push(over);
        let extent = self.extent(first);
        self.made(2, key, extent, State::Cases { over, members })
    }

    /// Free and pinned atoms in it, in order, with repetitions.
    pub(crate) fn leaves(&self, atom: Atom) -> Vec<Atom> {
        let atom = self.find(atom);
        match &self.nodes[atom].state {
            State::Product(parts) | State::Sum(parts) | State::Cases { members: parts, .. } => {
                let out = if self.descend() {
                    parts.iter().flat_map(|&part| self.leaves(part)).collect()
                } else {
                    Vec::new()
                };
                self.ascend();
                out
            }
            _ => vec![atom],
        }
    }

    /// All atoms in it but products.
    pub(crate) fn all(&self, atom: Atom, out: &mut Vec<Atom>) {
        let atom = self.find(atom);
        let parts = match &self.nodes[atom].state {
            State::Product(parts) => parts,
            State::Sum(parts) | State::Cases { members: parts, .. } => {
                out.push(atom);
                parts
            }
            _ => {
                out.push(atom);
                return;
            }
        };
        if self.descend() {
            for &part in parts {
                self.all(part, out);
            }
        }
        self.ascend();
    }

    /// The set of all atoms in some axes.
    pub(crate) fn atoms_of(&self, axes: &[Atom]) -> BTreeSet<Atom> {
        let mut out = Vec::new();
        for &axis in axes {
            self.all(axis, &mut out);
        }
        out.into_iter().collect()
    }

    pub(crate) fn is_free(&self, atom: Atom) -> bool {
        *self.state(atom) == State::Free
    }

    pub(crate) fn is_pinned(&self, atom: Atom) -> bool {
        !self.leaves(atom).iter().any(|&leaf| self.is_free(leaf))
    }

    /// What a free atom is within: no products, nothing that is 1 long.
    pub(crate) fn within(&self, atom: Atom) -> Vec<Atom> {
        let atom = self.find(atom);
        if self.nodes[atom].state != State::Free {
            return Vec::new();
        }
        let mut out: Vec<Atom> =
            self.nodes[atom].within.iter().flat_map(|&outer| self.factors(outer)).collect();
        out.retain(|&outer| outer != atom);
        out.sort_unstable();
        out.dedup();
        out
    }

    fn set_within(&mut self, atom: Atom, within: Vec<Atom>) {
        let atom = self.find(atom);
        self.nodes[atom].within = within;
        self.changes += 1;
    }

    /// Pins all that is in it.
    pub(crate) fn pin(&mut self, atom: Atom) {
        for leaf in self.leaves(atom) {
            if self.is_free(leaf) {
                self.set(leaf, State::Pinned(self.reason));
            }
        }
    }

    /// Pins it and forgets its structure: for where its parts do not fit what is asked of it.
    pub(crate) fn flatten(&mut self, atom: Atom) {
        self.pin(atom);
        let atom = self.find(atom);
        if self.coarse || matches!(self.nodes[atom].state, State::Pinned(_)) {
            return;
        }
        self.collapse_over(atom);
        let atom = self.find(atom);
        if !matches!(self.nodes[atom].state, State::Pinned(_)) {
            self.set(atom, State::Pinned(self.reason));
        }
    }

    fn cases_over(&self, over: Atom) -> Vec<Atom> {
        self.scan()
            .filter(|&atom| {
                matches!(self.nodes[atom].state, State::Cases { over: found, .. } if self.find(found) == over)
            })
            .collect()
    }

    /// Whether an atom is cases over one of these.
    pub(crate) fn is_case_over(&self, atom: Atom, these: &BTreeSet<Atom>) -> bool {
        let found =
            matches!(self.state(atom), State::Cases { over, .. } if these.contains(&self.find(*over)));
        found && !self.is_pinned(atom)
    }

    /// Whether something is within one of these, or cases over one.
    pub(crate) fn matter(&self, these: &BTreeSet<Atom>) -> bool {
        self.scan().any(|atom| {
            self.within(atom).iter().any(|outer| these.contains(outer))
                || (matches!(self.nodes[atom].state, State::Cases { .. }) && self.is_case_over(atom, these))
        })
    }

    /// Makes all cases over a sum alike.
    fn collapse_over(&mut self, over: Atom) {
        for atom in self.cases_over(over) {
            self.collapse(atom);
        }
    }

    /// Makes all cases of an atom alike.
    pub(crate) fn collapse(&mut self, atom: Atom) {
        let atom = self.find(atom);
        let State::Cases { over, members } = self.nodes[atom].state.clone() else { return };
        let stretches = self.atoms_of(&[over]);
        for &member in &members {
            self.forget(member, &stretches);
        }
        self.set(atom, State::Link(members[0]));
        for &member in &members[1..] {
            self.unify(members[0], member);
        }
    }

    /// Lets no free atom in it depend on any of some atoms.
    pub(crate) fn forget(&mut self, atom: Atom, these: &BTreeSet<Atom>) {
        for leaf in self.leaves(atom) {
            let within = self.within(leaf);
            if within.iter().any(|outer| these.contains(outer)) {
                self.set_within(leaf, within.into_iter().filter(|outer| !these.contains(outer)).collect());
            }
        }
        for inner in self.atoms_of(&[atom]) {
            if let State::Cases { over, .. } = *self.state(inner)
                && these.contains(&self.find(over))
            {
                self.collapse(inner);
            }
        }
    }

    /// Lets the free atoms in it depend on these atoms at most.
    pub(crate) fn restrict(&mut self, atom: Atom, allowed: &BTreeSet<Atom>) {
        for leaf in self.leaves(atom) {
            let within = self.within(leaf);
            if within.iter().any(|outer| !allowed.contains(outer)) {
                self.set_within(leaf, within.into_iter().filter(|outer| allowed.contains(outer)).collect());
            }
        }
        for inner in self.atoms_of(&[atom]) {
            if let State::Cases { over, .. } = *self.state(inner)
                && !allowed.contains(&self.find(over))
            {
                self.collapse(inner);
            }
        }
    }
}
