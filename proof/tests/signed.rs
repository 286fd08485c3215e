//! Keys, receipts and models: what is signed verifies, and nothing else does.

use fedbasin_proof::{ProofError, PublicKeys, Receipt, SigningKeys, model::ModelStatement};
use serde_json::{Value, json};

fn keys() -> SigningKeys {
    SigningKeys::from_pem(&SigningKeys::generate().expect("random")).expect("keys")
}

fn receipt() -> Receipt {
    Receipt {
        update_id: "0192".into(),
        run_id: "run".into(),
        round: 3,
        site_id: "north".into(),
        digest: "ab".repeat(32),
        size: 100,
        num_examples: 12,
        accepted_at_ms: 1_700_000_000_000,
        log_seq: Some(17),
    }
}

#[test]
fn keys_are_the_same_after_their_files() {
    let text = SigningKeys::generate().expect("random");
    let keys = SigningKeys::from_pem(&text).expect("keys");
    assert_eq!(PublicKeys::from_pem(&keys.public().to_pem()).expect("public keys"), keys.public());
    assert!(!format!("{keys:?}").contains(text.lines().nth(1).expect("a line")), "no secret is shown");
    let (first, second) = text.split_at(text.rfind("-----BEGIN").expect("two blocks"));
    assert_eq!(
        SigningKeys::from_pem(&[second, first].concat()).expect("either order").public(),
        keys.public()
    );
    for bad in ["", first, second, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        assert!(matches!(SigningKeys::from_pem(bad), Err(ProofError::Malformed { .. })), "{bad}");
        assert!(PublicKeys::from_pem(bad).is_err());
    }
}

#[test]
fn a_receipt_counts_only_as_it_was_signed() {
    let keys = keys();
    let signature = receipt().sign(&keys);
    assert_eq!(receipt().sign(&keys), signature, "always the same bytes");
    receipt().verify(&signature, &keys.public()).expect("signed");
    let changes: [fn(&mut Receipt); 9] = [
        |r| r.update_id.push('0'),
        |r| r.run_id.push('0'),
        |r| r.round += 1,
        |r| r.site_id.push('0'),
        |r| r.digest.replace_range(..2, "ac"),
        |r| r.size += 1,
        |r| r.num_examples += 1,
        |r| r.accepted_at_ms += 1,
        |r| r.log_seq = None,
    ];
    for (i, change) in changes.iter().enumerate() {
        let mut other = receipt();
        change(&mut other);
        assert!(other.verify(&signature, &keys.public()).is_err(), "field {i}");
    }
    assert!(receipt().verify(&signature[..63], &keys.public()).is_err());
    assert!(receipt().verify(&signature, &self::keys().public()).is_err(), "another server's key");
}

fn statement() -> ModelStatement {
    ModelStatement {
        name: "run-round-3".into(),
        digest: "cd".repeat(32),
        provenance: json!({"run": "run", "round": 3, "participants": 4}),
    }
}

#[test]
fn a_model_s_signature_gives_its_statement_back() {
    let keys = keys();
    let bundle = statement().sign(&keys).expect("signed");
    assert_eq!(ModelStatement::open(&bundle, &keys.public()).expect("verified"), statement());
    let other = ModelStatement::open(&bundle, &self::keys().public());
    assert!(matches!(other, Err(ProofError::WrongSignature { .. })));
}

#[test]
fn every_changed_byte_of_a_signed_payload_is_refused() {
    let keys = keys();
    let bundle = statement().sign(&keys).expect("signed");
    let whole: Value = serde_json::from_str(&bundle).expect("JSON");
    for field in ["payload", "sig"] {
        let text = |bundle: &Value| match field {
            "payload" => bundle["dsseEnvelope"]["payload"].as_str().expect("text").to_owned(),
            _ => bundle["dsseEnvelope"]["signatures"][0]["sig"].as_str().expect("text").to_owned(),
        };
        let original = text(&whole);
        for at in 0..original.len() {
            let mut bytes = original.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            let mut bundle = whole.clone();
            match field {
                "payload" => bundle["dsseEnvelope"]["payload"] = changed.into(),
                _ => bundle["dsseEnvelope"]["signatures"][0]["sig"] = changed.into(),
            }
            assert!(ModelStatement::open(&bundle.to_string(), &keys.public()).is_err(), "{field} at {at}");
        }
    }
    for bad in ["", "{}", "[]", "null", r#"{"dsseEnvelope":{"payload":"","signatures":[]}}"#] {
        assert!(ModelStatement::open(bad, &keys.public()).is_err(), "{bad}");
    }
}

/// Stored updates are encrypted with it: another text, or another way to it, and none of them could be read. Computed by Python's cryptography
/// (Ed25519 of the bytes 0 to 31, and SHA-256).
#[test]
fn the_secret_of_stored_updates_is_the_one_it_always_was() {
    let pem = "\
-----BEGIN PRIVATE KEY-----\n\
MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n\
-----END PRIVATE KEY-----\n\
-----BEGIN PRIVATE KEY-----\n\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgAAAAAAAAAAAAAAAA\n\
AAAAABI0VniQq83vEjRWeJCrze+hRANCAAT56+RkFHzBAtkjJNCZ2SfBpQ5C1XoI\n\
oRb/7AopgZ2MZXC699EoiJAqagwdZ63RAxI8hZq2m/jpQxyThJMNS37u\n\
-----END PRIVATE KEY-----\n\
";
    let keys = SigningKeys::from_pem(pem).expect("two keys");
    let secret = keys.secret("keys of stored updates");
    assert_eq!(hex::encode(secret), "9bb52cfa46827e5d7fded5dcc7b2f426ae2708fc9ffaa75c692e6c8f5aaa5d6a");
    assert_ne!(keys.secret("something else"), secret);
}
