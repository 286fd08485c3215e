//! Splitting atoms into products and cutting them into sums.

use super::{Atom, Domain, State, UNIT};

impl Domain {
    /// Splits an atom into an outer and an inner one of the given length; `None` if its structure does not allow it.
    pub(crate) fn split(&mut self, atom: Atom, inner: usize) -> Option<(Atom, Atom)> {
        let atom = self.find(atom);
        let extent = self.extent(atom);
        if inner == 1 {
            return Some((atom, UNIT));
        }
        if inner == extent {
            return Some((UNIT, atom));
        }
        if inner == 0 || !extent.is_multiple_of(inner) {
            return None;
        }
        let parts = match self.nodes[atom].state.clone() {
            State::Free => {
                let within = self.within(atom);
                let outer = self.fresh(extent / inner, &within);
                let with_outer: Vec<Atom> = within.into_iter().chain([outer]).collect();
                (outer, self.fresh(inner, &with_outer))
            }
            State::Pinned(reason) => {
                let mut pinned = |extent| self.push(extent, State::Pinned(reason), Vec::new());
                (pinned(extent / inner), pinned(inner))
            }
            State::Product(_) => return self.split_product(atom, inner),
            State::Sum(_) if self.is_plain(atom) => {
                if self.coarse {
                    return None;
                }
                self.flatten(atom);
                return self.split(atom, inner);
            }
            State::Sum(parts) => match self.split_sum(atom, &parts, inner) {
                Some(parts) => parts,
                None if self.is_pinned(atom) && !self.coarse => {
                    self.flatten(atom);
                    return self.split(atom, inner);
                }
                None => return None,
            },
            State::Cases { over, members } => {
                let split: Option<Vec<_>> = members.iter().map(|&member| self.split(member, inner)).collect();
                let (outer, inner): (Vec<_>, Vec<_>) = split?.into_iter().unzip();
                (self.cases(over, &outer), self.cases(over, &inner))
            }
            State::Link(_) => return None,
        };
        let atom = self.find(atom);
        self.set(atom, State::Product(vec![parts.0, parts.1]));
        Some(parts)
    }

    /// Pinned, and nothing that moves asks how it is made up.
    pub(crate) fn is_plain(&self, atom: Atom) -> bool {
        self.is_pinned(atom) && (self.coarse || !self.matter(&self.atoms_of(&[atom])))
    }

    fn split_product(&mut self, atom: Atom, inner: usize) -> Option<(Atom, Atom)> {
        let factors = self.factors(atom);
        let mut below = 1;
        for (index, &factor) in factors.iter().enumerate().rev() {
            if below == inner {
                let outer = self.product(&factors[..=index]);
                return Some((outer, self.product(&factors[index + 1..])));
            }
            let extent = self.extent(factor);
            if below * extent > inner {
                if !inner.is_multiple_of(below) {
                    return None;
                }
                let (outer, minor) = self.split(factor, inner / below)?;
                let outer = self.product(&[&factors[..index], &[outer]].concat());
                return Some((outer, self.product(&[&[minor], &factors[index + 1..]].concat())));
            }
            below *= extent;
        }
        None
    }

    /// A sum as a product: each outer position, or run of outer positions, holds something else inside. Stretches that do not
    /// end where an outer position does are cut, and stand inside one outer position side by side.
    fn split_sum(&mut self, atom: Atom, parts: &[Atom], inner: usize) -> Option<(Atom, Atom)> {
        let aligned = parts.iter().all(|&part| self.extent(part).is_multiple_of(inner));
        let runs: Vec<Vec<Atom>> = if aligned {
            parts.iter().map(|&part| vec![part]).collect()
        } else {
            let ends = self.points(atom, 0).into_iter();
            let points: Vec<usize> =
                ends.flat_map(|end| [end / inner * inner, end.div_ceil(inner) * inner]).collect();
            self.collapse_over(atom);
            self.cut(atom, &points);
            let mut runs = vec![Vec::new()];
            let mut length = 0;
            for stretch in self.stretches(atom) {
                length += self.extent(stretch);
                runs.last_mut()?.push(stretch);
                if length.is_multiple_of(inner) {
                    runs.push(Vec::new());
                }
            }
            runs.pop();
            runs
        };
        let mut split = Vec::new();
        for run in runs {
            let run = self.sum(&run);
            split.push(self.split(run, inner)?);
        }
        let (outers, inners): (Vec<_>, Vec<_>) = split.into_iter().unzip();
        let extent = self.extent(atom) / inner;
        let outer = self.push(extent, State::Sum(outers), Vec::new());
        let inner = self.cases(outer, &inners);
        for cases in self.cases_over(atom) {
            if let State::Cases { over, .. } = &mut self.nodes[cases].state {
                *over = outer;
            }
        }
        Some((outer, inner))
    }

