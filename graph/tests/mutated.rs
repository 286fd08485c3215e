//! A spec that is wrong is found out.

use std::{collections::BTreeMap, fs};

use fedbasin_graph::{Graph, GraphError, VerifyOptions, derive, verify};
use rebasin::{AxisForm, FactorForm, Kind, Spec};

fn graph(name: &str) -> Graph {
    let path = format!("{}/zoo/{name}.onnx", env!("CARGO_MANIFEST_DIR"));
    Graph::read(&fs::read(path).expect("a file of the zoo")).expect("reads")
}

fn renamed(form: &AxisForm, from: &str, to: &str) -> AxisForm {
    let factor = |factor: FactorForm| match factor {
        FactorForm::Group(name) if name == from => FactorForm::Group(to.to_owned()),
        other => other,
    };
    AxisForm::from_segments(
        form.segments().into_iter().map(|factors| factors.into_iter().map(factor).collect()).collect(),
    )
}

fn refused(graph: &Graph, spec: &Spec, what: &str) {
    let outcome = verify(graph, spec, &VerifyOptions::default());
    assert!(matches!(outcome, Err(GraphError::Changed { .. })), "{what}: {outcome:?}");
}

/// Gives an axis to a group of its length.
fn with_axis(spec: &Spec, tensor: &str, axis: usize, form: Option<AxisForm>) -> Spec {
    let mut tensors = spec.tensors().clone();
    tensors.get_mut(tensor).expect("a tensor")[axis] = form;
    Spec::new(spec.groups().clone(), tensors).expect("a spec")
}

#[test]
fn an_axis_that_must_stand_still_cannot_be_moved() {
    for name in ["mlp", "lenet", "resnet18", "gpt2", "lstm"] {
        let graph = graph(name);
        let derived = derive(&graph).expect("derives");
        let layout = graph.layout().expect("a layout");
        let mut tried = 0;
        for pinned in &derived.pinned {
            let tensor = layout.get(&pinned.tensor).expect("a tensor");
            let length = tensor.shape[pinned.axis];
            let mut groups = derived.spec.groups().clone();
            let form = rebasin::GroupForm { size: length, kind: Kind::Symmetric, within: None };
            groups.insert("wrong".into(), form);
            let mut tensors = derived.spec.tensors().clone();
            tensors.get_mut(&pinned.tensor).expect("a tensor")[pinned.axis] =
                Some(AxisForm::Group("wrong".into()));
            let spec = Spec::new(groups, tensors).expect("a spec");
            let outcome = verify(&graph, &spec, &VerifyOptions::default());
            let unread = matches!(pinned.reason.as_str(), "no node reads it" | "no operator uses it");
            // A row of an embedding that no input asks for shows nothing.
            let degenerate = matches!(outcome, Err(GraphError::Degenerate(_)));
            assert!(
                matches!(outcome, Err(GraphError::Changed { .. })) || unread || degenerate,
                "{name} {pinned:?}"
            );
            tried += 1;
            if tried == 12 {
                break;
            }
        }
        assert!(tried > 0, "{name} pins something");
    }
}

#[test]
fn an_axis_that_must_move_cannot_stand_still() {
    for name in ["mlp", "vgg_bn", "gpt2", "lstm", "resnet_groupnorm", "densenet"] {
        let graph = graph(name);
        let spec = derive(&graph).expect("derives").spec;
        let mut tried = 0;
        for (tensor, axes) in spec.tensors() {
            for (axis, form) in axes.iter().enumerate() {
                if form.is_none() || tried == 8 {
                    continue;
                }
                let wrong = with_axis(&spec, tensor, axis, None);
                if wrong.check(&graph.layout().expect("a layout")).is_ok() && !tensor.ends_with("bias") {
                    refused(&graph, &wrong, &format!("{name} {tensor} {axis}"));
                    tried += 1;
                }
            }
        }
        assert!(tried > 0);
    }
}

#[test]
fn two_groups_of_one_size_are_not_one() {
    let graph = graph("resnet18");
    let spec = derive(&graph).expect("derives").spec;
    let sizes: BTreeMap<&String, usize> =
        spec.groups().iter().map(|(name, group)| (name, group.size)).collect();
    let mut swapped = 0;
    for (tensor, axes) in spec.tensors() {
        let Some(Some(form)) = axes.first() else { continue };
        let own = form.to_string();
        let other = sizes.iter().find(|(name, size)| ***name != own && sizes.get(&own) == Some(size));
        if let (Some((other, _)), 4) = (other, axes.len()) {
            let wrong = with_axis(&spec, tensor, 0, Some(renamed(form, &own, other)));
            refused(&graph, &wrong, tensor);
            swapped += 1;
        }
    }
    assert!(swapped > 3);
}

#[test]
fn heads_and_groups_are_not_fully_symmetric() {
    for name in ["gpt2", "resnet_groupnorm", "vit32", "resnext"] {
        let graph = graph(name);
        let spec = derive(&graph).expect("derives").spec;
        // Each wreath becomes one group of all its units.
        let inner = spec.groups().iter().find(|(_, group)| group.within.is_some());
        let (inner, form) = inner.unwrap_or_else(|| panic!("{name} has a wreath"));
        let outer = form.within.clone().expect("within");
        let mut groups = spec.groups().clone();
        let units = form.size * groups[&outer].size;
        groups.insert("all".into(), rebasin::GroupForm { size: units, kind: Kind::Symmetric, within: None });
        let all = |form: &AxisForm| {
            let segments = form.segments().into_iter().map(|factors| {
                let pair = [FactorForm::Group(outer.clone()), FactorForm::Group(inner.clone())];
                if factors == pair { vec![FactorForm::Group("all".into())] } else { factors }
            });
            AxisForm::from_segments(segments.collect())
        };
        let tensors = spec
            .tensors()
            .iter()
            .map(|(name, axes)| (name.clone(), axes.iter().map(|axis| axis.as_ref().map(all)).collect()));
        let tensors: BTreeMap<String, Vec<Option<AxisForm>>> = tensors.collect();
        // A spec has no groups that it does not use.
        let used = |name: &String| {
            let factors = tensors.values().flatten().flatten().flat_map(AxisForm::segments).flatten();
            factors.into_iter().any(|factor| factor == FactorForm::Group(name.clone()))
        };
        groups.retain(|name, _| used(name));
        let wrong = Spec::new(groups, tensors).expect("a spec");
        refused(&graph, &wrong, name);
    }
}
