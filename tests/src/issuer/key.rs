//! Keys that sign tokens.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    rand::SystemRandom,
    rsa::PublicKeyComponents,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
        RSA_PSS_SHA256, RsaKeyPair,
    },
};
use serde_json::{Value, json};

/// A key of an issuer, with the name that it is published under.
pub struct IssuerKey {
    /// Its name (`kid`).
    pub id: String,
    pair: Pair,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl fmt::Debug for IssuerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}", self.id)
    }
}

impl IssuerKey {
    /// An RSA key of 2048 bits: always the same, which lies beside this file and opens nothing anywhere.
    ///
    /// # Panics
    /// Where the file is not what it was.
    #[must_use]
    pub fn rsa(id: &str) -> Self {
        let pair = RsaKeyPair::from_der(include_bytes!("rsa.der")).expect("an RSA key");
        Self { id: id.to_owned(), pair: Pair::Rsa(Box::new(pair)) }
    }

    /// A new key on the curve P-256.
    ///
    /// # Panics
    /// Where the system gives no randomness.
    #[must_use]
    pub fn ec(id: &str) -> Self {
        let random = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, made.as_ref(), &random);
        Self { id: id.to_owned(), pair: Pair::Ec(pair.expect("a key")) }
    }

    /// A new Ed25519 key.
    ///
    /// # Panics
    /// Where the system gives no randomness.
    #[must_use]
    pub fn ed(id: &str) -> Self {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        let pair = Ed25519KeyPair::from_pkcs8(made.as_ref()).expect("a key");
        Self { id: id.to_owned(), pair: Pair::Ed(pair) }
    }

    /// The public key, as it is published.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => {
                let public: PublicKeyComponents<Vec<u8>> = pair.public().into();
                json!({ "kty": "RSA", "n": base64(&public.n), "e": base64(&public.e) })
            }
            Pair::Ec(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "x": base64(x), "y": base64(y) })
            }
            Pair::Ed(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key().as_ref()) })
            }
        };
        jwk["kid"] = json!(self.id);
        jwk["use"] = json!("sig");
        jwk
    }

    /// The public key's bytes: the curve's point, or an RSA key's DER.
    #[must_use]
    pub fn public(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Ec(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Ed(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    /// The algorithms that it signs by.
    #[must_use]
    pub fn algorithms(&self) -> &'static [&'static str] {
        match self.pair {
            Pair::Rsa(_) => &["RS256", "PS256"],
            Pair::Ec(_) => &["ES256"],
            Pair::Ed(_) => &["EdDSA"],
        }
    }

    /// A token with these claims, signed by the first of its algorithms.
    #[must_use]
    pub fn token(&self, claims: &Value) -> String {
        self.token_by(self.algorithms()[0], claims)
    }

    /// A token with these claims, signed by one of its algorithms.
    #[must_use]
    pub fn token_by(&self, algorithm: &str, claims: &Value) -> String {
        self.token_with(&json!({ "alg": algorithm, "typ": "JWT", "kid": self.id }), &claims.to_string())
    }

    /// A token with this header and this payload; `alg` says how it is signed, one that is not the key's by the key's own.
    ///
    /// # Panics
    /// Where the system gives no randomness.
    #[must_use]
    pub fn token_with(&self, header: &Value, payload: &str) -> String {
        let message = format!("{}.{}", base64(header.to_string().as_bytes()), base64(payload.as_bytes()));
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let pss = header["alg"] == "PS256";
                let how: &'static dyn ring::signature::RsaEncoding =
                    if pss { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                pair.sign(how, &random, message.as_bytes(), &mut signature).expect("signed");
                signature
            }
            Pair::Ec(pair) => pair.sign(&random, message.as_bytes()).expect("signed").as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", base64(&signature))
    }

    /// A token that an attacker makes of a public text: HS256, with that as the secret.
    #[must_use]
    pub fn forged(id: &str, secret: &[u8], claims: &Value) -> String {
        let header = json!({ "alg": "HS256", "typ": "JWT", "kid": id });
        let message =
            format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
        format!("{message}.{}", base64(tag.as_ref()))
    }
}

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
