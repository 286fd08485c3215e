//! Claims about the order of units that does not depend on the order they came in, and about searches in it.

mod common;

use std::ops::ControlFlow;

use common::{
    checkpoint, conv_layout,
    forms::{ALL, bound},
    mlp_layout, options,
};
use proptest::prelude::*;
use rebasin::{
    Aligned, Alignment, CheckedSpec, Checkpoint, Dtype, Layout, MergeError, MergeProgress, Spec, Tensor,
    TensorInfo, align, align_canonically, canonical_order, merge_many, quietly, report,
};

fn fixture(name: &str) -> Checkpoint {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    Checkpoint::from_bytes(&std::fs::read(path).expect("a fixture")).expect("a checkpoint")
}

fn chain(layout: &rebasin::Layout, conv: bool) -> CheckedSpec {
    let spec = if conv { Spec::conv_net(layout) } else { Spec::mlp(layout) };
    spec.expect("a chain").check(layout).expect("fits")
}

/// Trained networks that started from different numbers.
fn strangers() -> [(CheckedSpec, Checkpoint, Checkpoint); 2] {
    [("mlp128", false), ("convbn8", true)].map(|(name, conv)| {
        let [one, other] = [0, 1].map(|site| fixture(&format!("{name}-site{site}.safetensors")));
        (chain(one.layout(), conv), one, other)
    })
}

/// Specs of every kind, with a model of each.
fn models() -> Vec<(CheckedSpec, Checkpoint)> {
    let mut all: Vec<(CheckedSpec, Checkpoint)> = ALL
        .map(|form| {
            let spec = bound(form);
            let model = checkpoint(spec.layout(), 3);
            (spec, model)
        })
        .into();
    for (layout, conv) in [(mlp_layout(7, 16, 3), false), (conv_layout(6, 3), true)] {
        all.push((chain(&layout, conv), checkpoint(&layout, 4)));
    }
    all.extend(strangers().map(|(spec, one, _)| (spec, one)));
    all
}

fn permuted(spec: &CheckedSpec, model: &Checkpoint, seed: u64) -> Checkpoint {
    Alignment::random(spec, seed).apply(spec, model).expect("applies")
}

fn ordered(spec: &CheckedSpec, model: &Checkpoint) -> (Checkpoint, u64, usize) {
    let order = canonical_order(spec, model).expect("an order");
    order.alignment.check(spec).expect("an element of the group");
    (order.alignment.apply(spec, model).expect("applies"), order.fingerprint, order.tied)
}

/// The same with one tensor's elements changed.
fn with(model: &Checkpoint, name: &str, change: impl Fn(usize, f64) -> f64) -> Checkpoint {
    let tensors = model.tensors().iter().map(|tensor| {
        if tensor.info().name != name {
            return tensor.clone();
        }
        let values = tensor.to_f64();
        let values: Vec<f64> = values.iter().enumerate().map(|(at, &value)| change(at, value)).collect();
        Tensor::from_f64(tensor.info(), &values).expect("finite")
    });
    Checkpoint::new(model.layout().clone(), tensors.collect()).expect("fits")
}

#[test]
fn every_permuted_copy_comes_to_the_same_bytes() {
    for (index, (spec, model)) in models().iter().enumerate() {
        let first = ordered(spec, model);
        assert_eq!(first.2, 0, "network {index}: nothing is tied");
        for seed in 0..20 {
            let copy = permuted(spec, model, seed);
            assert_ne!(&copy, model);
            let found = ordered(spec, &copy);
            assert!(found == first, "network {index}, seed {seed}");
        }
        assert_eq!(ordered(spec, &first.0).0, first.0, "what is in order stays");
    }
}

#[test]
fn another_value_is_another_fingerprint() {
    for (spec, model) in models() {
        let print = |model: &Checkpoint| canonical_order(&spec, model).expect("an order").fingerprint;
        for info in spec.layout().tensors().iter().filter(|info| info.dtype.is_float()) {
            let other = with(&model, &info.name, |at, value| if at == 0 { value + 1.0 } else { value });
            assert_ne!(print(&other), print(&model), "{}", info.name);
        }
    }
}

