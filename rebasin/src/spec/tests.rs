use super::*;
use crate::{Dtype, Layout, TensorInfo};

fn layout(tensors: &[(&str, &[usize])]) -> Layout {
    let info = |&(name, shape): &(&str, &[usize])| TensorInfo {
        name: name.into(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
    };
    Layout::new(tensors.iter().map(info).collect()).expect("a layout")
}

fn chain() -> Layout {
    layout(&[("fc2.weight", &[5, 3]), ("fc2.bias", &[5]), ("fc10.weight", &[2, 5]), ("fc1.weight", &[3, 4])])
}

#[test]
fn a_chain_follows_the_natural_order_of_its_names() {
    let spec = Spec::mlp(&chain()).expect("a chain");
    let checked = spec.check(&chain()).expect("fits");
    let sizes: Vec<(&str, usize)> =
        checked.groups().iter().map(|group| (group.name.as_str(), group.size)).collect();
    assert_eq!(sizes, [("h0", 3), ("h1", 5)], "fc10 comes last");
    assert_eq!(Spec::from_json(&spec.to_json()), Ok(spec));
}

#[test]
fn names_without_an_order_need_shapes_with_one() {
    let certain = layout(&[("tail.weight", &[2, 5]), ("entry.weight", &[5, 4])]);
    assert!(Spec::mlp(&certain).is_ok(), "by name and shape: entry, tail");
    let by_shape = layout(&[("decoder.weight", &[9, 5]), ("encoder.weight", &[5, 4])]);
    assert!(Spec::mlp(&by_shape).is_ok(), "by shape: encoder, decoder");
    let broken = layout(&[("a.weight", &[2, 5]), ("b.weight", &[3, 4])]);
    assert!(matches!(Spec::mlp(&broken), Err(SpecError::Derive(_))));
}

#[test]
fn what_is_no_plain_chain_is_refused() {
    for tensors in [
        vec![("conv.weight", &[2, 3, 3, 3][..])],
        vec![("norm.weight", &[2][..])],
        vec![("fc.weight", &[2, 3][..]), ("fc.gate", &[2][..])],
        vec![("fc.weight", &[2, 3][..]), ("fc.bias", &[3][..])],
        vec![],
    ] {
        assert!(matches!(Spec::mlp(&layout(&tensors)), Err(SpecError::Derive(_))), "{tensors:?}");
    }
}

#[test]
fn a_norm_without_running_statistics_is_not_taken_for_a_batch_norm() {
    let net =
        layout(&[("0.weight", &[4, 1, 3, 3]), ("1.weight", &[4]), ("1.bias", &[4]), ("4.weight", &[2, 4])]);
    let error = Spec::conv_net(&net).expect_err("could be a GroupNorm").to_string();
    assert!(error.contains("GroupNorm"), "{error}");
    let grouped = layout(&[("0.weight", &[4, 1, 3, 3]), ("1.weight", &[4, 1, 3, 3]), ("2.weight", &[2, 4])]);
    assert!(Spec::conv_net(&grouped).is_err(), "a depthwise convolution is no plain one");
}

#[test]
fn a_spec_that_does_not_fit_is_told_by_tensor_and_axis() {
    let spec = Spec::mlp(&chain()).expect("a chain");
    let without = layout(&[("fc2.weight", &[5, 3]), ("fc10.weight", &[2, 5]), ("fc1.weight", &[3, 4])]);
    assert_eq!(spec.check(&without), Err(SpecError::Unknown("fc2.bias".into())));
    let other = layout(&[
        ("fc2.weight", &[5, 3]),
        ("fc2.bias", &[6]),
        ("fc10.weight", &[2, 5]),
        ("fc1.weight", &[3, 4]),
    ]);
    assert!(matches!(spec.check(&other), Err(SpecError::Length { name, axis: 0, .. }) if name == "fc2.bias"));
    let more = layout(&[
        ("fc2.weight", &[5, 3]),
        ("fc2.bias", &[5]),
        ("fc10.weight", &[2, 5]),
        ("fc1.weight", &[3, 4]),
        ("z", &[1]),
    ]);
    assert_eq!(spec.check(&more), Err(SpecError::Unlisted("z".into())));
}

#[test]
fn a_product_with_a_group_twice_is_refused() {
    let json = r#"{"format":"fedbasin.spec/1","groups":{"h":{"size":3,"kind":"symmetric"}},"tensors":{"w":[["h","h"]]}}"#;
    let spec = Spec::from_json(json).expect("reads");
    assert!(matches!(spec.check(&layout(&[("w", &[9])])), Err(SpecError::Twice { .. })));
}

const WREATH: &str = r#"{
    "format": "fedbasin.spec/1",
    "groups": {
        "heads": { "size": 2, "kind": "symmetric" },
        "qk": { "size": 3, "kind": "symmetric", "within": "heads" },
        "vo": { "size": 4, "kind": "symmetric", "within": "heads" }
    },
    "tensors": {
        "qkv": [{ "concat": [["heads", "qk"], ["heads", "qk"], ["heads", "vo"]] }, null],
        "table": [null, "heads"],
        "grouped": [["heads", "vo"], "qk"]
    }
}"#;

