//! What a server has to prove, for fuzzing.

use std::{sync::OnceLock, time::Duration};

use fedbasin_proof::{Frontier, Hash, Record, SignedHead, SigningKeys, TreeHead, merkle};
use fedbasin_proto::v1::{ProveLogResponse, Receipt};

use super::{PublicKeys, Trust, check};
use crate::{progress::Screen, retry::Patience};

/// Those that signed one receipt; the private ones are gone.
const KEYS: &str = include_str!("fuzzed/keys.pem");
/// Records of the log, and of its beginning that was seen before.
const SIZE: u64 = 13;
const SEEN: u64 = 5;
/// Where the record of the receipt is.
const PLACE: u64 = 10;

/// A receipt by those keys.
///
/// # Panics
/// Where another one is believed than that which was signed.
pub(crate) fn receipt(receipt: &Receipt) -> bool {
    static TRUST: OnceLock<Trust> = OnceLock::new();
    let trust = TRUST.get_or_init(|| Trust {
        keys: Some(PublicKeys::from_pem(KEYS).expect("keys")),
        head: None,
        seen: None,
        patience: Patience::lasting(Duration::ZERO),
        screen: Screen::silent(),
    });
    if trust.receipt(receipt).is_err() {
        return false;
    }
    let signature = receipt.signature.clone();
    assert_eq!(*receipt, Receipt { signature, ..expected() });
    true
}

/// What was signed, and the log has the record of.
fn expected() -> Receipt {
    Receipt {
        update_id: "0190a1b2-0000-7000-8000-000000000001".into(),
        run_id: "pilot".into(),
        round: 3,
        site_id: "a".into(),
        digest: "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae".into(),
        size: 1234,
        num_examples: 100,
        accepted_at_ms: 1_800_000_000_000,
        signature: Vec::new().into(),
        log_record: Some(PLACE),
    }
}

/// A proof that a log grew, and holds the record of the receipt.
///
/// # Panics
/// Where another one is believed than the only one that there is.
pub(crate) fn log(proof: &ProveLogResponse) -> bool {
    static LOG: OnceLock<(SignedHead, SignedHead, ProveLogResponse)> = OnceLock::new();
    let (older, newer, right) = LOG.get_or_init(grown);
    if check(older, newer, proof, Some(PLACE), Some(&expected())).is_err() {
        return false;
    }
    assert_eq!(proof, right);
    true
}

fn grown() -> (SignedHead, SignedHead, ProveLogResponse) {
    let keys = SigningKeys::from_pem(&SigningKeys::generate().expect("random numbers")).expect("keys");
    let receipt = expected();
    let line = |place| {
        let record = match place {
            PLACE => Record::of("update.accepted")
                .round(&receipt.run_id, receipt.round)
                .site(&receipt.site_id)
                .object(&receipt.update_id)
                .digests(None, Some(receipt.digest.clone()))
                .detail("num_examples", receipt.num_examples),
            _ => Record::of("run.created").run("pilot"),
        };
        Record { seq: place, ..record }.to_line().expect("JSON")
    };
    let leaves: Vec<Hash> = (0..SIZE).map(|place| merkle::leaf_hash(line(place).as_bytes())).collect();
    let root = |from: u64, to: u64| {
        let mut frontier = Frontier::default();
        for leaf in &leaves[usize::try_from(from).expect("small")..usize::try_from(to).expect("small")] {
            frontier.append(*leaf);
        }
        frontier.root()
    };
    let head = |size| TreeHead { origin: "log.example".into(), size, root: root(0, size) }.sign(&keys);
    let roots = |ranges: Option<Vec<std::ops::Range<u64>>>| {
        let ranges = ranges.expect("within the log");
        ranges.iter().map(|range| root(range.start, range.end).to_vec().into()).collect()
    };
    let proof = ProveLogResponse {
        growth: roots(merkle::consistency_ranges(SEEN, SIZE)),
        record: line(PLACE),
        inclusion: roots(merkle::inclusion_ranges(PLACE, SIZE)),
    };
    (head(SEEN), head(SIZE), proof)
}
