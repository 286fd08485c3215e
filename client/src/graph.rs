//! Specs from a network's graph: derived from ONNX, verified by running it. No server.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use fedbasin_graph::{Certificate, Derived, Graph, GraphError, VerifyOptions, derive, verify};
use rebasin::{Checkpoint, Digest, Layout, Spec};
use serde_json::json;

use crate::{
    error::{Error, Result},
    files::{
        BAD_CHECKPOINT, MAX_SPEC_BYTES, no_spec, open_checkpoint, read_error, read_spec_text, read_text,
        write_json,
    },
    offline::save_spec,
    progress::Screen,
};

/// A model file larger than this is not read: specs need no trained weights.
const MAX_GRAPH_BYTES: u64 = 2 << 30;

/// A spec to be derived.
#[derive(Debug, Clone)]
pub struct DeriveJob {
    /// The ONNX file.
    pub model: PathBuf,
    /// A checkpoint whose tensors the spec must list, if it has more of them than the graph.
    pub checkpoint: Option<PathBuf>,
    /// Tensors of the checkpoint that the graph does not use and that may stay where they are.
    pub pin: Vec<String>,
    /// Where the spec goes.
    pub output: PathBuf,
}

/// Derives a spec from a graph and writes it; says what moves, and for each axis that does not what pinned it.
///
/// # Errors
/// A file that is no graph, a checkpoint with float tensors that the graph does not explain, a file that cannot be read or
/// written.
pub fn spec_derive(job: &DeriveJob, screen: &Screen) -> Result<()> {
    let graph = read_graph(&job.model)?;
    let derived = derive(&graph).map_err(|error| {
        Error::failed(error, job.model.display(), "export the model again, or write the spec by hand")
    })?;
    let spec = match &job.checkpoint {
        None => derived.spec.clone(),
        Some(path) => with_checkpoint(&derived.spec, path, &job.pin)?,
    };
    save_spec(&spec, &job.output)?;
    let coverage = &derived.coverage;
    let pinned = derived
        .pinned
        .iter()
        .map(|pinned| json!({ "tensor": pinned.tensor, "axis": pinned.axis, "reason": pinned.reason }));
    let value = json!({
        "file": job.output,
        "digest": spec.digest().to_string(),
        "groups": spec.groups().len(),
        "scales": spec.scales().len(),
        "permutable_axes": coverage.permutable_axes,
        "pinned_axes": coverage.pinned_axes.len(),
        "permutable_parameters": coverage.permutable_parameters,
        "parameters": coverage.parameters,
        "pinned": pinned.collect::<Vec<_>>(),
        "verified": false,
    });
    screen.answer(&value, || {
        let mut lines = lines(&derived);
        lines.push(format!(
            "{}: not verified yet; run `fedbasin spec verify {} {}`",
            job.output.display(),
            job.output.display(),
            job.model.display()
        ));
        lines.join("\n")
    })
}

/// What moves, and what does not and why; one reason for all axes that share it.
fn lines(derived: &Derived) -> Vec<String> {
    let coverage = &derived.coverage;
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for pinned in &derived.pinned {
        reasons.entry(&pinned.reason).or_default().push(format!("{}[{}]", pinned.tensor, pinned.axis));
    }
    let mut lines: Vec<String> = reasons
        .into_iter()
        .map(|(reason, axes)| {
            let shown = axes.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
            let more = axes.len().saturating_sub(4);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("pinned: {shown}{more}: {reason}")
        })
        .collect();
    lines.push(format!(
        "{} groups; {} of {} axes permutable, in tensors with {} of {} parameters",
        derived.spec.groups().len(),
        coverage.permutable_axes,
        coverage.permutable_axes + coverage.pinned_axes.len(),
        coverage.permutable_parameters,
        coverage.parameters
    ));
    lines
}

