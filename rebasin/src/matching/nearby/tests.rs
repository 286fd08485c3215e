use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{
    Alignment, CheckedSpec, Checkpoint, Dtype, Layout, Permutation, Spec, Tensor, TensorInfo,
    assignment::assign, report,
};

/// A convolution, another one, and a linear layer behind the flattened second one: pieces of every kind that the bound reads.
fn spec() -> CheckedSpec {
    let info = |name: &str, shape: &[usize]| TensorInfo {
        name: name.into(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
    };
    let layout = Layout::new(vec![
        info("a.weight", &[24, 5, 3, 3]),
        info("a.bias", &[24]),
        info("b.weight", &[20, 24, 3, 3]),
        info("b.bias", &[20]),
        info("c.weight", &[7, 20 * 4]),
        info("d.weight", &[20, 20]),
        info("e.weight", &[9, 20]),
    ])
    .expect("a layout");
    let spec = Spec::from_json(
        r#"{"format":"fedbasin.spec/1",
            "groups":{"a":{"size":24,"kind":"symmetric"},"b":{"size":20,"kind":"symmetric"},"d":{"size":20,"kind":"symmetric"}},
            "tensors":{"a.weight":["a",null,null,null],"a.bias":["a"],"b.weight":["b","a",null,null],"b.bias":["b"],
                       "c.weight":[null,["b",4]],"d.weight":["d","b"],"e.weight":[null,"d"]}}"#,
    )
    .expect("a spec");
    spec.check(&layout).expect("fits")
}

fn model(spec: &CheckedSpec, mut number: impl FnMut(usize, usize) -> f64) -> Checkpoint {
    let tensors = spec.layout().tensors().iter().enumerate().map(|(tensor, info)| {
        let values: Vec<f64> = (0..info.num_elements()).map(|at| number(tensor, at)).collect();
        Tensor::from_f64(info, &values).expect("finite")
    });
    Checkpoint::new(spec.layout().clone(), tensors.collect()).expect("fits")
}

fn random(spec: &CheckedSpec, rng: &mut ChaCha8Rng) -> Checkpoint {
    model(spec, |_, _| rng.random_range(-1.0..1.0))
}

fn with_noise(spec: &CheckedSpec, of: &Checkpoint, noise: f64, rng: &mut ChaCha8Rng) -> Checkpoint {
    let values: Vec<Vec<f64>> = of.tensors().iter().map(Tensor::to_f64).collect();
    model(spec, |tensor, at| values[tensor][at] + noise * rng.random_range(-1.0..1.0))
}

/// What the bound says of a group, and whether an assignment of the whole gain is worth more than the identity.
fn both(spec: &CheckedSpec, a: &Checkpoint, b: &Checkpoint, group: usize) -> (bool, bool) {
    let measures = report::measure(spec, a, b, None);
    let pair = Pair::new(spec, a, b, &measures);
    let n = spec.groups()[group].units;
    let mut gain = pair.no_gains().remove(group);
    let known = vec![true; spec.groups().len()];
    pair.refresh(group, &mut gain, &Alignment::identity(spec), &known);
    let view = ndarray::ArrayView2::from_shape((n, n), &gain.matrix).expect("square");
    let best = gain.value(&assign(view).permutation);
    let stays = gain.value(&Permutation::identity(n));
    let better = best > stays + 2.0 * RELATIVE_TOLERANCE * best.abs().max(stays.abs());
    (identity_is_best(&pair, group).0, better)
}

#[test]
fn what_the_bound_says_an_assignment_confirms() {
    let spec = spec();
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let (mut told, mut better) = (0, 0);
    for round in 0..120 {
        let reference = random(&spec, &mut rng);
        // Units that are nearly the same, units that are nearly nothing, units of which one is a multiple of another.
        let values: Vec<Vec<f64>> = reference.tensors().iter().map(Tensor::to_f64).collect();
        let odd = model(&spec, |tensor, at| {
            let shape = &spec.layout().tensors()[tensor].shape;
            let row: usize = shape[1..].iter().product();
            let copied = values[tensor][if at / row == 1 && shape[0] > 1 { at - row } else { at }];
            match round % 4 {
                1 => copied,
                2 if at / row == 2 => 1e-3 * copied,
                3 if at / row == 1 => 3.0 * copied,
                _ => values[tensor][at],
            }
        });
        let noise = f64::from(round % 30) * 0.15;
        let update = with_noise(&spec, &odd, noise, &mut rng);
        for group in 0..3 {
            let (sure, is_better) = both(&spec, &odd, &update, group);
            assert!(!(sure && is_better), "round {round}, group {group}: it said that nothing is better");
            told += usize::from(sure);
            better += usize::from(is_better);
        }
    }
    assert!(told > 60 && better > 60, "both happen: {told} told, {better} better");
}

#[test]
fn a_pair_that_changed_places_is_seen() {
    let spec = spec();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let reference = random(&spec, &mut rng);
    for group in 0..3 {
        let mut swap = Alignment::identity(&spec);
        let n = spec.groups()[group].units;
        let mut map: Vec<u32> = (0..n as u32).collect();
        map.swap(2, 5);
        swap.permutations[group] = Permutation::new(map).expect("a swap");
        let update = swap.apply(&spec, &reference).expect("applies");
        assert_eq!(both(&spec, &reference, &update, group), (false, true));
    }
}

/// Two units that are each other's opposite in the columns that are looked at, and have changed places in the others, which are worth
/// more.
#[test]
fn what_is_not_looked_at_counts() {
    let layout = mlp(&[128, 2, 3]);
    let spec = Spec::mlp(&layout).expect("a chain").check(&layout).expect("fits");
    let weights = |far: [usize; 2]| {
        model(&spec, |tensor, at| {
            if spec.layout().tensors()[tensor].shape != [2, 128] {
                return 0.0;
            }
            let (unit, column) = (at / 128, at % 128);
            match column {
                0..32 => [0.5, -0.5][unit],
                // One unit's are the even ones, the other's the odd ones.
                _ => {
                    if column % 2 == far[unit] {
                        1.0
                    } else {
                        0.0
                    }
                }
            }
        })
    };
    assert_eq!(both(&spec, &weights([0, 1]), &weights([1, 0]), 0), (false, true));
}

#[test]
fn a_near_update_costs_a_part_of_the_products() {
    let spec = Spec::mlp(&mlp(&[64, 256, 256, 10]))
        .expect("a chain")
        .check(&mlp(&[64, 256, 256, 10]))
        .expect("fits");
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let reference = random(&spec, &mut rng);
    for (noise, part) in [(0.0, 4), (0.05, 4), (0.3, 4)] {
        let update = with_noise(&spec, &reference, noise, &mut rng);
        let found =
            crate::align(&spec, &reference, &update, &crate::MatchOptions::default(), &mut crate::quietly);
        let found = found.expect("aligned");
        assert!(found.report.identity_certified, "noise {noise}");
        assert_eq!(found.alignment, Alignment::identity(&spec));
        assert!(found.work.multiply_adds * part < found.work.dense_sweep, "noise {noise}: {:?}", found.work);
    }
}

fn mlp(widths: &[usize]) -> Layout {
    let tensors = widths.windows(2).enumerate().flat_map(|(layer, pair)| {
        let info = |name: &str, shape: &[usize]| TensorInfo {
            name: format!("{layer}.{name}"),
            dtype: Dtype::F32,
            shape: shape.to_vec(),
        };
        [info("weight", &[pair[1], pair[0]]), info("bias", &[pair[1]])]
    });
    Layout::new(tensors.collect()).expect("a layout")
}
