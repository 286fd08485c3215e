#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

use aes::{
    Aes256,
    cipher::{
        InnerIvInit as _, KeyInit as _, StreamCipher as _, StreamCipherCoreWrapper, StreamCipherSeek as _,
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ctr::{CtrCore, flavors::Ctr128BE};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// Why there is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CipherError {
    /// The system has none to give.
    #[error("the system gave no random numbers")]
    Random,
    /// The text is no key of this file, or it was encrypted with another key.
    #[error("the key of a file was encrypted with another key, or for another file")]
    Wrapped,
}

/// Turns one file's bytes into what lies on the disk, and back.
#[derive(Clone)]
pub struct FileCipher {
    aes: Aes256,
}

// Never what is secret.
impl std::fmt::Debug for FileCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileCipher").finish_non_exhaustive()
    }
}

impl FileCipher {
    fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self { aes: Aes256::new(key.into()) }
    }

    /// Encrypts, or decrypts, the file's bytes from `offset` on, in place.
    pub fn apply(&self, offset: u64, bytes: &mut [u8]) {
        let counter = CtrCore::<_, Ctr128BE>::inner_iv_init(self.aes.clone(), &[0; 16].into());
        let mut stream = StreamCipherCoreWrapper::from_core(counter);
        stream.seek(offset);
        stream.apply_keystream(bytes);
    }
}

/// Of one file: what turns its bytes, and its key as a row holds it.
#[derive(Debug, Clone)]
pub struct FileKey {
    /// Turns its bytes.
    pub cipher: FileCipher,
    /// Its key, encrypted, in base64.
    pub wrapped: String,
}

/// The key that files' keys are encrypted with.
pub struct WrappingKey(LessSafeKey);

impl std::fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WrappingKey").finish_non_exhaustive()
    }
}

impl WrappingKey {
    /// From a secret.
    #[must_use]
    pub fn new(key: &[u8; KEY_BYTES]) -> Self {
        // Only a length that is not this kind's is refused.
        let key = UnboundKey::new(&AES_256_GCM, key).expect("an AES-256 key has 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// A new file's key, for the file of that name (its digest) alone.
    ///
    /// # Errors
    /// [`CipherError::Random`].
    pub fn make(&self, name: &[u8]) -> Result<FileKey, CipherError> {
        let (mut key, mut nonce) = ([0; KEY_BYTES], [0; NONCE_LEN]);
        getrandom::fill(&mut key).map_err(|_| CipherError::Random)?;
        getrandom::fill(&mut nonce).map_err(|_| CipherError::Random)?;
        let mut sealed = key.to_vec();
        let of_this = Nonce::assume_unique_for_key(nonce);
        self.0
            .seal_in_place_append_tag(of_this, Aad::from(name), &mut sealed)
            .expect("32 bytes are not too many to seal");
        let wrapped = BASE64.encode([&nonce[..], &sealed].concat());
        Ok(FileKey { cipher: FileCipher::new(&key), wrapped })
    }

    /// A file's key from what [`WrappingKey::make`] gave as [`FileKey::wrapped`].
    ///
    /// # Errors
    /// [`CipherError::Wrapped`].
    pub fn open(&self, name: &[u8], wrapped: String) -> Result<FileKey, CipherError> {
        let cipher = self.decrypt(name, &wrapped).ok_or(CipherError::Wrapped)?;
        Ok(FileKey { cipher, wrapped })
    }

    fn decrypt(&self, name: &[u8], wrapped: &str) -> Option<FileCipher> {
        let bytes = BASE64.decode(wrapped).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let key = self.0.open_in_place(nonce, Aad::from(name), &mut sealed).ok()?;
        Some(FileCipher::new(<&[u8; KEY_BYTES]>::try_from(&*key).ok()?))
    }
}

#[cfg(test)]
mod tests;
