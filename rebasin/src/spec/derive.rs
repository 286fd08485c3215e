//! Specs of plain chains, from names and shapes alone: multilayer perceptrons, and convolutional networks whose layers
//! follow one another. Anything else is refused: a wrong guess would change the function.

use std::cmp::Ordering;

use std::collections::BTreeMap;

use super::{AxisForm, FactorForm, GroupForm, Kind, Spec, SpecError, order};
use crate::{Layout, TensorInfo};

/// A layer: the tensors whose names share what comes before the last dot.
pub(super) struct Layer<'a> {
    pub(super) name: &'a str,
    tensors: Vec<(&'a str, &'a TensorInfo)>,
}

impl<'a> Layer<'a> {
    fn get(&self, part: &str) -> Option<&'a TensorInfo> {
        self.tensors.iter().find(|(own, _)| *own == part).map(|(_, tensor)| *tensor)
    }

    pub(super) fn weight_rank(&self) -> usize {
        self.get("weight").map_or(0, |weight| weight.shape.len())
    }

    /// Its tensors must be exactly among `parts`: an unknown one could need an axis of its own.
    fn only(&self, parts: &[&str]) -> Result<(), SpecError> {
        match self.tensors.iter().find(|(part, _)| !parts.contains(part)) {
            Some((_, tensor)) => Err(SpecError::Derive(format!(
                "tensor {} is no part of a plain chain's layer; write the spec by hand",
                tensor.name
            ))),
            None => Ok(()),
        }
    }

    fn vector(&self, part: &str, length: usize) -> Result<(), SpecError> {
        match self.get(part) {
            Some(tensor) if tensor.shape != [length] => Err(SpecError::Derive(format!(
                "tensor {} has shape {:?}, its layer has {length} units",
                tensor.name, tensor.shape
            ))),
            _ => Ok(()),
        }
    }
}

fn layers(layout: &Layout) -> Vec<Layer<'_>> {
    let mut layers: Vec<Layer<'_>> = Vec::new();
    for tensor in layout.tensors() {
        let (name, part) = tensor.name.rsplit_once('.').unwrap_or(("", &tensor.name));
        match layers.iter_mut().find(|layer| layer.name == name) {
            Some(layer) => layer.tensors.push((part, tensor)),
            None => layers.push(Layer { name, tensors: vec![(part, tensor)] }),
        }
    }
    layers.sort_by(|a, b| natural(a.name, b.name));
    layers
}

/// Numbers inside names compare as numbers: `fc2` before `fc10`.
pub(super) fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (in_a, in_b) = (digits(a), digits(b));
        if in_a > 0 && in_b > 0 {
            let value = |digits: &[u8]| -> Vec<u8> {
                digits.iter().copied().skip_while(|&byte| byte == b'0').collect()
            };
            let (left, right) = (value(&a[..in_a]), value(&b[..in_b]));
            let order = left.len().cmp(&right.len()).then(left.cmp(&right));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (&a[in_a..], &b[in_b..]);
            continue;
        }
        match (a.split_first(), b.split_first()) {
            (Some((left, rest_a)), Some((right, rest_b))) if left == right => (a, b) = (rest_a, rest_b),
            (left, right) => return left.map(|(byte, _)| byte).cmp(&right.map(|(byte, _)| byte)),
        }
    }
}

