//! The JSON form's pieces.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// A group in the JSON form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupForm {
    /// How many units; with `within`: how many for each unit of that group.
    pub size: usize,
    /// Which permutations are allowed.
    pub kind: Kind,
    /// A wreath product: the group has a permutation of its own for each unit of this other group, and its units move along
    /// with that unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
}

/// A scale symmetry in the JSON form: each unit of a group may be multiplied by a number above 0 of its own on the axes of `up`,
/// and divided by it on those of `down`, and the network computes the same. So it is for units between linear layers with
/// nothing but positively homogeneous functions (ReLU, pooling) in between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaleForm {
    /// The group.
    pub group: String,
    /// Axis of each tensor that is multiplied.
    pub up: BTreeMap<String, usize>,
    /// Axis of each tensor that is divided.
    pub down: BTreeMap<String, usize>,
}

/// Which permutations of its units a group allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// All of them.
    Symmetric,
    /// None: the group is there for others that are within it.
    Fixed,
}

/// An axis in the JSON form: one group, a product (major factor first), or a direct sum of products.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AxisForm {
    /// `"h0"`
    Group(String),
    /// `["c3", 49]`
    Product(Vec<FactorForm>),
    /// `{"concat": ["h0", 3, ["heads", "qk"]]}`
    Concat(ConcatForm),
}

/// A direct sum in the JSON form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConcatForm {
    concat: Vec<SegmentForm>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum SegmentForm {
    One(FactorForm),
    Product(Vec<FactorForm>),
}

/// A factor of a product in the JSON form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FactorForm {
    /// So many positions that keep their order.
    Stays(usize),
    /// A group by name.
    Group(String),
}

impl SegmentForm {
    fn factors(&self) -> &[FactorForm] {
        match self {
            Self::One(factor) => std::slice::from_ref(factor),
            Self::Product(factors) => factors,
        }
    }
}

impl AxisForm {
    /// The shortest form of a direct sum of products.
    #[must_use]
    pub fn from_segments(mut segments: Vec<Vec<FactorForm>>) -> Self {
        if segments.len() == 1 {
            let factors = segments.remove(0);
            return match <[FactorForm; 1]>::try_from(factors) {
                Ok([FactorForm::Group(group)]) => Self::Group(group),
                Ok(one) => Self::Product(one.into()),
                Err(factors) => Self::Product(factors),
            };
        }
        let concat = segments.into_iter().map(|factors| match <[FactorForm; 1]>::try_from(factors) {
            Ok([one]) => SegmentForm::One(one),
            Err(factors) => SegmentForm::Product(factors),
        });
        Self::Concat(ConcatForm { concat: concat.collect() })
    }

    /// The direct sum's products, in order.
    #[must_use]
    pub fn segments(&self) -> Vec<Vec<FactorForm>> {
        match self {
            Self::Group(group) => vec![vec![FactorForm::Group(group.clone())]],
            Self::Product(factors) => vec![factors.clone()],
            Self::Concat(ConcatForm { concat }) => {
                concat.iter().map(|segment| segment.factors().to_vec()).collect()
            }
        }
    }

    pub(super) fn factors(&self) -> impl Iterator<Item = FactorForm> + use<> {
        self.segments().into_iter().flatten()
    }
}

impl fmt::Display for AxisForm {
    /// `c3 x 49`, `q + k + 3`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, factors) in self.segments().iter().enumerate() {
            if index > 0 {
                f.write_str(" + ")?;
            }
            for (index, factor) in factors.iter().enumerate() {
                if index > 0 {
                    f.write_str(" x ")?;
                }
                match factor {
                    FactorForm::Stays(positions) => write!(f, "{positions}")?,
                    FactorForm::Group(group) => f.write_str(group)?,
                }
            }
        }
        Ok(())
    }
}
