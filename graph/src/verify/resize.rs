//! Other sizes of what the graph leaves open: a spec that holds for those that were bound first may be wrong for these.

use std::collections::BTreeMap;

use rebasin::{Alignment, CheckedSpec, Spec};

use super::{Certificate, Resized, VerifyOptions, trial::Trial};
use crate::{GraphError, graph::Graph};

/// Most other sizes that are tried, those included for which the network turns out not to run.
const MAX_TRIALS: usize = 12;

type Sizes = BTreeMap<String, usize>;

/// Tries other sizes: all dimensions larger, all of them 1; where the network does not run for these, one dimension after the
/// other. What was tried, and what was not and why, stands in the certificate.
///
/// # Errors
/// [`GraphError::Changed`] if the spec is wrong for some of them.
pub(super) fn resized(
    graph: &Graph,
    spec: &Spec,
    checked: &CheckedSpec,
    options: &VerifyOptions,
    certificate: &mut Certificate,
) -> Result<(), GraphError> {
    let first: Sizes = graph.bound_dimensions().iter().cloned().collect();
    if first.is_empty() {
        return Ok(());
    }
    let larger = |&size: &usize| LARGER.into_iter().find(|&other| other > size).unwrap_or(size + 1);
    let one = |_: &usize| 1;
    let less = |&size: &usize| (size / 2).max(1);
    let changes: [&dyn Fn(&usize) -> usize; 3] = [&larger, &one, &less];
    let mut queue: Vec<Sizes> = Vec::new();
    for (place, change) in changes.into_iter().enumerate() {
        if place < 2 {
            let all: Sizes = first.iter().map(|(name, size)| (name.clone(), change(size))).collect();
            if attempt(graph, spec, checked, options, certificate, all)? {
                continue;
            }
        }
        for (name, size) in &first {
            let mut alone = first.clone();
            alone.insert(name.clone(), change(size));
            queue.push(alone);
        }
    }
    for sizes in queue {
        // Only what has not been tried along with others.
        let news = first.iter().any(|(name, &size)| {
            let wanted = sizes[name];
            let same = |other: usize| if wanted == 1 { other == 1 } else { other > 1 && other != size };
            wanted != size && !held_for(certificate, name, same)
        });
        if news {
            attempt(graph, spec, checked, options, certificate, sizes)?;
        }
    }
    let stuck = first.iter().filter(|&(name, &size)| !held_for(certificate, name, |other| other != size));
    certificate.one_size = stuck.map(|(name, _)| name.clone()).collect();
    Ok(())
}

/// Sizes to go on to: as many as those that symbolic dimensions are bound to, and all different if those are.
const LARGER: [usize; 9] = [3, 5, 7, 11, 13, 17, 19, 23, 29];

/// Whether the spec held where a dimension had such a size.
fn held_for(certificate: &Certificate, name: &str, such: impl Fn(usize) -> bool) -> bool {
    let mut held = certificate.resized.iter().filter(|resized| resized.untried.is_none());
    held.any(|resized| such(resized.sizes[name]))
}

/// Random elements of the whole group for some sizes. Returns whether they could be tried.
fn attempt(
    graph: &Graph,
    spec: &Spec,
    checked: &CheckedSpec,
    options: &VerifyOptions,
    certificate: &mut Certificate,
    sizes: Sizes,
) -> Result<bool, GraphError> {
    let known = certificate.resized.iter().any(|resized| resized.sizes == sizes);
    if known || certificate.sizes == sizes || certificate.resized.len() >= MAX_TRIALS {
        return Ok(false);
    }
    let untried = match held(graph, spec, checked, options, &sizes) {
        Ok(residual) => {
            certificate.residual = certificate.residual.max(residual);
            None
        }
        Err(error @ GraphError::Changed { .. }) => return Err(error),
        // It cannot be run there, or shows nothing there: that says nothing about the spec.
        Err(error) => Some(error.to_string().chars().take(400).collect()),
    };
    let tried = untried.is_none();
    certificate.resized.push(Resized { sizes, untried });
    Ok(tried)
}

/// The largest difference that random elements make for some sizes.
fn held(
    graph: &Graph,
    spec: &Spec,
    checked: &CheckedSpec,
    options: &VerifyOptions,
    sizes: &Sizes,
) -> Result<f64, GraphError> {
    let other = Graph::read_with(&graph.file, sizes)?;
    let mut trial = Trial::new(&other, spec, checked, options)?;
    drop(other);
    let said: Vec<String> = sizes.iter().map(|(name, size)| format!("{name} = {size}")).collect();
    let said: String = said.join(", ").chars().take(200).collect();
    let what = format!("all groups, for {said}");
    let mut residual = 0_f64;
    for element in 0..options.elements.max(1) {
        let alignment = Alignment::random(checked, options.seed.wrapping_add(element as u64));
        residual = residual.max(trial.unchanged(&alignment, &what)?);
    }
    if !checked.scales().is_empty() {
        residual = residual.max(trial.rescaled()?);
    }
    Ok(residual)
}