impl Spec {
    /// The spec of a plain chain of linear layers, PyTorch's layout: `NAME.weight [out, in]`, `NAME.bias [out]`. The
    /// layers follow one another by the natural order of their names if their shapes allow; otherwise by the one
    /// order that their shapes allow. Groups are `h0`, `h1`, …: one between each two layers.
    ///
    /// # Errors
    /// [`SpecError::Derive`] if the tensors are not such a chain, or if its order is not certain.
    pub fn mlp(layout: &Layout) -> Result<Self, SpecError> {
        let layers = layers(layout);
        for layer in &layers {
            layer.only(&["weight", "bias"])?;
            if layer.weight_rank() != 2 {
                return Err(SpecError::Derive(format!(
                    "layer {:?} has no weight of two axes; this is no plain chain of linear layers",
                    layer.name
                )));
            }
            layer.vector("bias", layer.get("weight").map_or(0, |weight| weight.shape[0]))?;
        }
        let order = chain(&layers)?;
        let mut builder = Builder::default();
        let mut before: Option<String> = None;
        for (place, &index) in order.iter().enumerate() {
            let layer = &layers[index];
            let Some(weight) = layer.get("weight") else { continue };
            let after = (place + 1 < order.len()).then(|| format!("h{place}"));
            if let Some(group) = &after {
                builder.group(group, weight.shape[0]);
            }
            let out = || after.as_deref().and_then(plain);
            builder.tensor(&weight.name, vec![out(), before.as_deref().and_then(plain)]);
            if let Some(bias) = layer.get("bias") {
                builder.tensor(&bias.name, vec![out()]);
            }
            before = after;
        }
        builder.build()
    }

    /// The spec of a plain convolutional network, PyTorch's layout: convolutions `[out, in, k…]`, each optionally
    /// followed by a BatchNorm (weight, bias, running_mean, running_var, num_batches_tracked), then linear layers; the
    /// channels that are flattened before the first linear layer act on blocks of height × width. Convolutions come
    /// first, whatever the parts are called; else layers follow one another by the natural order of their names, and a
    /// BatchNorm belongs to the layer before it in a numbered sequence, or to the layer of its number (`conv2`, `bn2`).
    ///
    /// # Errors
    /// [`SpecError::Derive`] if the tensors are not such a chain: branches, grouped convolutions, other layers.
    pub fn conv_net(layout: &Layout) -> Result<Self, SpecError> {
        let layers = order::of_conv_net(layers(layout))?;
        let last = layers
            .iter()
            .rposition(|layer| layer.weight_rank() >= 2)
            .ok_or_else(|| SpecError::Derive("there is no layer with a weight of two or more axes".into()))?;
        let mut builder = Builder::default();
        // The group that the signal carries: its name and size.
        let mut carried: Option<(String, usize)> = None;
        let mut count = 0;
        for (place, layer) in layers.iter().enumerate() {
            match layer.weight_rank() {
                1 => norm(&mut builder, layer, carried.as_ref())?,
                rank => {
                    layer.only(&["weight", "bias"])?;
                    let Some(weight) = layer.get("weight") else { continue };
                    layer.vector("bias", weight.shape[0])?;
                    let input = input_axis(weight, carried.as_ref())?;
                    let out = (place < last).then(|| format!("c{count}"));
                    count += 1;
                    let mut axes = vec![out.as_deref().and_then(plain), input];
                    axes.resize(rank, None);
                    builder.tensor(&weight.name, axes);
                    if let Some(bias) = layer.get("bias") {
                        builder.tensor(&bias.name, vec![out.as_deref().and_then(plain)]);
                    }
                    if let Some(name) = &out {
                        builder.group(name, weight.shape[0]);
                    }
                    carried = out.map(|name| (name, weight.shape[0]));
                }
            }
        }
        builder.build()
    }
}

fn input_axis(weight: &TensorInfo, carried: Option<&(String, usize)>) -> Result<Option<AxisForm>, SpecError> {
    let Some((group, size)) = carried else { return Ok(None) };
    let input = weight.shape[1];
    let fits = if weight.shape.len() > 2 { input == *size } else { input.is_multiple_of(*size) && input > 0 };
    if !fits {
        return Err(SpecError::Derive(format!(
            "{} takes {input} inputs, the layer before it has {size} units; the layers do not follow one another by \
             name, or the convolution is grouped",
            weight.name
        )));
    }
    Ok(blocked(group, input / size))
}

/// A spec under construction: groups by name and size, axes by tensor.
#[derive(Default)]
struct Builder {
    groups: BTreeMap<String, GroupForm>,
    tensors: BTreeMap<String, Vec<Option<AxisForm>>>,
}

