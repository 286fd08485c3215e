//! Weights that no training should end at: each has a defined result or a clear error.

mod common;

use common::{checkpoint, mlp_layout, options};
use rebasin::{
    AlignError, Aligned, Alignment, CheckedSpec, Checkpoint, Layout, Spec, Tensor, align, optimality, quietly,
};

fn chain(layout: &Layout) -> CheckedSpec {
    Spec::mlp(layout).expect("a chain").check(layout).expect("fits")
}

/// The checkpoint with other values: `change(tensor's name, element, value)`.
fn changed(model: &Checkpoint, change: impl Fn(&str, usize, f64) -> f64) -> Checkpoint {
    let tensors = model.tensors().iter().map(|tensor| {
        let values = tensor.to_f64();
        let values: Vec<f64> = values
            .into_iter()
            .enumerate()
            .map(|(at, value)| change(&tensor.info().name, at, value))
            .collect();
        Tensor::from_f64(tensor.info(), &values).expect("finite")
    });
    Checkpoint::new(model.layout().clone(), tensors.collect()).expect("fits")
}

/// Aligns, twice and on one thread too: the outcome must be the same, finite, and no worse than it was.
fn aligned(spec: &CheckedSpec, reference: &Checkpoint, update: &Checkpoint) -> Aligned {
    let once = || align(spec, reference, update, &options(4), &mut quietly).expect("aligned");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool");
    let found = once();
    assert_eq!(found, once());
    assert_eq!(found, pool.install(once));
    let report = &found.report;
    assert!(report.objective_after.is_finite() && report.objective_after >= report.objective_before);
    assert!(report.l2_after <= report.l2_before);
    let moved = found.alignment.apply(spec, update).expect("applies");
    let bound = optimality(spec, reference, &moved, &mut quietly).expect("bounded");
    assert!(bound.gap().is_finite() && bound.upper_bound.is_finite(), "{bound:?}");
    found
}

#[test]
fn zeros_and_constants_stay_where_they_are() {
    let layout = mlp_layout(5, 9, 3);
    let (spec, model) = (chain(&layout), checkpoint(&layout, 1));
    for constant in [0.0, 0.25, -3.0] {
        let flat = changed(&model, |_, _, _| constant);
        for (reference, update) in [(&flat, &flat), (&model, &flat), (&flat, &model)] {
            let found = aligned(&spec, reference, update);
            assert!(found.report.objective_after >= found.report.objective_before);
        }
        // No order of equal units is better than another.
        assert_eq!(aligned(&spec, &flat, &flat).report.moved, 0.0);
        assert_eq!(aligned(&spec, &model, &flat).report.moved, 0.0);
    }
}

#[test]
fn units_that_are_alike_are_matched_the_same_way_each_time() {
    let layout = mlp_layout(4, 8, 3);
    let spec = chain(&layout);
    // Units come in pairs: unit 2k+1 is unit 2k again, on its way in and on its way out.
    let pair = |unit: usize| unit / 2 * 2;
    let seed = checkpoint(&layout, 2);
    let of = |name: &str, at: usize| seed.get(name).expect("a tensor").to_f64()[at];
    let model = changed(&seed, |name, at, _| match name {
        "fc1.weight" => of(name, pair(at / 4) * 4 + at % 4),
        "fc2.weight" => of(name, pair(at / 8) * 8 + pair(at % 8)),
        "fc10.weight" => of(name, at / 8 * 8 + pair(at % 8)),
        "fc10.bias" => of(name, at),
        _ => of(name, pair(at)),
    });
    let scrambled = Alignment::random(&spec, 3).apply(&spec, &model).expect("applies");
    let found = aligned(&spec, &model, &scrambled);
    let back = found.alignment.apply(&spec, &scrambled).expect("applies");
    assert!(back == model, "any of two twins will do");
}

#[test]
fn a_single_unit_has_nowhere_to_go() {
    let layout = mlp_layout(3, 1, 2);
    let spec = chain(&layout);
    let found = aligned(&spec, &checkpoint(&layout, 1), &checkpoint(&layout, 2));
    assert_eq!(found.report.moved, 0.0);
    assert!(found.report.identity_certified);
}

#[test]
fn a_layer_without_units_is_refused() {
    let layout = mlp_layout(3, 0, 2);
    let refused = Spec::mlp(&layout).and_then(|spec| spec.check(&layout).map(|_| ()));
    assert!(refused.is_err());
}

#[test]
fn a_layer_a_million_times_larger_hides_no_permutation() {
    let layout = mlp_layout(12, 16, 4);
    let (spec, model) = (chain(&layout), checkpoint(&layout, 5));
    for large in ["fc1.weight", "fc2.weight", "fc10.weight", "fc2.bias"] {
        let reference = changed(&model, |name, _, value| if name == large { value * 1e6 } else { value });
        let scrambled = Alignment::random(&spec, 6).apply(&spec, &reference).expect("applies");
        let found = aligned(&spec, &reference, &scrambled);
        assert!(found.alignment.apply(&spec, &scrambled).expect("applies") == reference, "{large}");
        // One site only.
        aligned(&spec, &model, &scrambled);
    }
}

#[test]
fn numbers_whose_products_overflow_are_told_with_their_group() {
    let layout = mlp_layout(3, 5, 2);
    let (spec, model) = (chain(&layout), checkpoint(&layout, 7));
    let huge = changed(&model, |_, _, value| value * 1e30);
    let error = align(&spec, &huge, &huge, &options(1), &mut quietly).expect_err("beyond f32");
    assert!(matches!(&error, AlignError::Overflow { .. }), "{error}");
    assert!(error.to_string().contains("diverged"), "{error}");
}
