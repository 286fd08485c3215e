//! What the upper bound of an alignment claims.

mod common;

use common::{checkpoint, conv_layout, mlp_layout, options};
use proptest::prelude::*;
use rebasin::{Alignment, CheckedSpec, Checkpoint, Permutation, Spec, align, optimality, report};

/// The best objective over the alignments of the first two groups, tried one by one, the others being held.
fn best_of_two(spec: &CheckedSpec, reference: &Checkpoint, update: &Checkpoint) -> f64 {
    fn orders(n: usize) -> Vec<Vec<u32>> {
        let mut all = vec![vec![]];
        for next in 0..u32::try_from(n).expect("small") {
            all = all
                .into_iter()
                .flat_map(|order: Vec<u32>| {
                    (0..=order.len()).map(move |place| {
                        let mut order = order.clone();
                        order.insert(place, next);
                        order
                    })
                })
                .collect();
        }
        all
    }
    let sizes: Vec<usize> = spec.groups().iter().map(|group| group.units).collect();
    let mut best = f64::NEG_INFINITY;
    for first in orders(sizes[0]) {
        for second in orders(sizes[1]) {
            let mut alignment = Alignment::identity(spec);
            for (place, order) in [&first, &second].into_iter().enumerate() {
                alignment.permutations[place] = Permutation::new(order.clone()).expect("a bijection");
            }
            best = best.max(report(spec, reference, update, &alignment).expect("measured").objective_after);
        }
    }
    best
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn no_alignment_is_worth_more_than_the_upper_bound(hidden in 1_usize..=4, a: u64, b: u64, conv: bool) {
        let layout = if conv { conv_layout(hidden, 2) } else { mlp_layout(3, hidden, 2) };
        let spec = if conv { Spec::conv_net(&layout) } else { Spec::mlp(&layout) };
        let spec = spec.expect("a chain").check(&layout).expect("fits");
        prop_assume!(!conv || hidden < 4);
        let (reference, update) = (checkpoint(&layout, a), checkpoint(&layout, b));
        let bound = optimality(&spec, &reference, &update, &mut rebasin::quietly).expect("bounded").upper_bound;
        // The conv net's third group is held.
        let best = best_of_two(&spec, &reference, &update);
        prop_assert!(bound >= best - 1e-4 * best.abs().max(1.0), "bound {}, best {}", bound, best);
    }

    #[test]
    fn the_bound_is_the_same_however_the_update_is_permuted(hidden in 2_usize..12, a: u64, b: u64) {
        let layout = conv_layout(hidden, 2);
        let spec = Spec::conv_net(&layout).expect("a chain").check(&layout).expect("fits");
        let (reference, update) = (checkpoint(&layout, a), checkpoint(&layout, b));
        let permuted = Alignment::random(&spec, b).apply(&spec, &update).expect("applies");
        let bound = |update| optimality(&spec, &reference, update, &mut rebasin::quietly).expect("bounded").upper_bound;
        let (one, other) = (bound(&update), bound(&permuted));
        prop_assert!((one - other).abs() < 1e-5 * one.abs(), "{} {}", one, other);
    }

    #[test]
    fn a_permuted_copy_is_proved_to_be_aligned_as_well_as_can_be(hidden in 2_usize..20, seed: u64) {
        let layout = conv_layout(hidden, 3);
        let spec = Spec::conv_net(&layout).expect("a chain").check(&layout).expect("fits");
        let reference = checkpoint(&layout, seed);
        let update = Alignment::random(&spec, seed).apply(&spec, &reference).expect("applies");
        let found = align(&spec, &reference, &update, &options(seed), &mut rebasin::quietly).expect("aligned");
        let aligned = found.alignment.apply(&spec, &update).expect("applies");
        let after = optimality(&spec, &reference, &aligned, &mut rebasin::quietly).expect("bounded");
        prop_assert!(after.gap() < 1e-5 * after.objective, "{:?}", after);
        prop_assert!((after.objective - found.report.objective_after).abs() < 1e-9 * after.objective);
        for group in &after.groups {
            // A copy's unit may suit a longer one better than itself, but nothing is longer than the longest.
            prop_assert!(group.margins.is_none_or(|margins| margins.best > 0.0), "{:?}", group);
            prop_assert!((group.upper_bound - group.objective).abs() < 1e-5 * after.objective, "{:?}", group);
        }
        let before = optimality(&spec, &reference, &update, &mut rebasin::quietly).expect("bounded");
        prop_assert!(found.alignment.moved() == 0.0 || before.gap() > 0.0);
    }

    #[test]
    fn an_alignment_reports_the_margins_that_its_gains_ended_with(hidden in 3_usize..20, a: u64, b: u64) {
        let layout = mlp_layout(5, hidden, 2);
        let spec = Spec::mlp(&layout).expect("a chain").check(&layout).expect("fits");
        let (reference, update) = (checkpoint(&layout, a), checkpoint(&layout, b));
        let found = align(&spec, &reference, &update, &options(a), &mut rebasin::quietly).expect("aligned");
        let aligned = found.alignment.apply(&spec, &update).expect("applies");
        let whole = optimality(&spec, &reference, &aligned, &mut rebasin::quietly).expect("measured");
        for (reported, whole) in found.report.groups.iter().zip(&whole.groups) {
            prop_assert_eq!(reported.margins.is_none(), found.report.starts == 0, "{:?}", reported);
            let (Some(reported), Some(whole)) = (reported.margins, whole.margins) else { continue };
            prop_assert!((reported.best - whole.best).abs() < 1e-9, "{:?} {:?}", reported, whole);
            prop_assert!((reported.p5 - whole.p5).abs() < 1e-3 && (reported.median - whole.median).abs() < 1e-3);
        }
    }
}
