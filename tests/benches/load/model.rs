//! A perceptron whose every number follows from its place and its author, so that any site's model, and the mean of all of them, can
//! be computed again.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use anyhow::{Result, ensure};
use fedbasin_tests::checkpoint::{read_f32, with_header};
use serde_json::{Map, Value, json};

/// Hidden layers, all of one width, a group each.
const LAYERS: usize = 5;

/// Numbers that are made at a time.
const BLOCK: usize = 1 << 16;

/// Who made a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Author(u64);

impl Author {
    /// The operator, whose checkpoint the run starts from.
    pub const SEED: Self = Self(0);

    /// A site, which adds a little of its own to each number of the seed, in each round another.
    pub fn site(site: usize, round: u32) -> Self {
        Self((u64::from(round) << 16) | (site as u64 + 1))
    }

    fn number(self, place: u64, seed: f32) -> f32 {
        if self == Self::SEED { seed } else { seed + 0.001 * random(place | (self.0 << 40)) }
    }
}

/// The seed's number at a place.
fn seed(place: u64) -> f32 {
    0.1 * random(place)
}

/// `SplitMix64` of a number, as one within 0.5 of 0.
fn random(of: u64) -> f32 {
    let mut bits = of.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    (bits >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
}

#[derive(Debug)]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    /// What the spec says of each axis.
    axes: Vec<Value>,
}

impl Tensor {
    fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The layout, its spec and its files.
#[derive(Debug)]
pub struct Model {
    /// By name, as they lie in a file.
    tensors: Vec<Tensor>,
    /// The beginning of each file.
    header: Vec<u8>,
}

impl Model {
    /// The same with hidden layers of 256 units and more inputs: quickly aligned.
    pub fn narrow(bytes: usize) -> Self {
        Self::new(bytes, 256, 1000)
    }

    /// A model whose files have about so many bytes, with hidden layers of 2048 units, or of 128 in a small one.
    pub fn sized(bytes: usize) -> Self {
        if bytes < 10_000_000 { Self::new(bytes, 128, 10) } else { Self::new(bytes, 2048, 1000) }
    }

    /// With as many inputs as the hidden layers leave.
    fn new(bytes: usize, width: usize, classes: usize) -> Self {
        let fixed = (LAYERS - 1) * width * width + LAYERS * width + classes * (width + 1);
        let inputs = (bytes / 4 - fixed) / width;
        let mut tensors = Vec::new();
        let mut before = Value::Null;
        for layer in 0..LAYERS {
            let group = json!(format!("h{layer}"));
            let columns = if layer == 0 { inputs } else { width };
            let bias = (format!("fc{layer}.bias"), vec![width], vec![group.clone()]);
            let weight = (format!("fc{layer}.weight"), vec![width, columns], vec![group.clone(), before]);
            tensors.extend([bias, weight]);
            before = group;
        }
        tensors.push(("head.bias".into(), vec![classes], vec![Value::Null]));
        tensors.push(("head.weight".into(), vec![classes, width], vec![Value::Null, before]));
        let tensors: Vec<Tensor> =
            tensors.into_iter().map(|(name, shape, axes)| Tensor { name, shape, axes }).collect();
        let mut header = Map::new();
        // What the server writes has none: a mean of one checkpoint is another file than that.
        header.insert("__metadata__".to_owned(), json!({ "made_by": "a benchmark" }));
        let mut begin = 0;
        for tensor in &tensors {
            let end = begin + 4 * tensor.len();
            let entry = json!({ "dtype": "F32", "shape": tensor.shape, "data_offsets": [begin, end] });
            header.insert(tensor.name.clone(), entry);
            begin = end;
        }
        Self { tensors, header: with_header(&Value::Object(header).to_string(), &[]) }
    }

    /// Which axes move together.
    pub fn spec(&self) -> Value {
        let (mut groups, mut tensors) = (Map::new(), Map::new());
        for tensor in &self.tensors {
            for (axis, size) in tensor.axes.iter().zip(&tensor.shape) {
                if let Value::String(group) = axis {
                    groups.insert(group.clone(), json!({ "size": size, "kind": "symmetric" }));
                }
            }
            tensors.insert(tensor.name.clone(), json!(tensor.axes));
        }
        json!({ "format": "fedbasin.spec/1", "groups": groups, "tensors": tensors })
    }

    /// Size of a file in bytes.
    pub fn size(&self) -> u64 {
        (self.header.len() + 4 * self.parameters()) as u64
    }

    /// How many numbers it has.
    pub fn parameters(&self) -> usize {
        self.tensors.iter().map(Tensor::len).sum()
    }

    /// A checkpoint as a file that lies on the disk when this returns.
    pub fn save(&self, author: Author, path: &Path) -> io::Result<()> {
        let mut file = File::create(path)?;
        self.write(author, &mut file)?;
        file.sync_all()
    }

    /// A checkpoint's bytes.
    pub fn write(&self, author: Author, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.header)?;
        let mut bytes = vec![0; 4 * BLOCK];
        for begin in (0..self.parameters()).step_by(BLOCK) {
            let count = BLOCK.min(self.parameters() - begin);
            let block = &mut bytes[..4 * count];
            for (bytes, place) in block.as_chunks_mut::<4>().0.iter_mut().zip(begin as u64..) {
                *bytes = author.number(place, seed(place)).to_le_bytes();
            }
            out.write_all(block)?;
        }
        Ok(())
    }

    /// Whether a file holds the mean of these authors' checkpoints, in this order, each weighed by its number of examples: every
    /// number computed here anew, added in f64 and rounded once.
    pub fn check_mean(&self, path: &Path, authors: &[(Author, u64)]) -> Result<()> {
        let file = fs::read(path)?;
        let all: u64 = authors.iter().map(|(_, examples)| examples).sum();
        let shares: Vec<f64> = authors.iter().map(|&(_, examples)| examples as f64 / all as f64).collect();
        let mean = |place: u64| {
            let seed = seed(place);
            let mut sum = 0.0;
            for ((author, _), share) in authors.iter().zip(&shares) {
                sum += share * f64::from(author.number(place, seed));
            }
            sum as f32
        };
        let mut begin = 0;
        for tensor in &self.tensors {
            let found = read_f32(&file, &tensor.name);
            let count = tensor.len();
            ensure!(found.len() == count, "{} has {} numbers, not {count}", tensor.name, found.len());
            let wrong =
                found.iter().zip(begin..).filter(|(value, place)| value.to_bits() != mean(*place).to_bits());
            let wrong = wrong.count();
            ensure!(wrong == 0, "the merged model is wrong: {wrong} of {count} numbers of {}", tensor.name);
            begin += count as u64;
        }
        Ok(())
    }
}