    /// Where its stretches meet: of a sum, nested ones included, and of a product whose major factor is one.
    pub(super) fn points(&self, atom: Atom, start: usize) -> Vec<usize> {
        let mut out = Vec::new();
        match self.state(atom) {
            State::Sum(parts) => {
                let mut at = start;
                for (index, &part) in parts.iter().enumerate() {
                    if index > 0 {
                        out.push(at);
                    }
                    out.extend(self.points(part, at));
                    at += self.extent(part);
                }
            }
            State::Product(_) => {
                let major = self.factors(atom)[0];
                let inner = self.extent(atom) / self.extent(major);
                out.extend(self.points(major, 0).into_iter().map(|point| start + point * inner));
            }
            _ => {}
        }
        out
    }

    /// Its stretches, between those points.
    pub(super) fn stretches(&mut self, atom: Atom) -> Vec<Atom> {
        let parts = match self.state(atom).clone() {
            State::Sum(parts) => parts,
            State::Product(_) => {
                let factors = self.factors(atom);
                let State::Sum(parts) = self.state(factors[0]).clone() else { return vec![self.find(atom)] };
                let mut out = Vec::new();
                for (index, part) in parts.into_iter().enumerate() {
                    let mut product = vec![part];
                    product.extend(factors[1..].iter().map(|&factor| self.case(factor, factors[0], index)));
                    out.push(self.product(&product));
                }
                out
            }
            _ => return vec![self.find(atom)],
        };
        parts.into_iter().flat_map(|part| self.stretches(part)).collect()
    }

    /// Makes an atom a sum with boundaries at these points, each inside of it. Where that does not fit its structure it is
    /// pinned first.
    pub(crate) fn cut(&mut self, atom: Atom, points: &[usize]) {
        let atom = self.find(atom);
        let extent = self.extent(atom);
        let mut inside: Vec<usize> =
            points.iter().copied().filter(|&point| point > 0 && point < extent).collect();
        inside.sort_unstable();
        inside.dedup();
        if inside.is_empty() || (self.coarse && self.is_pinned(atom)) {
            return;
        }
        match self.nodes[atom].state.clone() {
            State::Free => {
                let within = self.within(atom);
                let parts = self.pieces(&inside, extent, |domain, length| domain.fresh(length, &within));
                self.set(atom, State::Sum(parts));
                self.lift_dependents_of(atom);
            }
            State::Pinned(reason) => {
                let parts = self.pieces(&inside, extent, |domain, length| {
                    if length == 1 { UNIT } else { domain.push(length, State::Pinned(reason), Vec::new()) }
                });
                self.set(atom, State::Sum(parts));
                self.lift_dependents_of(atom);
            }
            State::Sum(parts) => {
                let mut start = 0;
                for part in parts {
                    let shifted: Vec<usize> =
                        inside.iter().filter_map(|point| point.checked_sub(start)).collect();
                    self.cut(part, &shifted);
                    start += self.extent(part);
                }
            }
            State::Product(_) => self.cut_product(atom, &inside),
            State::Cases { .. } => {
                self.collapse(atom);
                self.cut(atom, &inside);
            }
            State::Link(_) => {}
        }
    }

    fn pieces(
        &mut self,
        points: &[usize],
        extent: usize,
        mut make: impl FnMut(&mut Self, usize) -> Atom,
    ) -> Vec<Atom> {
        let mut start = 0;
        let mut parts = Vec::new();
        for &point in points.iter().chain([&extent]) {
            parts.push(make(self, point - start));
            start = point;
        }
        parts
    }

    /// A product is cut through its major factor. It stays a product, so that a rule that splits and one that cuts do not
    /// undo each other's work.
    fn cut_product(&mut self, atom: Atom, points: &[usize]) {
        let major = self.factors(atom)[0];
        let inner = self.extent(atom) / self.extent(major);
        if points.iter().all(|point| point.is_multiple_of(inner)) {
            let points: Vec<usize> = points.iter().map(|point| point / inner).collect();
            self.cut(major, &points);
        } else {
            self.flatten(atom);
            self.cut(atom, points);
        }
    }

    /// What an atom is where the sum `over` is in one of its stretches.
    pub(crate) fn case(&mut self, atom: Atom, over: Atom, index: usize) -> Atom {
        match self.state(atom).clone() {
            State::Cases { over: found, members } if self.find(found) == self.find(over) => {
                members.get(index).copied().unwrap_or(atom)
            }
            State::Product(parts) => {
                let parts: Vec<Atom> = parts.iter().map(|&part| self.case(part, over, index)).collect();
                self.product(&parts)
            }
            _ => self.find(atom),
        }
    }

