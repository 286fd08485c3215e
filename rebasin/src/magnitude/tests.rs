use super::*;
use crate::{BytesSource, Checkpoint, CheckpointError, Dtype, Header, Limits, Scanner, Tensor, TensorInfo};

fn info(name: &str, dtype: Dtype, length: usize) -> TensorInfo {
    TensorInfo { name: name.into(), dtype, shape: vec![length] }
}

/// Tensors of one value each; the integer is 7.
fn model(values: &[(&str, Dtype, f64)]) -> Checkpoint {
    let mut tensors =
        vec![Tensor::from_bytes(&info("count", Dtype::I64, 1), 7_i64.to_le_bytes().to_vec()).expect("fits")];
    for &(name, dtype, value) in values {
        tensors.push(Tensor::from_f64(&info(name, dtype, 5), &[value; 5]).expect("finite"));
    }
    let layout = Layout::new(tensors.iter().map(|tensor| tensor.info().clone()).collect()).expect("a layout");
    Checkpoint::new(layout, tensors).expect("fits")
}

fn measured(model: &Checkpoint) -> Magnitudes {
    let header = Header::canonical(model.layout()).0;
    Magnitudes::measure(&BytesSource::new(model.to_bytes(), header)).expect("in memory")
}

fn bound(model: &Checkpoint, name: &str) -> f64 {
    let index = model.layout().position(name).expect("a tensor");
    measured(model).bounds(model.layout(), 1e4).of(index)
}

/// What a scanner says of a file that comes in parts of `size` bytes.
fn scan(layout: &Layout, bounds: Bounds, bytes: &[u8], size: usize) -> Result<(), CheckpointError> {
    let scanner = Scanner::new(Some(layout.clone()), bytes.len() as u64, Limits::default());
    let mut scanner = scanner.within(Some(bounds));
    bytes.chunks(size).try_for_each(|part| scanner.push(part))
}

#[test]
fn a_bound_is_a_multiple_of_the_references_own_values() {
    let model = model(&[("a", Dtype::F32, 0.5), ("b", Dtype::F32, 2.0), ("c", Dtype::F32, -0.25)]);
    assert_eq!(bound(&model, "b"), 2e4);
    assert_eq!(bound(&model, "a"), 5e3);
    assert_eq!(bound(&model, "c"), 5e3, "the median of all, where that is more");
    assert_eq!(bound(&model, "count"), f64::INFINITY);
}

#[test]
fn the_norm_is_that_of_all_averaged_values() {
    // Five values each; the integer does not count.
    let both = model(&[("a", Dtype::F32, 0.5), ("b", Dtype::F16, -2.0)]);
    let norm = measured(&both).norm(both.layout());
    assert!((norm - (5.0_f64 * (0.25 + 4.0)).sqrt()).abs() < 1e-12, "{norm}");
    let nothing = model(&[("zero", Dtype::F32, 0.0)]);
    assert_eq!(measured(&nothing).norm(nothing.layout()), 0.0);
}

#[test]
fn what_is_zero_or_tiny_may_become_what_the_others_are() {
    let model = model(&[("a", Dtype::F32, 0.5), ("scale", Dtype::F32, 1e-6), ("zero", Dtype::F32, 0.0)]);
    for name in ["scale", "zero"] {
        assert!((bound(&model, name) - 5e3).abs() < 1e-6, "{name}: {}", bound(&model, name));
    }
    let nothing = self::model(&[("zero", Dtype::F32, 0.0)]);
    assert_eq!(bound(&nothing, "zero"), f64::INFINITY, "it says nothing of what values may be");
}

#[test]
fn statistics_follow_the_data() {
    let untrained = model(&[
        ("w", Dtype::F32, 0.1),
        ("bn.running_mean", Dtype::F32, 0.0),
        ("bn.running_var", Dtype::F32, 1.0),
    ]);
    assert_eq!(bound(&untrained, "bn.running_mean"), f64::INFINITY);
    assert_eq!(bound(&untrained, "bn.running_var"), f64::INFINITY);
    let trained = model(&[
        ("w", Dtype::F32, 0.5),
        ("bn.running_mean", Dtype::F32, 0.25),
        ("bn.running_var", Dtype::F32, 4.0),
    ]);
    assert_eq!(bound(&trained, "bn.running_mean"), 5e7);
    assert_eq!(bound(&trained, "bn.running_var"), 4e8);
    assert_eq!(bound(&trained, "w"), 5e3);
}

