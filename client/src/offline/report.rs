//! What the offline commands tell: for programs as JSON, for people as lines.

use rebasin::{AlignReport, Axis, CheckedSpec, Factor, GroupAgreement, Layout, Optimality, Segment};
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// The report with its seconds.
pub(super) fn align_json(report: &AlignReport, seconds: f64) -> Result<Value> {
    let mut value = serde_json::to_value(report)
        .map_err(|error| Error::failed(error, "the report as JSON", "this is a defect, report it"))?;
    value["seconds"] = json!(seconds);
    Ok(value)
}

/// Adds to each group of a report its kind and how its units agree.
pub(super) fn add_agreement(report: &mut Value, agreement: &[GroupAgreement], spec: &CheckedSpec) {
    let Some(groups) = report["groups"].as_array_mut() else { return };
    for ((value, agreement), group) in groups.iter_mut().zip(agreement).zip(spec.groups()) {
        value["kind"] = json!(group.kind);
        value["within"] = json!(group.within.map(|parent| &spec.groups()[parent].name));
        value["cosine_mean"] = json!(agreement.cosine_mean);
        value["cosine_p5"] = json!(agreement.cosine_p5);
    }
}

/// Adds how much better an alignment could be: in all, and for each group, with how surely its units are matched.
pub(super) fn add_optimality(report: &mut Value, optimality: &Optimality) {
    report["upper_bound"] = json!(optimality.upper_bound);
    report["gap"] = json!(optimality.gap());
    let Some(groups) = report["groups"].as_array_mut() else { return };
    for (value, group) in groups.iter_mut().zip(&optimality.groups) {
        value["bounded"] = json!({
            "objective": group.objective,
            "upper_bound": group.upper_bound,
            "gap": (group.upper_bound - group.objective).max(0.0),
        });
        value["margins"] = json!(group.margins);
    }
}

/// How much better an alignment could be, in one line.
pub(super) fn bound_text(optimality: &Optimality) -> String {
    let beyond = 100.0 * optimality.gap() / optimality.objective.abs().max(f64::MIN_POSITIVE);
    let sure =
        optimality.groups.iter().filter_map(|group| group.margins.as_ref()).map(|margins| margins.best);
    let bound = format!(
        "no alignment by this spec has an objective above {:.4}, {beyond:.2} % more than this one",
        optimality.upper_bound
    );
    match sure.reduce(f64::min) {
        None => bound,
        Some(least) => {
            format!(
                "{bound}; in each group at least {:.0} % of units have the partner they fit best",
                100.0 * least
            )
        }
    }
}

/// Matched units that agree less than this have hardly anything in common.
const HARDLY: f64 = 0.05;

/// What a person should know of an alignment before using it.
pub(super) fn warnings(report: &AlignReport, agreement: &[GroupAgreement]) -> Vec<String> {
    let mut lines = Vec::new();
    if report.groups.is_empty() {
        lines.push(
            "nothing can move: the spec has no group; `fedbasin spec derive` says what is pinned, and why"
                .to_owned(),
        );
    } else if report.moved == 0.0 {
        let proof = if report.identity_certified { ", and no single step from there helps" } else { "" };
        lines.push(format!("nothing moved: it is in the reference's frame already{proof}"));
    }
    let measured: Vec<&GroupAgreement> = agreement.iter().filter(|group| group.units > 0).collect();
    let strangers = measured.iter().filter(|group| group.cosine_mean < HARDLY).count();
    if strangers > 0 && 2 * strangers >= measured.len() {
        lines.push(format!(
            "in {strangers} of {} groups matched units have hardly anything in common (mean cosine below {HARDLY}): this looks \
             like an unrelated or random model; evaluate the merge before you use it",
            measured.len()
        ));
    }
    lines
}

/// An alignment in one line.
pub(super) fn align_text(report: &AlignReport, seconds: f64) -> String {
    if report.moved == 0.0 {
        return format!("aligned in {seconds:.3} s, 0 units moved, distance {:.4}", report.l2_after);
    }
    format!(
        "aligned in {seconds:.3} s, {:.1} % of units moved, distance {:.4} -> {:.4}, objective {:.4} -> {:.4}, {} sweeps",
        100.0 * report.moved,
        report.l2_before,
        report.l2_after,
        report.objective_before,
        report.objective_after,
        report.sweeps
    )
}

