use std::collections::BTreeMap;

use super::*;
use crate::{AxisForm, Dtype, GroupForm, Kind, Layout, ScaleForm, Spec, TensorInfo};

/// A perceptron 3-4-4-2 whose hidden layers are one group, as a residual stream makes them, and the chain's scales.
fn spec() -> CheckedSpec {
    let shapes: [(&str, &[usize]); 5] =
        [("w1", &[4, 3]), ("b1", &[4]), ("w2", &[4, 4]), ("b2", &[4]), ("w3", &[2, 4])];
    let info = |&(name, shape): &(&str, &[usize])| TensorInfo {
        name: name.into(),
        dtype: Dtype::F32,
        shape: shape.into(),
    };
    let layout = Layout::new(shapes.iter().map(info).collect()).expect("a layout");
    let group = |size| GroupForm { size, kind: Kind::Symmetric, within: None };
    let on = |name: &str| Some(AxisForm::Group(name.into()));
    let axes = |axes: &[(&str, Vec<Option<AxisForm>>)]| -> BTreeMap<String, Vec<Option<AxisForm>>> {
        axes.iter().map(|(name, axes)| ((*name).to_owned(), axes.clone())).collect()
    };
    let tensors = axes(&[
        ("w1", vec![on("a"), None]),
        ("b1", vec![on("a")]),
        ("w2", vec![on("b"), on("a")]),
        ("b2", vec![on("b")]),
        ("w3", vec![None, on("b")]),
    ]);
    let groups = BTreeMap::from([("a".to_owned(), group(4)), ("b".to_owned(), group(4))]);
    let scale = |group: &str, up: &[(&str, usize)], down: &[(&str, usize)]| {
        let places =
            |places: &[(&str, usize)]| places.iter().map(|&(name, axis)| (name.to_owned(), axis)).collect();
        ScaleForm { group: group.into(), up: places(up), down: places(down) }
    };
    Spec::new(groups, tensors)
        .expect("a spec")
        .with_scales(vec![
            scale("a", &[("w1", 0), ("b1", 0)], &[("w2", 1)]),
            scale("b", &[("w2", 0), ("b2", 0)], &[("w3", 1)]),
        ])
        .check(&layout)
        .expect("fits")
}

fn model(spec: &CheckedSpec, seed: f64) -> Checkpoint {
    let mut at = seed;
    let tensors = spec.layout().tensors().iter().map(|info| {
        let values: Vec<f64> = (0..info.num_elements())
            .map(|_| {
                at += 1.0;
                (at * 12.9898).sin() * 2.0
            })
            .collect();
        Tensor::from_f64(info, &values).expect("finite")
    });
    Checkpoint::new(spec.layout().clone(), tensors.collect()).expect("fits")
}

fn forward(model: &Checkpoint, input: [f64; 3]) -> Vec<f64> {
    let of = |name: &str| model.get(name).expect("a tensor").to_f64();
    let layer = |weight: Vec<f64>, bias: Vec<f64>, input: &[f64]| -> Vec<f64> {
        weight
            .chunks(input.len())
            .zip(bias)
            .map(|(row, bias)| bias + row.iter().zip(input).map(|(w, x)| w * x).sum::<f64>())
            .collect()
    };
    let relu = |values: Vec<f64>| -> Vec<f64> { values.into_iter().map(|value| value.max(0.0)).collect() };
    let hidden = relu(layer(of("w1"), of("b1"), &input));
    let hidden = relu(layer(of("w2"), of("b2"), &hidden));
    layer(of("w3"), vec![0.0; 2], &hidden)
}

fn factors(spec: &CheckedSpec) -> Vec<Vec<f64>> {
    (0..spec.scales().len())
        .map(|scale| (0..4).map(|unit| 0.3 + (scale * 4 + unit) as f64).collect())
        .collect()
}

fn assert_near(found: &Checkpoint, expected: &Checkpoint) {
    for (found, expected) in found.tensors().iter().zip(expected.tensors()) {
        for (found_value, expected) in found.to_f64().iter().zip(expected.to_f64()) {
            let name = &found.info().name;
            assert!(
                (found_value - expected).abs() < 1e-5 * expected.abs().max(1.0),
                "{name}: {found_value} {expected}"
            );
        }
    }
}

#[test]
fn a_rescaled_and_balanced_network_computes_the_same() {
    let spec = spec();
    let model = model(&spec, 1.0);
    let rescaled = rescale(&spec, &model, &factors(&spec)).expect("rescaled");
    let balanced = canonical_scale(&spec, &rescaled).expect("balanced").checkpoint;
    assert_ne!(rescaled, model);
    for input in [[1.0, -0.5, 2.0], [-1.0, 0.25, 0.0]] {
        let expected = forward(&model, input);
        assert!(expected.iter().any(|value| value.abs() > 1e-3), "a network that says something");
        for other in [&rescaled, &balanced] {
            for (found, expected) in forward(other, input).iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-5 * expected.abs().max(1.0), "{found} {expected}");
            }
        }
    }
}

