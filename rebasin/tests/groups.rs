//! Claims about groups of every kind: wreaths, products, sums, and a group on both axes of a matrix.

mod common;

use common::{
    checkpoint,
    forms::{ALL, FIXED, GROUPED, HEADS, bound},
};
use rebasin::{Alignment, Checkpoint, MatchOptions, Tensor, agreement, align, quietly};

fn with_noise(model: &Checkpoint, seed: u64, scale: f64) -> Checkpoint {
    let noise = checkpoint(model.layout(), seed);
    let tensors = model.tensors().iter().zip(noise.tensors()).map(|(tensor, noise)| {
        let values = tensor.to_f64().into_iter().zip(noise.to_f64());
        let values: Vec<f64> = values.map(|(value, noise)| value + scale * noise).collect();
        Tensor::from_f64(tensor.info(), &values).expect("finite")
    });
    Checkpoint::new(model.layout().clone(), tensors.collect()).expect("fits")
}

#[test]
fn a_planted_element_is_found_again() {
    for form in ALL {
        let spec = bound(form);
        for seed in 0..6 {
            let reference = checkpoint(spec.layout(), seed);
            let planted = Alignment::random(&spec, seed + 100);
            let update = with_noise(&planted.apply(&spec, &reference).expect("applies"), seed + 7, 0.1);
            let found =
                align(&spec, &reference, &update, &MatchOptions::default(), &mut quietly).expect("aligned");
            found.alignment.check(&spec).expect("allowed");
            assert_eq!(found.alignment, planted.inverse_permutations(), "seed {seed} of {}", form.0);
        }
    }
}

#[test]
fn the_objective_never_falls_below_where_it_was() {
    for form in ALL {
        let spec = bound(form);
        for seed in 0..6 {
            let (a, b) = (checkpoint(spec.layout(), seed), checkpoint(spec.layout(), seed + 50));
            let found = align(&spec, &a, &b, &MatchOptions::default(), &mut quietly).expect("aligned");
            found.alignment.check(&spec).expect("allowed");
            let report = &found.report;
            assert!(report.objective_after > report.objective_before, "seed {seed} of {}", form.0);
            let again = found.alignment.apply(&spec, &b).expect("applies");
            let second = align(&spec, &a, &again, &MatchOptions::default(), &mut quietly).expect("aligned");
            assert!(second.report.objective_after >= report.objective_after - 1e-6);
        }
    }
}

#[test]
fn elements_compose_and_undo_one_another() {
    for form in ALL {
        let spec = bound(form);
        let model = checkpoint(spec.layout(), 1);
        let (first, second) = (Alignment::random(&spec, 2), Alignment::random(&spec, 3));
        let both = second.compose(&spec, &first);
        both.check(&spec).expect("a group is closed");
        let one_by_one = second.apply(&spec, &first.apply(&spec, &model).expect("applies")).expect("applies");
        assert_eq!(both.apply(&spec, &model).expect("applies"), one_by_one, "{}", form.0);
        assert_ne!(one_by_one, model);
        let back = both.inverse_permutations().apply(&spec, &one_by_one).expect("applies");
        assert_eq!(back, model, "{}", form.0);
    }
}

#[test]
fn an_element_that_a_groups_kind_forbids_is_refused() {
    let spec = bound(HEADS);
    let mut torn = Alignment::random(&spec, 4);
    let qk = spec.groups().iter().position(|group| group.name == "qk").expect("a group");
    let mut map = torn.permutations[qk].as_slice().to_vec();
    map.swap(0, 5);
    torn.permutations[qk] = rebasin::Permutation::new(map).expect("a bijection");
    assert!(torn.check(&spec).is_err(), "a unit left its head");
    let spec = bound(FIXED);
    let mut moved = Alignment::identity(&spec);
    moved.permutations[0] = rebasin::Permutation::new(vec![1, 0]).expect("a bijection");
    assert!(moved.check(&spec).is_err(), "fixed blocks changed places");
}

/// What a grouped convolution's element does, spelled out position by position.
#[test]
fn an_axis_within_a_group_on_another_axis_moves_by_that_groups_unit() {
    let spec = bound(GROUPED);
    let model = checkpoint(spec.layout(), 9);
    let element = Alignment::random(&spec, 10);
    let of = |name: &str| {
        let group = spec.groups().iter().position(|group| group.name == name).expect("a group");
        &element.permutations[group]
    };
    let index = spec.layout().position("grouped").expect("a tensor");
    let before = model.tensor(index).to_f32();
    let after = element.apply(&spec, &model).expect("applies").tensor(index).to_f32();
    for row in 0..6 {
        for column in 0..4 {
            for k in 0..3 {
                let (from_row, group) = (of("out").map(row), row / 2);
                let from_column = of("in").map(group * 4 + column) % 4;
                assert_eq!(
                    after[(row * 4 + column) * 3 + k].to_bits(),
                    before[(from_row * 4 + from_column) * 3 + k].to_bits()
                );
            }
        }
    }
}

#[test]
fn matched_units_agree_wholly_and_unmatched_ones_little() {
    for form in ALL {
        let spec = bound(form);
        let reference = checkpoint(spec.layout(), 3);
        let planted = Alignment::random(&spec, 5);
        let update = planted.apply(&spec, &reference).expect("applies");
        let aligned = planted.inverse_permutations().apply(&spec, &update).expect("applies");
        let matched = agreement(&spec, &reference, &aligned).expect("measured");
        let before = agreement(&spec, &reference, &update).expect("measured");
        assert_eq!(matched.len(), spec.groups().len());
        for (after, before) in matched.iter().zip(&before).filter(|(after, _)| after.units > 0) {
            assert!(after.cosine_p5 > 1.0 - 1e-6, "{}: {after:?}", form.0);
            assert!(before.cosine_mean <= after.cosine_mean + 1e-9);
        }
        assert!(before.iter().any(|group| group.cosine_mean < 0.9), "{}: {before:?}", form.0);
    }
}