/// The spec with the tensors that a checkpoint has beyond the graph's: integers (counters) stay; a float tensor that is surely a
/// copy of one of the graph's moves as that does; any other float tensor must be named.
fn with_checkpoint(spec: &Spec, path: &Path, pin: &[String]) -> Result<Spec> {
    let source = open_checkpoint(path)?;
    let checkpoint = rebasin::read_checkpoint(&source)
        .map_err(|error| Error::failed(error, path.display(), BAD_CHECKPOINT))?;
    let layout = checkpoint.layout();
    let mut tensors = spec.tensors().clone();
    let mut scales = spec.scales().to_vec();
    let (mut unexplained, mut unclear) = (Vec::new(), Vec::new());
    for info in layout.tensors().iter().filter(|info| !spec.tensors().contains_key(&info.name)) {
        let stays = || vec![None; info.shape.len()];
        let axes = if !info.dtype.is_float() || pin.contains(&info.name) {
            stays()
        } else if let Some(original) = surely_tied(&checkpoint, &info.name, spec) {
            for places in scales.iter_mut().flat_map(|scale| [&mut scale.up, &mut scale.down]) {
                if let Some(&axis) = places.get(original) {
                    places.insert(info.name.clone(), axis);
                }
            }
            spec.tensors()[original].clone()
        } else {
            let like_one = !alike(&checkpoint, &info.name, spec).is_empty();
            (if like_one { &mut unclear } else { &mut unexplained }).push(info.name.as_str());
            continue;
        };
        tensors.insert(info.name.clone(), axes);
    }
    if !unclear.is_empty() {
        return Err(Error::failed(
            format_args!(
                "the graph does not use {}, and what they hold does not say which tensor they are a copy of, if of any",
                unclear.join(", ")
            ),
            path.display(),
            "give a trained checkpoint, export the model with them, or say --pin NAME for each if nothing of them may move",
        ));
    }
    refuse_folded(layout, &|name| spec.tensors().contains_key(name), path)?;
    if !unexplained.is_empty() {
        let prefix = unexplained[0].split('.').next();
        let wrapped = |name: &&str| {
            name.split_once('.')
                .is_some_and(|(first, rest)| Some(first) == prefix && spec.tensors().contains_key(rest))
        };
        let remedy = if unexplained.iter().all(wrapped) {
            "all its names begin with one more word than the graph's; save the inner network's, `model.module.state_dict()`"
        } else {
            "export the model with them (dynamo=True, optimize=False), or say --pin NAME for each if nothing of them may move and \
             the network's outputs do not depend on them"
        };
        return Err(Error::failed(
            format_args!("the graph does not use {}", unexplained.join(", ")),
            path.display(),
            remedy,
        ));
    }
    let spec = Spec::new(spec.groups().clone(), tensors)
        .map_err(|error| Error::failed(error, path.display(), "this is a defect, report it"))?
        .with_scales(scales);
    spec.check(layout).map_err(|error| {
        Error::failed(
            error,
            path.display(),
            "give a checkpoint of the network that was exported, with the same names",
        )
    })?;
    Ok(spec)
}

/// Refuses a checkpoint with a normalisation that the exporter has multiplied into a neighbour: the graph is that of other weights
/// then, and what it shows says nothing of the checkpoint's network.
///
/// # Errors
/// The graph lacks tensors of a module with running statistics, and has some of what this lies in. (A module in a branch of its own,
/// which inference does not run, has all its neighbours missing.)
pub(crate) fn refuse_folded(layout: &Layout, in_graph: &dyn Fn(&str) -> bool, path: &Path) -> Result<()> {
    let folded: Vec<&str> = layout
        .tensors()
        .iter()
        .filter(|info| info.dtype.is_float() && !in_graph(&info.name))
        .filter(|info| {
            let Some((module, _)) = info.name.rsplit_once('.') else { return false };
            let outer = module.rsplit_once('.').map_or(String::new(), |(outer, _)| format!("{outer}."));
            let beside =
                |other: &rebasin::TensorInfo| other.name.starts_with(&outer) && in_graph(&other.name);
            layout.get(&format!("{module}.running_var")).is_some() && layout.tensors().iter().any(beside)
        })
        .map(|info| info.name.as_str())
        .collect();
    if folded.is_empty() {
        return Ok(());
    }
    Err(Error::failed(
        format_args!(
            "the graph does not use {}, but the layers beside: the exporter put the normalisation into them, so that the graph is \
             that of other weights",
            folded.join(", ")
        ),
        path.display(),
        "export the model in eval mode with dynamo=True, optimize=False",
    ))
}

