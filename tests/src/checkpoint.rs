//! Safetensors files made by hand, good and bad. Not `rebasin`'s writer, so that the two do not share a mistake.
//!
//! A file is: the header's length (8 bytes, little-endian), the header (JSON), the data.

use serde_json::{Map, Value, json};

/// One tensor: name, dtype, shape and data as they will stand in the file, whether they fit each other or not.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its dtype, `F32` for instance.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its data, little-endian.
    pub data: Vec<u8>,
}

/// A tensor of f32.
#[must_use]
pub fn f32s(name: &str, shape: &[usize], values: &[f32]) -> Entry {
    let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Entry { name: name.into(), dtype: "F32".into(), shape: shape.into(), data }
}

/// A file of these tensors, in this order.
#[must_use]
pub fn file(entries: &[Entry]) -> Vec<u8> {
    let mut header = String::from("{");
    let mut data = Vec::new();
    for entry in entries {
        let begin = data.len();
        data.extend_from_slice(&entry.data);
        // By hand and not by a map, so that a test can name a tensor twice.
        let separator = if header.len() > 1 { "," } else { "" };
        let value =
            json!({ "dtype": entry.dtype, "shape": entry.shape, "data_offsets": [begin, data.len()] });
        header.push_str(&format!("{separator}{}:{value}", Value::from(entry.name.as_str())));
    }
    header.push('}');
    with_header(&header, &data)
}

/// A file of this header, whatever it says, and this data.
#[must_use]
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let padding = header.len().next_multiple_of(8) - header.len();
    let mut bytes = ((header.len() + padding) as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(std::iter::repeat_n(b' ', padding));
    bytes.extend_from_slice(data);
    bytes
}

/// Site `i` of `n`: one tensor `counted` whose element `i` is 1 and every other 0. A mean of such checkpoints holds at
/// `i` the share of site `i`: it spells out who was counted, and how much.
#[must_use]
pub fn one_hot(i: usize, n: usize) -> Vec<u8> {
    let mut values = vec![0.0; n];
    values[i] = 1.0;
    file(&[f32s("counted", &[n], &values)])
}

/// The spec of [`one_hot`]: its only axis is pinned, so that an alignment has nothing to move.
#[must_use]
pub fn one_hot_spec() -> Value {
    json!({ "format": "fedbasin.spec/1", "groups": {}, "tensors": { "counted": [null] } })
}

/// A tensor's values from a file that holds it as f32.
///
/// # Panics
/// Where the file is none or holds no such tensor.
#[must_use]
pub fn read_f32(file: &[u8], name: &str) -> Vec<f32> {
    let length = u64::from_le_bytes(file[..8].try_into().expect("8 bytes"));
    let start = 8 + usize::try_from(length).expect("a header within memory");
    let header: Map<String, Value> = serde_json::from_slice(&file[8..start]).expect("a JSON header");
    let entry = header.get(name).unwrap_or_else(|| panic!("no tensor {name} in {header:?}"));
    assert_eq!(entry["dtype"], "F32", "{name}");
    let offset = |i: usize| {
        start + usize::try_from(entry["data_offsets"][i].as_u64().expect("an offset")).expect("fits")
    };
    let bytes = &file[offset(0)..offset(1)];
    bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().expect("4 bytes"))).collect()
}

/// A small multilayer perceptron `3 -> 4 -> 4 -> 2` whose hidden units are told apart by large weights, seeded so that
/// different seeds are different networks with the same hidden units.
#[must_use]
pub fn mlp(noise: u64) -> Mlp {
    // A linear congruential generator (Knuth, MMIX) is random enough for noise of a few per cent.
    let mut state = noise.wrapping_mul(2) + 1;
    let mut jitter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5) * 0.02
    };
    let mut matrix = |rows: usize, columns: usize| {
        let mut values = Vec::new();
        for row in 0..rows {
            for column in 0..columns {
                values.push(((row * 7 + column * 3) % 5) as f32 - 2.0 + (row as f32) * 0.3 + jitter());
            }
        }
        values
    };
    Mlp {
        weights: [matrix(4, 3), matrix(4, 4), matrix(2, 4)],
        biases: [matrix(1, 4), matrix(1, 4), matrix(1, 2)],
    }
}

/// See [`mlp`].
#[derive(Debug, Clone, PartialEq)]
pub struct Mlp {
    weights: [Vec<f32>; 3],
    biases: [Vec<f32>; 3],
}

