//! How long an alignment takes, beside the plain algorithm and the arithmetic's floor, in one run:
//! `cargo bench -p rebasin`. Writes `rebasin/BENCHMARKS.md` when run whole.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::cast_precision_loss,
    reason = "a benchmark prints rounded figures"
)]

#[path = "support/plain.rs"]
mod plain;
#[path = "support/shapes.rs"]
mod shapes;

use std::time::Instant;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rebasin::{Aligned, Alignment, CheckedSpec, Checkpoint, MatchOptions, Tensor, align, quietly, report};

/// A checkpoint of independent N(0, 1) numbers.
fn normal(spec: &CheckedSpec, seed: u64) -> Checkpoint {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let tensors = spec.layout().tensors().iter().map(|info| {
        let values: Vec<f64> = (0..info.num_elements()).map(|_| gauss(&mut rng)).collect();
        Tensor::from_f64(info, &values).expect("finite")
    });
    Checkpoint::new(spec.layout().clone(), tensors.collect()).expect("fits")
}

/// Box and Muller.
fn gauss(rng: &mut ChaCha8Rng) -> f64 {
    let (radius, angle): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

fn planted(spec: &CheckedSpec, reference: &Checkpoint, seed: u64) -> Checkpoint {
    let noise = normal(spec, seed);
    let tensors = reference.tensors().iter().zip(noise.tensors()).map(|(tensor, noise)| {
        let values = tensor.to_f64().into_iter().zip(noise.to_f64());
        let values: Vec<f64> = values.map(|(value, noise)| value + 0.5 * noise).collect();
        Tensor::from_f64(tensor.info(), &values).expect("finite")
    });
    let noisy = Checkpoint::new(spec.layout().clone(), tensors.collect()).expect("fits");
    Alignment::random(spec, seed).apply(spec, &noisy).expect("applies")
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

struct Case {
    name: &'static str,
    spec: CheckedSpec,
    reference: Checkpoint,
    update: Checkpoint,
}

/// A name, and what makes the spec.
type Shape = (&'static str, fn() -> CheckedSpec);

fn cases(filter: &str) -> Vec<Case> {
    let shapes: [Shape; 3] = [
        ("ResNet-50", shapes::resnet50),
        ("VGG-16", shapes::vgg16),
        ("MLP 784-512-512-512-10", || shapes::mlp(&[784, 512, 512, 512, 10])),
    ];
    let mut cases = Vec::new();
    for (shape, make) in shapes {
        for kind in ["permuted + noise", "unrelated"] {
            let name = format!("{shape}, {kind}");
            if !name.contains(filter) {
                continue;
            }
            let spec = make();
            let reference = normal(&spec, 1);
            let update = if kind == "unrelated" { normal(&spec, 2) } else { planted(&spec, &reference, 3) };
            cases.push(Case { name: Box::leak(name.into_boxed_str()), spec, reference, update });
        }
    }
    cases
}

/// The rate of one large product on all threads, GFLOP/s: the floor's divisor.
fn gemm_rate() -> f64 {
    let n = 3072;
    let a = ndarray::Array2::from_elem((n, n), 0.5_f32);
    let mut product = vec![0.0_f32; n * n];
    let mut best = f64::INFINITY;
    for _ in 0..4 {
        let begun = Instant::now();
        rebasin::bench::product(&mut product, n, a.as_slice().expect("contiguous"));
        best = best.min(begun.elapsed().as_secs_f64());
    }
    2.0 * (n as f64).powi(3) / best / 1e9
}

fn run(case: &Case, repeats: usize) -> (f64, Aligned) {
    let options = MatchOptions { starts: 1, ..MatchOptions::default() };
    let once = || align(&case.spec, &case.reference, &case.update, &options, &mut quietly).expect("aligned");
    let mut aligned = once();
    let times = (0..repeats).map(|_| {
        let begun = Instant::now();
        aligned = once();
        begun.elapsed().as_secs_f64()
    });
    (median(times.collect()), aligned)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let filter = arguments.first().map_or("", String::as_str);
    let with_plain = !arguments.iter().any(|argument| argument == "--no-plain");
    let rate = gemm_rate();
    println!("one large product: {rate:.0} GFLOP/s");
    for case in cases(if filter.starts_with("--") { "" } else { filter }) {
        let (seconds, aligned) = run(&case, 5);
        let work = aligned.work;
        let gflop = 2.0 * work.multiply_adds as f64 / 1e9;
        println!(
            "{}: {seconds:.3} s, {} sweeps, {gflop:.0} GFLOP of {:.0} a dense sweep, floor {:.3} s, objective {:.1}",
            case.name,
            work.sweeps,
            2.0 * work.dense_sweep as f64 / 1e9,
            gflop / rate,
            aligned.report.objective_after,
        );
        if with_plain {
            let plain = plain::Plain::new(&case.spec, &case.reference, &case.update);
            let begun = Instant::now();
            let outcome = plain.align(1);
            let seconds = begun.elapsed().as_secs_f64();
            let reached =
                report(&case.spec, &case.reference, &case.update, &outcome.alignment).expect("measured");
            println!(
                "    plain: {seconds:.3} s, {} sweeps, {:.0} GFLOP, objective {:.1}",
                outcome.sweeps,
                2.0 * outcome.multiply_adds as f64 / 1e9,
                reached.objective_after
            );
        }
    }
}
