use rand::{RngExt as _, SeedableRng as _};

use super::{block::BLOCK_BYTES, *};
use crate::{BytesSource, Dtype, Layout, Spec, TensorInfo};

/// One tensor of several blocks that moves on both axes, one that does not move and has but one row, and small ones.
fn large() -> (CheckedSpec, Vec<Checkpoint>) {
    let info =
        |name: &str, dtype, shape: &[usize]| TensorInfo { name: name.into(), dtype, shape: shape.to_vec() };
    let layout = Layout::new(vec![
        info("a.weight", Dtype::F32, &[1200, 1800]),
        info("b.weight", Dtype::F16, &[1800, 3]),
        info("b.bias", Dtype::F64, &[1800]),
        info("count", Dtype::I64, &[1200]),
        info("row", Dtype::F32, &[1, 2_500_000]),
    ])
    .expect("a layout");
    let spec = Spec::from_json(
        r#"{"format":"fedbasin.spec/1",
            "groups":{"g":{"size":1200,"kind":"symmetric"},"h":{"size":600,"kind":"symmetric"}},
            "tensors":{"a.weight":["g",["h",3]],"b.weight":[["h",3],null],
                       "b.bias":[["h",3]],"count":["g"],"row":[null,null]}}"#,
    )
    .expect("a spec");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let mut model = || {
        let tensors = layout.tensors().iter().map(|info| {
            if info.dtype.is_float() {
                let values: Vec<f64> =
                    (0..info.num_elements()).map(|_| rng.random_range(-1.0..1.0)).collect();
                return Tensor::from_f64(info, &values).expect("finite");
            }
            Tensor::from_bytes(info, (0..info.num_bytes()).map(|_| rng.random()).collect()).expect("fits")
        });
        Checkpoint::new(layout.clone(), tensors.collect()).expect("fits")
    };
    let models = (0..3).map(|_| model()).collect();
    (spec.check(&layout).expect("fits"), models)
}

/// Counts what is read of each byte.
struct Counting {
    inner: BytesSource,
    read: std::sync::Mutex<(u64, usize)>,
}

impl Source for Counting {
    fn header(&self) -> &Header {
        self.inner.header()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut read = self.read.lock().expect("one thread at a time");
        read.0 += buffer.len() as u64;
        read.1 = read.1.max(buffer.len());
        self.inner.read_at(offset, buffer)
    }
}

fn source(model: &Checkpoint) -> Counting {
    let header = Header::canonical(model.layout()).0;
    Counting { inner: BytesSource::new(model.to_bytes(), header), read: std::sync::Mutex::default() }
}

#[test]
fn merging_block_by_block_gives_the_bytes_of_the_mean_in_memory() {
    let (spec, models) = large();
    let alignments: Vec<Alignment> = (0..3).map(|seed| Alignment::random(&spec, seed)).collect();
    let shares = [0.5, 0.25, 0.25];
    let sources: Vec<Counting> = models.iter().map(source).collect();
    let inputs: Vec<Input<'_>> = (0..3)
        .map(|k| Input { source: &sources[k], alignment: Some(&alignments[k]), share: shares[k] })
        .collect();
    let mut bytes = Vec::new();
    let mut seen = Vec::new();
    merge_to(Some(&spec), &inputs, None, &mut bytes, &mut |done, all| seen.push((done, all)))
        .expect("merged");
    assert_eq!(bytes.len() as u64, Header::canonical_file_size(spec.layout()));

    let aligned: Vec<Checkpoint> =
        models.iter().zip(&alignments).map(|(model, a)| a.apply(&spec, model).expect("applies")).collect();
    for (index, info) in spec.layout().tensors().iter().enumerate() {
        let merged = Checkpoint::from_bytes(&bytes).expect("valid");
        if !info.dtype.is_float() {
            assert_eq!(merged.tensor(index), aligned[0].tensor(index), "as the first input has it, aligned");
            continue;
        }
        let parts: Vec<Vec<f64>> = aligned.iter().map(|model| model.tensor(index).to_f64()).collect();
        let mean: Vec<f64> = (0..parts[0].len())
            .map(|i| parts.iter().zip(shares).fold(0.0, |sum, (part, share)| sum + share * part[i]))
            .collect();
        assert_eq!(merged.tensor(index), &Tensor::from_f64(info, &mean).expect("finite"), "{}", info.name);
    }
    let in_memory = mean(Some(&spec), &models.iter().collect::<Vec<_>>(), Some(&alignments), &shares);
    assert_eq!(in_memory.expect("merged").to_bytes(), bytes);

    let total = spec.layout().num_bytes() as u64;
    assert_eq!(seen.last(), Some(&(total, total)));
    assert!(seen.is_sorted() && seen.len() > 5, "{seen:?}");
    let floats = total - 1200 * 8;
    for (k, source) in sources.iter().enumerate() {
        let (read, largest) = *source.read.lock().expect("done");
        assert_eq!(read, if k == 0 { total } else { floats }, "each byte that counts is read once");
        assert!(largest <= BLOCK_BYTES, "{largest}");
    }
}

#[test]
fn integers_come_from_the_reference_unmoved() {
    let (spec, models) = large();
    let (input, reference) = (source(&models[0]), source(&models[1]));
    let alignment = Alignment::random(&spec, 7);
    let inputs = [Input { source: &input, alignment: Some(&alignment), share: 1.0 }];
    let mut bytes = Vec::new();
    merge_to(Some(&spec), &inputs, Some(&reference), &mut bytes, &mut |_, _| {}).expect("merged");
    let merged = Checkpoint::from_bytes(&bytes).expect("valid");
    assert_eq!(merged.get("count"), models[1].get("count"));
}

#[test]
fn shares_that_are_none_are_refused() {
    assert!(matches!(shares(&[]), Err(MergeError::Empty)));
    assert!(matches!(shares(&[3, 0]), Err(MergeError::Share { index: 1, .. })));
    assert_eq!(shares(&[1, 3]).expect("shares"), [0.25, 0.75]);
    assert_eq!(shares(&[u64::MAX, u64::MAX]).expect("no overflow"), [0.5, 0.5]);
    let (spec, models) = large();
    for share in [-0.5, f64::NAN, f64::INFINITY] {
        let merged = mean(Some(&spec), &[&models[0]], None, &[share]);
        assert!(matches!(merged, Err(MergeError::Share { index: 0, .. })));
    }
    let alignment = Alignment::identity(&spec);
    let merged = mean(None, &[&models[0]], Some(&[alignment]), &[1.0]);
    assert!(matches!(merged, Err(MergeError::SpecMissing)));
}
