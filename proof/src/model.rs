//! A model's signature: a Sigstore bundle around a DSSE envelope around an in-toto statement, as the OpenSSF Model Signing format, version
//! 1.0, has it for a bare key and a model of one file.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    error::ProofError,
    keys::{PublicKeys, SigningKeys},
};

const WHAT: &str = "a model's signature";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PAYLOAD: &str = "application/vnd.in-toto+json";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://model_signing/signature/v1.0";
/// How the format's tool names the one file of a model that is a file.
const THE_FILE: &str = ".";
/// The predicate's field that says what the model was made from; verifiers of version 1.0 ignore fields they do not know.
const OURS: &str = "fedbasin";

/// What a model's signature says.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelStatement {
    /// What the model is called.
    pub name: String,
    /// SHA-256 of its file, in lower-case hex.
    pub digest: String,
    /// What it was made from: run, round, reference, participants, shares, log.
    pub provenance: Value,
}

/// What DSSE signs of a payload (DSSE v1.0.0, protocol, "PAE").
fn encoded(payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {PAYLOAD} {} ", PAYLOAD.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

/// By what a bundle says which key it wants: SHA-256 of its PEM text.
fn hint(keys: &PublicKeys) -> String {
    hex::encode(Sha256::digest(keys.p256_pem()))
}

impl ModelStatement {
    /// Signs it, and gives the bundle's JSON text.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] for a digest that is none; [`ProofError::Signing`].
    pub fn sign(&self, keys: &SigningKeys) -> Result<String, ProofError> {
        let digest = hex::decode(&self.digest).map_err(|error| ProofError::malformed(WHAT, error))?;
        let payload = json!({
            "_type": STATEMENT,
            "subject": [{ "name": self.name, "digest": { "sha256": hex::encode(Sha256::digest(&digest)) } }],
            "predicateType": PREDICATE,
            "predicate": {
                "serialization": { "method": "files", "hash_type": "sha256", "allow_symlinks": false, "ignore_paths": [] },
                "resources": [{ "name": THE_FILE, "algorithm": "sha256", "digest": self.digest }],
                OURS: self.provenance,
            },
        })
        .to_string();
        let signature = keys.sign_p256(&encoded(payload.as_bytes()))?;
        let bundle = json!({
            "mediaType": BUNDLE,
            "verificationMaterial": { "publicKey": { "hint": hint(&keys.public()) }, "tlogEntries": [] },
            "dsseEnvelope": {
                "payload": STANDARD.encode(&payload),
                "payloadType": PAYLOAD,
                "signatures": [{ "sig": STANDARD.encode(signature), "keyid": "" }],
            },
        });
        serde_json::to_string_pretty(&bundle).map_err(|error| ProofError::malformed(WHAT, error))
    }

    /// Reads a bundle and checks its signature. That it is of the bytes at hand is the caller's to compare, by the digest.
    ///
    /// # Errors
    /// [`ProofError::Malformed`]; [`ProofError::WrongSignature`] where another key signed it or it was changed.
    pub fn open(bundle: &str, keys: &PublicKeys) -> Result<Self, ProofError> {
        let malformed = |why: &str| ProofError::malformed(WHAT, why);
        let bundle: Value =
            serde_json::from_str(bundle).map_err(|error| ProofError::malformed(WHAT, error))?;
        let envelope = &bundle["dsseEnvelope"];
        let decoded = |value: &Value| value.as_str().and_then(|text| STANDARD.decode(text).ok());
        let payload = decoded(&envelope["payload"]).ok_or_else(|| malformed("has no payload in base64"))?;
        let [signature] = envelope["signatures"].as_array().map_or(&[][..], Vec::as_slice) else {
            return Err(malformed("has not one signature"));
        };
        let signature = decoded(&signature["sig"]).ok_or_else(|| malformed("has no signature in base64"))?;
        if envelope["payloadType"] != PAYLOAD || !keys.verify_p256(&encoded(&payload), &signature) {
            return Err(ProofError::WrongSignature { what: WHAT, key: keys.fingerprint() });
        }
        let statement: Value =
            serde_json::from_slice(&payload).map_err(|error| ProofError::malformed(WHAT, error))?;
        if statement["_type"] != STATEMENT || statement["predicateType"] != PREDICATE {
            return Err(malformed("is a statement of another kind"));
        }
        let resources = statement["predicate"]["resources"].as_array().map_or(&[][..], Vec::as_slice);
        let ([subject], [resource]) =
            (statement["subject"].as_array().map_or(&[][..], Vec::as_slice), resources)
        else {
            return Err(malformed("is not of one file"));
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match (text(&subject["name"]), text(&resource["digest"]), resource["algorithm"] == "sha256") {
            (Some(name), Some(digest), true) => {
                Ok(Self { name, digest, provenance: statement["predicate"][OURS].clone() })
            }
            _ => Err(malformed("names no file by its SHA-256")),
        }
    }
}
