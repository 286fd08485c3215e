//! How long an alignment takes, beside the plain algorithm and the arithmetic's floor, in one run:
//!
//! ```text
//! cargo bench -p rebasin --bench alignment                      all cases; writes rebasin/BENCHMARKS.md
//! cargo bench -p rebasin --bench alignment -- ResNet            some, to the terminal only
//! cargo bench -p rebasin --bench alignment -- --no-plain        without the plain algorithm
//! cargo bench -p rebasin --bench alignment -- --vgg-seeds       VGG-16 by five seeds too, which takes most of an hour
//! ```

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::cast_precision_loss,
    reason = "a benchmark prints rounded figures"
)]

#[path = "support/means.rs"]
mod means;
#[path = "support/plain.rs"]
mod plain;
#[path = "support/shapes.rs"]
mod shapes;
#[path = "support/trained.rs"]
mod trained;

use std::{fmt::Write as _, path::Path, time::Instant};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rebasin::{
    Aligned, Alignment, CheckedSpec, Checkpoint, MatchOptions, Tensor, align, interpolate, quietly, report,
};

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

/// The reference with noise of a part of its deviation.
fn noisy(spec: &CheckedSpec, reference: &Checkpoint, part: f64, seed: u64) -> Checkpoint {
    let noise = normal(spec, seed);
    let tensors = reference.tensors().iter().zip(noise.tensors()).map(|(tensor, noise)| {
        let values = tensor.to_f64().into_iter().zip(noise.to_f64());
        let values: Vec<f64> = values.map(|(value, noise)| value + part * noise).collect();
        Tensor::from_f64(tensor.info(), &values).expect("finite")
    });
    Checkpoint::new(spec.layout().clone(), tensors.collect()).expect("fits")
}

/// The same with half its deviation, permuted.
fn planted(spec: &CheckedSpec, reference: &Checkpoint, seed: u64) -> Checkpoint {
    Alignment::random(spec, seed).apply(spec, &noisy(spec, reference, 0.5, seed)).expect("applies")
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The rate of one large product on all threads, GFLOP/s: the floor's divisor.
fn gemm_rate() -> f64 {
    let n = 3072;
    let values = vec![0.5_f32; n * n];
    let mut product = vec![0.0_f32; n * n];
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let begun = Instant::now();
        rebasin::bench::product(&mut product, n, &values);
        best = best.min(begun.elapsed().as_secs_f64());
    }
    2.0 * (n as f64).powi(3) / best / 1e9
}

/// Two models to align.
struct Case {
    name: String,
    spec: CheckedSpec,
    reference: Checkpoint,
    update: Checkpoint,
}

impl Case {
    /// One start, median of five warm runs.
    fn engine(&self, options: &MatchOptions) -> (f64, Aligned) {
        let once =
            || align(&self.spec, &self.reference, &self.update, options, &mut quietly).expect("aligned");
        let mut aligned = once();
        let times = (0..5).map(|_| {
            let begun = Instant::now();
            aligned = once();
            begun.elapsed().as_secs_f64()
        });
        (median(times.collect()), aligned)
    }

    /// Seconds, and where it ended.
    fn plain(&self, seed: u64) -> (f64, plain::Outcome, f64) {
        let begun = Instant::now();
        let outcome = plain::Plain::new(&self.spec, &self.reference, &self.update).align(seed);
        let seconds = begun.elapsed().as_secs_f64();
        let reached =
            report(&self.spec, &self.reference, &self.update, &outcome.alignment).expect("measured");
        (seconds, outcome, reached.objective_after)
    }
}

