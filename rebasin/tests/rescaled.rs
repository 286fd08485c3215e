//! Claims about updates whose units were multiplied on their way in and divided on their way out.

mod common;

use common::{checkpoint, forms::relu_chain, mlp_layout, options};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rebasin::{
    AlignError, Aligned, Alignment, BytesSource, CheckedSpec, Checkpoint, Dtype, Header, Input, Layout,
    Tensor, TensorInfo, align_canonically, canonical_scale, mean, merge_measured, quietly, report, rescale,
};

fn chain(layout: &Layout) -> CheckedSpec {
    relu_chain(layout).check(layout).expect("fits")
}

fn fixture(site: usize) -> Checkpoint {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = path.join(format!("tests/data/mlp128-site{site}.safetensors"));
    Checkpoint::from_bytes(&std::fs::read(path).expect("a fixture")).expect("a checkpoint")
}

/// Trained networks that started from different numbers, in pairs.
fn strangers() -> Vec<(CheckedSpec, Checkpoint, Checkpoint)> {
    let pairs = [(0, 1), (0, 2), (3, 1), (2, 3)];
    pairs.map(|(one, other)| (chain(fixture(one).layout()), fixture(one), fixture(other))).into()
}

/// Units multiplied by up to 8, or divided by as much, and then permuted.
fn scrambled(spec: &CheckedSpec, model: &Checkpoint, seed: u64) -> Checkpoint {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let units = |scale: &rebasin::Scale| spec.groups()[scale.group].units;
    let factors: Vec<Vec<f64>> = spec
        .scales()
        .iter()
        .map(|scale| (0..units(scale)).map(|_| f64::exp2(6.0 * rng.random::<f64>() - 3.0)).collect())
        .collect();
    let scaled = rescale(spec, model, &factors).expect("scaled");
    Alignment::random(spec, seed).apply(spec, &scaled).expect("permuted")
}

fn aligned(spec: &CheckedSpec, reference: &Checkpoint, update: &Checkpoint) -> Aligned {
    align_canonically(spec, reference, update.clone(), &options(9), &mut quietly).expect("aligned")
}

fn outcome(spec: &CheckedSpec, reference: &Checkpoint, update: &Checkpoint) -> Checkpoint {
    aligned(spec, reference, update).alignment.apply(spec, update).expect("applies")
}

/// The largest difference of two checkpoints, relative to the largest weight of each tensor.
fn difference(a: &Checkpoint, b: &Checkpoint) -> f64 {
    let of = |a: &Tensor, b: &Tensor| {
        let (a, b) = (a.to_f64(), b.to_f64());
        let size = a.iter().fold(f64::MIN_POSITIVE, |size, value| size.max(value.abs()));
        a.iter().zip(&b).fold(0.0_f64, |most, (a, b)| most.max((a - b).abs() / size))
    };
    a.tensors().iter().zip(b.tensors()).fold(0.0, |most, (a, b)| most.max(of(a, b)))
}

#[test]
fn rescaled_strangers_come_to_the_same_aligned_checkpoint_but_for_rounding() {
    for (index, (spec, reference, update)) in strangers().iter().enumerate() {
        let expected = outcome(spec, reference, update);
        for seed in 0..8 {
            let apart = difference(&outcome(spec, reference, &scrambled(spec, update, seed)), &expected);
            assert!(apart < 1e-5, "pair {index}, seed {seed}: {apart}");
        }
    }
}

#[test]
fn permuted_strangers_come_to_the_same_bytes_where_scales_count_too() {
    for (index, (spec, reference, update)) in strangers().iter().enumerate() {
        let expected = outcome(spec, reference, update);
        for seed in 0..8 {
            let copy = Alignment::random(spec, seed).apply(spec, update).expect("permuted");
            assert!(outcome(spec, reference, &copy) == expected, "pair {index}, seed {seed}");
        }
    }
}

