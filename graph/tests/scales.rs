//! Which units can be scaled: derived where only positively homogeneous functions lie between, and proved like permutations.

use std::{collections::BTreeMap, fs, path::Path};

use fedbasin_graph::{Derived, Graph, VerifyOptions, derive, verify};
use rebasin::{
    Alignment, CheckedSpec, Checkpoint, MatchOptions, ScaleForm, Spec, Tensor, align, canonical_scale, mean,
    quietly, rescale,
};

fn graph(name: &str) -> Graph {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("zoo/{name}.onnx"));
    Graph::read(&fs::read(path).expect("a file of the zoo")).expect("reads")
}

fn derived(name: &str) -> (Graph, Derived) {
    let graph = graph(name);
    let derived = derive(&graph).expect("derives");
    (graph, derived)
}

/// A generator of numbers from 0 to 1.
fn numbers(mut state: u64) -> impl FnMut() -> f64 {
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(state >> 33).expect("31 bits")) / f64::from(1_u32 << 31)
    }
}

#[test]
fn relu_and_products_let_units_scale_and_curved_functions_do_not() {
    for (name, some) in [
        ("mlp", true),
        ("vgg", true),
        ("vgg_bn", true),
        ("resnet18", true),
        ("unet", true),
        ("prelu", true),
        ("llama", true),
        // By the gain and offset of norms in front of projections.
        ("gpt2", true),
        ("bert", true),
        ("mlp_layernorm_gelu", false),
        ("lstm", false),
        ("gru", false),
    ] {
        let scales = derived(name).1.spec.scales().to_vec();
        assert_eq!(!scales.is_empty(), some, "{name}: {scales:?}");
    }
}

#[test]
fn a_norm_in_front_is_scaled_by_its_gain_and_offset() {
    let (_, derived) = derived("resnet18");
    let scale = derived.spec.scales().iter().find(|scale| scale.up.contains_key("layer1.0.bn1.weight"));
    let axes = |names: &[(&str, usize)]| -> BTreeMap<String, usize> {
        names.iter().map(|&(name, axis)| (name.to_owned(), axis)).collect()
    };
    let scale = scale.expect("the units inside a block");
    assert_eq!(scale.up, axes(&[("layer1.0.bn1.bias", 0), ("layer1.0.bn1.weight", 0)]));
    assert_eq!(scale.down, axes(&[("layer1.0.conv2.weight", 1)]));
}

fn refused(graph: &Graph, spec: &Spec, what: &str) {
    let error = verify(graph, spec, &VerifyOptions::default()).expect_err(what).to_string();
    assert!(error.contains("scale"), "{what}: {error}");
}

#[test]
fn a_wrong_scale_is_found_out() {
    let (graph, derived) = derived("mlp");
    let scales = derived.spec.scales().to_vec();
    let without = |name: &str| {
        let mut scales = scales.clone();
        assert!(scales.iter_mut().any(|scale| scale.up.remove(name).is_some()), "{name} is scaled");
        derived.spec.clone().with_scales(scales)
    };
    let bias = scales[0].up.keys().find(|name| name.ends_with("bias")).expect("a bias").clone();
    refused(&graph, &without(&bias), "a bias left behind");
    let turned: Vec<ScaleForm> = scales
        .iter()
        .map(|scale| {
            let mut up = scale.up.clone();
            up.extend(scale.down.clone());
            let (first, axis) = up.pop_first().expect("an axis");
            ScaleForm { group: scale.group.clone(), up, down: BTreeMap::from([(first, axis)]) }
        })
        .collect();
    refused(&graph, &derived.spec.clone().with_scales(turned), "all on one side");

    // The same claim for a network with a curved function.
    let (graph, derived) = self::derived("mlp_layernorm_gelu");
    let layout = graph.layout().expect("a layout");
    let checked = derived.spec.check(&layout).expect("fits");
    // Tensors with two axes on one of which a group stands.
    let on = |axis: usize, group: usize| -> BTreeMap<String, usize> {
        let stands = |tensor: &usize| {
            let axes = checked.axes(*tensor);
            axes.len() == 2 && axes[axis].as_ref().is_some_and(|axis| axis.groups().any(|on| on == group))
        };
        let tensors = (0..layout.tensors().len()).filter(stands);
        tensors.map(|tensor| (layout.tensors()[tensor].name.clone(), axis)).collect()
    };
    let group =
        (0..checked.groups().len()).find(|&group| !on(0, group).is_empty() && !on(1, group).is_empty());
    let group = group.expect("a hidden layer");
    let scale =
        ScaleForm { group: checked.groups()[group].name.clone(), up: on(0, group), down: on(1, group) };
    refused(&graph, &derived.spec.with_scales(vec![scale]), "a layer norm and GELU between");
}

