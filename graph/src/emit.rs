//! From atoms to a spec.
//!
//! A spec says less than atoms can: one level of groups within groups, the outer one at hand on each tensor, sums only of
//! products. What it cannot say is restricted until it can: pinned, or made the same everywhere. That only shrinks the group.

use std::collections::{BTreeMap, BTreeSet};

use rebasin::{AxisForm, FactorForm, GroupForm, Kind, Spec};

use crate::{
    GraphError,
    domain::{Atom, Domain, State},
    graph::{Graph, Origin},
    rules::Rules,
};

/// Most stretches that one axis is unrolled into.
const MAX_STRETCHES: usize = 256;

/// Free and pinned atoms: a direct sum of products.
type Form = Vec<Vec<Atom>>;

/// A parameter's axes.
struct Parameter {
    name: String,
    axes: Vec<Atom>,
}

/// Restricts until a spec can say it, and says it.
///
/// Returns also the names of the atoms that became groups.
pub(crate) fn spec(rules: &mut Rules<'_>) -> Result<(Spec, BTreeMap<Atom, String>), GraphError> {
    let parameters = parameters(rules);
    express(&mut rules.domain, &parameters)?;
    rules.bounded()?;
    // Only now: what is unused may have become one with what is used.
    rules.pin_unused();
    let forms = express(&mut rules.domain, &parameters)?;
    rules.bounded()?;
    write(&rules.domain, &parameters, &forms)
}

/// The parameters' axes as a spec can say them.
fn express(domain: &mut Domain, parameters: &[Parameter]) -> Result<Vec<Vec<Form>>, GraphError> {
    domain.because("a structure that a spec cannot express");
    let mut rounds = 0;
    loop {
        let before = domain.changes;
        let mut forms: Vec<Vec<Form>> = Vec::new();
        for parameter in parameters {
            forms.push(parameter.axes.iter().map(|&axis| flat(domain, axis)).collect());
        }
        domain.unify_all(&[]);
        if domain.changes == before {
            one_level(domain, &forms);
        }
        if domain.changes == before {
            for axes in &forms {
                placed(domain, axes);
            }
        }
        domain.unify_all(&[]);
        if domain.changes == before {
            return Ok(forms);
        }
        rounds += 1;
        if rounds > 10_000 {
            return Err(GraphError::Unsettled(rounds));
        }
    }
}

/// The parameters in the order in which nodes read them; those that none reads come last, and are pinned.
fn parameters(rules: &mut Rules<'_>) -> Vec<Parameter> {
    let graph: &Graph = rules.graph;
    let mut order: Vec<usize> = Vec::new();
    let mut seen = BTreeSet::new();
    let reads = graph.ops.iter().flat_map(|op| op.inputs.iter().flatten().chain(&op.captures));
    for &id in reads.chain(&graph.outputs) {
        if matches!(graph.values[id].origin, Origin::Parameter(_)) && seen.insert(id) {
            order.push(id);
        }
    }
    rules.domain.because("no node reads it");
    for (id, value) in graph.values.iter().enumerate() {
        if matches!(value.origin, Origin::Parameter(_)) && seen.insert(id) {
            for axis in rules.axes[id].clone().unwrap_or_default() {
                rules.domain.pin(axis);
            }
            order.push(id);
        }
    }
    let named = |id: usize| match &graph.values[id].origin {
        Origin::Parameter(name) => {
            Parameter { name: name.clone(), axes: rules.axes[id].clone().unwrap_or_default() }
        }
        _ => Parameter { name: String::new(), axes: Vec::new() },
    };
    order.into_iter().map(named).collect()
}