impl Builder {
    fn group(&mut self, name: &str, size: usize) {
        self.groups.insert(name.to_owned(), GroupForm { size, kind: Kind::Symmetric, within: None });
    }

    fn tensor(&mut self, name: &str, axes: Vec<Option<AxisForm>>) {
        self.tensors.insert(name.to_owned(), axes);
    }

    fn build(self) -> Result<Spec, SpecError> {
        Spec::new(self.groups, self.tensors)
    }
}

fn plain(group: &str) -> Option<AxisForm> {
    Some(AxisForm::Group(group.to_owned()))
}

fn blocked(group: &str, block: usize) -> Option<AxisForm> {
    if block == 1 {
        return plain(group);
    }
    Some(AxisForm::Product(vec![FactorForm::Group(group.to_owned()), FactorForm::Stays(block)]))
}

fn norm(
    builder: &mut Builder,
    layer: &Layer<'_>,
    carried: Option<&(String, usize)>,
) -> Result<(), SpecError> {
    layer.only(&["weight", "bias", "running_mean", "running_var", "num_batches_tracked"])?;
    let Some((group, size)) = carried else {
        return Err(SpecError::Derive(format!(
            "layer {:?} normalises the network's inputs or outputs",
            layer.name
        )));
    };
    // GroupNorm has the same weights and does not allow every permutation; only BatchNorm has running statistics.
    if layer.get("running_mean").is_none() {
        return Err(SpecError::Derive(format!(
            "layer {:?} has no running_mean: it cannot be told from a GroupNorm, which does not allow every \
             permutation; write the spec by hand",
            layer.name
        )));
    }
    for (part, tensor) in &layer.tensors {
        if *part == "num_batches_tracked" {
            builder.tensor(&tensor.name, vec![None; tensor.shape.len()]);
        } else {
            layer.vector(part, *size)?;
            builder.tensor(&tensor.name, vec![plain(group)]);
        }
    }
    Ok(())
}

/// The order in which each layer's inputs are the outputs of the one before.
fn chain(layers: &[Layer<'_>]) -> Result<Vec<usize>, SpecError> {
    let shape = |index: usize| {
        layers[index].get("weight").map_or((0, 0), |weight| (weight.shape[0], weight.shape[1]))
    };
    let natural: Vec<usize> = (0..layers.len()).collect();
    if layers.is_empty() {
        return Err(SpecError::Derive("there are no layers".into()));
    }
    // One name without a number may come last (`fc1`, `fc2`, `head`); two tell no order.
    let told =
        layers.iter().filter(|layer| !layer.name.bytes().any(|byte| byte.is_ascii_digit())).count() < 2;
    if told && natural.windows(2).all(|pair| shape(pair[0]).0 == shape(pair[1]).1) {
        return Ok(natural);
    }
    let mut found: Vec<Vec<usize>> = Vec::new();
    let mut tries = 0_u32;
    for first in 0..layers.len() {
        extend(&mut vec![first], layers.len(), &shape, &mut found, &mut tries);
    }
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        0 => Err(SpecError::Derive(
            "the linear layers' shapes do not follow one another; this is no plain chain".into(),
        )),
        _ => Err(SpecError::Derive(
            "the layers' names do not tell their order, and their shapes allow several; number the layers"
                .into(),
        )),
    }
}

fn extend(
    path: &mut Vec<usize>,
    count: usize,
    shape: &impl Fn(usize) -> (usize, usize),
    found: &mut Vec<Vec<usize>>,
    tries: &mut u32,
) {
    *tries += 1;
    if *tries > 100_000 || found.len() > 1 {
        return;
    }
    if path.len() == count {
        found.push(path.clone());
        return;
    }
    for next in 0..count {
        if !path.contains(&next) && path.last().is_some_and(|&last| shape(last).0 == shape(next).1) {
            path.push(next);
            extend(path, count, shape, found, tries);
            path.pop();
        }
    }
}