/// The network with every weight changed, as by training elsewhere.
fn other(model: &Checkpoint) -> Checkpoint {
    let mut noise = numbers(11);
    let tensors = model.tensors().iter().map(|tensor| {
        if !tensor.info().dtype.is_float() {
            return tensor.clone();
        }
        let change = |value: f64| value + 0.3 * value.abs() * (noise() - 0.5);
        let values: Vec<f64> = tensor.to_f64().into_iter().map(change).collect();
        Tensor::from_f64(tensor.info(), &values).expect("finite")
    });
    Checkpoint::new(model.layout().clone(), tensors.collect()).expect("fits")
}

fn scrambled(spec: &CheckedSpec, model: &Checkpoint, seed: u64) -> Checkpoint {
    let mut next = numbers(seed);
    let factors: Vec<Vec<f64>> = spec
        .scales()
        .iter()
        .map(|scale| (0..spec.groups()[scale.group].units).map(|_| f64::exp2(6.0 * next() - 3.0)).collect())
        .collect();
    let scaled = rescale(spec, model, &factors).expect("scaled");
    Alignment::random(spec, seed).apply(spec, &scaled).expect("permuted")
}

fn merged(spec: &CheckedSpec, reference: &Checkpoint, update: &Checkpoint, canonical: bool) -> Checkpoint {
    let brought = |model: &Checkpoint| match canonical {
        true => canonical_scale(spec, model).expect("balanced").checkpoint,
        false => model.clone(),
    };
    let (reference, update) = (brought(reference), brought(update));
    let options = MatchOptions { seed: 3, ..MatchOptions::default() };
    let found = align(spec, &reference, &update, &options, &mut quietly).expect("aligned");
    let update = found.alignment.apply(spec, &update).expect("applies");
    mean(None, &[&reference, &update], None, &[0.5, 0.5]).expect("merged")
}

/// The largest difference of two checkpoints, relative to the largest weight of each tensor.
fn difference(a: &Checkpoint, b: &Checkpoint) -> f64 {
    let of = |a: &Tensor, b: &Tensor| {
        let (a, b) = (a.to_f64(), b.to_f64());
        let size = a.iter().fold(f64::MIN_POSITIVE, |size, value| size.max(value.abs()));
        a.iter().zip(&b).fold(0.0_f64, |most, (a, b)| most.max((a - b).abs() / size))
    };
    a.tensors().iter().zip(b.tensors()).fold(0.0, |most, (a, b)| most.max(of(a, b)))
}

#[test]
fn a_site_that_permutes_and_rescales_its_units_does_not_harm_the_merge() {
    for name in ["mlp", "vgg", "vgg_bn", "resnet18", "llama"] {
        let (graph, derived) = derived(name);
        let spec = derived.spec.check(&graph.layout().expect("a layout")).expect("fits");
        let reference = graph.checkpoint().expect("a checkpoint");
        let update = other(&reference);
        let scrambled = scrambled(&spec, &update, 5);
        let expected = merged(&spec, &reference, &update, true);
        let apart = difference(&merged(&spec, &reference, &scrambled, true), &expected);
        assert!(apart < 1e-4, "{name}: {apart}");
        // Without the canonical scale it does harm.
        let plain = merged(&spec, &reference, &update, false);
        let apart = difference(&merged(&spec, &reference, &scrambled, false), &plain);
        assert!(apart > 0.1, "{name}: {apart}");
    }
}
