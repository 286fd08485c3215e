//! A canonical order of units: all checkpoints that differ by the order of their hidden units only come to the same bytes.
//!
//! Each unit has a key that does not depend on the order of any group's units: the sum, modulo 2^64, of a mix of each of its elements' bits
//! with the element's tensor and its positions along all that stays. Sums do not depend on an order, and neither on threads. Units are
//! sorted by key. Where keys are equal, another round mixes in the keys of the units on an element's other axes, as long as that tells more
//! units apart: colour refinement (Weisfeiler and Leman, 1968).

use rayon::prelude::*;

use crate::{
    AlignError, Alignment, Axis, CheckedSpec, Checkpoint, Factor, Kind, Permutation, Segment, Tensor,
    alignment::{digit_of, digits, parent_of},
};

/// What brings a checkpoint into canonical order.
#[derive(Debug, Clone, PartialEq)]
pub struct CanonicalOrder {
    /// Applied to the checkpoint, it gives the same bytes for every copy with its units in another order, if nothing is
    /// [tied](Self::tied) but units that are equal in all that counts.
    pub alignment: Alignment,
    /// Of the checkpoint's content, whatever its units' order. Not a cryptographic one: who tries finds two with the same.
    pub fingerprint: u64,
    /// Units that cannot be told from one before them, as dead ones; they keep their order.
    pub tied: usize,
}

/// Most rounds of refinement. Each tells more units apart, and one is nearly always enough.
const MAX_ROUNDS: u32 = 8;

/// Finds the canonical order of a checkpoint's units: one pass over its bytes, and one or a few more where keys are equal. It is the same
/// for any number of threads.
///
/// Units stay in the order they came in where nothing tells them apart: two dead ones may then change places, which changes no byte. A
/// checkpoint can be made whose units are told apart by no round and are not equal either (a matrix of few values that is a regular graph);
/// its copies may then come to other orders.
///
/// # Errors
/// [`AlignError::Checkpoint`] if the checkpoint is not of the spec's layout.
pub fn canonical_order(spec: &CheckedSpec, checkpoint: &Checkpoint) -> Result<CanonicalOrder, AlignError> {
    crate::scanner::compare(spec.layout(), checkpoint.layout())?;
    let units = spec.groups().iter().filter(|group| group.kind == Kind::Symmetric);
    let units: usize = units.map(|group| group.units).sum();
    let (mut keys, mut fingerprint) = round(spec, checkpoint, None);
    let mut distinct = told_apart(spec, &keys);
    for _ in 0..MAX_ROUNDS {
        if distinct == units {
            break;
        }
        let (finer, print) = round(spec, checkpoint, Some(&keys));
        let more = told_apart(spec, &finer);
        if more <= distinct {
            break;
        }
        (keys, fingerprint, distinct) = (finer, print, more);
    }
    Ok(CanonicalOrder { alignment: sorted(spec, &keys), fingerprint, tied: units - distinct })
}

/// How many units differ from those before them, of the same block if the group is within another.
fn told_apart(spec: &CheckedSpec, keys: &[Vec<u64>]) -> usize {
    let mut count = 0;
    for (group, keys) in spec.groups().iter().zip(keys).filter(|(group, _)| group.kind == Kind::Symmetric) {
        for block in keys.chunks(group.size) {
            let mut block = block.to_vec();
            block.sort_unstable();
            block.dedup();
            count += block.len();
        }
    }
    count
}

/// All units by key; blocks by their own key, and the units within each block by theirs.
pub(crate) fn sorted(spec: &CheckedSpec, keys: &[Vec<u64>]) -> Alignment {
    let by_key = |kind: Kind, keys: &[u64]| {
        let mut order = Permutation::identity(keys.len()).as_slice().to_vec();
        if kind == Kind::Symmetric {
            order.sort_by_key(|&unit| keys[unit as usize]);
        }
        Permutation::new(order).expect("sorting keeps every unit once")
    };
    let groups = spec.groups().iter().zip(keys);
    let mut permutations: Vec<Permutation> = groups
        .clone()
        .map(|(group, keys)| match group.within {
            None => by_key(group.kind, keys),
            Some(_) => Permutation::identity(group.units),
        })
        .collect();
    for (index, (group, keys)) in groups.enumerate() {
        let Some(parent) = group.within else { continue };
        let outer = &permutations[parent];
        let of_block =
            |block: usize| by_key(group.kind, &keys[outer.map(block) * group.size..][..group.size]);
        let inner: Vec<Permutation> = (0..outer.len()).map(of_block).collect();
        permutations[index] = Permutation::wreath(outer, &inner);
    }
    Alignment::from(permutations)
}