#[test]
fn the_order_does_not_depend_on_the_number_of_threads() {
    let layout = mlp_layout(300, 400, 3);
    let mut all = models();
    // More than is summed as one.
    all.push((chain(&layout, false), checkpoint(&layout, 5)));
    for (spec, model) in all {
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| canonical_order(&spec, &model).expect("an order"))
        };
        let one = on(1);
        assert_eq!(one, on(2));
        assert_eq!(one, on(8));
    }
}

/// A perceptron of which some hidden units of the first layer are dead.
#[test]
fn units_that_are_equal_in_all_that_counts_keep_their_order_and_change_no_byte() {
    let (hidden, inputs) = (16, 7);
    let layout = mlp_layout(inputs, hidden, 3);
    let spec = chain(&layout, false);
    let dead = |unit: usize, value: f64| if [2, 5, 11].contains(&unit) { 0.0 } else { value };
    let model = checkpoint(&layout, 6);
    let model = with(&model, "fc1.weight", |at, value| dead(at / inputs, value));
    let model = with(&model, "fc1.bias", dead);
    let model = with(&model, "fc2.weight", |at, value| dead(at % hidden, value));
    let first = ordered(&spec, &model);
    assert_eq!(first.2, 2, "two of three dead ones cannot be told from the first");
    for seed in 0..20 {
        assert!(ordered(&spec, &permuted(&spec, &model, seed)) == first, "seed {seed}");
    }
    let order = canonical_order(&spec, &model).expect("an order");
    let group = spec.groups().iter().position(|group| group.name.contains("fc1")).unwrap_or(0);
    let sorted = order.alignment.permutations[group].as_slice();
    let places = [2, 5, 11].map(|unit| sorted.iter().position(|&at| at == unit).expect("a place"));
    assert!(places.is_sorted(), "{sorted:?}");
}

/// Units of the first layer that one round cannot tell apart: the same numbers come in, and the same go out, to other units.
#[test]
fn units_are_told_apart_by_their_neighbours_where_their_own_numbers_do_not() {
    let (hidden, inputs) = (6, 4);
    let layout = mlp_layout(inputs, hidden, 3);
    let spec = chain(&layout, false);
    let model = checkpoint(&layout, 6);
    let model = with(&model, "fc1.weight", |_, _| 0.5);
    let model = with(&model, "fc1.bias", |_, _| 0.25);
    // Each column holds the numbers 0 to 5, in another order.
    let model = with(&model, "fc2.weight", |at, _| {
        let (row, column) = (at / hidden, at % hidden);
        f64::from(u8::try_from((row + column) % hidden).expect("small"))
    });
    let first = ordered(&spec, &model);
    assert_eq!(first.2, 0, "all are told apart");
    for seed in 0..20 {
        assert!(ordered(&spec, &permuted(&spec, &model, seed)) == first, "seed {seed}");
    }
}

#[test]
fn tensors_of_no_unit_cost_nothing_whatever_their_axes_and_count() {
    let json = r#"{"format":"fedbasin.spec/1","groups":{"h":{"size":2,"kind":"symmetric"}},
                   "tensors":{"empty":[null,null],"none":["h",null,null],"steps":[null],"w":["h",null]}}"#;
    let info =
        |name: &str, dtype, shape: &[usize]| TensorInfo { name: name.into(), dtype, shape: shape.to_vec() };
    let infos = vec![
        info("empty", Dtype::F32, &[1 << 40, 0]),
        info("none", Dtype::F32, &[2, 1 << 40, 0]),
        info("steps", Dtype::I64, &[3]),
        info("w", Dtype::F32, &[2, 2]),
    ];
    let layout = Layout::new(infos.clone()).expect("a layout");
    let spec = Spec::from_json(json).expect("a spec").check(&layout).expect("fits");
    let model = |step: u8, values: [f32; 4]| {
        let steps = (0..24).map(|byte| if byte == 8 { step } else { 0 }).collect();
        let tensors = vec![
            Tensor::from_bytes(&infos[0], Vec::new()).expect("empty"),
            Tensor::from_bytes(&infos[1], Vec::new()).expect("empty"),
            Tensor::from_bytes(&infos[2], steps).expect("whole numbers"),
            Tensor::from_f32(&infos[3], &values).expect("finite"),
        ];
        Checkpoint::new(layout.clone(), tensors).expect("fits")
    };
    let (one, copy) = (model(1, [1.0, 2.0, 3.0, 4.0]), model(1, [3.0, 4.0, 1.0, 2.0]));
    assert_eq!(ordered(&spec, &one), ordered(&spec, &copy));
    assert_ne!(ordered(&spec, &one).1, ordered(&spec, &model(2, [1.0, 2.0, 3.0, 4.0])).1);
}

