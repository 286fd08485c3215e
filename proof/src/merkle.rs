//! The Merkle tree of RFC 6962, section 2.1, over SHA-256; proofs as in RFC 9162, sections 2.1.3 and 2.1.4.

use std::ops::Range;

use sha2::{Digest as _, Sha256};

/// A SHA-256.
pub type Hash = [u8; 32];

/// A complete subtree: `2^level` leaves from `index * 2^level` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// 0: a leaf.
    pub level: u32,
    /// Counted from the left among those of its level.
    pub index: u64,
}

/// The hash of a leaf: `SHA-256(0x00 || bytes)`.
#[must_use]
pub fn leaf_hash(bytes: &[u8]) -> Hash {
    Sha256::new().chain_update([0_u8]).chain_update(bytes).finalize().into()
}

/// The hash of an inner node: `SHA-256(0x01 || left || right)`.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1_u8]).chain_update(left).chain_update(right).finalize().into()
}

/// The root of a tree without leaves: `SHA-256("")`.
#[must_use]
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// The right edge of a tree: all that a log must keep to grow. Its hashes are the roots of the complete subtrees that the leaves
/// fall into, the largest first; there is one for each bit that is set in the size.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    hashes: Vec<Hash>,
}

impl Frontier {
    /// A frontier as it was kept: its size, and [`Frontier::to_hex`]. None where the two do not fit.
    #[must_use]
    pub fn from_hex(size: u64, hashes: &str) -> Option<Self> {
        let bytes = hex::decode(hashes).ok()?;
        let (whole, rest) = bytes.as_chunks::<32>();
        (rest.is_empty() && whole.len() == size.count_ones() as usize)
            .then(|| Self { size, hashes: whole.to_vec() })
    }

    /// How many leaves there are.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The hashes as one hexadecimal text.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.hashes.concat())
    }

    /// Appends a leaf, and gives the inner nodes that it completes, the lowest first.
    pub fn append(&mut self, leaf: Hash) -> Vec<(Node, Hash)> {
        let mut made = Vec::new();
        let (mut hash, mut node) = (leaf, Node { level: 0, index: self.size });
        while node.index % 2 == 1 {
            // The frontier has a hash for each bit that is set, and this one is.
            let Some(left) = self.hashes.pop() else { break };
            hash = node_hash(&left, &hash);
            node = Node { level: node.level + 1, index: node.index / 2 };
            made.push((node, hash));
        }
        self.hashes.push(hash);
        self.size += 1;
        made
    }

    /// The root of the tree (RFC 6962, section 2.1).
    #[must_use]
    pub fn root(&self) -> Hash {
        fold(&self.hashes).unwrap_or_else(empty_root)
    }
}

/// The root over complete subtrees that follow each other, the largest first. None without any.
#[must_use]
pub fn fold(hashes: &[Hash]) -> Option<Hash> {
    hashes.iter().copied().rev().reduce(|right, left| node_hash(&left, &right))
}

/// The complete subtrees that make up a range of leaves which a proof names, the largest first: their hashes are folded.
#[must_use]
pub fn subtrees(range: &Range<u64>) -> Vec<Node> {
    let (mut start, mut nodes) = (range.start, Vec::new());
    while start < range.end {
        let level = (range.end - start).ilog2();
        nodes.push(Node { level, index: start >> level });
        start += 1 << level;
    }
    nodes
}

/// The largest power of two below `n`, for `n` of at least 2.
fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

/// The ranges of leaves whose roots prove that the tree of `first` leaves is the beginning of that of `second`, in order (RFC 9162,
/// section 2.1.4.1). Empty where there is nothing to prove: `first` is 0 or equal to `second`. None where `first` is larger.
#[must_use]
pub fn consistency_ranges(first: u64, second: u64) -> Option<Vec<Range<u64>>> {
    if first > second {
        return None;
    }
    let mut ranges = Vec::new();
    if first == 0 || first == second {
        return Some(ranges);
    }
    let (mut start, mut m, mut n, mut whole) = (0, first, second, true);
    // From the root down; what is met on the way is collected, and reversed at the end.
    while m != n {
        let k = split(n);
        if m <= k {
            ranges.push(start + k..start + n);
            n = k;
        } else {
            ranges.push(start..start + k);
            start += k;
            m -= k;
            n -= k;
            whole = false;
        }
    }
    if !whole {
        ranges.push(start..start + m);
    }
    ranges.reverse();
    Some(ranges)
}

/// The ranges of leaves whose roots prove that a leaf is in the tree of `size` leaves, in order (RFC 9162, section 2.1.3.1). None where
/// there is no such leaf.
#[must_use]
pub fn inclusion_ranges(leaf: u64, size: u64) -> Option<Vec<Range<u64>>> {
    if leaf >= size {
        return None;
    }
    let (mut start, mut m, mut n, mut ranges) = (0, leaf, size, Vec::new());
    while n > 1 {
        let k = split(n);
        if m < k {
            ranges.push(start + k..start + n);
            n = k;
        } else {
            ranges.push(start..start + k);
            start += k;
            m -= k;
            n -= k;
        }
    }
    ranges.reverse();
    Some(ranges)
}

/// Up past the levels at which a node of the right edge has no sibling (RFC 9162, sections 2.1.3.2 and 2.1.4.2, "until LSB(fn) is set").
fn past_lone((mut f, mut s): (u64, u64)) -> (u64, u64) {
    while f.is_multiple_of(2) && f != 0 {
        (f, s) = (f / 2, s / 2);
    }
    (f, s)
}

/// Whether a proof shows that the leaf with this hash is leaf `leaf` of the tree (RFC 9162, section 2.1.3.2).
#[must_use]
pub fn verify_inclusion(hash: &Hash, leaf: u64, size: u64, root: &Hash, proof: &[Hash]) -> bool {
    if leaf >= size {
        return false;
    }
    let (mut f, mut s, mut r) = (leaf, size - 1, *hash);
    for p in proof {
        if s == 0 {
            return false;
        }
        if f % 2 == 1 || f == s {
            r = node_hash(p, &r);
            (f, s) = past_lone((f, s));
        } else {
            r = node_hash(&r, p);
        }
        (f, s) = (f / 2, s / 2);
    }
    s == 0 && r == *root
}

/// Whether a proof shows that the tree of `first` leaves is the beginning of that of `second` (RFC 9162, section 2.1.4.2). For equal
/// sizes the roots must be equal; a tree without leaves is the beginning of any.
#[must_use]
pub fn verify_consistency(
    (first, first_root): (u64, &Hash),
    (second, second_root): (u64, &Hash),
    proof: &[Hash],
) -> bool {
    if first == 0 {
        return proof.is_empty() && *first_root == empty_root();
    }
    if first >= second {
        return first == second && proof.is_empty() && first_root == second_root;
    }
    // Where the first tree is complete its root is the first of the proof.
    let mut path = proof.iter();
    let begin = if first.is_power_of_two() { Some(first_root) } else { path.next() };
    let Some(begin) = begin else { return false };
    let (mut f, mut s) = (first - 1, second - 1);
    while f % 2 == 1 {
        (f, s) = (f / 2, s / 2);
    }
    let (mut of_first, mut of_second) = (*begin, *begin);
    for c in path {
        if s == 0 {
            return false;
        }
        if f % 2 == 1 || f == s {
            of_first = node_hash(c, &of_first);
            of_second = node_hash(c, &of_second);
            (f, s) = past_lone((f, s));
        } else {
            of_second = node_hash(&of_second, c);
        }
        (f, s) = (f / 2, s / 2);
    }
    s == 0 && of_first == *first_root && of_second == *second_root
}
