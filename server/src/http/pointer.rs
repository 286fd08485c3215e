//! Places of a JSON body, as RFC 6901 names them.

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

/// The place that a message is of, which begins with the field's name (`policy.quorum: …`), and the rest of it.
pub(super) fn of_message(message: &str) -> Option<(String, &str)> {
    let (field, rest) = message.split_once(": ")?;
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if !field.split('.').all(plain) {
        return None;
    }
    let pointer = field.split('.').fold(String::new(), |pointer, part| pointer + "/" + part);
    Some((pointer, rest))
}

/// The place at which a body cannot be read as `T`: that of the object where a field is missing in it. Nothing where it can, or is no JSON.
pub(super) fn of_reading<T: DeserializeOwned>(body: &[u8]) -> Option<String> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let error = serde_path_to_error::deserialize::<_, T>(&mut reader).err()?;
    if !error.inner().is_data() {
        return None;
    }
    let mut pointer = String::new();
    for segment in error.path() {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => {
                // What a stranger wrote: no longer than a name is.
                let key: String = key.chars().take(80).collect();
                pointer.push('/');
                pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    Some(pointer)
}

#[cfg(test)]
mod tests;
