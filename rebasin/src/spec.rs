//! Specs: which axes of which tensors move together.

mod derive;
mod order;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, Layout};

const FORMAT: &str = "fedbasin.spec/1";

/// Which axes of which tensors move together, and by which group. See the room's README for the JSON form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    format: String,
    groups: BTreeMap<String, GroupEntry>,
    tensors: BTreeMap<String, Vec<Option<AxisEntry>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupEntry {
    size: usize,
    kind: Kind,
}

/// Which permutations of its units a group allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// All of them.
    Symmetric,
}

/// `"h0"`, or `{"group": "c3", "block": 49}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum AxisEntry {
    Group(String),
    Block(BlockEntry),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BlockEntry {
    group: String,
    block: usize,
}

impl AxisEntry {
    fn group(&self) -> &str {
        match self {
            Self::Group(group) | Self::Block(BlockEntry { group, .. }) => group,
        }
    }

    fn block(&self) -> usize {
        match self {
            Self::Group(_) => 1,
            Self::Block(entry) => entry.block,
        }
    }
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
    /// An axis whose length is not the group's size times the block.
    #[error(
        "tensor {name}, axis {axis}: group {group} moves {size} units of {block}, the axis has length {length}"
    )]
    Length {
        /// The tensor.
        name: String,
        /// The axis, from 0.
        axis: usize,
        /// The group.
        group: String,
        /// Its size.
        size: usize,
        /// Elements a unit has on this axis.
        block: usize,
        /// The axis's length.
        length: usize,
    },
    /// A group on two axes of one tensor: weight matching would be a quadratic problem.
    #[error(
        "tensor {name}: group {group} stands on two of its axes, which weight matching cannot solve; pin one"
    )]
    Twice {
        /// The tensor.
        name: String,
        /// The group.
        group: String,
    },
    /// No network of the expected kind could be recognised.
    #[error("no spec can be derived: {0}")]
    Derive(String),
}

/// A group: units that move together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// How many units.
    pub size: usize,
    /// Which permutations are allowed.
    pub kind: Kind,
}

/// How an axis moves: unit `u` of the group owns positions `u * block .. (u + 1) * block`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AxisUse {
    /// Index of the group.
    pub group: usize,
    /// Positions of one unit; 1 unless the axis comes from a flatten.
    pub block: usize,
}

/// A spec bound to a layout that it fits. Groups are in order of name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedSpec {
    layout: Layout,
    groups: Vec<Group>,
    axes: Vec<Vec<Option<AxisUse>>>,
}

/// How much of a layout a spec can move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Axes that move with a group.
    pub permutable_axes: usize,
    /// Axes that do not: `tensor` and axis, from 0.
    pub pinned_axes: Vec<(String, usize)>,
    /// Elements of float tensors with at least one axis that moves.
    pub permutable_parameters: usize,
    /// Elements of all float tensors.
    pub parameters: usize,
}

/// A spec under construction: groups by name and size, axes by tensor.
#[derive(Default)]
struct Builder {
    groups: BTreeMap<String, GroupEntry>,
    tensors: BTreeMap<String, Vec<Option<AxisEntry>>>,
}

impl Builder {
    fn group(&mut self, name: &str, size: usize) {
        self.groups.insert(name.to_owned(), GroupEntry { size, kind: Kind::Symmetric });
    }

    fn tensor(&mut self, name: &str, axes: Vec<Option<AxisEntry>>) {
        self.tensors.insert(name.to_owned(), axes);
    }

    fn build(self) -> Spec {
        Spec { format: FORMAT.into(), groups: self.groups, tensors: self.tensors }
    }
}

fn plain(group: &str) -> Option<AxisEntry> {
    Some(AxisEntry::Group(group.to_owned()))
}

fn blocked(group: &str, block: usize) -> Option<AxisEntry> {
    if block == 1 {
        return plain(group);
    }
    Some(AxisEntry::Block(BlockEntry { group: group.to_owned(), block }))
}

