//! Stored bytes as they came.

use fedbasin_cipher::WrappingKey;
use fedbasin_proof::SigningKeys;

use crate::signing_keys;

/// The bytes of the checkpoint of that digest, from what lies in the store and the key that its row holds, for a server with the keys that tests
/// share.
///
/// # Panics
/// Where the row's key is not one of that server's.
#[must_use]
pub fn plain(digest: &str, wrapped_key: Option<String>, mut bytes: Vec<u8>) -> Vec<u8> {
    let Some(wrapped) = wrapped_key else { return bytes };
    let pem = std::fs::read_to_string(signing_keys()).expect("the tests' signing keys");
    let secret = SigningKeys::from_pem(&pem).expect("keys").secret("keys of stored updates");
    let name = hex::decode(digest).expect("a digest");
    WrappingKey::new(&secret).open(&name, wrapped).expect("its key").cipher.apply(0, &mut bytes);
    bytes
}
