//! Claims that hold for every network of a kind.

mod common;

use common::{
    assert_close, batch_norm, checkpoint, conv_layout, conv_pair, conv3, layout, linear, mlp, mlp_layout,
    options, relu,
};
use std::ops::ControlFlow;

use proptest::prelude::*;
use rebasin::{
    Alignment, Checkpoint, Input, Layout, Objective, Progress, Spec, StraightThroughOptions, Tensor, align,
    assign, mean, merge_to, straight_through,
};

fn conv_net(model: &Checkpoint, channels: usize, side: usize, input: &[f32]) -> Vec<f32> {
    let signal = relu(batch_norm(model, "features.1", &conv3(model, "features.0", input, 2, side)));
    let signal = relu(batch_norm(model, "features.4", &conv3(model, "features.3", &signal, channels, side)));
    linear(model, "head.3", &relu(linear(model, "head.1", &signal)))
}

fn input(length: usize, seed: u64) -> Vec<f32> {
    common::values(&checkpoint(&layout(&[("x", &[length])]), seed), "x")
}

fn with_noise(model: &Checkpoint, seed: u64, scale: f64) -> Checkpoint {
    let noise = checkpoint(model.layout(), seed);
    let tensors = model.tensors().iter().zip(noise.tensors()).map(|(tensor, noise)| {
        if !tensor.info().dtype.is_float() {
            return tensor.clone();
        }
        let values: Vec<f64> =
            tensor.to_f64().iter().zip(noise.to_f64()).map(|(value, noise)| value + scale * noise).collect();
        Tensor::from_f64(tensor.info(), &values).expect("finite")
    });
    Checkpoint::new(model.layout().clone(), tensors.collect()).expect("fits")
}

fn best_by_trying_all(gain: &[Vec<f32>]) -> f64 {
    fn go(gain: &[Vec<f32>], row: usize, used: &mut Vec<bool>) -> f64 {
        if row == gain.len() {
            return 0.0;
        }
        let mut best = f64::NEG_INFINITY;
        for column in 0..gain.len() {
            if !used[column] {
                used[column] = true;
                best = best.max(f64::from(gain[row][column]) + go(gain, row + 1, used));
                used[column] = false;
            }
        }
        best
    }
    go(gain, 0, &mut vec![false; gain.len()])
}