/// What SECURITY.md does not promise.
#[test]
fn a_stranger_that_was_aligned_before_stays_in_that_order() {
    for (spec, reference, update) in strangers() {
        let before = align(&spec, &reference, &update, &options(7), &mut quietly).expect("aligned");
        let sent = before.alignment.apply(&spec, &update).expect("applies");
        let found = align_canonically(&spec, &reference, sent, &options(1), &mut quietly).expect("aligned");
        assert!(found.report.identity_certified && found.alignment.is_identity());
    }
}

fn aligned(spec: &CheckedSpec, reference: &Checkpoint, update: &Checkpoint, seed: u64) -> Aligned {
    align_canonically(spec, reference, update.clone(), &options(seed), &mut quietly).expect("aligned")
}

#[test]
fn permuted_strangers_come_to_the_same_aligned_checkpoint() {
    let mut all = strangers().to_vec();
    for form in ALL {
        let spec = bound(form);
        let (one, other) = (checkpoint(spec.layout(), 1), checkpoint(spec.layout(), 2));
        all.push((spec, one, other));
    }
    for (index, (spec, reference, update)) in all.iter().enumerate() {
        let first = aligned(spec, reference, update, 9);
        let expected = first.alignment.apply(spec, update).expect("applies");
        for seed in 0..8 {
            let copy = permuted(spec, update, seed);
            let found = aligned(spec, reference, &copy, 9);
            let again = found.alignment.apply(spec, &copy).expect("applies");
            assert!(again == expected, "network {index}, seed {seed}");
            assert_eq!(found.report.objective_after.to_bits(), first.report.objective_after.to_bits());
        }
    }
}

#[test]
fn the_report_is_of_the_update_as_it_came() {
    for (spec, reference, update) in strangers() {
        let copy = permuted(&spec, &update, 1);
        let found = aligned(&spec, &reference, &copy, 3);
        let measured = report(&spec, &reference, &copy, &found.alignment).expect("a report");
        let own = &found.report;
        assert_eq!(own.objective_before.to_bits(), measured.objective_before.to_bits());
        assert_eq!(own.objective_after.to_bits(), measured.objective_after.to_bits());
        assert_eq!(own.l2_after.to_bits(), measured.l2_after.to_bits());
        assert_eq!(own.moved.to_bits(), measured.moved.to_bits());
        assert!(own.starts > 0 && own.sweeps > 0 && own.groups.iter().all(|group| group.margins.is_some()));
        let plain = align(&spec, &reference, &copy, &options(3), &mut quietly).expect("aligned");
        assert!(own.objective_after > 0.98 * plain.report.objective_after, "as good as without");
    }
}

