//! Trained checkpoints, against the figures of an independent implementation (`tests/data/README.md`).

mod common;

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use common::forms::relu_chain;
use rebasin::{
    Alignment, CheckedSpec, Checkpoint, Digest, MatchOptions, Spec, align, align_canonically, barrier,
    interpolate, mean, seed_from_digests, shares,
};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn load(name: &str) -> (Checkpoint, Digest) {
    let bytes = std::fs::read(data().join(name)).expect("a fixture");
    (Checkpoint::from_bytes(&bytes).expect("valid"), Digest::of(&bytes))
}

fn site(index: u64) -> (Checkpoint, Digest) {
    load(&format!("mlp128-site{index}.safetensors"))
}

fn figures() -> serde_json::Value {
    serde_json::from_reader(File::open(data().join("mlp128.json")).expect("a fixture")).expect("JSON")
}

fn spec() -> CheckedSpec {
    let (model, _) = site(0);
    Spec::mlp(model.layout()).expect("a chain").check(model.layout()).expect("fits")
}

fn aligned_to_first(index: u64) -> rebasin::Aligned {
    let ((reference, first), (update, digest)) = (site(0), site(index));
    let options = MatchOptions { seed: seed_from_digests(&[first, digest]), ..MatchOptions::default() };
    align(&spec(), &reference, &update, &options, &mut rebasin::quietly).expect("aligned")
}

#[test]
fn the_objective_reaches_that_of_fifty_seeds() {
    for pair in figures()["pairs"].as_array().expect("pairs") {
        let report = aligned_to_first(pair["site"].as_u64().expect("a site")).report;
        let best = pair["objective_50_seeds"]["max"].as_f64().expect("a figure");
        let identity = pair["objective_identity"].as_f64().expect("a figure");
        println!("site {}: {:.4}, best of 50 seeds {best:.4}", pair["site"], report.objective_after);
        assert!(report.objective_after >= best * 0.995, "{} is below {best}", report.objective_after);
        assert!(
            (report.objective_before - identity).abs() < 1e-6 * identity.abs(),
            "{} is not {identity}",
            report.objective_before
        );
    }
}

#[test]
fn trained_conv_nets_are_aligned_and_a_scrambled_one_is_brought_back() {
    let ((a, _), (b, _)) = (load("convbn8-site0.safetensors"), load("convbn8-site1.safetensors"));
    let spec = Spec::conv_net(a.layout()).expect("a chain").check(a.layout()).expect("fits");
    let report =
        align(&spec, &a, &b, &MatchOptions::default(), &mut rebasin::quietly).expect("aligned").report;
    assert!(
        report.objective_after > report.objective_before && report.l2_after < report.l2_before,
        "{report:?}"
    );
    let scramble = Alignment::random(&spec, 5);
    let scrambled = scramble.apply(&spec, &a).expect("applies");
    let found =
        align(&spec, &a, &scrambled, &MatchOptions::default(), &mut rebasin::quietly).expect("aligned");
    assert_eq!(found.alignment.apply(&spec, &scrambled).expect("applies"), a);
}

/// Images (normalised) and labels of a folder with Fashion-MNIST's test files.
fn test_set(folder: &Path) -> (Vec<Vec<f32>>, Vec<usize>) {
    let read = |name: &str, header: usize| {
        let mut bytes = Vec::new();
        let file =
            File::open(folder.join(name)).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).expect("gzip");
        bytes.split_off(header)
    };
    let images = read("t10k-images-idx3-ubyte.gz", 16);
    let labels = read("t10k-labels-idx1-ubyte.gz", 8);
    let normalise = |image: &[u8]| image.iter().map(|&x| (f32::from(x) / 255.0 - 0.286) / 0.353).collect();
    (images.chunks_exact(784).map(normalise).collect(), labels.into_iter().map(usize::from).collect())
}

/// Mean cross-entropy and accuracy.
fn evaluate(model: &Checkpoint, (images, labels): &(Vec<Vec<f32>>, Vec<usize>)) -> (f64, f64) {
    let (mut loss, mut right) = (0.0, 0.0);
    let mut signal = images.clone();
    for (place, name) in ["net.1", "net.3", "net.5"].into_iter().enumerate() {
        let weight = common::values(model, &format!("{name}.weight"));
        let bias = common::values(model, &format!("{name}.bias"));
        let inputs = signal[0].len();
        let weight = ndarray::Array2::from_shape_vec((bias.len(), inputs), weight).expect("fits");
        let flat = ndarray::Array2::from_shape_vec((signal.len(), inputs), signal.concat()).expect("fits");
        let out = flat.dot(&weight.t()) + ndarray::Array1::from(bias);
        signal = out.rows().into_iter().map(|row| row.to_vec()).collect();
        if place < 2 {
            signal = signal.into_iter().map(common::relu).collect();
        }
    }
    for (logits, &label) in signal.iter().zip(labels) {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
        loss += sum.ln() - f64::from(logits[label] - most);
        right += f64::from(u8::from(logits[label] >= most));
    }
    let count = f64::from(u32::try_from(labels.len()).expect("few"));
    (loss / count, right / count)
}

fn near(what: &str, found: f64, given: &serde_json::Value, within: f64) {
    let given = given.as_f64().expect("a figure");
    println!("{what}: {found:.4}, given {given:.4}");
    assert!((found - given).abs() <= within, "{what}: {found} is not within {within} of {given}");
}

/// The test command tells by the environment where the full set is.
#[expect(clippy::disallowed_methods, reason = "the full set is not in the repository")]
fn full_set() -> Option<PathBuf> {
    std::env::var_os("FEDBASIN_FASHION_MNIST").map(PathBuf::from)
}

