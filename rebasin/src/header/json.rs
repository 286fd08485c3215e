//! The header's JSON: one object of tensors, read with nothing forgiven.
//!
//! `serde`'s derived readers forgive too much here: they take arrays for objects, maps for names of variants, and quote
//! what they were given in their messages.

use std::{collections::HashSet, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};

use super::Limits;
use crate::{CheckpointError, Dtype, TensorInfo, layout};

/// One entry as it stands in the header; offsets are within the data.
pub(super) struct RawTensor {
    pub(super) info: TensorInfo,
    pub(super) begin: u64,
    pub(super) end: u64,
}

pub(super) fn read(json: &[u8], limits: &Limits) -> Result<Vec<RawTensor>, CheckpointError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let tensors = deserializer.deserialize_map(Entries { limits }).and_then(|tensors| {
        deserializer.end()?;
        Ok(tensors)
    });
    tensors.map_err(|error| {
        CheckpointError::Header(format!("is not what it must be: {}", shown(&error.to_string())))
    })
}

/// A client's text as it may stand in a message: short, and with nothing that moves a terminal's cursor.
fn shown(text: &str) -> String {
    const MOST: usize = 200;
    let mut shown = String::new();
    for character in text.chars() {
        match character {
            _ if shown.len() >= MOST => return shown + "…",
            ' '..='~' => shown.push(character),
            _ => shown.extend(character.escape_unicode()),
        }
    }
    shown
}

/// `[1,2,3]`, without spaces.
pub(super) fn numbers(numbers: &[usize]) -> String {
    let parts: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    format!("[{}]", parts.join(","))
}

struct Entries<'a> {
    limits: &'a Limits,
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = Vec<RawTensor>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<RawTensor>, A::Error> {
        let mut tensors = Vec::new();
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if names.contains(&name) {
                return Err(A::Error::custom(format_args!("key {name} stands twice")));
            }
            if name == "__metadata__" {
                map.next_value_seed(Metadata { limits: self.limits })?;
            } else {
                if name.len() > self.limits.max_name_bytes || !layout::is_valid_name(&name) {
                    return Err(A::Error::custom(format_args!(
                        "a tensor name is not 1 to {} of A-Z, a-z, 0-9, '_', '.' and '-': {name}",
                        self.limits.max_name_bytes.min(layout::MAX_NAME_BYTES)
                    )));
                }
                if tensors.len() == self.limits.max_tensors {
                    return Err(A::Error::custom(format_args!(
                        "more than {} tensors",
                        self.limits.max_tensors
                    )));
                }
                tensors.push(map.next_value_seed(Entry { name: &name, limits: self.limits })?);
            }
            names.insert(name);
        }
        Ok(tensors)
    }
}

struct Entry<'a> {
    name: &'a str,
    limits: &'a Limits,
}

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = RawTensor;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawTensor, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entry<'_> {
    type Value = RawTensor;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tensor {}: an object with dtype, shape and data_offsets", self.name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawTensor, A::Error> {
        let name = self.name;
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(field) = map.next_key::<String>()? {
            let twice = match field.as_str() {
                "dtype" => {
                    let text: String = map.next_value()?;
                    let known = Dtype::from_name(&text);
                    let known = known.ok_or_else(|| {
                        A::Error::custom(format_args!("tensor {name}: its dtype is not supported: {text}"))
                    })?;
                    dtype.replace(known).is_some()
                }
                "shape" => {
                    let most = self.limits.max_rank.min(layout::MAX_RANK);
                    shape.replace(map.next_value_seed(Numbers::<usize>::new("axes", most))?).is_some()
                }
                "data_offsets" => {
                    offsets.replace(map.next_value_seed(Numbers::<u64>::new("data_offsets", 2))?).is_some()
                }
                _ => {
                    return Err(A::Error::custom(format_args!("tensor {name}: unknown field {field}")));
                }
            };
            if twice {
                return Err(A::Error::custom(format_args!("tensor {name}: duplicate field {field}")));
            }
        }
        let missing = |what| A::Error::custom(format_args!("tensor {name}: {what} is missing"));
        let dtype = dtype.ok_or_else(|| missing("dtype"))?;
        let shape = shape.ok_or_else(|| missing("shape"))?;
        let offsets = offsets.ok_or_else(|| missing("data_offsets"))?;
        let &[begin, end] = offsets.as_slice() else {
            return Err(A::Error::custom(format_args!("tensor {name}: data_offsets are not two numbers")));
        };
        if layout::checked_bytes(dtype, &shape).is_none() {
            return Err(A::Error::custom(format_args!("tensor {name}: its size overflows")));
        }
        Ok(RawTensor { info: TensorInfo { name: name.to_owned(), dtype, shape }, begin, end })
    }
}

/// A list of at most so many whole numbers.
struct Numbers<T> {
    what: &'static str,
    most: usize,
    number: PhantomData<T>,
}

impl<T> Numbers<T> {
    fn new(what: &'static str, most: usize) -> Self {
        Self { what, most, number: PhantomData }
    }
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Numbers<T> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Numbers<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} {}, whole numbers from 0 on", self.most, self.what)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) = list.next_element()? {
            if numbers.len() == self.most {
                return Err(A::Error::custom(format_args!("more than {} {}", self.most, self.what)));
            }
            numbers.push(number);
        }
        Ok(numbers)
    }
}

/// `__metadata__`: an object of texts, bounded, and otherwise ignored.
struct Metadata<'a> {
    limits: &'a Limits,
}

impl<'de> DeserializeSeed<'de> for Metadata<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Metadata<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("__metadata__ to be an object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (entries, bytes) = (self.limits.max_metadata_entries, self.limits.max_metadata_bytes);
        let mut keys = HashSet::new();
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            if key.len().max(value.len()) > bytes {
                return Err(A::Error::custom(format_args!(
                    "__metadata__ holds a text of more than {bytes} bytes"
                )));
            }
            if keys.len() == entries {
                return Err(A::Error::custom(format_args!("__metadata__ has more than {entries} entries")));
            }
            if let Some(twice) = keys.replace(key) {
                return Err(A::Error::custom(format_args!("__metadata__ holds a key twice: {twice}")));
            }
        }
        Ok(())
    }
}