#[test]
fn what_is_in_the_references_frame_stays_and_its_copies_come_back() {
    for (spec, reference, _) in strangers() {
        let noise = |name: &str| checkpoint(spec.layout(), 8).get(name).expect("a tensor").to_f64();
        let mut update = reference.clone();
        for info in spec.layout().tensors().iter().filter(|info| info.dtype.is_float()) {
            let noise = noise(&info.name);
            update = with(&update, &info.name, |at, value| value + 0.01 * noise[at]);
        }
        let found = aligned(&spec, &reference, &update, 3);
        assert!(found.report.identity_certified && found.alignment.is_identity());
        for seed in 0..5 {
            let copy = permuted(&spec, &update, seed);
            let back = aligned(&spec, &reference, &copy, 3);
            assert!(back.alignment.apply(&spec, &copy).expect("applies") == update, "seed {seed}");
        }
    }
}

#[test]
fn a_search_that_ends_below_the_identity_goes_on_from_there() {
    // Noise of five times the network's own size, in which the search by gains is lost and the identity is not.
    let (spec, reference, _) = strangers().into_iter().nth(1).expect("two");
    let mut lost = 0;
    for seed in 5..9 {
        let mut update = reference.clone();
        let drawn = checkpoint(spec.layout(), seed);
        for (noise, tensor) in drawn.tensors().iter().zip(reference.tensors()) {
            if tensor.info().dtype.is_float() {
                let size = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
                let (own, noise) = (size(&tensor.to_f64()), noise.to_f64());
                let scale = 4.0 * own / size(&noise);
                update = with(&update, &tensor.info().name, |at, value| value + scale * noise[at]);
            }
        }
        let found = aligned(&spec, &reference, &update, 0).report;
        assert!(found.objective_after > found.objective_before, "{found:?}");
        lost += u32::from(found.starts > 4);
    }
    assert!(lost > 0, "the case is there");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn order_and_search_do_not_see_how_units_stand(
        width in 2_usize..24, seed: u64, scramble: u64, conv: bool, copied: bool,
    ) {
        let layout = if conv { conv_layout(width.min(6), 2) } else { mlp_layout(5, width, 3) };
        let spec = chain(&layout, conv);
        let model = checkpoint(&layout, seed);
        let copy = permuted(&spec, &model, scramble);
        prop_assert!(ordered(&spec, &copy) == ordered(&spec, &model));
        let reference = if copied { permuted(&spec, &model, seed) } else { checkpoint(&layout, !seed) };
        let (one, other) = (aligned(&spec, &reference, &model, seed), aligned(&spec, &reference, &copy, seed));
        prop_assert!(one.report.objective_after >= one.report.objective_before - 1e-9);
        // What is at its best where it came may stay there, and what the search leads below the identity too: rare.
        let searched = |found: &Aligned| (1..=4).contains(&found.report.starts);
        if searched(&one) && searched(&other) {
            let [one, other] = [(one, &model), (other, &copy)].map(|(found, of)| found.alignment.apply(&spec, of));
            prop_assert!(one.expect("applies") == other.expect("applies"));
        }
    }
}

/// As a server does it: aligned to a reference, then refined together.
#[test]
fn merging_many_from_what_was_aligned_gives_the_same_bytes() {
    let mut all = strangers().to_vec();
    for form in ALL {
        let spec = bound(form);
        let (one, other) = (checkpoint(spec.layout(), 11), checkpoint(spec.layout(), 12));
        all.push((spec, one, other));
    }
    for (index, (spec, reference, update)) in all.iter().enumerate() {
        let merge = |update: &Checkpoint| {
            let found = aligned(spec, reference, update, 9);
            let models = [reference.clone(), found.alignment.apply(spec, update).expect("applies")];
            let mut load = |index: usize| Ok::<_, MergeError>(models[index].clone());
            let quiet = &mut |_: MergeProgress<'_>| ControlFlow::Continue(());
            let many = merge_many(spec, 2, &mut load, &[0.5; 2], &options(9), quiet).expect("merged");
            let models = [&models[0], &models[1]];
            rebasin::mean(Some(spec), &models, Some(&many.alignments), &[0.5; 2]).expect("a mean")
        };
        let first = merge(update);
        for seed in 0..4 {
            assert!(merge(&permuted(spec, update, seed)) == first, "network {index}, seed {seed}");
        }
    }
}