fn matrix(n: usize, values: &[f32]) -> ndarray::Array2<f32> {
    ndarray::Array2::from_shape_vec((n, n), values[..n * n].to_vec()).expect("n x n")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_permuted_mlp_computes_the_same(hidden in 1_usize..20, seed: u64) {
        let layout = mlp_layout(7, hidden, 3);
        let spec = Spec::mlp(&layout).expect("a chain").check(&layout).expect("fits");
        let model = checkpoint(&layout, seed);
        let permuted = Alignment::random(&spec, seed).apply(&spec, &model).expect("applies");
        let names = ["fc1", "fc2", "fc10"];
        let x = input(7, seed ^ 1);
        assert_close(&mlp(&model, &names, &x), &mlp(&permuted, &names, &x));
        let back = Alignment::random(&spec, seed).inverse_permutations().apply(&spec, &permuted).expect("applies");
        prop_assert_eq!(back, model);
    }

    #[test]
    fn a_permuted_conv_net_computes_the_same(channels in 1_usize..6, side in 1_usize..5, seed: u64) {
        let layout = conv_layout(channels, side);
        let spec = Spec::conv_net(&layout).expect("a chain").check(&layout).expect("fits");
        let model = checkpoint(&layout, seed);
        let permuted = Alignment::random(&spec, seed).apply(&spec, &model).expect("applies");
        let x = input(2 * side * side, seed ^ 1);
        assert_close(&conv_net(&model, channels, side, &x), &conv_net(&permuted, channels, side, &x));
    }

    #[test]
    fn a_planted_permutation_is_found(hidden in 8_usize..40, seed: u64) {
        let layout = mlp_layout(30, hidden, 10);
        let spec = Spec::mlp(&layout).expect("a chain").check(&layout).expect("fits");
        let reference = checkpoint(&layout, seed);
        let planted = Alignment::random(&spec, seed);
        let update = with_noise(&planted.apply(&spec, &reference).expect("applies"), seed ^ 2, 0.2);
        let found = align(&spec, &reference, &update, &options(seed), &mut rebasin::quietly).expect("aligned");
        prop_assert_eq!(found.alignment, planted.inverse_permutations());
    }

    #[test]
    fn the_objective_never_falls_and_the_distance_never_grows(hidden in 2_usize..16, a: u64, b: u64) {
        let layout = mlp_layout(6, hidden, 4);
        let spec = Spec::mlp(&layout).expect("a chain").check(&layout).expect("fits");
        let (reference, update) = (checkpoint(&layout, a), checkpoint(&layout, b));
        let mut last = [f64::NEG_INFINITY; 8];
        let mut falls = Vec::new();
        let aligned = align(&spec, &reference, &update, &options(a), &mut |event| {
            match event {
                Progress::Sweep { start, objective, .. } => {
                    let last = std::mem::replace(&mut last[start], objective);
                    if objective < last {
                        falls.push((last, objective));
                    }
                }
                Progress::Starts { .. } | Progress::Group { .. } | Progress::Balance { .. } => {}
            }
            ControlFlow::Continue(())
        }).expect("aligned");
        prop_assert!(falls.is_empty(), "{:?}", falls);
        let report = aligned.report;
        prop_assert!(report.objective_after >= report.objective_before - 1e-9);
        prop_assert!(report.l2_after <= report.l2_before + 1e-9);
        let again = aligned.alignment.apply(&spec, &update).expect("applies");
        let second = align(&spec, &reference, &again, &options(a), &mut rebasin::quietly).expect("aligned").report;
        prop_assert!(second.objective_after >= report.objective_after - 1e-9, "a second pass cannot lose");
    }

    #[test]
    fn what_is_in_the_frame_already_is_certified(hidden in 2_usize..20, seed: u64) {
        let layout = mlp_layout(30, hidden, 4);
        let spec = Spec::mlp(&layout).expect("a chain").check(&layout).expect("fits");
        let reference = checkpoint(&layout, seed);
        let update = with_noise(&reference, seed ^ 3, 0.05);
        let report = align(&spec, &reference, &update, &options(0), &mut rebasin::quietly).expect("aligned").report;
        prop_assert!(report.identity_certified);
        prop_assert_eq!((report.moved.to_bits(), report.sweeps), (0.0_f64.to_bits(), 0));
    }

    #[test]
    fn assignment_equals_brute_force(n in 1_usize..=7, values in prop::collection::vec(-3.0_f32..3.0, 49)) {
        let gain = matrix(n, &values);
        let rows: Vec<Vec<f32>> = gain.rows().into_iter().map(|row| row.to_vec()).collect();
        let solved = assign(gain.view());
        prop_assert!((solved.value - best_by_trying_all(&rows)).abs() < 1e-9);
        prop_assert!(solved.violation(gain.view()) < 1e-9);
    }

    #[test]
    fn assignment_survives_ties(n in 1_usize..=7, values in prop::collection::vec(0_u8..3, 49)) {
        let values: Vec<f32> = values.into_iter().map(f32::from).collect();
        let gain = matrix(n, &values);
        let rows: Vec<Vec<f32>> = gain.rows().into_iter().map(|row| row.to_vec()).collect();
        let solved = assign(gain.view());
        prop_assert!((solved.value - best_by_trying_all(&rows)).abs() < 1e-9);
        prop_assert!(solved.violation(gain.view()) < 1e-9);
    }

    #[test]
    fn a_large_assignment_proves_itself(n in 8_usize..120, seed: u64) {
        let values = input(n * n, seed);
        let gain = matrix(n, &values);
        let solved = assign(gain.view());
        let dual: f64 = solved.row_dual.iter().chain(&solved.col_dual).sum();
        prop_assert!(solved.violation(gain.view()) < 1e-9);
        prop_assert!((solved.value - dual).abs() < 1e-6);
    }

    #[test]
    fn a_scrambled_update_merges_to_the_same_bytes(hidden in 4_usize..16, seed: u64) {
        let layout = mlp_layout(20, hidden, 4);
        let spec = Spec::mlp(&layout).expect("a chain").check(&layout).expect("fits");
        let reference = checkpoint(&layout, seed);
        let update = with_noise(&reference, seed ^ 5, 0.3);
        let scrambled = Alignment::random(&spec, seed ^ 6).apply(&spec, &update).expect("applies");
        let merged = |update: &Checkpoint| {
            let found = align(&spec, &reference, update, &options(1), &mut rebasin::quietly).expect("aligned").alignment;
            let alignments = [Alignment::identity(&spec), found];
            mean(Some(&spec), &[&reference, update], Some(&alignments), &[0.5, 0.5]).expect("merged").to_bytes()
        };
        prop_assert_eq!(merged(&update), merged(&scrambled));
    }
}

/// The loss of a model is its squared distance to a target: its gradient is known.
struct DistanceTo(Checkpoint);

impl Objective for DistanceTo {
    type Error = rebasin::MergeError;