impl Spec {
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
        for (name, group) in &spec.groups {
            if group.size == 0 || u32::try_from(group.size).is_err() {
                return Err(SpecError::Json(format!(
                    "group {name}: its size {} is not within 1 and 2^32",
                    group.size
                )));
            }
        }
        for (name, axes) in &spec.tensors {
            for entry in axes.iter().flatten() {
                if !spec.groups.contains_key(entry.group()) {
                    return Err(SpecError::Json(format!(
                        "tensor {name}: there is no group {:?}",
                        entry.group()
                    )));
                }
                if entry.block() == 0 {
                    return Err(SpecError::Json(format!("tensor {name}: a block of 0")));
                }
            }
        }
        Ok(spec)
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

    /// Binds the spec to a layout: every tensor listed, every axis of the right length.
    ///
    /// # Errors
    /// [`SpecError`] naming the first tensor and axis that do not fit.
    pub fn check(&self, layout: &Layout) -> Result<CheckedSpec, SpecError> {
        let names: Vec<&String> = self.groups.keys().collect();
        let groups: Vec<Group> = self
            .groups
            .iter()
            .map(|(name, group)| Group { name: name.clone(), size: group.size, kind: group.kind })
            .collect();
        if let Some(unknown) = self.tensors.keys().find(|name| layout.get(name).is_none()) {
            return Err(SpecError::Unknown(unknown.clone()));
        }
        let mut axes = Vec::with_capacity(layout.tensors().len());
        for tensor in layout.tensors() {
            let entries =
                self.tensors.get(&tensor.name).ok_or_else(|| SpecError::Unlisted(tensor.name.clone()))?;
            if entries.len() != tensor.shape.len() {
                return Err(SpecError::Rank {
                    name: tensor.name.clone(),
                    spec: entries.len(),
                    checkpoint: tensor.shape.len(),
                });
            }
            let mut uses: Vec<Option<AxisUse>> = Vec::with_capacity(entries.len());
            for (axis, (entry, &length)) in entries.iter().zip(&tensor.shape).enumerate() {
                let Some(entry) = entry else {
                    uses.push(None);
                    continue;
                };
                let group = names
                    .binary_search_by(|name| name.as_str().cmp(entry.group()))
                    .map_err(|_| SpecError::Json(format!("there is no group {:?}", entry.group())))?;
                let (size, block) = (groups[group].size, entry.block());
                if size.checked_mul(block) != Some(length) {
                    let name = tensor.name.clone();
                    return Err(SpecError::Length {
                        name,
                        axis,
                        group: names[group].clone(),
                        size,
                        block,
                        length,
                    });
                }
                if uses.iter().flatten().any(|used| used.group == group) {
                    return Err(SpecError::Twice { name: tensor.name.clone(), group: names[group].clone() });
                }
                uses.push(Some(AxisUse { group, block }));
            }
            axes.push(uses);
        }
        Ok(CheckedSpec { layout: layout.clone(), groups, axes })
    }
}

impl CheckedSpec {
    /// The layout that the spec is bound to.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The groups, by name.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// How each axis of the tensor at a canonical position moves; `None`: it does not.
    ///
    /// # Panics
    /// If there is no such tensor.
    #[must_use]
    pub fn axes(&self, index: usize) -> &[Option<AxisUse>] {
        &self.axes[index]
    }

    /// How much of the layout moves.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        let mut coverage = Coverage {
            permutable_axes: 0,
            pinned_axes: Vec::new(),
            permutable_parameters: 0,
            parameters: self.layout.num_parameters(),
        };
        for (tensor, axes) in self.layout.tensors().iter().zip(&self.axes) {
            for (axis, use_of) in axes.iter().enumerate() {
                match use_of {
                    Some(_) => coverage.permutable_axes += 1,
                    None => coverage.pinned_axes.push((tensor.name.clone(), axis)),
                }
            }
            if tensor.dtype.is_float() && axes.iter().any(Option::is_some) {
                coverage.permutable_parameters += tensor.num_elements();
            }
        }
        coverage
    }
}

#[cfg(test)]
mod tests;
