//! The server's keys: Ed25519 for receipts and tree heads, ECDSA on P-256 for models.

use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
        KeyPair as _, UnparsedPublicKey,
    },
};
use sha2::{Digest as _, Sha256};

use crate::error::ProofError;

/// What comes before an Ed25519 key in a `SubjectPublicKeyInfo` (RFC 8410, section 4).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// What comes before an uncompressed P-256 point in a `SubjectPublicKeyInfo` (RFC 5480, section 2).
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const PRIVATE: &str = "PRIVATE KEY";
const PUBLIC: &str = "PUBLIC KEY";
const FILE: &str = "a file of signing keys";
const PUBLIC_FILE: &str = "a file of public keys";

/// Both private keys.
pub struct SigningKeys {
    ed25519: Ed25519KeyPair,
    p256: EcdsaKeyPair,
    random: SystemRandom,
}

// Never what is secret.
impl std::fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKeys").field("public", &self.public()).finish_non_exhaustive()
    }
}

/// Both public keys.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKeys {
    /// For receipts and tree heads.
    pub ed25519: [u8; 32],
    /// For models: an uncompressed point.
    pub p256: [u8; 65],
}

impl std::fmt::Debug for PublicKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PublicKeys").field(&self.fingerprint()).finish()
    }
}

impl SigningKeys {
    /// New keys, as the text of a file: two PKCS #8 keys in PEM, to be kept secret.
    ///
    /// # Errors
    /// [`ProofError::Signing`] when the system gives no randomness.
    pub fn generate() -> Result<String, ProofError> {
        let random = SystemRandom::new();
        let failed = |_| ProofError::Signing("the system gave no random numbers".into());
        let ed25519 = Ed25519KeyPair::generate_pkcs8(&random).map_err(failed)?;
        let p256 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).map_err(failed)?;
        Ok([ed25519.as_ref(), p256.as_ref()].map(|key| encode(PRIVATE, key)).concat())
    }

    /// Reads what [`SigningKeys::generate`] made, or two such keys of another's making, in either order.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] where there is not one key of each kind.
    pub fn from_pem(text: &str) -> Result<Self, ProofError> {
        let random = SystemRandom::new();
        let (mut ed25519, mut p256) = (None, None);
        for block in pem::parse_many(text).map_err(|error| ProofError::malformed(FILE, error))? {
            let key = block.contents();
            if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key) {
                ed25519 = Some(key);
            } else if let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key, &random) {
                p256 = Some(key);
            } else {
                return Err(ProofError::malformed(
                    FILE,
                    format!(
                        "holds a block {:?} that is neither an Ed25519 nor a P-256 key in PKCS #8",
                        block.tag()
                    ),
                ));
            }
        }
        match (ed25519, p256) {
            (Some(ed25519), Some(p256)) => Ok(Self { ed25519, p256, random }),
            (None, _) => Err(ProofError::malformed(FILE, "holds no Ed25519 key")),
            (_, None) => Err(ProofError::malformed(FILE, "holds no P-256 key")),
        }
    }

    /// The public keys.
    #[must_use]
    pub fn public(&self) -> PublicKeys {
        let (mut ed25519, mut p256) = ([0; 32], [0; 65]);
        // The lengths are those of the two kinds of key, whatever the key.
        ed25519.copy_from_slice(self.ed25519.public_key().as_ref());
        p256.copy_from_slice(self.p256.public_key().as_ref());
        PublicKeys { ed25519, p256 }
    }

    /// A secret of these keys' owner for one purpose, the same each time: the SHA-256 of what Ed25519, which is deterministic (RFC 8032,
    /// section 5.1.6), makes of a text that nothing else here signs. Whoever has not the private key cannot guess it.
    #[must_use]
    pub fn secret(&self, purpose: &str) -> [u8; 32] {
        let text = format!("fedbasin secret, not a signature to give away\n{purpose}\n");
        Sha256::digest(self.sign_ed25519(text.as_bytes())).into()
    }

    pub(crate) fn sign_ed25519(&self, text: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.ed25519.sign(text).as_ref());
        signature
    }

    pub(crate) fn sign_p256(&self, text: &[u8]) -> Result<Vec<u8>, ProofError> {
        let signature = self.p256.sign(&self.random, text);
        let signature =
            signature.map_err(|_| ProofError::Signing("the system gave no random numbers".into()))?;
        Ok(signature.as_ref().to_vec())
    }
}

impl PublicKeys {
    /// Both as a text of two PEM blocks, the P-256 key first: tools that read one key of a file read the first, and those are the
    /// tools that verify models.
    #[must_use]
    pub fn to_pem(&self) -> String {
        [self.p256_pem(), encode(PUBLIC, &[&ED25519_SPKI[..], &self.ed25519].concat())].concat()
    }

    /// The key that models are signed with, as PEM.
    #[must_use]
    pub fn p256_pem(&self) -> String {
        encode(PUBLIC, &[&P256_SPKI[..], &self.p256].concat())
    }

    /// Reads [`PublicKeys::to_pem`], in either order.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] where there is not one key of each kind.
    pub fn from_pem(text: &str) -> Result<Self, ProofError> {
        let (mut ed25519, mut p256) = (None, None);
        for block in pem::parse_many(text).map_err(|error| ProofError::malformed(PUBLIC_FILE, error))? {
            let key = block.contents();
            if let Some(rest) = key.strip_prefix(&ED25519_SPKI) {
                ed25519 = rest.try_into().ok();
            } else if let Some(rest) = key.strip_prefix(&P256_SPKI) {
                p256 = rest.try_into().ok();
            }
        }
        match (ed25519, p256) {
            (Some(ed25519), Some(p256)) => Ok(Self { ed25519, p256 }),
            _ => Err(ProofError::malformed(PUBLIC_FILE, "holds not an Ed25519 and a P-256 public key")),
        }
    }

    /// By which people compare keys: the SHA-256 of both, the first 32 hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let hash = Sha256::new().chain_update(self.ed25519).chain_update(self.p256).finalize();
        hex::encode(&hash[..16])
    }

    pub(crate) fn verify_ed25519(&self, text: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.ed25519).verify(text, signature).is_ok()
    }

    pub(crate) fn verify_p256(&self, text: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.p256).verify(text, signature).is_ok()
    }
}

fn encode(tag: &str, contents: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, contents), config)
}