/// The tensors of the spec that one of the checkpoint is the same as, byte by byte.
fn alike<'a>(checkpoint: &Checkpoint, name: &str, spec: &'a Spec) -> Vec<&'a String> {
    let Some(own) = checkpoint.get(name) else { return Vec::new() };
    let same = |other: &&String| {
        checkpoint.get(other).is_some_and(|other| {
            other.info().shape == own.info().shape
                && other.info().dtype == own.info().dtype
                && other.bytes() == own.bytes()
        })
    };
    spec.tensors().keys().filter(same).collect()
}

/// The tensor of the spec that one of the checkpoint is a copy of, where there is no doubt: fresh gains are all 1 and fresh biases
/// all 0 whatever they belong to, so that to be the same says nothing of them; and copies that could be of several tensors are
/// only told apart if these move alike.
fn surely_tied<'a>(checkpoint: &Checkpoint, name: &str, spec: &'a Spec) -> Option<&'a String> {
    let own = checkpoint.get(name)?;
    let mut elements = own.bytes().chunks_exact(own.info().dtype.size());
    let first = elements.next()?;
    if elements.all(|element| element == first) {
        return None;
    }
    let alike = alike(checkpoint, name, spec);
    let (&original, others) = alike.split_first()?;
    others.iter().all(|other| move_alike(spec, original, other)).then_some(original)
}

/// Whether two tensors move, and scale, by the same groups on the same axes.
fn move_alike(spec: &Spec, one: &str, other: &str) -> bool {
    spec.tensors().get(one) == spec.tensors().get(other)
        && spec
            .scales()
            .iter()
            .all(|scale| [&scale.up, &scale.down].iter().all(|places| places.get(one) == places.get(other)))
}

/// Verifies a spec against its graph by running the network, and writes the certificate beside the spec.
///
/// # Errors
/// The spec is wrong, or cannot be verified; a file that cannot be read or written.
pub fn spec_verify(spec: &Path, model: &Path, seed: u64, screen: &Screen) -> Result<()> {
    let whole = Spec::from_json(&read_spec_text(spec)?).map_err(|error| no_spec(spec, error))?;
    let graph = read_graph(model)?;
    let place = || format!("{} against {}", spec.display(), model.display());
    let trouble = |error: &dyn std::fmt::Display| {
        Error::failed(error, place(), "use the spec of this graph, or derive it anew")
    };
    let layout = graph.layout().map_err(|error| trouble(&error))?;
    let part = of_layout(&whole, &layout).map_err(|error| trouble(&error))?;
    if part.groups().is_empty() {
        return Err(Error::failed(
            "has no group: nothing moves by it, so there is nothing to verify",
            spec.display(),
            "see what `fedbasin spec derive` says is pinned, and why",
        ));
    }
    let options = VerifyOptions { seed, ..VerifyOptions::default() };
    screen.say(format_args!("verifying {} groups by running {}", part.groups().len(), model.display()));
    let certificate = Certificate {
        spec: whole.digest(),
        ..verify(&graph, &part, &options).map_err(|error| Error::failed(&error, place(), advice(&error)))?
    };
    let path = certificate_path(spec);
    write_json(&path, &certificate)?;
    let mut value = serde_json::to_value(&certificate)
        .map_err(|error| Error::failed(error, "the certificate as JSON", "this is a defect, report it"))?;
    value["file"] = json!(path);
    screen.answer(&value, || {
        format!(
            "verified: for {} random inputs the outputs stayed the same under {} random moves of all groups together, and of {} groups \
             and {} scales one by one (largest difference {:.1e}, at most {:.0e} is rounding); {} axes left out on purpose were \
             noticed, {} made no difference, {} were not tried; {} groups stand on one tensor only, which leaves nothing to leave \
             out; {}{} {}; certificate {}",
            certificate.draws,
            certificate.elements,
            certificate.groups,
            certificate.scales,
            certificate.residual,
            certificate.tolerance,
            certificate.noticed.len(),
            certificate.unnoticed.len(),
            certificate.untried,
            certificate.single.len(),
            other_sizes(&certificate),
            certificate.runtime,
            certificate.runtime_version,
            path.display()
        )
    })
}