/// The keys of all units, by group, and the checkpoint's fingerprint; `known` are the keys of the round before.
fn round(spec: &CheckedSpec, checkpoint: &Checkpoint, known: Option<&[Vec<u64>]>) -> (Vec<Vec<u64>>, u64) {
    let of_tensor = |(index, tensor): (usize, &Tensor)| {
        let coded = Coded::new(spec, index, known);
        let sums = coded.sums(tensor);
        (coded, sums)
    };
    let tensors: Vec<(Coded, Sums)> = checkpoint.tensors().par_iter().enumerate().map(of_tensor).collect();
    let mut keys: Vec<Vec<u64>> = spec.groups().iter().map(|group| vec![0; group.units]).collect();
    let mut fingerprint = 0;
    for (index, (coded, sums)) in tensors.iter().enumerate() {
        fingerprint = mix(u64::wrapping_add(fingerprint, sums.total));
        for (axis, along) in coded.axes.iter().enumerate() {
            let Some(form) = &spec.axes(index)[axis] else { continue };
            for elsewhere in 0..along.codes.len() {
                let own = &sums.along[along.offset + elsewhere * along.length..][..along.length];
                each_unit(spec, form, elsewhere, |position, role, group, unit| {
                    let role = mix(role ^ (axis as u64) << 32) | 1;
                    let key = &mut keys[group][unit];
                    *key = key.wrapping_add(own[position].wrapping_mul(role));
                });
            }
        }
    }
    (keys, fingerprint)
}

/// Tells, for each position of an axis, of the units that it belongs to: the position, which factor of which segment, group, and unit.
/// `elsewhere` is the digit of the group that stands on another axis, where one does.
fn each_unit(
    spec: &CheckedSpec,
    axis: &Axis,
    elsewhere: usize,
    mut tell: impl FnMut(usize, u64, usize, usize),
) {
    for (part, segment) in axis.segments.iter().enumerate() {
        for position in 0..segment.length {
            let mut stride = segment.length;
            for (place, factor) in segment.factors.iter().enumerate() {
                stride /= factor.extent();
                let Some((group, size)) = symmetric(spec, *factor) else { continue };
                let unit = block(spec, segment, group, position, elsewhere) * size + position / stride % size;
                tell(segment.start + position, (part as u64) << 8 | place as u64, group, unit);
            }
        }
    }
}

/// One tensor's axes up to the last one that moves, and what lies behind them.
struct Coded {
    axes: Vec<Along>,
    /// A code for each element behind those axes.
    tail: Vec<u64>,
}

/// An axis.
struct Along {
    length: usize,
    /// Elements of each of its positions.
    stride: usize,
    /// For each position: a code of all that stays, and of what is known of the units; once for each digit of the group that stands on another
    /// axis.
    codes: Vec<Vec<u64>>,
    /// That axis, and the digit for each of its positions.
    on: Option<(usize, Vec<usize>)>,
    /// Whether a group moves it.
    moves: bool,
    /// Where its sums begin.
    offset: usize,
}

/// What the elements of a tensor add up to.
struct Sums {
    /// For each position of each axis that moves.
    along: Vec<u64>,
    total: u64,
}

/// Elements that are summed as one.
const CHUNK: usize = 1 << 16;

impl Coded {
    fn new(spec: &CheckedSpec, index: usize, known: Option<&[Vec<u64>]>) -> Self {
        let (info, forms) = (&spec.layout().tensors()[index], spec.axes(index));
        let (Some(last), true) = (forms.iter().rposition(Option::is_some), info.num_elements() > 0) else {
            // Of no unit, and one of its axes may be of any length.
            return Self { axes: Vec::new(), tail: Vec::new() };
        };
        let own = mix(index as u64 + 1);
        let used = last + 1;
        let (mut axes, mut offset) = (Vec::with_capacity(used), 0);
        for (axis, form) in forms[..used].iter().enumerate() {
            let (salt, length) = (mix(own ^ (axis as u64 + 1)), info.shape[axis]);
            let stride = info.shape[axis + 1..].iter().product();
            let on = form.as_ref().and_then(|form| elsewhere(spec, forms, form));
            let digits = on.as_ref().map_or(1, |(_, _, size)| *size);
            let codes: Vec<Vec<u64>> = match form {
                None => vec![(0..length as u64).map(|position| mix(salt.wrapping_add(position))).collect()],
                Some(form) => (0..digits).map(|digit| codes(spec, form, digit, salt, known)).collect(),
            };
            let moves = form.is_some();
            let on = on.map(|(axis, digits, _)| (axis, digits));
            axes.push(Along { length, stride, codes, on, moves, offset });
            offset += if moves { digits * length } else { 0 };
        }
        let salt = mix(own ^ u64::MAX);
        let behind = info.shape[used..].iter().product::<usize>() as u64;
        Self { axes, tail: (0..behind).map(|place| mix(salt.wrapping_add(place))).collect() }
    }

