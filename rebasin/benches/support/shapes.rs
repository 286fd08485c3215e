//! Networks by their shapes: layouts and specs as Git Re-Basin's code states them (github.com/samuela/git-re-basin).

use std::collections::BTreeMap;

use rebasin::{AxisForm, CheckedSpec, Dtype, FactorForm, GroupForm, Kind, Layout, Spec, TensorInfo};

/// A network under construction: tensors with the group of each axis.
#[derive(Default)]
struct Network {
    layout: Vec<TensorInfo>,
    groups: BTreeMap<String, GroupForm>,
    tensors: BTreeMap<String, Vec<Option<AxisForm>>>,
}

impl Network {
    fn tensor(&mut self, name: &str, shape: &[usize], axes: &[Option<&str>]) {
        self.layout.push(TensorInfo { name: name.into(), dtype: Dtype::F32, shape: shape.to_vec() });
        for (group, &size) in axes.iter().zip(shape).filter_map(|(group, size)| Some(((*group)?, size))) {
            self.groups.insert(group.into(), GroupForm { size, kind: Kind::Symmetric, within: None });
        }
        let mut forms: Vec<Option<AxisForm>> = axes
            .iter()
            .map(|group| {
                group.map(|group| AxisForm::from_segments(vec![vec![FactorForm::Group(group.into())]]))
            })
            .collect();
        forms.resize(shape.len(), None);
        self.tensors.insert(name.into(), forms);
    }

    /// A convolution without bias and its norm's scale and offset.
    fn conv(&mut self, name: &str, out: (&str, usize), input: (Option<&str>, usize), side: usize) {
        self.tensor(&format!("{name}.weight"), &[out.1, input.1, side, side], &[Some(out.0), input.0]);
        self.tensor(&format!("{name}.norm.weight"), &[out.1], &[Some(out.0)]);
        self.tensor(&format!("{name}.norm.bias"), &[out.1], &[Some(out.0)]);
    }

    fn linear(&mut self, name: &str, out: (Option<&str>, usize), input: (Option<&str>, usize)) {
        self.tensor(&format!("{name}.weight"), &[out.1, input.1], &[out.0, input.0]);
        self.tensor(&format!("{name}.bias"), &[out.1], &[out.0]);
    }

    fn build(self) -> CheckedSpec {
        let layout = Layout::new(self.layout).expect("names differ");
        Spec::new(self.groups, self.tensors).expect("groups are there").check(&layout).expect("fits")
    }
}

/// ResNet-50 for ImageNet: 25.6 million parameters, 37 groups.
pub fn resnet50() -> CheckedSpec {
    let mut net = Network::default();
    net.conv("conv1", ("stream0", 64), (None, 3), 7);
    let (mut stream, mut width) = ("stream0".to_owned(), 64);
    for (stage, (blocks, inner)) in [(3, 64), (4, 128), (6, 256), (3, 512)].into_iter().enumerate() {
        let next = format!("stream{}", stage + 1);
        for block in 0..blocks {
            let name = format!("stage{stage}.{block}");
            let (first, second) = (format!("{name}.inner1"), format!("{name}.inner2"));
            net.conv(&format!("{name}.conv1"), (&first, inner), (Some(&stream), width), 1);
            net.conv(&format!("{name}.conv2"), (&second, inner), (Some(&first), inner), 3);
            net.conv(&format!("{name}.conv3"), (&next, inner * 4), (Some(&second), inner), 1);
            if block == 0 {
                net.conv(&format!("{name}.shortcut"), (&next, inner * 4), (Some(&stream), width), 1);
            }
            (stream, width) = (next.clone(), inner * 4);
        }
    }
    net.linear("head", (None, 1000), (Some(&stream), width));
    net.build()
}

/// VGG-16 for 32 × 32 images with a classifier of two layers of 4096: 33.6 million parameters.
pub fn vgg16() -> CheckedSpec {
    let mut net = Network::default();
    let (mut before, mut width): (Option<String>, usize) = (None, 3);
    for (index, out) in
        [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512].into_iter().enumerate()
    {
        let group = format!("c{index:02}");
        net.conv(&format!("conv{index:02}"), (&group, out), (before.as_deref(), width), 3);
        (before, width) = (Some(group), out);
    }
    net.linear("fc0", (Some("h0"), 4096), (before.as_deref(), width));
    net.linear("fc1", (Some("h1"), 4096), (Some("h0"), 4096));
    net.linear("fc2", (None, 10), (Some("h1"), 4096));
    net.build()
}

/// A perceptron of these widths.
pub fn mlp(widths: &[usize]) -> CheckedSpec {
    let mut net = Network::default();
    let layers = widths.len() - 1;
    let group = |index: usize| (1..layers).contains(&index).then(|| format!("h{index}"));
    for layer in 0..layers {
        let (input, out) = (group(layer), group(layer + 1));
        net.linear(
            &format!("fc{layer}"),
            (out.as_deref(), widths[layer + 1]),
            (input.as_deref(), widths[layer]),
        );
    }
    net.build()
}