#[test]
fn a_rescaled_reference_comes_back_and_itself_stays() {
    for (spec, reference, _) in strangers() {
        let found = aligned(&spec, &reference, &reference);
        assert!(found.report.identity_certified && found.report.moved == 0.0);
        assert!(found.alignment.factors.iter().flatten().all(|factor| *factor == 1.0));
        let apart = difference(&outcome(&spec, &reference, &scrambled(&spec, &reference, 4)), &reference);
        assert!(apart < 1e-6, "{apart}");
    }
}

#[test]
fn the_report_is_of_both_at_their_canonical_scale() {
    for (spec, reference, update) in strangers() {
        let found = aligned(&spec, &reference, &update);
        let own = &found.report;
        let measured = report(&spec, &reference, &update, &found.alignment).expect("a report");
        let near = |a: f64, b: f64| (a - b).abs() < 1e-6 * a.abs();
        assert!(near(own.objective_before, measured.objective_before));
        assert!(near(own.objective_after, measured.objective_after));
        assert!(near(own.l2_after, measured.l2_after));
        assert!(own.l2_after < own.l2_before);
        let scale = own.scale.expect("scales are told");
        assert!(scale.least < scale.greatest && measured.scale == own.scale);
        let norm = canonical_scale(&spec, &reference).expect("balanced").checkpoint;
        let norm =
            norm.tensors().iter().flat_map(Tensor::to_f64).map(|value| value * value).sum::<f64>().sqrt();
        assert!(near(scale.reference_norm, norm), "the norm is of the reference at the same scale");
        let copy = aligned(&spec, &reference, &scrambled(&spec, &update, 2));
        assert!(near(own.l2_after, copy.report.l2_after), "and no factor of the update's counts");
    }
}

/// What the format of a stored alignment was before there were factors.
#[test]
fn an_alignment_is_stored_with_its_factors_and_without_where_there_are_none() {
    let (spec, reference, update) = strangers().swap_remove(0);
    let found = aligned(&spec, &reference, &update).alignment;
    let text = serde_json::to_string(&found).expect("stored");
    assert_eq!(serde_json::from_str::<Alignment>(&text).expect("read"), found, "to the bit");
    let plain = Alignment::from(found.permutations.clone());
    let text = serde_json::to_string(&plain).expect("stored");
    assert!(!text.contains("factors"), "{text}");
    assert_eq!(serde_json::from_str::<Alignment>(&text).expect("read"), plain);
    for wrong in [vec![vec![1.0; 3]], vec![vec![0.0; 128]; 3], vec![vec![f32::NAN; 128]; 3]] {
        let wrong = Alignment { factors: wrong, ..plain.clone() };
        assert!(wrong.apply(&spec, &update).is_err());
    }
}

#[test]
fn one_alignment_after_another_is_their_composition() {
    let layout = mlp_layout(5, 8, 3);
    let spec = chain(&layout);
    let with_factors = |seed: u64| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let units = |scale: &rebasin::Scale| spec.groups()[scale.group].units;
        // Powers of two: nothing is rounded.
        let factors = spec
            .scales()
            .iter()
            .map(|scale| (0..units(scale)).map(|_| f32::powi(2.0, rng.random_range(-3..4))).collect());
        Alignment { factors: factors.collect(), ..Alignment::random(&spec, seed) }
    };
    let model = checkpoint(&layout, 2);
    let plain = Alignment::random(&spec, 5);
    for (first, second) in [
        (with_factors(1), with_factors(2)),
        (plain.clone(), with_factors(3)),
        (with_factors(4), plain.clone()),
        (plain.clone(), plain),
    ] {
        let in_turn =
            first.apply(&spec, &model).and_then(|model| second.apply(&spec, &model)).expect("applies");
        let at_once = second.compose(&spec, &first).apply(&spec, &model).expect("applies");
        assert!(in_turn == at_once);
    }
}

