//! Specs: which axes of which tensors move together.

mod checked;
mod derive;
mod form;
mod order;
mod scales;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Digest;

pub use self::{
    checked::{Axis, CheckedSpec, Coverage, Factor, Group, Segment},
    form::{AxisForm, FactorForm, GroupForm, Kind, ScaleForm},
    scales::Scale,
};

const FORMAT: &str = "fedbasin.spec/1";

/// Which axes of which tensors move together, and by which group. See the room's README for the JSON form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    format: String,
    groups: BTreeMap<String, GroupForm>,
    tensors: BTreeMap<String, Vec<Option<AxisForm>>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    scales: Vec<ScaleForm>,
}

/// A spec that cannot be read, does not fit a layout, or cannot be derived.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The JSON is not a spec's.
    #[error("not a spec: {0}")]
    Json(String),
    /// A tensor of the layout is not in the spec.
    #[error("tensor {0} is not in the spec; list it, with null for each axis that does not move")]
    Unlisted(String),
    /// A tensor of the spec is not in the layout.
    #[error("the spec lists tensor {0}, which the checkpoint does not have")]
    Unknown(String),
    /// A group that stands on no axis.
    #[error("group {0} stands on no axis of any tensor; leave it out")]
    Unused(String),
    /// Another number of axes.
    #[error("tensor {name}: the spec lists {spec} axes, the checkpoint has {checkpoint}")]
    Rank {
        /// The tensor.
        name: String,
        /// Axes in the spec.
        spec: usize,
        /// Axes in the checkpoint.
        checkpoint: usize,
    },
    /// An axis whose length is not what its groups and numbers make.
    #[error("tensor {name}, axis {axis}: the spec makes it {spec} long ({form}), the checkpoint {length}")]
    Length {
        /// The tensor.
        name: String,
        /// The axis, from 0.
        axis: usize,
        /// The axis in the spec.
        form: String,
        /// The length that follows from it; 0 if it is beyond 64 bits.
        spec: usize,
        /// The axis's length.
        length: usize,
    },
    /// A group twice in one product.
    #[error("tensor {name}, axis {axis}: group {group} stands twice in one product")]
    Twice {
        /// The tensor.
        name: String,
        /// The axis, from 0.
        axis: usize,
        /// The group.
        group: String,
    },
    /// A group within another one, which this tensor does not place.
    #[error(
        "tensor {name}, axis {axis}: group {group} differs for each unit of {within}, which must stand in the same product or \
         alone on exactly one earlier axis"
    )]
    Within {
        /// The tensor.
        name: String,
        /// The axis, from 0.
        axis: usize,
        /// The group.
        group: String,
        /// The group that it is within.
        within: String,
    },
    /// A scale symmetry on an axis where its group does not stand, or of a group that has none.
    #[error("scale {index} (group {group}): {why}")]
    Scale {
        /// Which of the scales, from 0.
        index: usize,
        /// Its group.
        group: String,
        /// What is wrong.
        why: String,
    },
    /// No network of the expected kind could be recognised.
    #[error("no spec can be derived: {0}")]
    Derive(String),
}

impl Spec {
    /// A spec of groups and tensors, each axis in order.
    ///
    /// # Errors
    /// [`SpecError::Json`] if they do not belong together: an unknown group, a size of 0, a group within a group that is
    /// itself within one.
    pub fn new(
        groups: BTreeMap<String, GroupForm>,
        tensors: BTreeMap<String, Vec<Option<AxisForm>>>,
    ) -> Result<Self, SpecError> {
        let spec = Self { format: FORMAT.into(), groups, tensors, scales: Vec::new() };
        spec.check_groups()?;
        Ok(spec)
    }

    /// The same with these scale symmetries. Whether they fit is seen by [`Spec::check`].
    #[must_use]
    pub fn with_scales(self, scales: Vec<ScaleForm>) -> Self {
        Self { scales, ..self }
    }

    /// The same with the layout's tensors of whole numbers that it does not list: they stay where they are. A graph does not show
    /// counters that its training framework keeps beside the parameters.
    #[must_use]
    pub fn with_counters_of(mut self, layout: &crate::Layout) -> Self {
        for info in layout.tensors().iter().filter(|info| !info.dtype.is_float()) {
            self.tensors.entry(info.name.clone()).or_insert_with(|| vec![None; info.shape.len()]);
        }
        self
    }

    /// Reads the JSON form.
    ///
    /// # Errors
    /// [`SpecError::Json`] with what is wrong in it.
    pub fn from_json(json: &str) -> Result<Self, SpecError> {
        let spec: Self = serde_json::from_str(json).map_err(|error| SpecError::Json(error.to_string()))?;
        if spec.format != FORMAT {
            let format = spec.format.chars().take(80).collect::<String>();
            return Err(SpecError::Json(format!("its format is {format:?}, this program reads {FORMAT:?}")));
        }
        spec.check_groups()?;
        Ok(spec)
    }

    fn check_groups(&self) -> Result<(), SpecError> {
        let wrong = |message| Err(SpecError::Json(message));
        for (name, group) in &self.groups {
            let mut units = Some(group.size);
            if let Some(within) = &group.within {
                let Some(parent) = self.groups.get(within) else {
                    return wrong(format!("group {name}: there is no group {within:?} for it to be within"));
                };
                if parent.within.is_some() || within == name {
                    return wrong(format!(
                        "group {name}: {within:?} is within a group itself; one level is the most"
                    ));
                }
                units = group.size.checked_mul(parent.size);
            }
            if group.size == 0 || units.is_none_or(|units| u32::try_from(units).is_err()) {
                return wrong(format!("group {name}: its units are not within 1 and 2^32"));
            }
        }
        for (name, axes) in &self.tensors {
            for factor in axes.iter().flatten().flat_map(AxisForm::factors) {
                match factor {
                    FactorForm::Group(group) if !self.groups.contains_key(&group) => {
                        return wrong(format!("tensor {name}: there is no group {group:?}"));
                    }
                    FactorForm::Stays(0) => return wrong(format!("tensor {name}: a block of 0")),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The JSON form: pretty, and the same for the same spec.
    ///
    /// # Panics
    /// Never: names and numbers are always JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("names and numbers are always JSON")
    }

    /// SHA-256 of the JSON form.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_json().as_bytes())
    }

    /// The groups, by name.
    #[must_use]
    pub fn groups(&self) -> &BTreeMap<String, GroupForm> {
        &self.groups
    }

    /// The scale symmetries.
    #[must_use]
    pub fn scales(&self) -> &[ScaleForm] {
        &self.scales
    }

    /// The tensors' axes, by name.
    #[must_use]
    pub fn tensors(&self) -> &BTreeMap<String, Vec<Option<AxisForm>>> {
        &self.tensors
    }
}

#[cfg(test)]
mod tests;