impl Mlp {
    /// Its spec.
    #[must_use]
    pub fn spec() -> Value {
        json!({
            "format": "fedbasin.spec/1",
            "groups": { "h0": { "size": 4, "kind": "symmetric" }, "h1": { "size": 4, "kind": "symmetric" } },
            "tensors": {
                "fc1.weight": ["h0", null], "fc1.bias": ["h0"],
                "fc2.weight": ["h1", "h0"], "fc2.bias": ["h1"],
                "fc3.weight": [null, "h1"], "fc3.bias": [null],
            }
        })
    }

    /// The same function with its hidden units in another order: unit `i` of a layer becomes unit `order[i]`.
    #[must_use]
    pub fn permuted(&self, orders: [[usize; 4]; 2]) -> Self {
        let mut moved = self.clone();
        let keep = [0, 1, 2, 3];
        for layer in 0..3 {
            let rows = if layer < 2 { &orders[layer][..] } else { &keep[..2] };
            let columns = if layer > 0 { &orders[layer - 1][..] } else { &keep[..3] };
            let width = columns.len();
            for (row, new_row) in rows.iter().enumerate() {
                moved.biases[layer][*new_row] = self.biases[layer][row];
                for (column, new_column) in columns.iter().enumerate() {
                    moved.weights[layer][new_row * width + new_column] =
                        self.weights[layer][row * width + column];
                }
            }
        }
        moved
    }

    /// The same function, unit `i` of the first hidden layer times `factors[i]` on its way in, and divided by it on its way out.
    #[must_use]
    pub fn rescaled(&self, factors: [f32; 4]) -> Self {
        let mut scaled = self.clone();
        for (unit, factor) in factors.into_iter().enumerate() {
            scaled.biases[0][unit] *= factor;
            scaled.weights[0][unit * 3..][..3].iter_mut().for_each(|weight| *weight *= factor);
            scaled.weights[1].iter_mut().skip(unit).step_by(4).for_each(|weight| *weight /= factor);
        }
        scaled
    }

    /// Another network of the same layout, each parameter changed.
    #[must_use]
    pub fn changed(&self, change: impl Fn(f32) -> f32) -> Self {
        let all = |parts: &[Vec<f32>; 3]| {
            parts.clone().map(|values| values.into_iter().map(&change).collect::<Vec<f32>>())
        };
        Self { weights: all(&self.weights), biases: all(&self.biases) }
    }

    /// All parameters, weights first.
    #[must_use]
    pub fn values(&self) -> Vec<f32> {
        self.weights.iter().chain(&self.biases).flatten().copied().collect()
    }

    /// As a file.
    #[must_use]
    pub fn file(&self) -> Vec<u8> {
        let shapes: [[usize; 2]; 3] = [[4, 3], [4, 4], [2, 4]];
        let mut entries = Vec::new();
        for (layer, shape) in shapes.iter().enumerate() {
            entries.push(f32s(&format!("fc{}.weight", layer + 1), shape, &self.weights[layer]));
            entries.push(f32s(&format!("fc{}.bias", layer + 1), &shape[..1], &self.biases[layer]));
        }
        file(&entries)
    }

    /// Reads a file of this layout.
    ///
    /// # Panics
    /// Where it is none.
    #[must_use]
    pub fn read(file: &[u8]) -> Self {
        let part = |kind: &str| [1, 2, 3].map(|layer| read_f32(file, &format!("fc{layer}.{kind}")));
        Self { weights: part("weight"), biases: part("bias") }
    }

    /// The sum of networks times shares, parameter by parameter.
    #[must_use]
    pub fn weighted_sum(networks: &[Self], shares: &[f32]) -> Self {
        let sum = |part: &dyn Fn(&Self) -> &Vec<f32>| {
            let mut values = vec![0.0_f32; part(&networks[0]).len()];
            for (network, share) in networks.iter().zip(shares) {
                for (value, term) in values.iter_mut().zip(part(network)) {
                    *value += share * term;
                }
            }
            values
        };
        Self {
            weights: [0, 1, 2].map(|layer| sum(&|network| &network.weights[layer])),
            biases: [0, 1, 2].map(|layer| sum(&|network| &network.biases[layer])),
        }
    }

    /// Largest difference of any parameter.
    #[must_use]
    pub fn distance(&self, other: &Self) -> f32 {
        self.values().iter().zip(other.values()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    /// What it computes (ReLU between layers).
    #[must_use]
    pub fn output(&self, input: [f32; 3]) -> Vec<f32> {
        let mut values = input.to_vec();
        for layer in 0..3 {
            let width = values.len();
            let mut next = self.biases[layer].clone();
            for (row, sum) in next.iter_mut().enumerate() {
                for (column, value) in values.iter().enumerate() {
                    *sum += self.weights[layer][row * width + column] * value;
                }
                if layer < 2 {
                    *sum = sum.max(0.0);
                }
            }
            values = next;
        }
        values
    }
}

#[cfg(test)]
mod tests;