/// How much a spec lets move: `2 groups, 256 units; 6 of 10 axes permutable`.
pub(super) fn summary(spec: &CheckedSpec) -> String {
    let tensors = spec.layout().tensors().len();
    let axes = || (0..tensors).flat_map(|tensor| spec.axes(tensor));
    let units: usize = spec.groups().iter().map(|group| group.units).sum();
    format!(
        "{} groups, {units} units; {} of {} axes permutable",
        spec.groups().len(),
        axes().filter(|axis| axis.is_some()).count(),
        axes().count()
    )
}

/// The same for programs.
pub(super) fn summary_json(spec: &CheckedSpec) -> Value {
    let coverage = spec.coverage();
    let group = |group: &rebasin::Group| {
        let within = group.within.map(|parent| &spec.groups()[parent].name);
        json!({ "name": group.name, "units": group.units, "kind": group.kind, "within": within })
    };
    json!({
        "groups": spec.groups().iter().map(group).collect::<Vec<_>>(),
        "permutable_axes": coverage.permutable_axes,
        "pinned_axes": coverage.pinned_axes.len(),
        "permutable_parameters": coverage.permutable_parameters,
        "parameters": coverage.parameters,
        "scales": spec.scales().len(),
    })
}

/// For each tensor its axes: what moves them, or null.
pub(super) fn axes_json(spec: &CheckedSpec) -> Value {
    let axes = |tensor: usize| -> Vec<Option<String>> {
        spec.axes(tensor).iter().map(|axis| axis.as_ref().map(|axis| axis_text(spec, axis))).collect()
    };
    let tensors = spec.layout().tensors().iter().enumerate();
    tensors
        .map(|(index, info)| (info.name.clone(), json!(axes(index))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// One line a tensor: each axis with its size and its group, or pinned.
pub(super) fn axes_text(spec: &CheckedSpec) -> Vec<String> {
    let describe = |tensor: usize| {
        let info = &spec.layout().tensors()[tensor];
        let axes = spec.axes(tensor).iter().zip(&info.shape).map(|(axis, size)| match axis {
            None => format!("{size} pinned"),
            Some(axis) => format!("{size} by {}", axis_text(spec, axis)),
        });
        let axes: Vec<String> = axes.collect();
        let axes = if axes.is_empty() { "a single number".to_owned() } else { axes.join(", ") };
        format!("{} {}: {axes}", info.name.escape_debug(), info.dtype.name())
    };
    (0..spec.layout().tensors().len()).map(describe).collect()
}

/// `c3 x 49`, `heads x qk + heads x vo`
fn axis_text(spec: &CheckedSpec, axis: &Axis) -> String {
    let factor = |factor: &Factor| match factor.group() {
        Some(group) => spec.groups()[group].name.clone(),
        None => factor.extent().to_string(),
    };
    let segment = |segment: &Segment| segment.factors.iter().map(factor).collect::<Vec<_>>().join(" x ");
    axis.segments.iter().map(segment).collect::<Vec<_>>().join(" + ")
}

/// The first thing in which two layouts differ.
pub(super) fn layout_difference(first: &Layout, other: &Layout) -> String {
    for info in first.tensors() {
        match other.get(&info.name) {
            None => return format!("tensor {:?} is missing", info.name),
            Some(found) if found.shape != info.shape => {
                return format!(
                    "tensor {:?} has shape {:?} instead of {:?}",
                    info.name, found.shape, info.shape
                );
            }
            Some(found) if found.dtype != info.dtype => {
                return format!(
                    "tensor {:?} is {} instead of {}",
                    info.name,
                    found.dtype.name(),
                    info.dtype.name()
                );
            }
            Some(_) => {}
        }
    }
    let extra = other.tensors().iter().find(|info| first.get(&info.name).is_none());
    extra.map_or_else(|| "no difference".to_owned(), |info| format!("tensor {:?} is extra", info.name))
}