    fn sums(&self, tensor: &Tensor) -> Sums {
        let info = tensor.info();
        if self.axes.is_empty() {
            return Sums { along: Vec::new(), total: in_order(tensor.bytes()) };
        }
        let width =
            self.axes.iter().filter(|axis| axis.moves).map(|axis| axis.codes.len() * axis.length).sum();
        let nothing = || Sums { along: vec![0; width], total: 0 };
        let row = tensor.bytes().len() / info.shape[0];
        let together = (CHUNK * info.dtype.size() / row).max(1);
        let some = |mut sums: Sums, (chunk, bytes): (usize, &[u8])| {
            let mut at = vec![0; self.axes.len()];
            let walk = match info.dtype.size() {
                1 => Self::walk::<1>,
                2 => Self::walk::<2>,
                4 => Self::walk::<4>,
                _ => Self::walk::<8>,
            };
            let from = Place { axis: 0, first: chunk * together, code: 0 };
            let total = walk(self, from, bytes, &mut at, &mut sums.along);
            sums.total = sums.total.wrapping_add(total);
            sums
        };
        let both = |mut one: Sums, other: Sums| {
            for (sum, more) in one.along.iter_mut().zip(&other.along) {
                *sum = sum.wrapping_add(*more);
            }
            Sums { total: one.total.wrapping_add(other.total), ..one }
        };
        let chunks = tensor.bytes().par_chunks(together * row).enumerate();
        chunks.fold(nothing, some).reduce(nothing, both)
    }

    /// Adds up what lies at a place, whose positions on the earlier axes are `at`, for each position of each axis that moves. Gives the sum
    /// of it all.
    fn walk<const N: usize>(&self, from: Place, bytes: &[u8], at: &mut [usize], along: &mut [u64]) -> u64 {
        let Place { axis, first, code } = from;
        let Some(own) = self.axes.get(axis) else {
            return add_up::<N>(bytes.as_chunks().0, code, &self.tail);
        };
        let digit = own.on.as_ref().map_or(0, |(on, digits)| digits[at[*on]]);
        let codes = &own.codes[digit][first..];
        let start = own.offset + digit * own.length + first;
        if axis + 1 == self.axes.len() {
            let sums = if own.moves { &mut along[start..] } else { &mut along[..0] };
            return add_along::<N>(bytes, code, codes, &self.tail, sums);
        }
        let mut total = 0_u64;
        for (place, bytes) in bytes.chunks(own.stride * N).enumerate() {
            at[axis] = first + place;
            let code = u64::wrapping_add(code, codes[place]);
            let sum = self.walk::<N>(Place { axis: axis + 1, first: 0, code }, bytes, at, along);
            total = total.wrapping_add(sum);
            if own.moves {
                along[start + place] = along[start + place].wrapping_add(sum);
            }
        }
        total
    }
}

/// A mix of bytes that stay where they are.
fn in_order(bytes: &[u8]) -> u64 {
    let of_chunk = |(place, chunk): (usize, &[u8])| {
        let mut state = mix(place as u64);
        for word in chunk.chunks(8) {
            let bits = word.iter().rev().fold(0, |bits, &byte| bits << 8 | u64::from(byte));
            state = mix(state ^ bits);
        }
        state
    };
    bytes.par_chunks(CHUNK).enumerate().map(of_chunk).reduce(|| 0, u64::wrapping_add)
}

/// Where a walk stands: an axis, its first position, and the code of the positions on the axes before it.
#[derive(Clone, Copy)]
struct Place {
    axis: usize,
    first: usize,
    code: u64,
}

