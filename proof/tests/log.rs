//! The tree against the vectors of Certificate Transparency's own tests, and a log against whoever changes it.

use fedbasin_proof::{
    Frontier, Hash, ProofError, PublicKeys, Record, SignedHead, SigningKeys, TreeHead, export,
    merkle::{
        consistency_ranges, empty_root, fold, inclusion_ranges, leaf_hash, node_hash, subtrees,
        verify_consistency, verify_inclusion,
    },
};
use proptest::prelude::*;

/// Leaves and roots of the reference tree in Certificate Transparency's tests (google/certificate-transparency, Apache-2.0).
const LEAVES: [&str; 8] =
    ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

#[test]
fn the_roots_are_those_of_certificate_transparency() {
    let mut frontier = Frontier::default();
    assert_eq!(frontier.root(), empty_root());
    for (leaf, root) in LEAVES.iter().zip(ROOTS) {
        frontier.append(leaf_hash(&hex::decode(leaf).expect("hex")));
        assert_eq!(hex::encode(frontier.root()), root, "{} leaves", frontier.size());
        assert_eq!(Frontier::from_hex(frontier.size(), &frontier.to_hex()), Some(frontier.clone()));
    }
    assert_eq!(Frontier::from_hex(7, &frontier.to_hex()), None, "hashes of another size");
}

/// The root over leaves, as RFC 6962 defines it: by halves.
fn plain_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [one] => *one,
        many => {
            let (left, right) = many.split_at(1 << (many.len() - 1).ilog2());
            node_hash(&plain_root(left), &plain_root(right))
        }
    }
}

fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(|i| leaf_hash(&i.to_be_bytes())).collect()
}

#[test]
fn every_proof_of_every_small_tree_verifies_and_no_other() {
    let all = leaves(40);
    for size in 1..=all.len() {
        let (tree, root) = (&all[..size], plain_root(&all[..size]));
        let size = size as u64;
        for leaf in 0..size {
            let ranges = inclusion_ranges(leaf, size).expect("a leaf of it");
            let proof: Vec<Hash> = ranges.iter().map(|range| hash_of(tree, range)).collect();
            assert!(verify_inclusion(&tree[leaf as usize], leaf, size, &root, &proof), "{leaf} of {size}");
            for other in (0..size).filter(|other| *other != leaf) {
                assert!(!verify_inclusion(&tree[leaf as usize], other, size, &root, &proof));
            }
            for bad in damaged(&proof) {
                assert!(!verify_inclusion(&tree[leaf as usize], leaf, size, &root, &bad));
            }
        }
        assert_eq!(inclusion_ranges(size, size), None);
        for first in 0..=size {
            let first_root = plain_root(&tree[..first as usize]);
            let ranges = consistency_ranges(first, size).expect("not larger");
            let proof: Vec<Hash> = ranges.iter().map(|range| hash_of(tree, range)).collect();
            assert!(verify_consistency((first, &first_root), (size, &root), &proof), "{first} of {size}");
            for bad in damaged(&proof) {
                assert!(!verify_consistency((first, &first_root), (size, &root), &bad));
            }
            let other = leaf_hash(b"another");
            assert!(!verify_consistency((first, &other), (size, &root), &proof));
            if first > 0 {
                assert!(!verify_consistency((first, &first_root), (size, &other), &proof));
            }
        }
        assert_eq!(consistency_ranges(size + 1, size), None);
    }
}

/// The root of a range, folded from complete subtrees as a log keeps them, and by the definition.
fn hash_of(leaves: &[Hash], range: &std::ops::Range<u64>) -> Hash {
    let plain = plain_root(&leaves[range.start as usize..range.end as usize]);
    let nodes: Vec<Hash> = subtrees(range)
        .iter()
        .map(|node| {
            let first = (node.index << node.level) as usize;
            plain_root(&leaves[first..first + (1 << node.level)])
        })
        .collect();
    assert_eq!(fold(&nodes), Some(plain), "{range:?}");
    plain
}

/// A proof with one hash changed, one too few, one too many.
fn damaged(proof: &[Hash]) -> Vec<Vec<Hash>> {
    let mut all: Vec<Vec<Hash>> = (0..proof.len())
        .flat_map(|i| {
            let (mut flipped, mut short) = (proof.to_vec(), proof.to_vec());
            flipped[i][7] ^= 1;
            short.remove(i);
            [flipped, short]
        })
        .collect();
    all.push([proof, &[leaf_hash(b"more")]].concat());
    all
}

#[test]
fn a_growing_frontier_names_each_complete_subtree_once() {
    let all = leaves(100);
    let mut frontier = Frontier::default();
    let mut made = Vec::new();
    for leaf in &all {
        made.extend(frontier.append(*leaf));
    }
    for (node, hash) in &made {
        let first = (node.index << node.level) as usize;
        assert_eq!(*hash, plain_root(&all[first..first + (1 << node.level)]), "{node:?}");
    }
    let expected: u64 = (1..7).map(|level| 100 >> level).sum();
    assert_eq!(made.len() as u64, expected);
}

fn keys() -> (SigningKeys, PublicKeys) {
    let keys = SigningKeys::from_pem(&SigningKeys::generate().expect("random")).expect("keys");
    let public = keys.public();
    (keys, public)
}

/// A log of `count` records as an export, and its head.
fn exported(count: u64, keys: &SigningKeys) -> (String, SignedHead) {
    let mut frontier = Frontier::default();
    let mut text = export::First::line("log-a", &keys.public()).expect("JSON") + "\n";
    for seq in 0..count {
        let mut record = Record::of("round.opened").round("run", u32::try_from(seq).expect("small"));
        (record.seq, record.at_ms) = (seq, 1_700_000_000_000 + seq as i64);
        let line = record.to_line().expect("JSON");
        frontier.append(leaf_hash(line.as_bytes()));
        text += &line;
        text += "\n";
    }
    let head = TreeHead { origin: "log-a".into(), size: count, root: frontier.root() }.sign(keys);
    text += &export::Last::line(&head).expect("JSON");
    text += "\n";
    (text, head)
}