/// An axis as a direct sum of products of free and pinned atoms. Restricts it where it is none.
fn flat(domain: &mut Domain, atom: Atom) -> Form {
    let factors = domain.factors(atom);
    let Some((&major, minor)) = factors.split_first() else { return vec![Vec::new()] };
    match domain.state(major).clone() {
        State::Sum(stretches) => {
            let mut out = Form::new();
            for (index, &stretch) in stretches.iter().enumerate() {
                let mut parts = vec![stretch];
                parts.extend(minor.iter().map(|&factor| domain.case(factor, major, index)));
                let product = domain.product(&parts);
                out.extend(flat(domain, product));
                if out.len() > MAX_STRETCHES {
                    domain.flatten(atom);
                    return flat(domain, atom);
                }
            }
            out
        }
        State::Cases { .. } => {
            domain.collapse(major);
            flat(domain, atom)
        }
        _ => {
            let rest = domain.product(minor);
            let rest = flat(domain, rest);
            match &rest[..] {
                [one] => vec![[&[major], &one[..]].concat()],
                many if domain.is_pinned(major) && domain.extent(major) * many.len() <= MAX_STRETCHES => {
                    let copies = domain.extent(major);
                    (0..copies).flat_map(|_| many.to_vec()).collect()
                }
                many if many.iter().all(|other| *other == many[0]) => {
                    let count = domain.repeat(many.len());
                    vec![[&[major, count], &many[0][..]].concat()]
                }
                many => {
                    // A sum under a group: its stretches stay where they are.
                    for &atom in many.iter().flatten() {
                        domain.pin(atom);
                    }
                    let length = many.iter().map(|part| length(domain, part)).sum();
                    let rest = domain.repeat(length);
                    vec![vec![major, rest]]
                }
            }
        }
    }
}

fn length(domain: &Domain, factors: &[Atom]) -> usize {
    factors.iter().map(|&factor| domain.extent(factor)).product()
}

/// One level of groups within groups, one outer group each.
fn one_level(domain: &mut Domain, forms: &[Vec<Form>]) {
    let atoms: BTreeSet<Atom> = forms.iter().flatten().flatten().flatten().copied().collect();
    for &atom in &atoms {
        let within = domain.within(atom);
        if within.is_empty() {
            continue;
        }
        // The outermost that moves, else the outermost: what is within nothing itself.
        let roots: Vec<Atom> =
            within.iter().copied().filter(|&outer| domain.within(outer).is_empty()).collect();
        let moving = roots.iter().copied().find(|&outer| domain.is_free(outer));
        let keep = moving.or_else(|| roots.first().copied());
        let others = within.iter().copied().filter(|&outer| Some(outer) != keep).collect::<BTreeSet<_>>();
        if !others.is_empty() {
            domain.forget(atom, &others);
        }
    }
}

/// On each tensor the outer group must stand in the same product, or on exactly one earlier axis that is one product; and
/// nowhere twice in one product.
fn placed(domain: &mut Domain, axes: &[Form]) {
    let twice =
        |factors: &Vec<Atom>, atom: Atom| factors.iter().filter(|&&factor| factor == atom).count() > 1;
    let atoms: BTreeSet<Atom> = axes.iter().flatten().flatten().copied().collect();
    for atom in atoms {
        for outer in domain.within(atom) {
            if axes.iter().flatten().any(|factors| twice(factors, outer)) {
                domain.forget(atom, &[outer].into_iter().collect());
            }
        }
    }
    for (axis, form) in axes.iter().enumerate() {
        let mut depends_on = None;
        for factors in form {
            let mut seen = BTreeSet::new();
            for &atom in factors {
                if domain.is_free(atom) && !seen.insert(atom) {
                    domain.pin(atom);
                }
            }
            for &atom in factors {
                let Some(&outer) = domain.within(atom).first() else { continue };
                if factors.iter().filter(|&&factor| factor == outer).count() == 1 {
                    continue;
                }
                let holds = |index: &usize| axes[*index].len() == 1 && axes[*index][0].contains(&outer);
                let places: Vec<usize> = (0..axis).filter(holds).collect();
                let once = matches!(places[..], [place] if depends_on.is_none_or(|at| at == (place, outer)));
                if once {
                    depends_on = Some((places[0], outer));
                } else {
                    domain.forget(atom, &[outer].into_iter().collect());
                }
            }
        }
    }
}

