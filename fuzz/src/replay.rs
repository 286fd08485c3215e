//! The targets with the ordinary compiler: every seed, and mutations of each. A module of the tests of several rooms.

use std::{fs, path::Path};

/// Mutations in all, shared by the seeds.
const MUTATIONS: u64 = 20_000;
/// Larger seeds get fewer: about so many bytes are tried in all, shared too.
const BYTES: u64 = 30_000_000;

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut seeds: Vec<(String, Vec<u8>)> = fs::read_dir(&folder)
        .expect("a corpus")
        .map(|entry| {
            let path = entry.expect("a file").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, fs::read(path).expect("readable"))
        })
        .collect();
    seeds.sort();
    assert!(seeds.len() >= 5, "{}: {} seeds", folder.display(), seeds.len());
    seeds
}

/// A few bytes changed, inserted, removed or repeated.
fn mutated(seed: &[u8], number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.len() as u64;
    let mut below = |end: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("31 bits") % end.max(1)
    };
    let mut bytes = seed.to_vec();
    for _ in 0..=below(4) {
        let at = below(bytes.len());
        match below(6) {
            _ if bytes.is_empty() => bytes.push(below(256) as u8),
            0 => bytes[at] ^= 1 << below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'[', b'9'][below(8)],
            2 => bytes.insert(at, below(256) as u8),
            3 => drop(bytes.drain(at..(at + 1 + below(8)).min(bytes.len()))),
            4 => {
                let again = bytes[at..(at + 1 + below(16)).min(bytes.len())].to_vec();
                bytes.splice(at..at, again);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

/// Tries a target on all its seeds, and on mutations of them.
///
/// # Panics
/// Where the target does, or fewer than two seeds are read.
pub fn replay(target: &str, tried: fn(&[u8]) -> bool) {
    let (seeds, mut well) = (seeds(target), 0);
    let share = seeds.len() as u64;
    for (name, seed) in seeds {
        let read = tried(&seed);
        println!("{name}: {}", if read { "read" } else { "refused" });
        well += u32::from(read);
        let mutations = (MUTATIONS / share).min(BYTES / share / (seed.len() as u64 + 1)).max(10);
        for number in 0..mutations {
            tried(&mutated(&seed, number));
        }
    }
    assert!(well >= 2, "mutations start from files that are read, too");
}