/// A name, and what makes the spec.
type Shape = (&'static str, fn() -> CheckedSpec);

const WIDTHS: [usize; 5] = [784, 512, 512, 512, 10];

/// What the design allows a case, in seconds, on the machine that it was measured on.
const BUDGETS: [(&str, f64); 4] = [
    ("ResNet-50, permuted + noise", 0.5),
    ("ResNet-50, unrelated", 0.8),
    ("VGG-16, permuted + noise", 1.5),
    ("VGG-16, unrelated", 4.0),
];

/// That machine's rate in GFLOP/s: the design gives 78 GFLOP a floor of 0.20 s.
const BUDGET_RATE: f64 = 390.0;

/// A budget beside what was measured, both also as multiples of the arithmetic's floor: these compare between machines.
fn budget_line(case: &str, seconds: f64, gflop: f64, rate: f64) -> Option<String> {
    let (_, budget) = BUDGETS.iter().find(|(name, _)| *name == case)?;
    let (theirs, ours) = (gflop / BUDGET_RATE, gflop / rate);
    let (allowed, taken) = (budget / theirs, seconds / ours);
    Some(format!("| {case} | {budget:.1} | {allowed:.2} | {seconds:.3} | {ours:.3} | {taken:.2} |"))
}

fn speed(filter: &str, with_plain: bool, rate: f64, out: &mut String) {
    let mut budgets = String::from(
        "| case | budget, seconds | times its floor | here: seconds | floor | times the floor |\n|---|---|---|---|---|---|\n",
    );
    let shapes: [Shape; 3] = [
        ("ResNet-50", shapes::resnet50),
        ("VGG-16", shapes::vgg16),
        ("MLP 784-512-512-512-10", || shapes::mlp(&WIDTHS)),
    ];
    out.push_str(
        "| case | seconds | floor | sweeps | GFLOP | dense sweep | plain: seconds | sweeps | GFLOP | times faster | \
         objective | plain's |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (shape, make) in shapes {
        for kind in ["permuted + noise", "unrelated"] {
            let name = format!("{shape}, {kind}");
            if !name.contains(filter) {
                continue;
            }
            let spec = make();
            let reference = normal(&spec, 1);
            let update = if kind == "unrelated" { normal(&spec, 2) } else { planted(&spec, &reference, 3) };
            let case = Case { name, spec, reference, update };
            let (seconds, aligned) = case.engine(&MatchOptions { starts: 1, ..MatchOptions::default() });
            let line = speed_line(&case, (seconds, &aligned), with_plain, rate);
            println!("{line}");
            let _ = writeln!(out, "{line}");
            if let Some(line) = budget_line(&case.name, seconds, gflop(&aligned), rate) {
                let _ = writeln!(budgets, "{line}");
            }
        }
    }
    let _ = write!(
        out,
        "\n## The design's budgets\n\nThey were set on a machine whose large product ran at {BUDGET_RATE} GFLOP/s. Seconds compare \
         within one machine, multiples of the floor between machines.\n\n{budgets}"
    );
    println!("\n{budgets}");
}

/// Updates that started from the reference: the identity gate, by how far they went.
fn near(filter: &str, rate: f64, out: &mut String) {
    let heading = "\n## Updates that started from the reference\n\nNoise of that part of the reference's deviation on every number, \
                   nothing permuted.\n\n| case | noise | seconds | floor | GFLOP | dense sweep | nothing moves, proved |\n\
                   |---|---|---|---|---|---|---|\n";
    let mut lines = String::new();
    let shapes: [Shape; 2] = [("ResNet-50", shapes::resnet50), ("VGG-16", shapes::vgg16)];
    for (shape, make) in shapes {
        if !format!("{shape}, near").contains(filter) {
            continue;
        }
        for noise in [0.01, 0.1, 0.3, 0.6] {
            let spec = make();
            let reference = normal(&spec, 1);
            let update = noisy(&spec, &reference, noise, 5);
            let case = Case { name: shape.into(), spec, reference, update };
            let (seconds, aligned) = case.engine(&MatchOptions { starts: 1, ..MatchOptions::default() });
            let done = gflop(&aligned);
            let line = format!(
                "| {shape} | {noise} | {seconds:.3} | {:.3} | {done:.1} | {:.0} | {} |",
                done / rate,
                2.0 * aligned.work.dense_sweep as f64 / 1e9,
                if aligned.report.identity_certified { "yes" } else { "no" }
            );
            println!("{line}");
            let _ = writeln!(lines, "{line}");
        }
    }
    if !lines.is_empty() {
        out.push_str(heading);
        out.push_str(&lines);
    }
}

/// Done for gains.
fn gflop(aligned: &Aligned) -> f64 {
    2.0 * aligned.work.multiply_adds as f64 / 1e9
}

/// Unrelated models drawn by five seeds: how much faster, and whether the objective is ever lower.
fn five_seeds(filter: &str, with_vgg: bool, out: &mut String) {
    let shapes: [Shape; 3] = [
        ("ResNet-50", shapes::resnet50),
        ("MLP 784-512-512-512-10", || shapes::mlp(&WIDTHS)),
        ("VGG-16", shapes::vgg16),
    ];
    out.push_str(
        "| case | times faster: least | most | objective over plain's, per cent: least | most |\n|---|---|---|---|---|\n",
    );
    for (shape, make) in shapes {
        let name = format!("{shape}, unrelated, five seeds");
        if !name.contains(filter) || (shape == "VGG-16" && !with_vgg) {
            continue;
        }
        let (mut faster, mut better) = (Vec::new(), Vec::new());
        for seed in 1..=5 {
            let spec = make();
            let (reference, update) = (normal(&spec, 100 + seed), normal(&spec, 200 + seed));
            let case = Case { name: name.clone(), spec, reference, update };
            let (seconds, aligned) =
                case.engine(&MatchOptions { seed, starts: 1, ..MatchOptions::default() });
            let (plain_seconds, _, objective) = case.plain(seed);
            faster.push(plain_seconds / seconds);
            better.push(100.0 * (aligned.report.objective_after / objective - 1.0));
        }
        let ends = |values: &[f64]| {
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            (least, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
        };
        let ((slow, fast), (worst, best)) = (ends(&faster), ends(&better));
        let line = format!("| {name} | {slow:.1} | {fast:.1} | {worst:+.2} | {best:+.2} |");
        println!("{line}");
        let _ = writeln!(out, "{line}");
    }
}

fn speed_line(case: &Case, (seconds, aligned): (f64, &Aligned), with_plain: bool, rate: f64) -> String {
    let gflop = gflop(aligned);
    let mut line = format!(
        "| {} | {seconds:.3} | {:.3} | {} | {gflop:.0} | {:.0} |",
        case.name,
        gflop / rate,
        aligned.work.sweeps,
        2.0 * aligned.work.dense_sweep as f64 / 1e9
    );
    if with_plain {
        let (plain_seconds, outcome, objective) = case.plain(1);
        let _ = write!(
            line,
            " {plain_seconds:.3} | {} | {:.0} | {:.1} | {:.1} | {objective:.1} |",
            outcome.sweeps,
            2.0 * outcome.multiply_adds as f64 / 1e9,
            plain_seconds / seconds,
            aligned.report.objective_after
        );
    } else {
        let _ = write!(line, " | | | | {:.1} | |", aligned.report.objective_after);
    }
    line
}

/// Objective and merged loss of trained pairs, the engine's best of four starts beside the plain algorithm.
fn trained_pairs(rate: f64, out: &mut String) {
    let (train, test) = (trained::images("train"), trained::images("t10k"));
    out.push_str(
        "| pair | seconds a start: 1 start | 4 starts | floor | sweeps | objective: 1 start | 4 starts | plain | merged loss: 4 starts | plain | \
         naive | parents |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for widths in [&WIDTHS[..], &[784, 128, 128, 10]] {
        let spec = shapes::mlp(widths);
        let layers = widths.len() - 1;
        let models: Vec<Checkpoint> =
            (1..=3).map(|seed| trained::train(&spec, widths, &train, seed, 6)).collect();
        for (first, second) in [(0, 1), (1, 2), (2, 0)] {
            let name = format!("MLP {widths:?}, seeds {} and {}", first + 1, second + 1);
            let case = Case {
                name: name.replace(", ", "-").replace("-seeds", ", seeds").replace(['[', ']'], ""),
                spec: spec.clone(),
                reference: models[first].clone(),
                update: models[second].clone(),
            };
            let (seconds, one) = case.engine(&MatchOptions { starts: 1, ..MatchOptions::default() });
            let (all_seconds, four) = case.engine(&MatchOptions::default());
            let each = all_seconds / f64::from(four.report.starts);
            let (_, plain, plain_objective) = case.plain(1);
            let merged = |alignment: &Alignment| {
                let moved = alignment.apply(&case.spec, &case.update).expect("applies");
                let middle = interpolate(&case.reference, &moved, 0.5).expect("one layout");
                trained::loss(&middle, layers, &test)
            };
            let loss = |model: &Checkpoint| trained::loss(model, layers, &test);
            let gflop = gflop(&one);
            let line = format!(
                "| {} | {seconds:.3} | {each:.3} | {:.3} | {} | {:.2} | {:.2} | {plain_objective:.2} | {:.4} | {:.4} | {:.4} | {:.4}, {:.4} |",
                case.name,
                gflop / rate,
                one.work.sweeps,
                one.report.objective_after,
                four.report.objective_after,
                merged(&four.alignment),
                merged(&plain.alignment),
                merged(&Alignment::identity(&case.spec)),
                loss(&case.reference),
                loss(&case.update),
            );
            println!("{line}");
            let _ = writeln!(out, "{line}");
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let with_plain = !arguments.iter().any(|argument| argument == "--no-plain");
    let filter = arguments.iter().find(|argument| !argument.starts_with("--")).map_or("", String::as_str);
    let rate = gemm_rate();
    let threads = rayon::current_num_threads();
    let mut document = format!(
        "# Alignment: figures of one run\n\nWritten by `cargo bench -p rebasin --bench alignment`, {threads} threads. One large f32 \
         product (3072³) ran at {rate:.0} GFLOP/s; **floor** is the arithmetic done at that rate. Seconds are the median of five \
         warm runs, layout included, files not. **Plain** is Alg. 1 of Git Re-Basin with every gain made anew and every \
         assignment solved cold (by the same solver), once. Inputs are N(0, 1); *permuted + noise* adds half a deviation.\n\n## Speed, one \
         start\n\n"
    );
    println!("one large product: {rate:.0} GFLOP/s on {threads} threads");
    speed(filter, with_plain, rate, &mut document);
    near(filter, rate, &mut document);
    if "mean".contains(filter) {
        document.push_str("\n## Mean in memory\n\n");
        means::run(&mut document);
    }
    if with_plain {
        document.push_str("\n## Unrelated models, five seeds\n\n");
        let with_vgg = arguments.iter().any(|argument| argument == "--vgg-seeds");
        five_seeds(filter, with_vgg, &mut document);
    }
    if "trained".contains(filter) {
        document.push_str("\n## Trained pairs\n\nThe demo's part of Fashion-MNIST, six epochs; losses on its test images.\n\n");
        trained_pairs(rate, &mut document);
    }
    if filter.is_empty() && with_plain {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("BENCHMARKS.md");
        std::fs::write(&path, document).expect("the folder of the crate");
        println!("written: rebasin/BENCHMARKS.md");
    }
}