/// Names for the groups, and the spec.
fn write(
    domain: &Domain,
    parameters: &[Parameter],
    forms: &[Vec<Form>],
) -> Result<(Spec, BTreeMap<Atom, String>), GraphError> {
    let mut names = Names::default();
    for (parameter, axes) in parameters.iter().zip(forms) {
        for factors in axes.iter().flatten() {
            for &atom in factors {
                if domain.is_free(atom) {
                    let outer = domain.within(atom).first().copied();
                    if let Some(outer) = outer {
                        names.give(outer, &parameter.name, "outer");
                    }
                    names.give(atom, &parameter.name, if outer.is_some() { "inner" } else { "" });
                }
            }
        }
    }
    let mut groups = BTreeMap::new();
    for (&atom, name) in &names.names {
        let within = domain.within(atom).first().and_then(|outer| names.names.get(outer)).cloned();
        let kind = if domain.is_free(atom) { Kind::Symmetric } else { Kind::Fixed };
        groups.insert(name.clone(), GroupForm { size: domain.extent(atom), kind, within });
    }
    let mut tensors = BTreeMap::new();
    for (parameter, axes) in parameters.iter().zip(forms) {
        let needed: BTreeSet<Atom> =
            axes.iter().flatten().flatten().flat_map(|&atom| domain.within(atom)).collect();
        let form = |form: &Form| {
            let moves = |&atom: &Atom| domain.is_free(atom) || needed.contains(&atom);
            if !form.iter().flatten().any(moves) {
                return None;
            }
            let factor = |&atom: &Atom| match names.names.get(&atom).filter(|_| moves(&atom)) {
                Some(name) => FactorForm::Group(name.clone()),
                None => FactorForm::Stays(domain.extent(atom)),
            };
            let segments = form.iter().map(|factors| {
                let mut out: Vec<FactorForm> = factors.iter().map(factor).collect();
                if out.is_empty() {
                    out.push(FactorForm::Stays(1));
                }
                out
            });
            Some(AxisForm::from_segments(joined(segments.collect())))
        };
        tensors.insert(parameter.name.clone(), axes.iter().map(form).collect());
    }
    Ok((Spec::new(groups, tensors)?, names.names))
}

/// Neighbouring stretches that stay are one.
fn joined(segments: Vec<Vec<FactorForm>>) -> Vec<Vec<FactorForm>> {
    let mut out: Vec<Vec<FactorForm>> = Vec::new();
    for segment in segments {
        let stays: Option<usize> = segment
            .iter()
            .map(|factor| if let FactorForm::Stays(length) = factor { Some(*length) } else { None })
            .product();
        match (stays, out.last_mut().map(Vec::as_mut_slice)) {
            (Some(length), Some([FactorForm::Stays(before)])) => *before += length,
            (Some(length), _) => out.push(vec![FactorForm::Stays(length)]),
            (None, _) => out.push(segment),
        }
    }
    out
}

/// Groups are named after the first tensor that has them.
#[derive(Default)]
struct Names {
    names: BTreeMap<Atom, String>,
    taken: BTreeSet<String>,
}

impl Names {
    fn give(&mut self, atom: Atom, tensor: &str, suffix: &str) {
        if self.names.contains_key(&atom) {
            return;
        }
        let stem = ["weight", "bias"]
            .iter()
            .find_map(|end| tensor.strip_suffix(end)?.strip_suffix(['.', '_']))
            .filter(|stem| !stem.is_empty())
            .unwrap_or(tensor);
        let base = if suffix.is_empty() { stem.to_owned() } else { format!("{stem}.{suffix}") };
        let mut name = base.clone();
        let mut number = 2;
        while !self.taken.insert(name.clone()) {
            name = format!("{base}.{number}");
            number += 1;
        }
        self.names.insert(atom, name);
    }
}