#[test]
fn heads_and_what_is_within_them_are_read_and_written_alike() {
    let spec = Spec::from_json(WREATH).expect("reads");
    assert_eq!(Spec::from_json(&spec.to_json()).expect("reads again"), spec);
    let net = layout(&[("grouped", &[8, 3]), ("qkv", &[20, 5]), ("table", &[7, 2])]);
    let checked = spec.check(&net).expect("fits");
    let units: Vec<(&str, usize)> =
        checked.groups().iter().map(|group| (group.name.as_str(), group.units)).collect();
    assert_eq!(units, [("heads", 2), ("qk", 6), ("vo", 8)]);
}

#[test]
fn a_group_within_another_one_needs_that_one_on_its_tensor() {
    let without = WREATH.replace(r#"[["heads", "vo"], "qk"]"#, r#"["vo", "qk"]"#);
    let spec = Spec::from_json(&without).expect("reads");
    let net = layout(&[("grouped", &[4, 3]), ("qkv", &[20, 5]), ("table", &[7, 2])]);
    assert!(matches!(spec.check(&net), Err(SpecError::Within { .. })));
    let deep = WREATH.replace(
        r#""heads": { "size": 2, "kind": "symmetric" }"#,
        r#""heads": { "size": 2, "kind": "symmetric", "within": "qk" }"#,
    );
    assert!(matches!(Spec::from_json(&deep), Err(SpecError::Json(_))), "one level is the most");
}

#[test]
fn a_group_that_nothing_uses_is_refused() {
    let json = r#"{"format":"fedbasin.spec/1","groups":{"h":{"size":300000,"kind":"symmetric"}},"tensors":{"w":[null]}}"#;
    let spec = Spec::from_json(json).expect("reads");
    assert_eq!(spec.check(&layout(&[("w", &[9])])), Err(SpecError::Unused("h".into())));
}

#[test]
fn json_that_is_no_spec_is_refused() {
    for json in [
        "",
        "{}",
        r#"{"format":"other/1","groups":{},"tensors":{}}"#,
        r#"{"format":"fedbasin.spec/1","groups":{},"tensors":{},"x":1}"#,
        r#"{"format":"fedbasin.spec/1","groups":{},"tensors":{"w":["h"]}}"#,
        r#"{"format":"fedbasin.spec/1","groups":{"h":{"size":0,"kind":"symmetric"}},"tensors":{}}"#,
        r#"{"format":"fedbasin.spec/1","groups":{"h":{"size":3,"kind":"other"}},"tensors":{}}"#,
        r#"{"format":"fedbasin.spec/1","groups":{"h":{"size":3,"kind":"symmetric"}},"tensors":{"w":[["h",0]]}}"#,
    ] {
        assert!(matches!(Spec::from_json(json), Err(SpecError::Json(_))), "{json}");
    }
}

fn groups_of(net: &Layout, tensor: &str) -> Vec<Option<(String, usize)>> {
    let checked = Spec::conv_net(net).expect("a chain").check(net).expect("fits");
    let index = net.position(tensor).expect("a tensor");
    let name = |axis: &Axis| {
        let (group, block) = match axis.segments[0].factors[..] {
            [Factor::Group { group, .. }] => (group, 1),
            [Factor::Group { group, .. }, Factor::Stays(block)] => (group, block),
            _ => panic!("a group, or a group in blocks: {axis:?}"),
        };
        (checked.groups()[group].name.clone(), block)
    };
    checked.axes(index).iter().map(|axis| axis.as_ref().map(name)).collect()
}

fn with_norms<'a>(layers: &[(&'a str, &'a [usize])], norms: &[(&str, usize)]) -> Layout {
    let mut tensors: Vec<(String, Vec<usize>)> =
        layers.iter().map(|&(name, shape)| (format!("{name}.weight"), shape.to_vec())).collect();
    for &(name, size) in norms {
        for part in ["weight", "bias", "running_mean", "running_var"] {
            tensors.push((format!("{name}.{part}"), vec![size]));
        }
    }
    let borrowed: Vec<(&str, &[usize])> = tensors.iter().map(|(name, shape)| (&**name, &**shape)).collect();
    layout(&borrowed)
}

