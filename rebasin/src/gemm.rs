//! The one module with `unsafe`: a checked door to the GEMM crate's kernel.
//!
//! The product is cut into tiles here, by the matrix's size alone, and each tile is one single-threaded call: so the order
//! in which numbers are added does not depend on the number of threads.

#![allow(unsafe_code)]

use rayon::prelude::*;

/// A matrix of `units × depth` inside a slice: element `(u, d)` lies at `u * unit_stride + d * depth_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) unit_stride: usize,
    pub(crate) depth_stride: usize,
}

impl<'a> Strided<'a> {
    /// Rows are units.
    pub(crate) fn by_unit(values: &'a [f32], depth: usize) -> Self {
        Self { values, unit_stride: depth, depth_stride: 1 }
    }

    /// Columns are units.
    pub(crate) fn by_depth(values: &'a [f32], units: usize) -> Self {
        Self { values, unit_stride: 1, depth_stride: units }
    }

    /// Whether every element of `units × depth` lies inside the slice, by arithmetic that cannot overflow.
    fn holds(&self, units: usize, depth: usize) -> bool {
        if units == 0 || depth == 0 {
            return true;
        }
        let last = || {
            let unit = (units - 1).checked_mul(self.unit_stride)?;
            unit.checked_add((depth - 1).checked_mul(self.depth_stride)?)
        };
        last().is_some_and(|last| last < self.values.len())
    }
}

/// Rows and columns of the product that one call computes: a function of the size alone. A call packs its rows of one operand and
/// its columns of the other anew, so few large tiles cost least; a large product has some for further threads.
fn tile(n: usize) -> (usize, usize) {
    match n {
        0..96 => (n.max(1), n.max(1)),
        96..256 => (n.div_ceil(2).next_multiple_of(16), n),
        _ => {
            let half = n.div_ceil(2).next_multiple_of(64);
            (half.min(1024), half.min(512))
        }
    }
}

/// Where a product lies that tiles are written into side by side.
#[derive(Clone, Copy)]
struct Out(*mut f32);

// SAFETY: a pointer says nothing by itself; whoever writes through it shows that nobody else writes or reads there.
unsafe impl Send for Out {}
// SAFETY: likewise.
unsafe impl Sync for Out {}

impl Out {
    /// # Safety
    /// The place lies inside the product.
    unsafe fn at(self, place: usize) -> *mut f32 {
        // SAFETY: by the caller.
        unsafe { self.0.add(place) }
    }
}

/// `product[i, j] += sum over d of reference[i, d] * update[j, d]`, for an `n × n` row-major product. f32 sums.
///
/// # Panics
/// If the product is not `n × n`, or an operand does not hold `n × depth` elements.
pub(crate) fn accumulate(
    product: &mut [f32],
    n: usize,
    depth: usize,
    reference: Strided<'_>,
    update: Strided<'_>,
) {
    assert_eq!(product.len(), n * n, "the product is n × n");
    assert!(reference.holds(n, depth) && update.holds(n, depth), "the operands hold n × depth elements");
    if n == 0 || depth == 0 {
        return;
    }
    let (rows, columns) = tile(n);
    let (down, across) = (n.div_ceil(rows), n.div_ceil(columns));
    let out = Out(product.as_mut_ptr());
    (0..down * across).into_par_iter().with_max_len(1).for_each(|index| {
        let (top, left) = (index / across * rows, index % across * columns);
        let (height, width) = (rows.min(n - top), columns.min(n - left));
        debug_assert!(top + height <= n && left + width <= n);
        let signed = |stride: usize| isize::try_from(stride).expect("a stride within a slice fits isize");
        // SAFETY: the tile is rows top.. top + height and columns left.. left + width of the product, which is `n × n`, row-major,
        // and borrowed mutably by this function alone; tiles of two indices have no element in common. `holds` showed that
        // element (n - 1, depth - 1) of both operands lies inside its slice; strides are not negative, so every (u, d) with
        // u < n, d < depth does, and those of the tile's rows and columns are among them. The slices live through the call, and
        // the kernel reads and writes no other elements.
        unsafe {
            gemm::gemm(
                height,
                width,
                depth,
                out.at(top * n + left),
                1,
                signed(n),
                true,
                reference.values.as_ptr().add(top * reference.unit_stride),
                signed(reference.depth_stride),
                signed(reference.unit_stride),
                update.values.as_ptr().add(left * update.unit_stride),
                signed(update.unit_stride),
                signed(update.depth_stride),
                1.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The scalar twin.
    fn plainly(product: &mut [f32], n: usize, depth: usize, reference: Strided<'_>, update: Strided<'_>) {
        for i in 0..n {
            for j in 0..n {
                for d in 0..depth {
                    let a = reference.values[i * reference.unit_stride + d * reference.depth_stride];
                    let b = update.values[j * update.unit_stride + d * update.depth_stride];
                    product[i * n + j] += a * b;
                }
            }
        }
    }

    fn numbers(count: usize) -> Vec<f32> {
        // Small integers: their products add without rounding, so that the twins agree to the bit.
        (0..count).map(|index| ((index * 7919 + 13) % 17) as f32 - 8.0).collect()
    }

    #[test]
    fn it_computes_what_the_plain_loops_do() {
        for (n, depth) in
            [(1, 1), (3, 5), (17, 40), (64, 9), (130, 33), (200, 3), (300, 5), (257, 40), (1030, 3)]
        {
            let (a, b) = (numbers(n * depth), numbers(n * depth + 3)[3..].to_vec());
            let views: [(Strided<'_>, Strided<'_>); 3] = [
                (Strided::by_unit(&a, depth), Strided::by_depth(&b, n)),
                (Strided::by_depth(&a, n), Strided::by_unit(&b, depth)),
                (Strided::by_depth(&a, n), Strided::by_depth(&b, n)),
            ];
            for (reference, update) in views {
                let mut fast = numbers(n * n);
                let mut plain = fast.clone();
                accumulate(&mut fast, n, depth, reference, update);
                plainly(&mut plain, n, depth, reference, update);
                assert_eq!(fast, plain, "{n} units, {depth} deep");
            }
        }
    }

    #[test]
    #[should_panic(expected = "hold n × depth")]
    fn an_operand_that_is_too_short_is_refused() {
        let values = numbers(11);
        accumulate(&mut [0.0; 9], 3, 4, Strided::by_unit(&values, 4), Strided::by_unit(&values, 4));
    }
}