fn verify(text: &str, keys: &PublicKeys, kept: Option<&SignedHead>) -> Result<export::Verified, ProofError> {
    export::verify(&mut text.as_bytes(), Some(keys), kept)
}

#[test]
fn a_whole_export_verifies_and_goes_on_from_what_was_seen() {
    let (secret, public) = keys();
    let (early, seen) = exported(5, &secret);
    let (late, head) = exported(9, &secret);
    let verified = verify(&late, &public, Some(&seen)).expect("whole");
    assert_eq!(verified.head, head);
    assert_eq!(verified.span_ms, Some((1_700_000_000_000, 1_700_000_000_008)));
    assert!(verify(&exported(0, &secret).0, &public, None).expect("whole").span_ms.is_none());
    let rolled_back = verify(&early, &public, Some(&head)).expect_err("shorter than what was seen");
    assert!(rolled_back.to_string().contains("rolled back"), "{rolled_back}");
    let (_, other) = keys();
    assert!(matches!(verify(&late, &other, None), Err(ProofError::WrongSignature { .. })));
}

#[test]
fn a_past_that_was_rewritten_and_signed_again_is_seen_by_whoever_kept_a_head() {
    let (secret, public) = keys();
    let (text, seen) = exported(6, &secret);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines[3] = lines[3].replace("round.opened", "round.failed");
    let mut frontier = Frontier::default();
    lines[1..7].iter().for_each(|line| drop(frontier.append(leaf_hash(line.as_bytes()))));
    let head = TreeHead { origin: "log-a".into(), size: 6, root: frontier.root() }.sign(&secret);
    lines[7] = export::Last::line(&head).expect("JSON");
    let rewritten = lines.join("\n") + "\n";
    verify(&rewritten, &public, None).expect("whole in itself");
    let error = verify(&rewritten, &public, Some(&seen)).expect_err("another past");
    assert!(error.to_string().contains("the past was changed"), "{error}");
}

#[test]
fn a_head_counts_only_as_it_was_signed() {
    let (secret, public) = keys();
    let head = TreeHead { origin: "log-a".into(), size: 12, root: leaf_hash(b"x") }.sign(&secret);
    assert_eq!(SignedHead::open(head.note(), &public).expect("signed"), head);
    assert_eq!(SignedHead::from_word(&head.to_word(), &public).expect("signed"), head);
    for bad in [
        head.note().replace("12", "13"),
        head.note().replace("log-a\n12", "log-b\n12"),
        head.note().replace("log-a\n12", "log-a\n012"),
        head.note().replace("\n\n", "\n"),
        String::new(),
        "\n\n".into(),
        head.note()[..head.note().len() / 2].to_owned(),
        "x".repeat(5000),
    ] {
        assert!(SignedHead::open(&bad, &public).is_err(), "{bad:?}");
    }
    assert!(SignedHead::from_word("@@", &public).is_err());
}

/// One change to an export's bytes or lines.
#[derive(Debug, Clone)]
enum Edit {
    Byte { at: prop::sample::Index, xor: u8 },
    Drop { line: prop::sample::Index },
    Swap { one: prop::sample::Index, other: prop::sample::Index },
    Repeat { line: prop::sample::Index },
    Cut { at: prop::sample::Index },
}

fn edit() -> impl Strategy<Value = Edit> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (index(), 1_u8..).prop_map(|(at, xor)| Edit::Byte { at, xor }),
        1 => index().prop_map(|line| Edit::Drop { line }),
        1 => (index(), index()).prop_map(|(one, other)| Edit::Swap { one, other }),
        1 => index().prop_map(|line| Edit::Repeat { line }),
        1 => index().prop_map(|at| Edit::Cut { at }),
    ]
}

fn apply(text: &str, edit: &Edit) -> Vec<u8> {
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    match edit {
        Edit::Byte { at, xor } => {
            let mut bytes = text.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= xor;
            return bytes;
        }
        Edit::Drop { line } => drop(lines.remove(line.index(lines.len()))),
        Edit::Swap { one, other } => {
            let (one, other) = (one.index(lines.len()), other.index(lines.len()));
            lines.swap(one, other);
        }
        Edit::Repeat { line } => {
            let line = line.index(lines.len());
            lines.insert(line, lines[line]);
        }
        Edit::Cut { at } => return text.as_bytes()[..at.index(text.len())].to_vec(),
    }
    lines.concat().into_bytes()
}

proptest! {
    // Each of these is four changes: ten thousand in all.
    #![proptest_config(ProptestConfig { cases: 2500, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_changed_of_a_log_is_seen(count in 1_u64..30, edits in prop::collection::vec(edit(), 4)) {
        thread_local!(static KEYS: (SigningKeys, PublicKeys) = keys());
        KEYS.with(|(secret, public)| {
            let (text, seen) = exported(count, secret);
            for edit in &edits {
                let changed = apply(&text, edit);
                if changed == text.as_bytes() {
                    continue;
                }
                let verified = export::verify(&mut changed.as_slice(), Some(public), Some(&seen));
                // The first line's keys are not trusted, and say nothing where the reader has his own.
                let only_own_keys = changed.split(|byte| *byte == b'\n').skip(1).eq(text.as_bytes().split(|byte| *byte == b'\n').skip(1));
                prop_assert!(verified.is_err() || only_own_keys, "{edit:?} was not seen");
            }
            Ok(())
        })?;
    }
}
