//! The mean of ten models in memory, beside what reading them alone takes.

use std::{fmt::Write as _, time::Instant};

use rayon::prelude::*;
use rebasin::{
    BytesSource, Checkpoint, Dtype, Header, Input, Layout, Tensor, TensorInfo, mean, merge_measured, merge_to,
};

const MODELS: usize = 10;
/// Numbers of a model, in this many tensors.
const NUMBERS: usize = 25_000_000;
const TENSORS: usize = 25;

/// What the design asks of bytes read, GB/s.
const BUDGET: f64 = 12.0;

pub fn run(out: &mut String) {
    let models: Vec<Checkpoint> = (0..MODELS).map(model).collect();
    let all: Vec<&Checkpoint> = models.iter().collect();
    let shares = [1.0 / MODELS as f64; MODELS];
    let gigabytes = (MODELS * NUMBERS * 4) as f64 / 1e9;
    let (mut means, mut floors) = (Vec::new(), Vec::new());
    // By turns, so that whatever disturbs the machine disturbs both.
    for _ in 0..7 {
        let begun = Instant::now();
        std::hint::black_box(mean(None, &all, None, &shares).expect("a mean"));
        means.push(begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        std::hint::black_box(read(&models));
        floors.push(begun.elapsed().as_secs_f64());
    }
    let [mean, floor] = [means, floors].map(super::median);
    let text = format!(
        "| {MODELS} models of {NUMBERS} f32, f64 sums | seconds | GB/s read |\n|---|---|---|\n| mean | {mean:.3} | {:.1} (budget {BUDGET}) |\n\
         | floor: the same bytes read and summed as integers, on all threads | {floor:.3} | {:.1} |\n",
        gigabytes / mean,
        gigabytes / floor,
    );
    println!("{text}");
    let _ = writeln!(out, "{text}");
    measured(models, gigabytes, out);
}

/// The same ten as files that are in memory, merged, and merged while it is measured how each stands beside the others and a reference.
fn measured(models: Vec<Checkpoint>, gigabytes: f64, out: &mut String) {
    let source = |model: Checkpoint| {
        let bytes = model.to_bytes();
        let header = Header::read(&mut &bytes[..], bytes.len() as u64).expect("a header");
        BytesSource::new(bytes, header)
    };
    let reference = source(model(MODELS));
    let sources: Vec<BytesSource> = models.into_iter().map(source).collect();
    let share = 1.0 / MODELS as f64;
    let inputs: Vec<Input<'_>> =
        sources.iter().map(|source| Input { source, alignment: None, share }).collect();
    let (mut plain, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..7 {
        let begun = Instant::now();
        merge_to(None, &inputs, Some(&reference), &mut std::io::sink(), &mut |_, _| {}).expect("merged");
        plain.push(begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        let found = merge_measured(None, &inputs, &reference, &mut std::io::sink(), &mut |_, _| {});
        std::hint::black_box(found.expect("merged").standings());
        beside.push(begun.elapsed().as_secs_f64());
    }
    let [plain, beside] = [plain, beside].map(super::median);
    let text = format!(
        "| the same as files in memory | seconds | times |\n|---|---|---|\n| merged | {plain:.3} ({:.1} GB/s) | 1 |\n\
         | merged and measured beside a reference | {beside:.3} | {:.2} (at most 2) |\n",
        gigabytes / plain,
        beside / plain,
    );
    println!("{text}");
    let _ = writeln!(out, "{text}");
}

fn model(seed: usize) -> Checkpoint {
    let info = |index| TensorInfo {
        name: format!("t{index:02}"),
        dtype: Dtype::F32,
        shape: vec![NUMBERS / TENSORS],
    };
    let layout = Layout::new((0..TENSORS).map(info).collect()).expect("a layout");
    let tensors = layout.tensors().iter().map(|info| {
        let values: Vec<f32> = (0..info.num_elements()).map(|at| ((at * 31 + seed) % 1013) as f32).collect();
        Tensor::from_f32(info, &values).expect("finite")
    });
    Checkpoint::new(layout.clone(), tensors.collect()).expect("fits")
}

fn read(models: &[Checkpoint]) -> u64 {
    let tensors: Vec<&Tensor> = models.iter().flat_map(Checkpoint::tensors).collect();
    let sum = |tensor: &&Tensor| {
        let (words, _) = tensor.bytes().as_chunks::<8>();
        words.iter().fold(0_u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
    };
    tensors.par_iter().map(sum).reduce(|| 0, u64::wrapping_add)
}
