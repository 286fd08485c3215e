//! A spec bound to a layout that it fits.

use serde::{Deserialize, Serialize};

use super::{AxisForm, FactorForm, Kind, Spec, SpecError, scales::Scale};
use crate::{Layout, TensorInfo};

/// A group: units that move together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// How many units; for a group within another: for each of its units.
    pub size: usize,
    /// Which permutations are allowed.
    pub kind: Kind,
    /// Index of the group that it is within. An element is then a permutation of `size` for each unit of that group, written
    /// as one permutation of all [`Group::units`] that keeps the blocks of `size` together and moves them as that group
    /// moves its units.
    pub within: Option<usize>,
    /// How long its permutation is: `size`, times the size of the group that it is within.
    pub units: usize,
}

/// How an axis moves: a direct sum of products.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    /// In order; their lengths sum to the axis's.
    pub segments: Vec<Segment>,
}

/// A stretch of an axis: its positions are numbers with one digit a factor, the first being the most significant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its first position.
    pub start: usize,
    /// Its positions: the product of its factors' extents.
    pub length: usize,
    /// Major factor first.
    pub factors: Vec<Factor>,
}

/// A digit of an axis's positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Factor {
    /// So many positions that keep their order.
    Stays(usize),
    /// The units of a group, by index.
    Group {
        /// The group.
        group: usize,
        /// Its `size`.
        size: usize,
        /// For a group within another that does not stand in the same segment: the earlier axis where that one stands.
        parent_axis: Option<usize>,
    },
}

impl Factor {
    /// How many values the digit has.
    #[must_use]
    pub fn extent(self) -> usize {
        match self {
            Self::Stays(extent) => extent,
            Self::Group { size, .. } => size,
        }
    }

    /// The group, if it is one.
    #[must_use]
    pub fn group(self) -> Option<usize> {
        match self {
            Self::Stays(_) => None,
            Self::Group { group, .. } => Some(group),
        }
    }
}

impl Axis {
    /// The groups that move positions of this axis, with repetitions.
    pub fn groups(&self) -> impl Iterator<Item = usize> {
        self.segments.iter().flat_map(|segment| &segment.factors).filter_map(|factor| factor.group())
    }
}

/// A spec bound to a layout that it fits. Groups are in order of name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedSpec {
    layout: Layout,
    groups: Vec<Group>,
    axes: Vec<Vec<Option<Axis>>>,
    scales: Vec<Scale>,
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

impl Spec {
    /// Binds the spec to a layout: every tensor listed, every axis of the right length.
    ///
    /// # Errors
    /// [`SpecError`] naming the first tensor and axis that do not fit.
    pub fn check(&self, layout: &Layout) -> Result<CheckedSpec, SpecError> {
        let names: Vec<&str> = self.groups.keys().map(String::as_str).collect();
        let find = |name: &str| names.binary_search(&name).ok();
        let groups: Vec<Group> = self
            .groups
            .iter()
            .map(|(name, group)| {
                let within = group.within.as_deref().and_then(find);
                let parent = group.within.as_ref().and_then(|within| self.groups.get(within));
                let units = group.size * parent.map_or(1, |parent| parent.size);
                Group { name: name.clone(), size: group.size, kind: group.kind, within, units }
            })
            .collect();
        if let Some(unknown) = self.tensors.keys().find(|name| layout.get(name).is_none()) {
            return Err(SpecError::Unknown(unknown.clone()));
        }
        let mut axes = Vec::with_capacity(layout.tensors().len());
        for tensor in layout.tensors() {
            let forms =
                self.tensors.get(&tensor.name).ok_or_else(|| SpecError::Unlisted(tensor.name.clone()))?;
            if forms.len() != tensor.shape.len() {
                return Err(SpecError::Rank {
                    name: tensor.name.clone(),
                    spec: forms.len(),
                    checkpoint: tensor.shape.len(),
                });
            }
            axes.push(TensorCheck { tensor, groups: &groups, forms }.bind(&find)?);
        }
        let mut checked = CheckedSpec { layout: layout.clone(), groups, axes, scales: Vec::new() };
        // A group's size is then bounded by an axis that a checkpoint really has.
        match (0..checked.groups.len())
            .find(|&group| !(0..checked.axes.len()).any(|t| checked.moves(t, group)))
        {
            None => {
                checked.scales = self.bind_scales(&checked)?;
                Ok(checked)
            }
            Some(unused) => Err(SpecError::Unused(checked.groups[unused].name.clone())),
        }
    }
}

