use super::*;
use crate::{Dtype, TensorInfo};

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
fn a_group_on_two_axes_of_one_tensor_is_refused() {
    let json = r#"{"format":"fedbasin.spec/1","groups":{"h":{"size":3,"kind":"symmetric"}},"tensors":{"w":["h","h"]}}"#;
    let spec = Spec::from_json(json).expect("reads");
    assert!(matches!(spec.check(&layout(&[("w", &[3, 3])])), Err(SpecError::Twice { .. })));
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
        r#"{"format":"fedbasin.spec/1","groups":{"h":{"size":3,"kind":"symmetric"}},"tensors":{"w":[{"group":"h","block":0}]}}"#,
    ] {
        assert!(matches!(Spec::from_json(json), Err(SpecError::Json(_))), "{json}");
    }
}
