//! Permutations, checked once.

use rand::{Rng, RngExt as _};
use serde::{Deserialize, Serialize};

/// A bijection of `0..n`. `map(i) = j` says: unit `i` of the reference is unit `j` of the update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u32>", into = "Vec<u32>")]
pub struct Permutation(Vec<u32>);

/// A list that is no bijection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a permutation: position {position} repeats a value or is out of range")]
pub struct NotABijection {
    /// The first wrong position.
    pub position: usize,
}

impl Permutation {
    /// Checks a list.
    ///
    /// # Errors
    /// [`NotABijection`] if a value repeats or is out of range.
    pub fn new(map: Vec<u32>) -> Result<Self, NotABijection> {
        let mut seen = vec![false; map.len()];
        for (position, &value) in map.iter().enumerate() {
            match seen.get_mut(value as usize) {
                Some(seen) if !*seen => *seen = true,
                _ => return Err(NotABijection { position }),
            }
        }
        Ok(Self(map))
    }

    /// The one that moves nothing.
    ///
    /// # Panics
    /// If `n` is beyond 32 bits.
    #[must_use]
    pub fn identity(n: usize) -> Self {
        let n = u32::try_from(n).expect("a group's size fits 32 bits: a spec's check makes sure");
        Self((0..n).collect())
    }

    /// A uniformly random one (Fisher-Yates).
    ///
    /// # Panics
    /// If `n` is beyond 32 bits.
    #[must_use]
    pub fn random(n: usize, rng: &mut impl Rng) -> Self {
        let mut map = Self::identity(n).0;
        for last in (1..map.len()).rev() {
            map.swap(last, rng.random_range(0..=last));
        }
        Self(map)
    }

    /// The wreath product's element: block `b` of the outcome is block `outer(b)` of the update, its units in the order of
    /// `inner[b]`.
    ///
    /// # Panics
    /// If there is not one inner permutation for each block, all of one size.
    #[must_use]
    pub fn wreath(outer: &Self, inner: &[Self]) -> Self {
        assert_eq!(outer.len(), inner.len(), "one inner permutation for each block");
        let size = inner.first().map_or(0, Self::len);
        let mut map = Vec::with_capacity(outer.len() * size);
        for (block, inner) in outer.0.iter().zip(inner) {
            assert_eq!(inner.len(), size, "blocks of one size");
            map.extend(inner.0.iter().map(|unit| block * inner.0.len() as u32 + unit));
        }
        Self(map)
    }

    /// Where position `i` points.
    ///
    /// # Panics
    /// If `i` is out of range.
    #[must_use]
    pub fn map(&self, i: usize) -> usize {
        self.0[i] as usize
    }

    /// All positions' targets.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        &self.0
    }

    /// How many units it permutes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it permutes nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many units do not stay.
    #[must_use]
    pub fn moved(&self) -> usize {
        self.0.iter().enumerate().filter(|&(i, &j)| i != j as usize).count()
    }

    /// The one that undoes this.
    #[must_use]
    pub fn inverse(&self) -> Self {
        let mut inverse = vec![0; self.0.len()];
        for (i, &j) in (0_u32..).zip(&self.0) {
            inverse[j as usize] = i;
        }
        Self(inverse)
    }

    /// `first` applied to the update, then `self` to the outcome: `i -> first(self(i))`.
    ///
    /// # Panics
    /// If the sizes differ.
    #[must_use]
    pub fn compose(&self, first: &Self) -> Self {
        assert_eq!(self.len(), first.len(), "only permutations of one size compose");
        Self(self.0.iter().map(|&i| first.0[i as usize]).collect())
    }
}

impl TryFrom<Vec<u32>> for Permutation {
    type Error = NotABijection;

    fn try_from(map: Vec<u32>) -> Result<Self, NotABijection> {
        Self::new(map)
    }
}

impl From<Permutation> for Vec<u32> {
    fn from(permutation: Permutation) -> Self {
        permutation.0
    }
}