/// What was tried of the sizes that the graph leaves open; empty if it leaves none.
fn other_sizes(certificate: &Certificate) -> String {
    let text = |sizes: &BTreeMap<String, usize>| {
        sizes.iter().map(|(name, size)| format!("{name} = {size}")).collect::<Vec<_>>().join(", ")
    };
    if certificate.sizes.is_empty() {
        return String::new();
    }
    let held: Vec<String> = certificate
        .resized
        .iter()
        .filter(|other| other.untried.is_none())
        .map(|other| text(&other.sizes))
        .collect();
    let other = if held.is_empty() { "no other size".to_owned() } else { held.join(" and for ") };
    format!("for {}, and for {other}; ", text(&certificate.sizes))
}

/// What to do when a spec was not verified: only where outputs differ is it known to be wrong.
fn advice(error: &GraphError) -> &'static str {
    match error {
        GraphError::Changed { .. } => "do not use this spec; derive it anew, and report what the graph does",
        GraphError::Runtime(_) => {
            "the spec may be right, but nothing was tried; export the network in eval mode, in 32-bit floats, and with operators that the runtime has"
        }
        GraphError::Degenerate(_) => {
            "the spec may be right, but this does not show it; say another --seed, or export the network with trained weights"
        }
        _ => "do not use this spec; use the one of this graph, or derive it anew",
    }
}

/// The spec without tensors that the graph does not have (counters, tied copies).
fn of_layout(spec: &Spec, layout: &Layout) -> std::result::Result<Spec, rebasin::SpecError> {
    let names: BTreeSet<&str> = layout.tensors().iter().map(|info| info.name.as_str()).collect();
    let tensors = spec.tensors().iter().filter(|(name, _)| names.contains(name.as_str()));
    let mut scales = spec.scales().to_vec();
    for places in scales.iter_mut().flat_map(|scale| [&mut scale.up, &mut scale.down]) {
        places.retain(|name, _| names.contains(name.as_str()));
    }
    Ok(Spec::new(spec.groups().clone(), tensors.map(|(name, axes)| (name.clone(), axes.clone())).collect())?
        .with_scales(scales))
}

/// Where a spec's certificate lies: `net.json` has `net.certificate.json`.
#[must_use]
pub fn certificate_path(spec: &Path) -> PathBuf {
    spec.with_extension("certificate.json")
}

/// Whether a certificate of exactly this spec lies beside it.
pub(crate) fn is_verified(path: &Path, spec: &Spec) -> bool {
    let text = read_text(&certificate_path(path), MAX_SPEC_BYTES);
    text.ok().and_then(|text| certified(&text)).is_some_and(|digest| digest == spec.digest())
}

/// The digest of the spec that a certificate's text is of.
pub(crate) fn certified(text: &str) -> Option<Digest> {
    serde_json::from_str::<Certificate>(text).ok().map(|certificate| certificate.spec)
}

pub(crate) fn read_graph(path: &Path) -> Result<Graph> {
    let file = File::open(path).map_err(|error| read_error(path, &error))?;
    let mut bytes = Vec::new();
    file.take(MAX_GRAPH_BYTES + 1).read_to_end(&mut bytes).map_err(|error| read_error(path, &error))?;
    if bytes.len() as u64 > MAX_GRAPH_BYTES {
        return Err(Error::failed(
            format_args!("larger than {MAX_GRAPH_BYTES} bytes"),
            path.display(),
            "export a narrower network of the same form, or write the spec by hand",
        ));
    }
    // A safetensors file begins with its header's length and a brace.
    if bytes.get(8) == Some(&b'{') {
        return Err(Error::failed(
            "this is a safetensors file, not an ONNX graph",
            path.display(),
            "export the network with torch.onnx.export, see `fedbasin spec derive --help`",
        ));
    }
    Graph::read(&bytes)
        .map_err(|error| Error::failed(error, path.display(), "see `fedbasin spec derive --help`"))
}

#[cfg(test)]
mod tests {
    use super::{GraphError, advice};

    #[test]
    fn only_a_spec_that_changes_outputs_is_called_wrong() {
        let changed = GraphError::Changed {
            what: "all groups".into(),
            output: "y".into(),
            residual: 1.0,
            tolerance: 1e-4,
        };
        assert!(advice(&changed).contains("do not use this spec"));
        for other in [GraphError::Runtime("no such operator".into()), GraphError::Degenerate("alike".into())]
        {
            assert!(advice(&other).contains("may be right"), "{other}");
        }
    }
}
