use std::path::Path;

use super::*;
use crate::{dataset, eval, model::Mlp};

fn some_images(count: usize) -> Dataset {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    dataset::load_test(&folder).unwrap().select(&(0..count).collect::<Vec<_>>())
}

const SHORT: Schedule = Schedule { epochs: 3, learning_rate: 0.1, last_learning_rate: 0.01, seed: 5 };

fn bytes(model: &Mlp) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    model.save(file.path()).unwrap();
    std::fs::read(file.path()).unwrap()
}

#[test]
fn the_loss_falls_and_the_network_learns() {
    let (data, model) = (some_images(600), Mlp::random(1).unwrap());
    let before = eval::score(&model, &data).unwrap();
    let mut losses = Vec::new();
    train(&model, &data, &SHORT, &mut |_, loss| {
        losses.push(loss);
        true
    })
    .unwrap();
    let after = eval::score(&model, &data).unwrap();
    assert_eq!(losses.len(), 3);
    assert!(losses[1] < losses[0] && losses[2] < losses[1], "{losses:?}");
    assert!(after.loss < before.loss && after.accuracy > 0.6, "{before:?} -> {after:?}");
}

#[test]
fn the_same_seeds_give_the_same_bytes_and_others_do_not() {
    let data = some_images(300);
    let trained = |seed| {
        let model = Mlp::random(1).unwrap();
        train(&model, &data, &Schedule { seed, ..SHORT }, &mut |_, _| true).unwrap();
        bytes(&model)
    };
    let one = trained(5);
    assert_eq!(one, trained(5));
    assert_ne!(one, trained(6));
}

#[test]
fn an_observer_can_stop_the_training() {
    let mut epochs = 0;
    let mut observe = |_, _| {
        epochs += 1;
        false
    };
    train(&Mlp::random(1).unwrap(), &some_images(100), &SHORT, &mut observe).unwrap();
    assert_eq!(epochs, 1);
}

#[test]
fn one_step_is_the_textbook_step() {
    let parameter = Var::new(&[2.0_f32, -1.0], &Device::Cpu).unwrap();
    let mut sgd = Sgd::new(vec![parameter.clone()]);
    // The gradient of the sum of 3w is 3 everywhere.
    for _ in 0..2 {
        let loss = (parameter.as_tensor() * 3.0).unwrap().sum_all().unwrap();
        sgd.step(&loss.backward().unwrap(), 0.1).unwrap();
    }
    let mut expected = [2.0_f64, -1.0];
    for value in &mut expected {
        let first = 3.0 + WEIGHT_DECAY * *value;
        *value -= 0.1 * first;
        *value -= 0.1 * (MOMENTUM * first + 3.0 + WEIGHT_DECAY * *value);
    }
    for (found, expected) in parameter.to_vec1::<f32>().unwrap().iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} {expected}");
    }
}

#[test]
fn the_learning_rate_falls_from_the_first_to_the_last() {
    assert!((SHORT.rate(0, 10) - 0.1).abs() < 1e-12);
    assert!((SHORT.rate(10, 10) - 0.01).abs() < 1e-12);
    assert!((0..10).all(|step| SHORT.rate(step, 10) > SHORT.rate(step + 1, 10)));
}

#[test]
fn no_images_is_an_error() {
    let nothing = Dataset { images: Vec::new(), labels: Vec::new() };
    assert!(train(&Mlp::random(1).unwrap(), &nothing, &SHORT, &mut |_, _| true).is_err());
}
