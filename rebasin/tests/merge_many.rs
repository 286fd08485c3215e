//! What MergeMany claims.

mod common;

use std::ops::ControlFlow;

use common::{checkpoint, conv_layout, conv_pair, mlp_layout, options};
use proptest::prelude::*;
use rebasin::{
    AlignError, Alignment, CheckedSpec, Checkpoint, MergeError, MergeMany, MergeProgress, Spec, merge_many,
};

fn quiet(_: MergeProgress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn merged(spec: &CheckedSpec, models: &[Checkpoint], shares: &[f64], seed: u64) -> MergeMany {
    let mut load = |index: usize| Ok::<_, MergeError>(models[index].clone());
    merge_many(spec, models.len(), &mut load, shares, &options(seed), &mut quiet).expect("merged")
}

fn copies(spec: &CheckedSpec, model: &Checkpoint, n: u64) -> Vec<Checkpoint> {
    (0..n).map(|seed| Alignment::random(spec, seed).apply(spec, model).expect("applies")).collect()
}

/// The squared norm of a mean.
fn square(spec: &CheckedSpec, models: &[Checkpoint], alignments: &[Alignment], shares: &[f64]) -> f64 {
    let models: Vec<&Checkpoint> = models.iter().collect();
    let mean = rebasin::mean(Some(spec), &models, Some(alignments), shares).expect("a mean");
    let floats = mean.tensors().iter().filter(|tensor| tensor.info().dtype.is_float());
    floats.flat_map(rebasin::Tensor::to_f64).map(|value| value * value).sum()
}

#[test]
fn permuted_copies_come_together() {
    let (spec, models) = conv_pair();
    let copies = copies(&spec, &models[0], 4);
    let many = merged(&spec, &copies, &[0.25; 4], 3);
    let aligned: Vec<Checkpoint> =
        copies.iter().zip(&many.alignments).map(|(copy, a)| a.apply(&spec, copy).expect("applies")).collect();
    assert!(aligned.iter().all(|model| *model == aligned[0]), "all copies lie in one frame");
    assert!(many.improvements() > 0 && many.iterations.iter().any(|pass| pass.moved > 0.0));
    let own = square(&spec, &models[..1], &[Alignment::identity(&spec)], &[1.0]);
    assert!((many.objective() - own).abs() < 1e-5 * own, "{} {own}", many.objective());
}

#[test]
fn a_single_checkpoint_stays_and_has_no_passes() {
    let (spec, models) = conv_pair();
    let many = merged(&spec, &models[..1], &[1.0], 3);
    assert!(many.iterations.is_empty() && many.alignments == [Alignment::identity(&spec)]);
    assert!(many.objective() > 0.0 && (many.objective() - many.objective_before).abs() < f64::EPSILON);
}

#[test]
fn whoever_observes_sees_every_turn_and_may_end_it() {
    let (spec, models) = conv_pair();
    let copies = copies(&spec, &models[0], 3);
    let mut load = |index: usize| Ok::<_, MergeError>(copies[index].clone());
    let (mut turns, mut passes, mut searches) = (Vec::new(), Vec::new(), 0);
    let many = merge_many(&spec, 3, &mut load, &[1.0 / 3.0; 3], &options(1), &mut |event| {
        match event {
            MergeProgress::Turn { iteration, index, done } => turns.push((iteration, index, done)),
            MergeProgress::Search(_) => searches += 1,
            MergeProgress::Iteration { outcome, .. } => passes.push(outcome.clone()),
        }
        ControlFlow::Continue(())
    })
    .expect("merged");
    assert_eq!(passes, many.iterations);
    assert_eq!(turns.len(), 3 * passes.len());
    assert!(searches >= turns.len());
    for (pass, turns) in turns.chunks(3).enumerate() {
        let mut seen: Vec<usize> = turns.iter().map(|&(_, index, _)| index).collect();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2]);
        let order = turns.iter().map(|&(iteration, _, done)| (iteration as usize, done));
        assert!(order.eq((0..3).map(|done| (pass + 1, done))), "{turns:?}");
    }
    let last = turns.len();
    for end in 0..last {
        let mut seen = 0;
        let ended = merge_many(&spec, 3, &mut load, &[1.0 / 3.0; 3], &options(1), &mut |event| {
            if matches!(event, MergeProgress::Turn { .. }) {
                seen += 1;
            }
            if seen > end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(ended, Err(MergeError::Align(AlignError::Cancelled))), "at turn {end}: {ended:?}");
    }
}

#[test]
fn the_outcome_does_not_depend_on_the_number_of_threads() {
    let layout = mlp_layout(9, 24, 4);
    let spec = Spec::mlp(&layout).expect("a chain").check(&layout).expect("fits");
    let models: Vec<Checkpoint> = (0..4).map(|seed| checkpoint(&layout, seed)).collect();
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| merged(&spec, &models, &[0.1, 0.2, 0.3, 0.4], 7))
    };
    let one = with(1);
    assert!(one.improvements() > 0);
    assert_eq!(with(2), one);
    assert_eq!(with(8), one);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn the_mean_never_gets_shorter(width in 2_usize..16, n in 2_usize..6, seed: u64, conv: bool) {
        let layout = if conv { conv_layout(width.min(6), 2) } else { mlp_layout(5, width, 3) };
        let spec = if conv { Spec::conv_net(&layout) } else { Spec::mlp(&layout) };
        let spec = spec.expect("a chain").check(&layout).expect("fits");
        let models: Vec<Checkpoint> = (0..n as u64).map(|k| checkpoint(&layout, seed.wrapping_add(k))).collect();
        let counts: Vec<u64> = (1..=n as u64).collect();
        let shares = rebasin::shares(&counts).expect("counts above 0");
        let many = merged(&spec, &models, &shares, seed);
        let mut last = many.objective_before;
        for pass in &many.iterations {
            prop_assert!(pass.objective >= last * (1.0 - 1e-9), "{:?}", many.iterations);
            prop_assert!((pass.improvements > 0) == (pass.moved > 0.0));
            last = pass.objective;
        }
        prop_assert_eq!(many.iterations.last().map(|pass| pass.improvements), Some(0));
        let identities = vec![Alignment::identity(&spec); n];
        let before = square(&spec, &models, &identities, &shares);
        prop_assert!((many.objective_before - before).abs() < 1e-5 * before);
        let after = square(&spec, &models, &many.alignments, &shares);
        prop_assert!((many.objective() - after).abs() < 1e-5 * after);
    }
}