/// Adds up what lies along the last axis that moves, for each of its positions too if `sums` are wanted.
fn add_along<const N: usize>(bytes: &[u8], code: u64, codes: &[u64], tail: &[u64], sums: &mut [u64]) -> u64 {
    let (elements, _) = bytes.as_chunks::<N>();
    let mut total = 0_u64;
    if let ([tail], false) = (tail, sums.is_empty()) {
        // A matrix: no loop within the loop.
        let code = code.wrapping_add(*tail);
        for ((element, own), sum) in elements.iter().zip(codes).zip(sums) {
            let mixed = fold(element, code.wrapping_add(*own));
            *sum = sum.wrapping_add(mixed);
            total = total.wrapping_add(mixed);
        }
        return total;
    }
    let mut sums = sums.iter_mut();
    for (elements, own) in elements.chunks_exact(tail.len()).zip(codes) {
        let sum = add_up(elements, code.wrapping_add(*own), tail);
        total = total.wrapping_add(sum);
        if let Some(here) = sums.next() {
            *here = here.wrapping_add(sum);
        }
    }
    total
}

/// The sum over elements of their bits mixed with their codes.
#[inline]
fn add_up<const N: usize>(elements: &[[u8; N]], code: u64, codes: &[u64]) -> u64 {
    let mut sum = 0_u64;
    for (element, own) in elements.iter().zip(codes) {
        sum = sum.wrapping_add(fold(element, code.wrapping_add(*own)));
    }
    sum
}

/// An element's bits mixed with a code: both halves of a product of 128 bits. One multiplication, for this is done for each element.
#[inline(always)]
fn fold<const N: usize>(element: &[u8; N], code: u64) -> u64 {
    // By shifts, which become one load: an array to copy to would be written and read again for each element.
    let mut bits = 0;
    for (place, &byte) in element.iter().enumerate() {
        bits |= u64::from(byte) << (8 * place);
    }
    let product = u128::from(bits ^ ODD) * u128::from(code);
    #[expect(clippy::cast_possible_truncation, reason = "its halves")]
    let (low, high) = (product as u64, (product >> 64) as u64);
    low ^ high
}

/// The axis where the parent of one of an axis's groups stands, that parent's digit for each of its positions, and the parent's size.
fn elsewhere(spec: &CheckedSpec, forms: &[Option<Axis>], form: &Axis) -> Option<(usize, Vec<usize>, usize)> {
    let (on, group) = form.segments.iter().flat_map(|segment| &segment.factors).find_map(parent_of)?;
    let parent = spec.groups()[group].within?;
    Some((on, digits(forms[on].as_ref()?, parent), spec.groups()[parent].size))
}

/// For each position of an axis: a code of what does not move of it, and of its units' keys as far as they are known.
fn codes(
    spec: &CheckedSpec,
    axis: &Axis,
    elsewhere: usize,
    salt: u64,
    known: Option<&[Vec<u64>]>,
) -> Vec<u64> {
    let mut codes = Vec::new();
    for (part, segment) in axis.segments.iter().enumerate() {
        for position in 0..segment.length {
            let mut code = mix(salt.wrapping_add(part as u64));
            let mut stride = segment.length;
            for factor in &segment.factors {
                stride /= factor.extent();
                let digit = position / stride % factor.extent();
                if let Some((group, size)) = symmetric(spec, *factor) {
                    let unit = block(spec, segment, group, position, elsewhere) * size + digit;
                    code = mix(code.wrapping_add(known.map_or(0, |keys| keys[group][unit])));
                } else {
                    code = mix(code.wrapping_add(digit as u64 + 1));
                }
            }
            codes.push(code);
        }
    }
    codes
}

/// A factor's group and size, if the group's units may change places.
fn symmetric(spec: &CheckedSpec, factor: Factor) -> Option<(usize, usize)> {
    match factor {
        Factor::Group { group, size, .. } if spec.groups()[group].kind == Kind::Symmetric => {
            Some((group, size))
        }
        _ => None,
    }
}

/// Which block of its units a group has at a position of a segment: its parent's digit, which may stand on another axis.
fn block(spec: &CheckedSpec, segment: &Segment, group: usize, position: usize, elsewhere: usize) -> usize {
    let parent = spec.groups()[group].within;
    parent.map_or(0, |parent| digit_of(segment, parent, position).unwrap_or(elsewhere))
}

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// A bijection of which every bit depends on every other (`splitmix64`'s).
#[inline(always)]
const fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
