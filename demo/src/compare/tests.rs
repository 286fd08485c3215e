use std::collections::BTreeSet;

use super::{network::Statistics, *};
use crate::idx::PIXELS;

/// A few images of every class, drawn: a bright row for each class, and noise.
fn drawn(per_class: usize, seed: u32) -> Dataset {
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    let mut state = seed;
    for _ in 0..per_class {
        for class in 0..10_u8 {
            for pixel in 0..PIXELS {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let noise = (state >> 8) as f32 / (1_u32 << 24) as f32 - 0.5;
                let bright = pixel / 28 / 2 == usize::from(class) + 1;
                images.push(noise + if bright { 2.0 } else { 0.0 });
            }
            labels.push(class);
        }
    }
    Dataset { images, labels }
}

const SMALL: [Architecture; 2] =
    [Architecture::Mlp { hidden: 12 }, Architecture::Conv { channels: 4, hidden: 8 }];

#[test]
fn every_image_goes_to_one_place_and_most_to_its_owner() {
    let labels: Vec<u8> = (0..1000).map(|index| (index % 10) as u8).collect();
    let Shares { sites, held_back } = deal(&labels, 3);
    let all: BTreeSet<usize> = sites.iter().flatten().chain(&held_back).copied().collect();
    assert_eq!((all.len(), sites[0].len() + sites[1].len() + held_back.len()), (1000, 1000));
    assert_eq!(held_back.len(), 100);
    for (site, share) in sites.iter().enumerate() {
        let own = share.iter().filter(|&&index| usize::from(labels[index] >= 5) == site).count();
        let part = own as f64 / share.len() as f64;
        assert!((0.75..0.85).contains(&part), "{part}");
    }
    assert_ne!(deal(&labels, 4).sites, sites);
}