#[test]
fn convolutions_come_before_a_classifier_whatever_they_are_called() {
    let layers: [(&str, &[usize]); 3] =
        [("features.0", &[4, 1, 3, 3]), ("features.10", &[6, 4, 3, 3]), ("classifier.1", &[2, 54])];
    let net = with_norms(&layers, &[("features.1", 4), ("features.11", 6)]);
    assert_eq!(
        groups_of(&net, "features.10.weight"),
        [Some(("c1".into(), 1)), Some(("c0".into(), 1)), None, None]
    );
    assert_eq!(groups_of(&net, "features.11.running_var"), [Some(("c1".into(), 1))]);
    assert_eq!(groups_of(&net, "classifier.1.weight"), [None, Some(("c1".into(), 9))]);
}

#[test]
fn a_batch_norm_belongs_to_the_layer_of_its_number() {
    let layers: [(&str, &[usize]); 3] =
        [("conv1", &[4, 1, 3, 3]), ("conv2", &[4, 4, 3, 3]), ("fc1", &[2, 4])];
    let net = with_norms(&layers, &[("bn1", 4), ("bn2", 4)]);
    assert_eq!(groups_of(&net, "bn1.weight"), [Some(("c0".into(), 1))], "and not the last convolution's");
    assert_eq!(groups_of(&net, "bn2.weight"), [Some(("c1".into(), 1))]);
    let one = with_norms(&layers, &[("norm1", 4)]);
    assert_eq!(groups_of(&one, "norm1.weight"), [Some(("c0".into(), 1))]);
    for unclear in ["bn", "bn3", "features.1"] {
        let net = with_norms(&layers, &[(unclear, 4)]);
        let error = Spec::conv_net(&net).expect_err("names do not tell").to_string();
        assert!(error.contains("which layer it normalises"), "{unclear}: {error}");
    }
}

#[test]
fn what_convolves_again_after_a_linear_layer_is_refused() {
    let layers: [(&str, &[usize]); 4] = [
        ("encoder.0", &[4, 4, 3, 3]),
        ("encoder.2", &[4, 4]),
        ("decoder.0", &[4, 4]),
        ("decoder.2", &[4, 4, 3, 3]),
    ];
    let error = Spec::conv_net(&with_norms(&layers, &[])).expect_err("torn apart").to_string();
    assert!(error.contains("do not follow one another"), "{error}");
}

#[test]
fn square_layers_without_numbers_have_no_certain_order() {
    let net = layout(&[("decode.weight", &[4, 4]), ("encode.weight", &[4, 4])]);
    assert!(matches!(Spec::mlp(&net), Err(SpecError::Derive(_))), "either could be first");
    let net = layout(&[("fc1.weight", &[4, 4]), ("fc2.weight", &[4, 4]), ("head.weight", &[4, 4])]);
    assert!(Spec::mlp(&net).is_ok(), "one name without a number");
}