/// How far a figure may be from the one given, over the 10,000 test images that it is of.
const FULL_SET: f64 = 0.02;

/// The same over the 2,000 images that are committed: other images move a barrier, by up to 0.045 here.
const SUBSET: f64 = 0.06;

/// Both barriers of each pair, before and after alignment; gives the alignments.
fn barriers_are_near_those_given(
    spec: &CheckedSpec,
    sites: &[Checkpoint],
    set: &(Vec<Vec<f32>>, Vec<usize>),
    within: f64,
) -> Vec<Alignment> {
    let path = |a: &Checkpoint, b: &Checkpoint| {
        let losses: Vec<f64> = (0..25)
            .map(|step| evaluate(&interpolate(a, b, f64::from(step) / 24.0).expect("on the path"), set).0)
            .collect();
        barrier(&losses)
    };
    let mut alignments = vec![Alignment::identity(spec)];
    for pair in figures()["pairs"].as_array().expect("pairs") {
        let index = pair["site"].as_u64().expect("a site");
        let update = &sites[usize::try_from(index).expect("small")];
        let found = aligned_to_first(index).alignment;
        let aligned = found.apply(spec, update).expect("applies");
        let (naive, aligned) = (path(&sites[0], update), path(&sites[0], &aligned));
        near("naive barrier", naive.against_mean, &pair["barrier_naive"], within);
        near("aligned barrier", aligned.against_mean, &pair["barrier_aligned"], within);
        near("naive barrier, chord", naive.against_chord, &pair["barrier_linear_naive"], within);
        near("aligned barrier, chord", aligned.against_chord, &pair["barrier_linear_aligned"], within);
        alignments.push(found);
    }
    alignments
}

#[test]
fn losses_barriers_and_means_are_those_given() {
    let Some(folder) = full_set() else {
        eprintln!("NOT RUN: FEDBASIN_FASHION_MNIST names no folder with the 10,000 test images");
        return;
    };
    let set = test_set(&folder);
    let figures = figures();
    let spec = spec();
    let sites: Vec<Checkpoint> = (0..4).map(|index| site(index).0).collect();
    for (site, given) in sites.iter().zip(figures["sites"].as_array().expect("sites")) {
        let (loss, accuracy) = evaluate(site, &set);
        near("site loss", loss, &given["loss"], FULL_SET);
        near("site accuracy", accuracy, &given["accuracy"], FULL_SET);
    }
    let alignments = barriers_are_near_those_given(&spec, &sites, &set, FULL_SET);
    let counts: Vec<u64> = figures["num_examples"]
        .as_array()
        .expect("counts")
        .iter()
        .map(|n| n.as_u64().expect("a count"))
        .collect();
    let shares = shares(&counts).expect("shares");
    let models: Vec<&Checkpoint> = sites.iter().collect();
    let naive = evaluate(&mean(None, &models, None, &shares).expect("merged"), &set);
    near("naive mean accuracy", naive.1, &figures["naive_mean"]["accuracy"], FULL_SET);
    let merged = mean(Some(&spec), &models, Some(&alignments), &shares).expect("merged");
    near("aligned mean accuracy", evaluate(&merged, &set).1, &figures["aligned_mean"]["accuracy"], FULL_SET);
}

#[test]
fn the_committed_subset_shows_the_same_picture() {
    let set = test_set(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/data"));
    let spec = spec();
    let sites: Vec<Checkpoint> = (0..4).map(|index| site(index).0).collect();
    let alignments = barriers_are_near_those_given(&spec, &sites, &set, SUBSET);
    let models: Vec<&Checkpoint> = sites.iter().collect();
    let shares = shares(&[17_200, 12_800, 17_200, 12_800]).expect("shares");
    let best = sites.iter().map(|site| evaluate(site, &set).1).fold(0.0, f64::max);
    let naive = evaluate(&mean(None, &models, None, &shares).expect("merged"), &set).1;
    let merged = evaluate(&mean(Some(&spec), &models, Some(&alignments), &shares).expect("merged"), &set).1;
    println!("best site {best:.3}, naive mean {naive:.3}, aligned mean {merged:.3}");
    assert!(naive < 0.55 && merged > naive + 0.25 && merged > best - 0.02, "{best} {naive} {merged}");
}

/// The fixtures have ReLU between their layers. Where the search sees them at their canonical scale, and the mean is of units at one scale, it is as
/// good as where scales are left as they came.
#[test]
fn trained_networks_merge_as_well_at_one_scale() {
    let set = test_set(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/data"));
    let sites: Vec<Checkpoint> = (0..4).map(|index| site(index).0).collect();
    let models: Vec<&Checkpoint> = sites.iter().collect();
    let shares = shares(&[17_200, 12_800, 17_200, 12_800]).expect("shares");
    let scaled = relu_chain(sites[0].layout()).check(sites[0].layout()).expect("fits");
    let merged = |spec: &CheckedSpec| {
        let align = |update: &Checkpoint| {
            let options = MatchOptions::default();
            let found = align_canonically(spec, &sites[0], update.clone(), &options, &mut rebasin::quietly);
            found.expect("aligned").alignment
        };
        let alignments: Vec<Alignment> = sites.iter().map(align).collect();
        evaluate(&mean(Some(spec), &models, Some(&alignments), &shares).expect("merged"), &set)
    };
    let ((plain_loss, plain), (loss, accuracy)) = (merged(&spec()), merged(&scaled));
    println!("as they came {plain_loss:.3} {plain:.3}, at one scale {loss:.3} {accuracy:.3}");
    assert!(accuracy > plain - 0.02 && loss < plain_loss + 0.05, "{plain} {accuracy}, {plain_loss} {loss}");
}
