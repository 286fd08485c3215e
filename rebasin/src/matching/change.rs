//! What a gain becomes when other groups' permutations change.
//!
//! The change is a product over the units that moved. Late in a search few do, and then a product costs what reading and writing
//! the gain costs: so the units of all the pieces that lie alike go into one.

use rayon::prelude::*;

use super::simple::{CHUNK, Simple, Solve};
use crate::{Permutation, gemm};

/// A unit of a piece's other group that now comes from elsewhere.
#[derive(Clone, Copy)]
pub(super) struct Moved<'p> {
    piece: &'p Simple<'p>,
    pub(super) unit: usize,
    pub(super) before: usize,
    pub(super) after: usize,
}

/// Units of one piece that moved, packed: they are gone over once a row.
pub(super) struct Units(Vec<[u32; 3]>);

impl Units {
    fn of(moved: &[Moved<'_>]) -> Self {
        let small = |unit| u32::try_from(unit).expect("a permutation counts its units in u32");
        Self(moved.iter().map(|moved| [moved.unit, moved.before, moved.after].map(small)).collect())
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    /// Of each: the unit, where it came from before, and where after.
    pub(super) fn iter(&self) -> impl Iterator<Item = [u32; 3]> + '_ {
        self.0.iter().copied()
    }
}

/// All that moved for one group, by the side that the group is of a piece.
#[derive(Default)]
pub(super) struct Change<'p> {
    for_x: Vec<Moved<'p>>,
    for_y: Vec<Moved<'p>>,
}

impl<'p> Change<'p> {
    /// Takes in that the other group of a piece was permuted one way and is another way now.
    pub(super) fn add(
        &mut self,
        piece: &'p Simple<'p>,
        solve: Solve,
        before: &Permutation,
        after: &Permutation,
    ) {
        let moved = (0..after.len())
            .map(|unit| Moved { piece, unit, before: before.map(unit), after: after.map(unit) })
            .filter(|moved| moved.before != moved.after);
        match solve {
            Solve::X => self.for_x.extend(moved),
            Solve::Y => self.for_y.extend(moved),
        }
    }

    /// Changes the gain of a group of `n` units. Returns multiply-adds.
    pub(super) fn apply(&self, gain: &mut [f32], n: usize) -> u64 {
        let (mut reference, mut update) = (Vec::new(), Vec::new());
        for some in together(&self.for_x, n) {
            let depth = depth(some);
            reference.resize(depth * n, 0.0);
            update.resize(depth * n, 0.0);
            by_depth(some, n, &mut reference, &mut update);
            let reference = gemm::Strided::by_depth(&reference, n);
            gemm::accumulate(gain, n, depth, reference, gemm::Strided::by_depth(&update, n));
        }
        for some in together(&self.for_y, n) {
            let depth = depth(some);
            reference.resize(n * depth, 0.0);
            update.resize(n * depth, 0.0);
            let by_piece: Vec<(&Simple<'_>, Units)> = some
                .chunk_by(|one, next| std::ptr::eq(one.piece, next.piece))
                .map(|moved| (moved[0].piece, Units::of(moved)))
                .collect();
            let rows = reference.par_chunks_mut(depth).zip(update.par_chunks_mut(depth)).enumerate();
            rows.with_min_len(8).for_each(|(y, (mut a, mut b))| {
                for (piece, moved) in &by_piece {
                    let (own_a, own_b);
                    (own_a, a) = a.split_at_mut(moved.len() * piece.depth());
                    (own_b, b) = b.split_at_mut(moved.len() * piece.depth());
                    piece.write_for_y(y, moved, own_a, own_b);
                }
            });
            let reference = gemm::Strided::by_unit(&reference, depth);
            gemm::accumulate(gain, n, depth, reference, gemm::Strided::by_unit(&update, depth));
        }
        ((depth(&self.for_x) + depth(&self.for_y)) * n * n) as u64
    }
}

fn depth(moved: &[Moved<'_>]) -> usize {
    moved.iter().map(|moved| moved.piece.depth()).sum()
}

/// As many at a time as stay in cache; at least one.
fn together<'m, 'p>(mut rest: &'m [Moved<'p>], n: usize) -> impl Iterator<Item = &'m [Moved<'p>]> {
    std::iter::from_fn(move || {
        let mut count = 0;
        let mut depth = 0;
        while let Some(moved) = rest.get(count) {
            depth += moved.piece.depth();
            if count > 0 && depth * n > CHUNK {
                break;
            }
            count += 1;
        }
        let (some, others) = rest.split_at(count);
        rest = others;
        (count > 0).then_some(some)
    })
}

/// Each unit's rows one after the other, `[k][x]`, side by side.
fn by_depth(some: &[Moved<'_>], n: usize, mut reference: &mut [f32], mut update: &mut [f32]) {
    let mut rows = Vec::with_capacity(some.len());
    for moved in some {
        let size = moved.piece.depth() * n;
        let (a, b);
        (a, reference) = reference.split_at_mut(size);
        (b, update) = update.split_at_mut(size);
        rows.push((moved, a, b));
    }
    rows.into_par_iter().for_each(|(moved, a, b)| moved.piece.write_for_x(moved, a, b));
}
