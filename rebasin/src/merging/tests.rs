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

/// An update that is the reference and a difference, and what a plain computation makes of all of them.
fn naive(reference: &Checkpoint, aligned: &[Checkpoint], shares: &[f64]) -> Vec<Standing> {
    let flat = |model: &Checkpoint, statistics: bool| -> Vec<f64> {
        let own = |tensor: &&Tensor| tensor.dtype().is_float() && tensor.info().is_statistic() == statistics;
        model.tensors().iter().filter(own).flat_map(Tensor::to_f64).collect()
    };
    let differences = |statistics| -> Vec<Vec<f64>> {
        let from = flat(reference, statistics);
        let less =
            |model: &Checkpoint| flat(model, statistics).iter().zip(&from).map(|(x, r)| x - r).collect();
        aligned.iter().map(less).collect()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let lengths = |all: &[Vec<f64>]| all.iter().map(|d| dot(d, d).sqrt()).collect::<Vec<_>>();
    let ratio = |lengths: &[f64], k: usize| {
        let mut others: Vec<f64> = lengths.to_vec();
        others.remove(k);
        others.retain(|&length| length > 0.0);
        others.sort_by(f64::total_cmp);
        let n = others.len();
        let median = if n.is_multiple_of(2) && n > 0 {
            f64::midpoint(others[n / 2 - 1], others[n / 2])
        } else {
            *others.get(n / 2)?
        };
        Some(lengths[k] / median)
    };
    let (trained, statistics) = (differences(false), differences(true));
    let (distances, of_statistics) = (lengths(&trained), lengths(&statistics));
    (0..aligned.len())
        .map(|k| {
            let mut others = vec![0.0; trained[k].len()];
            for (j, d) in trained.iter().enumerate().filter(|(j, _)| *j != k) {
                others.iter_mut().zip(d).for_each(|(sum, d)| *sum += shares[j] * d);
            }
            let length = dot(&others, &others).sqrt();
            let cosine = (length > 0.0 && distances[k] > 0.0)
                .then(|| dot(&trained[k], &others) / (length * distances[k]));
            Standing {
                distance: distances[k],
                distance_ratio: ratio(&distances, k),
                cosine,
                statistics_ratio: ratio(&of_statistics, k),
                others: u32::try_from((0..aligned.len()).filter(|&j| j != k && distances[j] > 0.0).count())
                    .expect("few"),
            }
        })
        .collect()
}

fn agree(found: &[Standing], naive: &[Standing]) {
    let close = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-7 * b.abs().max(1e-3),
        (a, b) => a == b,
    };
    assert_eq!(found.len(), naive.len());
    for (found, naive) in found.iter().zip(naive) {
        let same = close(Some(found.distance), Some(naive.distance))
            && close(found.distance_ratio, naive.distance_ratio)
            && close(found.cosine, naive.cosine)
            && close(found.statistics_ratio, naive.statistics_ratio)
            && found.others == naive.others;
        assert!(same, "{found:?} is not {naive:?}");
    }
}

/// Measured by the merge of files, whose bytes must be those of the plain merge.
fn measured(
    spec: Option<&CheckedSpec>,
    reference: &Checkpoint,
    models: &[Checkpoint],
    alignments: Option<&[Alignment]>,
    shares: &[f64],
) -> Differences {
    let (sources, reference) = (models.iter().map(source).collect::<Vec<_>>(), source(reference));
    let input = |k: usize| Input {
        source: &sources[k],
        alignment: alignments.map(|alignments| &alignments[k]),
        share: shares[k],
    };
    let inputs: Vec<Input<'_>> = (0..models.len()).map(input).collect();
    let (mut plain, mut bytes) = (Vec::new(), Vec::new());
    merge_to(spec, &inputs, Some(&reference), &mut plain, &mut |_, _| {}).expect("merged");
    let differences = merge_measured(spec, &inputs, &reference, &mut bytes, &mut |_, _| {}).expect("merged");
    assert!(plain == bytes, "measuring changes no byte");
    differences
}

