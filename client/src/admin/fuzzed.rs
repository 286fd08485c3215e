//! What the HTTP edge answers, for fuzzing.

use serde::{Serialize, de::DeserializeOwned};

use super::{
    audit::{Keys, Records},
    problem::problem_error,
    segment,
    types::{
        Certificates, Checkpoint, DeliveryList, Graph, MadeToken, Round, RoundList, RunList, SiteList,
        TokenList,
    },
};

/// An error's answer: two bytes of status, then the text.
///
/// # Panics
/// Where a person would be shown more than a line.
pub(crate) fn problem(bytes: &[u8]) -> bool {
    let Some((status, text)) = bytes.split_first_chunk::<2>() else { return false };
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let error = problem_error(u16::from_le_bytes(*status), "error", text, "https://h/v1/runs");
    crate::fuzzed::one_line(&error);
    error.code().is_some()
}

/// A document: the first byte says which.
///
/// # Panics
/// Where it is read otherwise when it was written again, or a name in it leads elsewhere.
pub(crate) fn document(bytes: &[u8]) -> bool {
    let Some((which, bytes)) = bytes.split_first() else { return false };
    let name = segment(&String::from_utf8_lossy(bytes));
    assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_%".contains(&byte)), "{name}");
    match which % 12 {
        0 => serde_json::from_slice::<RunList>(bytes).is_ok(),
        1 => serde_json::from_slice::<RoundList>(bytes).is_ok(),
        2 => again::<Round>(bytes),
        3 => serde_json::from_slice::<SiteList>(bytes).is_ok(),
        4 => serde_json::from_slice::<TokenList>(bytes).is_ok(),
        5 => again::<MadeToken>(bytes),
        6 => again::<Certificates>(bytes),
        7 => again::<Graph>(bytes),
        8 => again::<Checkpoint>(bytes),
        9 => again::<Records>(bytes),
        10 => again::<Keys>(bytes),
        _ => again::<DeliveryList>(bytes),
    }
}

fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<T>(bytes) else { return false };
    let text = serde_json::to_string(&value).expect("JSON");
    let read: T = serde_json::from_str(&text).expect("what we write, we read");
    assert_eq!(serde_json::to_string(&read).expect("JSON"), text);
    true
}