    fn loss_and_gradient(&mut self, model: &Checkpoint) -> Result<(f64, Vec<Vec<f32>>), Self::Error> {
        let mut loss = 0.0;
        let gradient = model.tensors().iter().zip(self.0.tensors()).map(|(model, target)| {
            let pairs = model.to_f32().into_iter().zip(target.to_f32());
            let differences: Vec<f32> = pairs.map(|(value, target)| value - target).collect();
            loss += differences.iter().map(|&d| f64::from(d) * f64::from(d)).sum::<f64>();
            differences.iter().map(|difference| 2.0 * difference).collect()
        });
        let gradient = gradient.collect();
        Ok((loss, gradient))
    }
}

#[test]
fn straight_through_ends_no_higher_than_it_began_and_can_be_stopped() {
    let layout = mlp_layout(12, 10, 4);
    let spec = Spec::mlp(&layout).expect("a chain").check(&layout).expect("fits");
    let (reference, update) = (checkpoint(&layout, 1), checkpoint(&layout, 2));
    // A target that another permutation of the update lies nearer to than the one that weight matching finds.
    let elsewhere = Alignment::random(&spec, 3).apply(&spec, &update).expect("applies");
    let target = mean(None, &[&reference, &elsewhere], None, &[0.5, 0.5]).expect("merged");
    let options = StraightThroughOptions { steps: 60, learning_rate: 0.5, ..Default::default() };
    let mut objective = DistanceTo(target);
    let found = straight_through(&spec, &reference, &update, &mut objective, &options, &mut |_, _| {
        ControlFlow::Continue(())
    })
    .expect("descends");
    found.alignment.check(&spec).expect("allowed");
    assert_eq!(found.losses.len(), 60);
    assert!(found.loss < found.losses[0], "{} after {}", found.loss, found.losses[0]);
    let stopped = straight_through(&spec, &reference, &update, &mut objective, &options, &mut |step, _| {
        if step == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .expect("what was found");
    assert_eq!(stopped.losses, found.losses[..5]);
}

#[test]
fn a_search_from_an_alignment_never_ends_below_it() {
    let layout = mlp_layout(30, 24, 4);
    let spec = Spec::mlp(&layout).expect("a chain").check(&layout).expect("fits");
    for seed in 0..8 {
        let (reference, update) = (checkpoint(&layout, seed), checkpoint(&layout, seed + 90));
        let from = Alignment::random(&spec, seed);
        let at = rebasin::report(&spec, &reference, &update, &from).expect("a report").objective_after;
        let found =
            rebasin::align_from(&spec, &reference, &update, &from, &options(seed), &mut rebasin::quietly)
                .expect("aligned");
        assert!(found.report.objective_after >= at);
        let again = rebasin::align_from(
            &spec,
            &reference,
            &update,
            &found.alignment,
            &options(seed),
            &mut rebasin::quietly,
        )
        .expect("aligned");
        assert_eq!(again.alignment, found.alignment, "an end is an end");
    }
}

#[test]
fn a_corrected_mean_has_rows_of_its_parents_size() {
    let (spec, models) = conv_pair();
    let parents: Vec<&Checkpoint> = models.iter().collect();
    let shares = [0.5, 0.3, 0.2];
    let identity = vec![Alignment::identity(&spec); 3];
    let merged = mean(Some(&spec), &parents, Some(&identity), &shares).expect("merged");
    let corrected = rebasin::restore_norms(&spec, &merged, &parents, &shares).expect("corrected");
    let norms = |model: &Checkpoint| -> Vec<f64> {
        let rows = common::values(model, "features.3.weight");
        rows.chunks(4 * 9)
            .map(|row| row.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>().sqrt())
            .collect()
    };
    let goals: Vec<Vec<f64>> = models.iter().map(norms).collect();
    for (row, norm) in norms(&corrected).into_iter().enumerate() {
        let goal: f64 = goals.iter().zip(shares).map(|(norms, share)| share * norms[row]).sum();
        assert!((norm - goal).abs() < 1e-5 * goal, "row {row}: {norm} is not {goal}");
        assert!(norm > norms(&merged)[row], "averaging made it smaller");
    }
    let head = |model: &Checkpoint| common::values(model, "head.3.weight");
    assert_eq!(head(&corrected), head(&merged), "rows that do not move are left alone");
}

#[test]
fn the_outcome_does_not_depend_on_the_number_of_threads() {
    // The second: products of several tiles. The third: eight groups that share tensors with one alone, so they are solved side by side.
    let (narrow, wide) = (mlp_layout(40, 90, 10), mlp_layout(40, 300, 10));
    let inner: Vec<String> = (0..8).map(|block| format!("inner{block}")).collect();
    let blocks: Vec<(String, [usize; 2])> = inner
        .iter()
        .flat_map(|name| [(format!("{name}.in"), [30, 70]), (format!("{name}.out"), [70, 30])])
        .collect();
    let tensors: Vec<(&str, &[usize])> =
        blocks.iter().map(|(name, shape)| (name.as_str(), &shape[..])).collect();
    let residual = layout(&tensors);
    let group = |name: &str, size: usize| format!(r#""{name}":{{"size":{size},"kind":"symmetric"}}"#);
    let groups: Vec<String> = inner.iter().map(|name| group(name, 30)).chain([group("stream", 70)]).collect();
    let axes: Vec<String> = inner
        .iter()
        .map(|name| format!(r#""{name}.in":["{name}","stream"],"{name}.out":["stream","{name}"]"#))
        .collect();
    let residual_spec = Spec::from_json(&format!(
        r#"{{"format":"fedbasin.spec/1","groups":{{{}}},"tensors":{{{}}}}}"#,
        groups.join(","),
        axes.join(",")
    ))
    .expect("a spec");
    for (spec, layout) in [
        (Spec::mlp(&narrow).expect("a chain"), narrow),
        (Spec::mlp(&wide).expect("a chain"), wide),
        (residual_spec, residual),
    ] {
        let spec = spec.check(&layout).expect("fits");
        let (a, b) = (checkpoint(&layout, 1), checkpoint(&layout, 2));
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| align(&spec, &a, &b, &options(9), &mut rebasin::quietly).expect("aligned"))
        };
        let one = on(1);
        assert_eq!(one, on(2));
        assert_eq!(one, on(8));
    }
}

#[test]
fn the_blockwise_mean_is_the_mean_of_the_aligned_models() {
    let (spec, models) = conv_pair();
    let alignments: Vec<Alignment> = (0..3).map(|seed| Alignment::random(&spec, seed)).collect();
    let shares = [0.5, 0.3, 0.2];
    let aligned: Vec<Checkpoint> =
        models.iter().zip(&alignments).map(|(model, a)| a.apply(&spec, model).expect("applies")).collect();
    let merged =
        mean(Some(&spec), &models.iter().collect::<Vec<_>>(), Some(&alignments), &shares).expect("merged");
    for (index, info) in spec.layout().tensors().iter().enumerate() {
        if !info.dtype.is_float() {
            assert_eq!(merged.tensor(index), models[0].tensor(index), "integers come from the reference");
            continue;
        }
        let parts: Vec<Vec<f64>> = aligned.iter().map(|model| model.tensor(index).to_f64()).collect();
        for (element, merged) in merged.tensor(index).to_f32().into_iter().enumerate() {
            let mut expected = 0.0;
            for (part, share) in parts.iter().zip(shares) {
                expected += share * part[element];
            }
            #[expect(clippy::cast_possible_truncation, reason = "rounded once, as the mean is")]
            let expected = expected as f32;
            assert_eq!(merged.to_bits(), expected.to_bits(), "{} {element}", info.name);
        }
    }
}

#[test]
fn a_merge_that_overflows_its_dtype_is_refused() {
    let info = rebasin::TensorInfo { name: "w".into(), dtype: rebasin::Dtype::F16, shape: vec![1] };
    let layout = Layout::new(vec![info.clone()]).expect("a layout");
    let tensor = Tensor::from_f64(&info, &[60_000.0]).expect("fits f16");
    let model = Checkpoint::new(layout, vec![tensor]).expect("fits");
    let error = mean(None, &[&model, &model], None, &[1.0, 1.0]).expect_err("120000 is beyond f16");
    assert!(error.to_string().contains("tensor w"), "{error}");
}

#[test]
fn the_file_that_a_merge_writes_has_the_digest_it_says() {
    let (spec, models) = conv_pair();
    let sources: Vec<rebasin::BytesSource> = models
        .iter()
        .map(|model| {
            let bytes = model.to_bytes();
            let header = rebasin::Header::read(&mut bytes.as_slice(), bytes.len() as u64).expect("a header");
            rebasin::BytesSource::new(bytes, header)
        })
        .collect();
    let inputs: Vec<Input<'_>> =
        sources.iter().map(|source| Input { source, alignment: None, share: 1.0 / 3.0 }).collect();
    let mut bytes = Vec::new();
    let mut out = rebasin::HashingWriter::new(&mut bytes);
    merge_to(Some(&spec), &inputs, None, &mut out, &mut |_, _| {}).expect("merged");
    assert_eq!(out.finish(), rebasin::Digest::of(&bytes));
    Checkpoint::from_bytes(&bytes).expect("a strict reader takes it");
}