#[test]
fn merging_block_by_block_scales_as_applying_does() {
    let wide = |dtype: Dtype| {
        let info = |name: &str, shape: &[usize]| TensorInfo { name: name.into(), dtype, shape: shape.into() };
        // Tensors of several blocks.
        Layout::new(vec![
            info("0.weight", &[700, 300]),
            info("0.bias", &[700]),
            info("1.weight", &[300, 700]),
            info("1.bias", &[300]),
        ])
        .expect("a layout")
    };
    for dtype in [Dtype::F32, Dtype::BF16, Dtype::F64] {
        let layout = wide(dtype);
        let spec = chain(&layout);
        let reference = checkpoint(&layout, 1);
        let updates = [scrambled(&spec, &reference, 5), scrambled(&spec, &checkpoint(&layout, 2), 6)];
        let alignments = updates.each_ref().map(|update| aligned(&spec, &reference, update).alignment);
        assert!(alignments.iter().all(|alignment| !alignment.factors.is_empty()));
        let applied: Vec<Checkpoint> = updates
            .iter()
            .zip(&alignments)
            .map(|(update, alignment)| alignment.apply(&spec, update).expect("applies"))
            .collect();
        let expected = mean(None, &[&applied[0], &applied[1]], None, &[0.25, 0.75]).expect("merged");
        let source = |checkpoint: &Checkpoint| {
            let bytes = checkpoint.to_bytes();
            let header = Header::read(&mut &bytes[..], bytes.len() as u64).expect("a header");
            BytesSource::new(bytes, header)
        };
        let (sources, reference) = (updates.each_ref().map(source), source(&reference));
        let inputs: Vec<Input<'_>> = sources
            .iter()
            .zip(&alignments)
            .zip([0.25, 0.75])
            .map(|((source, alignment), share)| Input { source, alignment: Some(alignment), share })
            .collect();
        let mut out = Vec::new();
        merge_measured(Some(&spec), &inputs, &reference, &mut out, &mut |_, _| {}).expect("merged");
        assert!(out == expected.to_bytes(), "{dtype:?}");
    }
}

/// A unit that nothing comes into may send anything: its neighbours' scale is not its to choose.
#[test]
fn what_goes_out_of_an_idle_unit_changes_no_other_units_scale() {
    let layout = mlp_layout(5, 8, 3);
    let spec = chain(&layout);
    let (reference, update) = (checkpoint(&layout, 1), checkpoint(&layout, 2));
    let groups = spec.groups().len();
    let idle = |out: f64| {
        let tensors = update.tensors().iter().enumerate().map(|(index, tensor)| {
            let mut values = tensor.to_f64();
            let info = tensor.info();
            let first = |axis: usize| {
                spec.axes(index)
                    .get(axis)
                    .and_then(Option::as_ref)
                    .is_some_and(|on| on.groups().any(|on| on == 0))
            };
            let columns = info.shape.get(1).copied().unwrap_or(1);
            for (at, value) in values.iter_mut().enumerate() {
                // Unit 0 of the first group.
                if first(0) && at / columns == 0 {
                    *value = 0.0;
                } else if first(1) && at % columns == 0 {
                    *value = out;
                }
            }
            Tensor::from_f64(info, &values).expect("finite")
        });
        Checkpoint::new(layout.clone(), tensors.collect()).expect("fits")
    };
    let scales = |out: f64| canonical_scale(&spec, &idle(out)).expect("balanced");
    let (small, large) = (scales(0.01), scales(500.0));
    assert!(groups > 1 && small.idle == 1 && large.idle == 1);
    assert_eq!(small.factors, large.factors);
    aligned(&spec, &reference, &idle(500.0)).alignment.check(&spec).expect("factors that can be kept");
}