#[test]
fn a_permuted_network_says_the_same_and_a_checkpoint_comes_back() {
    let (images, _) = trainer::tensors(&drawn(2, 1)).unwrap();
    for architecture in SMALL {
        let net = Net::random(architecture, 5).unwrap();
        // Statistics that differ from unit to unit.
        net.reset_statistics(&images).unwrap();
        let checkpoint = net.to_checkpoint().unwrap();
        let spec = architecture.spec().unwrap();
        let permuted = rebasin::Alignment::random(&spec, 2).apply(&spec, &checkpoint).unwrap();
        assert_ne!(permuted, checkpoint);
        let said = |checkpoint| {
            let net = Net::from_checkpoint(architecture, checkpoint).unwrap();
            let logits = net.forward(&images, Statistics::Running, &mut |_, _| Ok(())).unwrap();
            logits.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        for (a, b) in said(&checkpoint).iter().zip(said(&permuted)) {
            assert!((a - b).abs() < 1e-4, "{architecture}: {a} {b}");
        }
        let back = Net::from_checkpoint(architecture, &checkpoint).unwrap().to_checkpoint().unwrap();
        assert!(back == checkpoint, "{architecture}");
    }
}

#[test]
fn a_convolution_is_that_of_candle() {
    let net = Net::random(SMALL[1], 1).unwrap();
    let (images, _) = trainer::tensors(&drawn(1, 2)).unwrap();
    let weight = net.parameter("features.0.weight").unwrap();
    let ours = network::convolved(&images.reshape((1, 10, 28, 28)).unwrap(), weight).unwrap();
    let theirs = images.reshape((10, 1, 28, 28)).unwrap().conv2d(weight, 1, 1, 1, 1).unwrap();
    let theirs = theirs.transpose(0, 1).unwrap().flatten_from(1).unwrap();
    let apart = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(apart < 1e-5, "{apart}");
}

#[test]
fn statistics_anew_are_those_of_the_images() {
    let net = Net::random(SMALL[1], 1).unwrap();
    let (images, _) = trainer::tensors(&drawn(3, 4)).unwrap();
    let before = net.to_checkpoint().unwrap();
    net.reset_statistics(&images).unwrap();
    let after = net.to_checkpoint().unwrap();
    // The first layer's are computed here from candle's own convolution.
    let halved = images.reshape((30, 1, 28, 28)).unwrap().avg_pool2d(2).unwrap();
    let signal = halved.conv2d(net.parameter("features.0.weight").unwrap(), 1, 1, 1, 1).unwrap();
    let channels = signal.transpose(0, 1).unwrap().flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
    let of = |name: &str| after.get(name).unwrap().to_f64();
    let (means, variances) = (of("features.1.running_mean"), of("features.1.running_var"));
    for ((values, mean), variance) in channels.iter().zip(means).zip(variances) {
        let count = values.len() as f64;
        let expected = values.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
        let spread =
            values.iter().map(|&value| (f64::from(value) - expected).powi(2)).sum::<f64>() / (count - 1.0);
        assert!((mean - expected).abs() < 1e-5 && (variance - spread).abs() < 1e-4 * spread.max(1.0));
    }
    let weight = |checkpoint: &rebasin::Checkpoint| checkpoint.get("features.0.weight").unwrap().clone();
    assert!(weight(&before) == weight(&after), "parameters stay");
    // In evaluation, batch statistics of the same images and running ones now differ only by the unbiased variance.
    let logits = |statistics| {
        let logits = net.forward(&images, statistics, &mut |_, _| Ok(())).unwrap();
        logits.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    for (a, b) in logits(Statistics::Running).iter().zip(logits(Statistics::Batch)) {
        assert!((a - b).abs() < 2e-2, "{a} {b}");
    }
}

#[test]
fn the_gradient_is_that_of_finite_differences() {
    use rebasin::Objective as _;
    let data = drawn(3, 7);
    for architecture in SMALL {
        let checkpoint = Net::random(architecture, 3).unwrap().to_checkpoint().unwrap();
        let loss = |checkpoint: &rebasin::Checkpoint| {
            // All images are one batch, so every call sees the same.
            objective::Batches::new(architecture, &data, 1).loss_and_gradient(checkpoint).unwrap()
        };
        let (_, gradient) = loss(&checkpoint);
        let layout = checkpoint.layout();
        for name in ["fc2.weight", "features.3.weight", "features.1.weight", "head.3.bias"] {
            let Some(index) = layout.position(name) else { continue };
            let element = 1;
            let moved = |by: f64| {
                let mut tensors = checkpoint.tensors().to_vec();
                let mut values = tensors[index].to_f64();
                values[element] += by;
                tensors[index] = rebasin::Tensor::from_f64(tensors[index].info(), &values).unwrap();
                loss(&rebasin::Checkpoint::new(layout.clone(), tensors).unwrap()).0
            };
            let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            let found = f64::from(gradient[index][element]);
            assert!(
                (slope - found).abs() < 2e-3 + 0.05 * found.abs(),
                "{architecture}, {name}: {slope} {found}"
            );
        }
        assert_eq!(gradient.len(), layout.tensors().len());
    }
}

#[test]
fn a_small_comparison_holds_together() {
    let (train, test) = (drawn(12, 1), drawn(4, 9));
    let options = Options { data: Path::new("not read"), epochs: 3, seed: 2 };
    let effort = Effort { points: 5, activation_images: 60, steps: 6 };
    let mut networks = Vec::new();
    for architecture in SMALL {
        let go = AtomicBool::new(false);
        let studied = study(architecture, &options, &effort, &train, &test, &go).unwrap();
        let names: Vec<&str> = studied.methods.iter().map(|method| method.name.as_str()).collect();
        let all = ["naive mean", "activation matching", "weight matching", "straight-through", "MergeMany"];
        assert_eq!(names, all);
        assert_eq!(studied.methods[0].moved, 0.0);
        for method in &studied.methods {
            assert_eq!(method.anew.is_some(), studied.batch_norm);
            let losses = &method.merged.losses;
            assert_eq!(losses.len(), 5);
            // A permuted model is as good as it was: both ends of every path are the sites' own losses.
            for (end, site) in [losses[0], losses[4]].into_iter().zip(&studied.sites) {
                assert!((end - site.test.loss).abs() < 1e-4, "{}: {end} {}", method.name, site.test.loss);
            }
            assert!((losses[2] - method.merged.middle.test.loss).abs() < 1e-9);
        }
        networks.push(studied);
        assert!(study(architecture, &options, &effort, &train, &test, &AtomicBool::new(true)).is_err());
    }
    let comparison = Comparison {
        format: "fedbasin.compare/1".into(),
        seed: 2,
        epochs: 3,
        test_images: test.len(),
        networks,
        seconds: 1.0,
    };
    let svg = curve::svg(&comparison).unwrap();
    // Three panels of five curves with five points each.
    assert_eq!(svg.matches("<circle").count(), 3 * 5 * 5);
    let text = show::tables(&comparison);
    for name in ["site 1", "weight matching, statistics anew", "logit ensemble", "one model on all data"] {
        assert!(text.contains(name), "{name}: {text}");
    }
    let json = serde_json::to_value(&comparison).unwrap();
    assert!(json["networks"][1]["methods"][2]["anew"]["losses"].is_array(), "{json}");
    assert!(json["networks"][0]["methods"][2]["merged"]["accuracy"].is_number());
}