#[test]
fn networks_that_differ_by_scale_have_one_canonical_form_of_least_norm() {
    let spec = spec();
    let model = model(&spec, 2.0);
    let norm = |model: &Checkpoint| -> f64 {
        model.tensors().iter().flat_map(Tensor::to_f64).map(|value| value * value).sum()
    };
    let one = canonical_scale(&spec, &model).expect("balanced");
    let rescaled = rescale(&spec, &model, &factors(&spec)).expect("rescaled");
    let other = canonical_scale(&spec, &rescaled).expect("balanced");
    assert_near(&other.checkpoint, &one.checkpoint);
    assert!(norm(&one.checkpoint) < norm(&model) && norm(&one.checkpoint) < norm(&rescaled));
    let (least, greatest) = one.range();
    assert!(one.passes < 200 && one.idle == 0, "{} {}", one.passes, one.idle);
    assert!(least > 0.0 && least < 0.9 && greatest >= least, "{least} {greatest}");
}

#[test]
fn both_sides_of_each_unit_have_the_same_norm_then() {
    let spec = spec();
    let balanced = canonical_scale(&spec, &model(&spec, 3.0)).expect("balanced").checkpoint;
    let squares = |name: &str, axis: usize, unit: usize| -> f64 {
        let tensor = balanced.get(name).expect("a tensor");
        let inner: usize = tensor.info().shape[axis + 1..].iter().product();
        let values = tensor.to_f64().into_iter().enumerate();
        let own = values.filter(|(at, _)| at / inner % tensor.info().shape[axis] == unit);
        own.map(|(_, value)| value * value).sum()
    };
    for (up, down) in [(["w1", "b1"], "w2"), (["w2", "b2"], "w3")] {
        for unit in 0..4 {
            let up: f64 = up.iter().map(|name| squares(name, 0, unit)).sum();
            let down = squares(down, 1, unit);
            assert!((up - down).abs() < 1e-5 * up, "unit {unit} before {down}: {up}");
        }
    }
}

#[test]
fn a_unit_without_weights_on_one_side_stays_as_it_is() {
    let spec = spec();
    let mut tensors = model(&spec, 4.0).tensors().to_vec();
    let place = spec.layout().position("w3").expect("a tensor");
    let mut values = tensors[place].to_f64();
    (values[1], values[5]) = (0.0, 0.0);
    tensors[place] = Tensor::from_f64(tensors[place].info(), &values).expect("finite");
    let model = Checkpoint::new(spec.layout().clone(), tensors).expect("fits");
    let balanced = canonical_scale(&spec, &model).expect("balanced");
    assert_eq!(balanced.idle, 1);
    let bias = |model: &Checkpoint| model.get("b2").expect("a tensor").to_f64()[1];
    assert!((bias(&balanced.checkpoint) - bias(&model)).abs() < 1e-9);
}

#[test]
fn scales_that_do_not_fit_are_refused() {
    let whole = spec();
    let form = |json: &str| -> ScaleForm { serde_json::from_str(json).expect("a form") };
    let base = || {
        let group = |size| GroupForm { size, kind: Kind::Symmetric, within: None };
        let on = |name: &str| Some(AxisForm::Group(name.into()));
        Spec::new(
            BTreeMap::from([("a".to_owned(), group(4)), ("b".to_owned(), group(4))]),
            BTreeMap::from([
                ("w1".to_owned(), vec![on("a"), None]),
                ("b1".to_owned(), vec![on("a")]),
                ("w2".to_owned(), vec![on("b"), on("a")]),
                ("b2".to_owned(), vec![on("b")]),
                ("w3".to_owned(), vec![None, on("b")]),
            ]),
        )
        .expect("a spec")
    };
    for (json, why) in [
        (r#"{"group":"c","up":{"w1":0},"down":{"w2":1}}"#, "no such group"),
        (r#"{"group":"a","up":{"w9":0},"down":{"w2":1}}"#, "no tensor w9"),
        (r#"{"group":"a","up":{"w1":1},"down":{"w2":1}}"#, "does not stand on axis 1 of w1"),
        (r#"{"group":"a","up":{"w1":7},"down":{"w2":1}}"#, "does not stand on axis 7 of w1"),
        (r#"{"group":"a","up":{"w1":0},"down":{}}"#, "something divided"),
        (r#"{"group":"a","up":{"w1":0},"down":{"w1":0}}"#, "scaled already"),
    ] {
        let error = base().with_scales(vec![form(json)]).check(whole.layout()).expect_err(json);
        assert!(error.to_string().contains(why), "{error}");
    }
}
