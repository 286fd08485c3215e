//! Scale symmetries bound to a layout.

use std::collections::{BTreeMap, BTreeSet};

use super::{CheckedSpec, ScaleForm, Spec, SpecError};

/// A scale symmetry: see [`ScaleForm`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// The group, by index.
    pub group: usize,
    /// Tensor and axis, by index: multiplied.
    pub up: Vec<(usize, usize)>,
    /// Tensor and axis, by index: divided.
    pub down: Vec<(usize, usize)>,
}

/// Most axes of one tensor that scales stand on.
const MAX_AXES: usize = 2;

impl Spec {
    pub(super) fn bind_scales(&self, checked: &CheckedSpec) -> Result<Vec<Scale>, SpecError> {
        let mut scales = Vec::with_capacity(self.scales().len());
        let mut scaled = vec![Vec::new(); checked.layout().tensors().len()];
        for (index, form) in self.scales().iter().enumerate() {
            let wrong = |why: String| SpecError::Scale { index, group: form.group.clone(), why };
            let scale = bind(checked, form).map_err(wrong)?;
            for &(tensor, axis) in scale.up.iter().chain(&scale.down) {
                let name = &checked.layout().tensors()[tensor].name;
                if scaled[tensor].contains(&(axis, scale.group)) {
                    return Err(wrong(format!("axis {axis} of {name} is scaled already")));
                }
                scaled[tensor].push((axis, scale.group));
                if scaled[tensor].iter().map(|&(axis, _)| axis).collect::<BTreeSet<_>>().len() > MAX_AXES {
                    return Err(wrong(format!("{name} is scaled on more than {MAX_AXES} axes")));
                }
            }
            scales.push(scale);
        }
        Ok(scales)
    }
}

fn bind(checked: &CheckedSpec, form: &ScaleForm) -> Result<Scale, String> {
    let group = checked.groups().iter().position(|group| group.name == form.group);
    let group = group.ok_or_else(|| "there is no such group".to_owned())?;
    let nests = checked
        .groups()
        .iter()
        .enumerate()
        .any(|(index, other)| other.within == Some(group) || (index == group && other.within.is_some()));
    if nests {
        return Err("only a group that is within no other, and has none within it, can be scaled".into());
    }
    if form.up.is_empty() || form.down.is_empty() {
        return Err("something must be multiplied, and something divided".into());
    }
    let places = |axes: &BTreeMap<String, usize>| -> Result<Vec<(usize, usize)>, String> {
        let mut places = Vec::with_capacity(axes.len());
        for (name, &axis) in axes {
            let tensor =
                checked.layout().position(name).ok_or_else(|| format!("there is no tensor {name}"))?;
            if !checked.layout().tensors()[tensor].dtype.is_float() {
                return Err(format!("{name} holds whole numbers"));
            }
            let stands = checked.axes(tensor).get(axis).and_then(Option::as_ref);
            if !stands.is_some_and(|axis| axis.groups().any(|found| found == group)) {
                return Err(format!("the group does not stand on axis {axis} of {name}"));
            }
            places.push((tensor, axis));
        }
        Ok(places)
    };
    Ok(Scale { group, up: places(&form.up)?, down: places(&form.down)? })
}