    /// Free atoms that are within something that became a sum: one for each of its stretches from now on. Within cases: not
    /// any more.
    pub(super) fn lift_dependents_of(&mut self, atom: Atom) {
        for outer in self.factors(atom) {
            match self.state(outer) {
                State::Sum(_) => self.lift(outer),
                State::Cases { .. } => {
                    let these = [outer].into_iter().collect();
                    for dependent in self.dependents(outer) {
                        self.forget(dependent, &these);
                    }
                }
                _ => {}
            }
        }
    }

    fn dependents(&self, outer: Atom) -> Vec<Atom> {
        self.scan()
            .filter(|&atom| self.nodes[atom].state == State::Free && self.within(atom).contains(&outer))
            .collect()
    }

    fn lift(&mut self, sum: Atom) {
        let State::Sum(stretches) = self.state(sum).clone() else { return };
        let dependents = self.dependents(sum);
        let old: Vec<Vec<Atom>> = dependents.iter().map(|&atom| self.within(atom)).collect();
        for &atom in &dependents {
            let extent = self.extent(atom);
            let members: Vec<Atom> =
                stretches.iter().map(|_| self.push(extent, State::Free, Vec::new())).collect();
            self.set(atom, State::Cases { over: sum, members });
        }
        for (&atom, within) in dependents.iter().zip(old) {
            let State::Cases { members, .. } = self.nodes[atom].state.clone() else { continue };
            for (index, (&member, &stretch)) in members.iter().zip(&stretches).enumerate() {
                let others = within.iter().filter(|&&outer| outer != sum);
                let mut named: Vec<Atom> = others.map(|&outer| self.case(outer, sum, index)).collect();
                named.push(stretch);
                self.nodes[member].within = named;
            }
        }
    }

    /// The atom of a stretch of an axis that was cut at both its ends.
    pub(crate) fn piece(&mut self, atom: Atom, start: usize, length: usize) -> Atom {
        if start == 0 && length == self.extent(atom) {
            return self.find(atom);
        }
        let parts = match self.state(atom).clone() {
            State::Sum(parts) => parts,
            State::Product(_) => {
                let factors = self.factors(atom);
                let inner = self.extent(atom) / self.extent(factors[0]);
                if start.is_multiple_of(inner) && length.is_multiple_of(inner) {
                    let (from, count) = (start / inner, length / inner);
                    let mut product = vec![self.piece(factors[0], from, count)];
                    product.extend(
                        factors[1..].iter().map(|&factor| self.select(factor, factors[0], from, count)),
                    );
                    return self.product(&product);
                }
                self.flatten(atom);
                return self.pinned(length);
            }
            _ => {
                self.flatten(atom);
                return self.pinned(length);
            }
        };
        let mut out = Vec::new();
        for (part, from, count) in self.overlaps(&parts, start, length) {
            out.push(self.piece(parts[part], from, count));
        }
        self.sum(&out)
    }

    /// Which parts a stretch touches, and where in them.
    fn overlaps(&self, parts: &[Atom], start: usize, length: usize) -> Vec<(usize, usize, usize)> {
        let mut out = Vec::new();
        let mut at = 0;
        for (index, &part) in parts.iter().enumerate() {
            let end = at + self.extent(part);
            let (from, to) = (start.max(at), (start + length).min(end));
            if from < to {
                out.push((index, from - at, to - from));
            }
            at = end;
        }
        out
    }

    /// What an atom on another axis is, where the axis `over` was reduced to a stretch.
    pub(crate) fn select(&mut self, atom: Atom, over: Atom, start: usize, length: usize) -> Atom {
        if start == 0 && length == self.extent(over) {
            return self.find(atom);
        }
        match self.state(atom).clone() {
            State::Product(parts) => {
                let parts: Vec<Atom> =
                    parts.iter().map(|&part| self.select(part, over, start, length)).collect();
                self.product(&parts)
            }
            State::Cases { over: found, members } if self.find(found) == self.find(over) => {
                let State::Sum(stretches) = self.state(over).clone() else { return atom };
                let mut kept = Vec::new();
                let mut chosen = Vec::new();
                for (part, from, count) in self.overlaps(&stretches, start, length) {
                    kept.push(self.piece(stretches[part], from, count));
                    chosen.push(self.select(members[part], stretches[part], from, count));
                }
                let sum = self.sum(&kept);
                if kept.len() == 1 { chosen[0] } else { self.cases(sum, &chosen) }
            }
            _ => self.find(atom),
        }
    }
}