#[test]
fn figures_of_moved_inputs_are_those_of_a_plain_computation_by_any_number_of_threads() {
    let (spec, models) = large();
    let (reference, models) = (&models[0], &models[1..]);
    let alignments: Vec<Alignment> = (0..2).map(|seed| Alignment::random(&spec, seed)).collect();
    let shares = [0.75, 0.25];
    let aligned: Vec<Checkpoint> =
        models.iter().zip(&alignments).map(|(model, a)| a.apply(&spec, model).expect("applies")).collect();
    let by = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| measured(Some(&spec), reference, models, Some(&alignments), &shares))
    };
    let found = by(1);
    assert_eq!(found, by(3), "to the bit");
    agree(&found.standings(), &naive(reference, &aligned, &shares));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 16, ..Default::default() })]

    #[test]
    fn figures_are_those_of_a_plain_computation(
        seed: u64, sites in 1..7_usize, sizes in proptest::collection::vec(1..40_000_usize, 1..4), stays: bool,
    ) {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let names = ["a.weight", "bn.running_var", "c.bias"];
        let dtypes = [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::BF16];
        let infos = sizes.iter().zip(names).map(|(&size, name)| TensorInfo {
            name: name.into(),
            dtype: dtypes[rng.random_range(0..4)],
            shape: vec![size],
        });
        let layout = Layout::new(infos.collect()).expect("a layout");
        let mut random = |reference: Option<&Checkpoint>, length: f64| {
            let tensors = layout.tensors().iter().enumerate().map(|(index, info)| {
                let from = reference.map(|reference| reference.tensor(index).to_f64());
                let mut values = vec![0.0; info.num_elements()];
                for (at, value) in values.iter_mut().enumerate() {
                    let from = from.as_ref().map_or(0.0, |values| values[at]);
                    *value = from + length * rng.random_range(-1.0..1.0);
                }
                Tensor::from_f64(info, &values).expect("finite")
            });
            Checkpoint::new(layout.clone(), tensors.collect()).expect("fits")
        };
        let reference = random(None, 1.0);
        let mut models: Vec<Checkpoint> =
            (0..sites).map(|site| random(Some(&reference), [0.01, 1.0, 100.0][site % 3])).collect();
        if stays {
            models[0] = reference.clone();
        }
        let shares = shares(&(1..=sites as u64).collect::<Vec<_>>()).expect("shares");
        let found = measured(None, &reference, &models, None, &shares);
        agree(&found.standings(), &naive(&reference, &models, &shares));
    }
}

#[test]
fn what_is_nothing_beside_the_rest_has_no_direction() {
    let info = TensorInfo { name: "w".into(), dtype: Dtype::F64, shape: vec![2] };
    let layout = Layout::new(vec![info.clone()]).expect("a layout");
    let model = |x: f64, y: f64| {
        Checkpoint::new(layout.clone(), vec![Tensor::from_f64(&info, &[x, y]).expect("finite")])
            .expect("fits")
    };
    let standings = |models: &[Checkpoint]| {
        let shares = vec![1.0 / models.len() as f64; models.len()];
        measured(None, &model(1.0, 1.0), models, None, &shares).standings()
    };
    let alone = standings(&[model(2.0, 1.0)]);
    assert_eq!(
        (alone[0].distance, alone[0].distance_ratio, alone[0].cosine, alone[0].others),
        (1.0, None, None, 0)
    );
    let far = standings(&[model(1e9, 1.0), model(1.0, 2.0), model(1.0, 0.0)]);
    assert_eq!(far[0].cosine, None, "the others are what rounding leaves");
    assert!(far[0].distance_ratio.is_some_and(|ratio| ratio > 1e8), "{far:?}");
    let opposed = standings(&[model(2.0, 1.0), model(0.0, 1.0)]);
    assert_eq!((opposed[0].cosine, opposed[1].cosine), (Some(-1.0), Some(-1.0)));
    let largest = standings(&[model(f64::MAX, 1.0), model(2.0, 1.0)]);
    assert_eq!((largest[0].distance, largest[0].distance_ratio), (f64::MAX, Some(f64::MAX)), "still numbers");
}
