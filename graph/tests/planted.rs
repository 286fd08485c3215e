//! What a spec is for: a network whose units were put in another order is brought back, of every family.

use std::{fs, path::Path};

use fedbasin_graph::{Graph, derive};
use rebasin::{Alignment, Checkpoint, MatchOptions, Tensor, align, quietly};

fn graph(name: &str) -> Graph {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("zoo/{name}.onnx"));
    Graph::read(&fs::read(path).expect("a file of the zoo")).expect("reads")
}

/// The network with a little of every weight changed, as by training.
fn trained_on(model: &Checkpoint) -> Checkpoint {
    let mut state = 7_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(state >> 33).expect("31 bits")) / f64::from(1_u32 << 31) - 0.5
    };
    let tensors = model.tensors().iter().map(|tensor| {
        if !tensor.info().dtype.is_float() {
            return tensor.clone();
        }
        let values: Vec<f64> =
            tensor.to_f64().into_iter().map(|value| value + 0.02 * value.abs() * noise()).collect();
        Tensor::from_f64(tensor.info(), &values).expect("finite")
    });
    Checkpoint::new(model.layout().clone(), tensors.collect()).expect("fits")
}

#[test]
fn a_planted_element_of_a_derived_spec_is_found_again() {
    for name in [
        "mlp",
        "lenet",
        "vgg_bn",
        "resnet18",
        "resnet_groupnorm",
        "resnext",
        "shufflenet_v1",
        "densenet",
        "unet",
        "vit32",
        "vit_fused_qkv",
        "gpt2",
        "llama",
        "transformer_encoder",
        "lstm",
        "gru",
        "moe_einsum",
    ] {
        let graph = graph(name);
        let spec =
            derive(&graph).expect("derives").spec.check(&graph.layout().expect("a layout")).expect("fits");
        let reference = graph.checkpoint().expect("a checkpoint");
        let update = trained_on(&reference);
        for seed in 0..2 {
            let planted = Alignment::random(&spec, seed);
            let moved = planted.apply(&spec, &update).expect("applies");
            let options = MatchOptions { seed, ..MatchOptions::default() };
            let found = align(&spec, &reference, &moved, &options, &mut quietly).expect("aligned");
            found.alignment.check(&spec).expect("allowed");
            let back = found.alignment.apply(&spec, &moved).expect("applies");
            assert!(back == update, "{name}, seed {seed}: {:?}", found.report);
        }
    }
}
