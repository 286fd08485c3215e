use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{Dtype, Layout, Spec, TensorInfo};

fn spec() -> CheckedSpec {
    let info = |name: &str, shape: &[usize]| TensorInfo {
        name: name.into(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
    };
    let layout = Layout::new(vec![info("a", &[6, 2]), info("q", &[12, 2])]).expect("a layout");
    let json = r#"{"format":"fedbasin.spec/1",
        "groups":{"h":{"size":6,"kind":"symmetric"},"heads":{"size":3,"kind":"symmetric"},
                  "inner":{"size":4,"kind":"symmetric","within":"heads"}},
        "tensors":{"a":["h",null],"q":[["heads","inner"],null]}}"#;
    Spec::from_json(json).expect("a spec").check(&layout).expect("fits")
}

/// `[examples, units]`, and the same with units in other places.
fn batch(units: usize, permutation: &Permutation, rng: &mut ChaCha8Rng) -> (Vec<f32>, Vec<f32>) {
    let reference: Vec<f32> = (0..40 * units).map(|_| rng.random::<f32>() - 0.4).collect();
    let mut update = vec![0.0; reference.len()];
    for (from, to) in reference.chunks(units).zip(update.chunks_mut(units)) {
        for unit in 0..units {
            to[permutation.map(unit)] = from[unit] + 0.05 * rng.random::<f32>();
        }
    }
    (reference, update)
}

#[test]
fn permuted_activations_are_put_back_in_any_number_of_batches() {
    let spec = spec();
    let planted = Alignment::random(&spec, 3);
    for batches in [1, 5] {
        for agreement in [Agreement::Product, Agreement::Correlation] {
            let mut rng = ChaCha8Rng::seed_from_u64(7);
            let mut sums = Activations::new(&spec);
            for _ in 0..batches {
                for (name, index) in [("h", 0), ("inner", 2)] {
                    assert_eq!(spec.groups()[index].name, name);
                    let units = spec.groups()[index].units;
                    let (a, b) = batch(units, &planted.permutations[index], &mut rng);
                    sums.add(&spec, name, &a, &b).expect("fits");
                }
            }
            let found = sums.solve(&spec, agreement);
            found.check(&spec).expect("allowed");
            assert_eq!(found, planted, "{batches} batches, {agreement:?}");
        }
    }
}

#[test]
fn dead_units_and_wrong_shapes_do_no_harm() {
    let spec = spec();
    let mut sums = Activations::new(&spec);
    assert!(matches!(sums.add(&spec, "x", &[], &[]), Err(ActivationError::Unknown(_))));
    assert!(matches!(sums.add(&spec, "h", &[0.0; 6], &[0.0; 12]), Err(ActivationError::Shape { .. })));
    assert!(matches!(sums.add(&spec, "h", &[f32::NAN; 6], &[0.0; 6]), Err(ActivationError::NotFinite(_))));
    sums.add(&spec, "h", &[0.0; 12], &[0.0; 12]).expect("dead units are numbers");
    sums.solve(&spec, Agreement::Correlation).check(&spec).expect("still permutations");
}
