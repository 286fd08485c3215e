//! Layouts: the names, dtypes and shapes of a run's tensors.

use serde::{Deserialize, Serialize};

use crate::{Digest, Dtype, Hasher};

/// Longest name of a tensor, in bytes.
pub const MAX_NAME_BYTES: usize = 256;
/// Most axes of a tensor.
pub const MAX_RANK: usize = 8;

/// One tensor's name, element type and shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorInfo {
    /// 1 to 256 of `A-Z a-z 0-9 _ . -`.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Length of each axis; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// How many elements. A scalar has one.
    #[must_use]
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// How many bytes.
    #[must_use]
    pub fn num_bytes(&self) -> usize {
        self.num_elements() * self.dtype.size()
    }

    /// Whether these are BatchNorm's statistics, by the name that PyTorch gives them: they are measured, not trained.
    #[must_use]
    pub fn is_statistic(&self) -> bool {
        let last = self.name.rsplit('.').next();
        self.dtype.is_float() && matches!(last, Some("running_mean" | "running_var"))
    }
}

/// A layout that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A name outside the allowed characters or length.
    #[error("tensor name {0:?} is not 1 to 256 of A-Z, a-z, 0-9, '_', '.' and '-'; rename the tensor")]
    Name(String),
    /// Two tensors of one name.
    #[error("tensor {0} stands twice; names must differ")]
    Duplicate(String),
    /// More axes than are allowed.
    #[error("tensor {name} has {rank} axes; at most {MAX_RANK} are supported")]
    Rank {
        /// The tensor.
        name: String,
        /// Its axes.
        rank: usize,
    },
    /// A size that does not fit the machine's numbers.
    #[error("tensor {0} is too large: its size in bytes overflows")]
    Size(String),
}

/// The tensors of a run, sorted by name (byte-wise): the canonical order, whatever order a file has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct Layout {
    tensors: Vec<TensorInfo>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    tensors: Vec<TensorInfo>,
}

impl TryFrom<Unchecked> for Layout {
    type Error = LayoutError;

    fn try_from(unchecked: Unchecked) -> Result<Self, LayoutError> {
        Self::new(unchecked.tensors)
    }
}

impl From<Layout> for Unchecked {
    fn from(layout: Layout) -> Self {
        Self { tensors: layout.tensors }
    }
}

pub(crate) fn is_valid_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// Bytes of a tensor, if they, and the sizes of all its axes but the empty ones together, fit 63 bits. (An axis of length 0
/// must not hide that another is absurd.)
pub(crate) fn checked_bytes(dtype: Dtype, shape: &[usize]) -> Option<usize> {
    let most = shape.iter().try_fold(dtype.size(), |bytes, &axis| bytes.checked_mul(axis.max(1)))?;
    i64::try_from(most).ok()?;
    Some(if shape.contains(&0) { 0 } else { most })
}

impl Layout {
    /// Checks and sorts.
    ///
    /// # Errors
    /// [`LayoutError`] for a bad or repeated name, too many axes, or a size that overflows.
    pub fn new(mut tensors: Vec<TensorInfo>) -> Result<Self, LayoutError> {
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let mut total = 0_usize;
        for (index, tensor) in tensors.iter().enumerate() {
            if !is_valid_name(&tensor.name) {
                return Err(LayoutError::Name(tensor.name.chars().take(80).collect()));
            }
            if index > 0 && tensors[index - 1].name == tensor.name {
                return Err(LayoutError::Duplicate(tensor.name.clone()));
            }
            if tensor.shape.len() > MAX_RANK {
                return Err(LayoutError::Rank { name: tensor.name.clone(), rank: tensor.shape.len() });
            }
            let sum = checked_bytes(tensor.dtype, &tensor.shape).and_then(|bytes| total.checked_add(bytes));
            total = sum
                .filter(|&sum| i64::try_from(sum).is_ok())
                .ok_or_else(|| LayoutError::Size(tensor.name.clone()))?;
        }
        Ok(Self { tensors })
    }

    /// The tensors in canonical order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Where the tensor of that name stands in the canonical order.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()
    }

    /// The tensor of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.position(name).map(|index| &self.tensors[index])
    }

    /// SHA-256 over, for each tensor in canonical order: the name's length as 8 little-endian bytes, the name, the
    /// dtype's name and a zero byte, the rank and each axis as 8 little-endian bytes; all after the line
    /// `fedbasin.layout/1\n`.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::default();
        hasher.update(b"fedbasin.layout/1\n");
        for tensor in &self.tensors {
            hasher.update(&(tensor.name.len() as u64).to_le_bytes());
            hasher.update(tensor.name.as_bytes());
            hasher.update(tensor.dtype.name().as_bytes());
            hasher.update(&[0]);
            hasher.update(&(tensor.shape.len() as u64).to_le_bytes());
            for &axis in &tensor.shape {
                hasher.update(&(axis as u64).to_le_bytes());
            }
        }
        hasher.finish()
    }

    /// Elements of all float tensors.
    #[must_use]
    pub fn num_parameters(&self) -> usize {
        self.tensors.iter().filter(|tensor| tensor.dtype.is_float()).map(TensorInfo::num_elements).sum()
    }

    /// Bytes of all tensors, the header not counted.
    #[must_use]
    pub fn num_bytes(&self) -> usize {
        self.tensors.iter().map(TensorInfo::num_bytes).sum()
    }
}