struct TensorCheck<'a> {
    tensor: &'a TensorInfo,
    groups: &'a [Group],
    forms: &'a [Option<AxisForm>],
}

impl TensorCheck<'_> {
    fn bind(&self, find: &dyn Fn(&str) -> Option<usize>) -> Result<Vec<Option<Axis>>, SpecError> {
        let mut axes: Vec<Option<Axis>> = Vec::with_capacity(self.forms.len());
        for (axis, form) in self.forms.iter().enumerate() {
            axes.push(form.as_ref().map(|form| self.axis(axis, form, find)).transpose()?);
        }
        for axis in 0..axes.len() {
            let placed =
                axes[axis].clone().map(|placed| self.place(axis, placed, &axes[..axis])).transpose()?;
            axes[axis] = placed;
        }
        Ok(axes)
    }

    fn axis(
        &self,
        axis: usize,
        form: &AxisForm,
        find: &dyn Fn(&str) -> Option<usize>,
    ) -> Result<Axis, SpecError> {
        let length = self.tensor.shape[axis];
        let wrong = |spec| SpecError::Length {
            name: self.tensor.name.clone(),
            axis,
            form: form.to_string(),
            spec,
            length,
        };
        let mut start = 0_usize;
        let mut segments = Vec::new();
        for factors in form.segments() {
            let mut bound: Vec<Factor> = Vec::with_capacity(factors.len());
            for factor in factors {
                bound.push(match factor {
                    FactorForm::Stays(extent) => Factor::Stays(extent),
                    FactorForm::Group(name) => {
                        let group = find(&name)
                            .ok_or_else(|| SpecError::Json(format!("there is no group {name:?}")))?;
                        if bound.iter().any(|factor| factor.group() == Some(group)) {
                            return Err(SpecError::Twice {
                                name: self.tensor.name.clone(),
                                axis,
                                group: name,
                            });
                        }
                        Factor::Group { group, size: self.groups[group].size, parent_axis: None }
                    }
                });
            }
            let product =
                bound.iter().try_fold(1_usize, |product, factor| product.checked_mul(factor.extent()));
            let end = product.and_then(|product| start.checked_add(product)).ok_or_else(|| wrong(0))?;
            segments.push(Segment { start, length: end - start, factors: bound });
            start = end;
        }
        if start == length { Ok(Axis { segments }) } else { Err(wrong(start)) }
    }

    /// Finds, for each group within another, where that other stands.
    fn place(&self, axis: usize, mut placed: Axis, earlier: &[Option<Axis>]) -> Result<Axis, SpecError> {
        let mut depends_on = None;
        for segment in &mut placed.segments {
            let here: Vec<usize> = segment.factors.iter().filter_map(|factor| factor.group()).collect();
            for factor in &mut segment.factors {
                let Factor::Group { group, parent_axis, .. } = factor else { continue };
                let Some(parent) = self.groups[*group].within else { continue };
                if here.contains(&parent) {
                    continue;
                }
                let whole = |axis: &Option<Axis>| {
                    axis.as_ref().is_some_and(|axis| {
                        axis.segments.len() == 1 && axis.groups().any(|found| found == parent)
                    })
                };
                let mut found = (0..earlier.len()).filter(|&index| whole(&earlier[index]));
                match (found.next(), found.next(), depends_on) {
                    (Some(one), None, before) if before.is_none_or(|before| before == (one, parent)) => {
                        *parent_axis = Some(one);
                        depends_on = Some((one, parent));
                    }
                    _ => {
                        return Err(SpecError::Within {
                            name: self.tensor.name.clone(),
                            axis,
                            group: self.groups[*group].name.clone(),
                            within: self.groups[parent].name.clone(),
                        });
                    }
                }
            }
        }
        Ok(placed)
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

    /// The scale symmetries.
    #[must_use]
    pub fn scales(&self) -> &[Scale] {
        &self.scales
    }

    /// How each axis of the tensor at a canonical position moves; `None`: it does not.
    ///
    /// # Panics
    /// If there is no such tensor.
    #[must_use]
    pub fn axes(&self, index: usize) -> &[Option<Axis>] {
        &self.axes[index]
    }

    /// Whether a group moves positions of the tensor at a canonical position.
    ///
    /// # Panics
    /// If there is no such tensor.
    #[must_use]
    pub fn moves(&self, index: usize, group: usize) -> bool {
        self.axes[index].iter().flatten().flat_map(Axis::groups).any(|found| found == group)
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