#[test]
fn a_value_beyond_its_bound_is_refused_with_its_place_and_both_figures_however_the_bytes_come() {
    for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16] {
        let reference = model(&[("w", dtype, 0.5)]);
        let bounds = |factor| measured(&reference).bounds(reference.layout(), factor);
        let mut values = [0.5; 5];
        values[3] = -2.0;
        let mut tensors = reference.tensors().to_vec();
        tensors[1] = Tensor::from_f64(&info("w", dtype, 5), &values).expect("finite");
        let bytes = Checkpoint::new(reference.layout().clone(), tensors).expect("fits").to_bytes();
        for size in [1, 3, 7, bytes.len()] {
            let error = scan(reference.layout(), bounds(3.9), &bytes, size).expect_err("beyond");
            let CheckpointError::Magnitude { name, index, value, most } = &error else {
                panic!("{dtype}: {error}")
            };
            assert_eq!((name.as_str(), *index, *value, *most), ("w", 3, -2.0, 1.95), "{dtype}, {size}");
            scan(reference.layout(), bounds(4.0), &bytes, size).expect("at its bound");
        }
        for bad in [f64::NAN, f64::INFINITY] {
            let at = bytes.len() - dtype.size();
            let mut bytes = bytes.clone();
            match dtype {
                Dtype::F64 => bytes[at..].copy_from_slice(&bad.to_le_bytes()),
                #[expect(clippy::cast_possible_truncation, reason = "neither is a number")]
                Dtype::F32 => bytes[at..].copy_from_slice(&(bad as f32).to_le_bytes()),
                Dtype::F16 => bytes[at..].copy_from_slice(&half::f16::from_f64(bad).to_le_bytes()),
                _ => bytes[at..].copy_from_slice(&half::bf16::from_f64(bad).to_le_bytes()),
            }
            let error = scan(reference.layout(), bounds(1e9), &bytes, 7).expect_err("no number");
            assert!(matches!(error, CheckpointError::NotFinite { index: 4, .. }), "{dtype}: {error}");
        }
    }
}

#[test]
fn no_bound_refuses_the_largest_number_of_a_dtype() {
    for (dtype, most) in [
        (Dtype::F64, f64::MAX),
        (Dtype::F32, f64::from(f32::MAX)),
        (Dtype::F16, half::f16::MAX.to_f64()),
        (Dtype::BF16, half::bf16::MAX.to_f64()),
    ] {
        let model = model(&[("w", dtype, most)]);
        let bounds = Bounds { most: vec![f64::INFINITY; 2] };
        scan(model.layout(), bounds, &model.to_bytes(), 1024).expect("finite");
        let bounds = Bounds { most: vec![f64::INFINITY, most] };
        scan(model.layout(), bounds, &model.to_bytes(), 1024).expect("at its bound");
        let bounds = Bounds { most: vec![f64::INFINITY, most * (1.0 - f64::EPSILON)] };
        scan(model.layout(), bounds, &model.to_bytes(), 1024).expect_err("just beyond");
    }
}

#[test]
fn a_scanner_measures_what_a_reader_does() {
    let values = |seed: f64| (0..1000).map(|at| (f64::from(at) * seed).sin()).collect::<Vec<_>>();
    let mut tensors = Vec::new();
    for (index, dtype) in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16].into_iter().enumerate() {
        let info = info(&format!("t{index}"), dtype, 1000);
        tensors.push(
            Tensor::from_f64(&info, &values(1.0 + f64::from(u8::try_from(index).expect("small"))))
                .expect("finite"),
        );
    }
    let layout = Layout::new(tensors.iter().map(|tensor| tensor.info().clone()).collect()).expect("a layout");
    let model = Checkpoint::new(layout.clone(), tensors).expect("fits");
    let bytes = model.to_bytes();
    let read = measured(&model);
    for (index, tensor) in model.tensors().iter().enumerate() {
        let naive = (tensor.to_f64().iter().map(|value| value * value).sum::<f64>() / 1000.0).sqrt();
        assert!((read.rms()[index] - naive).abs() < 1e-12, "{index}: {} is not {naive}", read.rms()[index]);
    }
    for size in [1, 5, 4096, bytes.len()] {
        let mut scanner = Scanner::new(None, bytes.len() as u64, Limits::default()).measuring();
        for part in bytes.chunks(size) {
            assert!(scanner.magnitudes().is_none(), "not all is there");
            scanner.push(part).expect("a checkpoint");
        }
        let scanned = scanner.magnitudes().expect("measured");
        for (scanned, read) in scanned.rms().iter().zip(read.rms()) {
            assert!((scanned - read).abs() < 1e-12, "{scanned} is not {read}");
        }
    }
}