/// Numbers as small as f32 has them on the way in, and large ones on the way out.
fn far_apart(spec: &CheckedSpec, model: &Checkpoint) -> Checkpoint {
    let tensors = model.tensors().iter().enumerate().map(|(index, tensor)| {
        let on = |axis: usize| spec.axes(index).get(axis).is_some_and(Option::is_some);
        let by = match (on(0), on(1)) {
            (true, _) => 1e-42,
            (false, true) => 1e30,
            (false, false) => 1.0,
        };
        let values: Vec<f64> = tensor.to_f64().into_iter().map(|value| value * by).collect();
        Tensor::from_f64(tensor.info(), &values).expect("finite")
    });
    Checkpoint::new(model.layout().clone(), tensors.collect()).expect("fits")
}

/// Else it would be stored, and end the round of all when it is merged.
#[test]
fn an_alignment_that_is_given_out_can_be_stored_and_applied() {
    let infos = (0..6).map(|layer| TensorInfo {
        name: format!("{layer}.weight"),
        dtype: Dtype::F32,
        shape: vec![4, 4],
    });
    let layout = Layout::new(infos.collect()).expect("a layout");
    let spec = chain(&layout);
    let (reference, update) = (checkpoint(&layout, 1), far_apart(&spec, &checkpoint(&layout, 2)));
    match align_canonically(&spec, &reference, update.clone(), &options(1), &mut quietly) {
        Err(error) => assert!(matches!(error, AlignError::Scale { .. }), "{error}"),
        Ok(found) => {
            let text = serde_json::to_string(&found.alignment).expect("stored");
            let again: Alignment = serde_json::from_str(&text).expect("read");
            again.apply(&spec, &update).expect("applies");
        }
    }
}

/// Whoever made the reference: those who come after it are not to have weights that nobody can train.
#[test]
fn a_reference_far_from_the_canonical_scale_draws_nobody_there() {
    for (spec, reference, update) in strangers() {
        let units = |scale: &rebasin::Scale| spec.groups()[scale.group].units;
        let factors: Vec<Vec<f64>> = spec.scales().iter().map(|scale| vec![1e12; units(scale)]).collect();
        let founder = rescale(&spec, &reference, &factors).expect("scaled");
        let brought = outcome(&spec, &founder, &update);
        let largest = |model: &Checkpoint| {
            model
                .tensors()
                .iter()
                .flat_map(Tensor::to_f64)
                .fold(0.0, |most: f64, value| most.max(value.abs()))
        };
        assert!(largest(&brought) < 100.0 * largest(&update), "{}", largest(&brought));
        let found = aligned(&spec, &founder, &founder);
        assert!(found.report.moved == 0.0, "and it comes back itself");
        assert!(
            largest(&found.alignment.apply(&spec, &founder).expect("applies")) < 100.0 * largest(&update)
        );
    }
}

/// f16 ends at 65,504: what cannot be held at the reference's scale is the update's fault, and is said before it is merged.
#[test]
fn weights_that_no_dtype_holds_at_the_references_scale_are_refused() {
    let info = |name: &str, shape: &[usize]| TensorInfo {
        name: name.into(),
        dtype: Dtype::F16,
        shape: shape.into(),
    };
    let layout = Layout::new(vec![info("0.weight", &[2, 2]), info("1.weight", &[2, 2])]).expect("a layout");
    let spec = chain(&layout);
    let model = |first: f64, second: f64| {
        let infos = layout.tensors().iter().zip([first, second]);
        let tensors = infos.map(|(info, by)| {
            Tensor::from_f64(info, &[1.0 * by, 0.5 * by, 0.25 * by, 2.0 * by]).expect("finite")
        });
        Checkpoint::new(layout.clone(), tensors.collect()).expect("fits")
    };
    let reference = model(16_384.0, 1e-4);
    let error = align_canonically(&spec, &reference, model(1000.0, 30_000.0), &options(1), &mut quietly);
    assert!(matches!(error, Err(AlignError::Scale { .. })), "{error:?}");
    align_canonically(&spec, &reference, model(2.0, 1.0), &options(1), &mut quietly).expect("aligned");
}
