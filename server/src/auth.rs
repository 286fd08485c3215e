//! Tokens: made, hashed, compared. Only hashes are stored.

pub mod access;
pub(crate) mod oidc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::{
    config::{Config, Secret},
    error::{Error, Result},
    files::{Readers, write_new},
};

/// Prefix of a site's token, so that a leaked one can be recognised.
pub const SITE_PREFIX: &str = "fbs_";
/// Prefix of a generated admin token.
pub const ADMIN_PREFIX: &str = "fba_";

/// A new token: the prefix, 256 random bits, and a checksum over both. So a leaked one is found by its looks
/// (`fb[as]_[A-Za-z0-9_-]{49}`), and a mistyped one is refused without a look into the database.
///
/// # Errors
/// [`Code::Internal`](crate::error::Code) when the system gives no randomness.
pub fn new_token(prefix: &str) -> Result<Secret> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(Error::internal)?;
    let text = format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes));
    Ok(Secret::new(format!("{text}{}", checksum(&text))))
}

/// Six characters: CRC-32C, in base64 for URLs.
fn checksum(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(crc32c::crc32c(text.as_bytes()).to_be_bytes())
}

/// Whether a text can be a token that was made with this prefix: by [`new_token`], or before tokens had a checksum.
#[must_use]
pub fn is_whole(token: &str, prefix: &str) -> bool {
    let Some(rest) = token.strip_prefix(prefix) else { return false };
    match rest.len() {
        43 => true,
        49 => token.split_at_checked(token.len() - 6).is_some_and(|(text, end)| checksum(text) == end),
        _ => false,
    }
}

/// What of a token is stored: its SHA-256 in hex. The token has 256 random bits, so no salt is needed.
#[must_use]
pub fn hash(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}

/// The token of the one `authorization: Bearer …`. Of several none counts: a proxy may have looked at another one.
#[must_use]
pub fn bearer(headers: &http::HeaderMap) -> Option<&str> {
    bearer_within(headers, 512)
}

/// The same, of at most so many bytes.
fn bearer_within(headers: &http::HeaderMap, most: usize) -> Option<&str> {
    let mut values = headers.get_all(http::header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= most).then_some(token)
}

/// Who persons are: the operator by the admin token, others by tokens of an identity provider where there is one.
#[derive(Clone)]
pub(crate) struct People {
    pub(crate) admin: Admin,
    pub(crate) oidc: Option<oidc::Oidc>,
}

impl People {
    /// # Errors
    /// Those of [`Admin::from_config`]; says which setting of `[oidc]` cannot be used.
    pub(crate) fn from_config(config: &Config) -> Result<Self> {
        let oidc = config.oidc.as_ref().map(oidc::Oidc::from_config).transpose()?;
        Ok(Self { admin: Admin::from_config(config)?, oidc })
    }

    /// The token of an `authorization: Bearer …` value; an identity provider's are longer than ours.
    pub(crate) fn bearer<'a>(&self, headers: &'a http::HeaderMap) -> Option<&'a str> {
        match self.oidc {
            Some(_) => bearer_within(headers, oidc::MOST_TOKEN_BYTES),
            None => bearer(headers),
        }
    }
}

/// Knows the admin token by its hash.
#[derive(Debug, Clone)]
pub struct Admin {
    hash: String,
}

impl Admin {
    /// Takes the token of the settings, or that in the data folder, which is made (mode 0600) if it is absent.
    ///
    /// # Errors
    /// Says which file cannot be read or written, and what to do.
    pub fn from_config(config: &Config) -> Result<Self> {
        if let Some(token) = &config.admin_token {
            return Ok(Self { hash: hash(check(token.expose(), "the environment")?) });
        }
        if let Some(path) = &config.admin_token_file {
            let text = std::fs::read_to_string(path).map_err(|error| {
                Error::invalid(format!("admin_token_file: cannot read {}: {error}", path.display()))
            })?;
            return Ok(Self { hash: hash(check(&text, &path.display().to_string())?) });
        }
        let path = config.data_dir.join("admin-token");
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Self { hash: hash(check(&text, &path.display().to_string())?) }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let token = new_token(ADMIN_PREFIX)?;
                write_new(&path, &format!("{}\n", token.expose()), Readers::Owner)?;
                tracing::info!(admin.token_file = %path.display(), "made an admin token");
                Ok(Self { hash: hash(token.expose()) })
            }
            Err(error) => Err(Error::invalid(format!("cannot read {}: {error}", path.display()))),
        }
    }

    /// Whether this is the admin token; takes the same time whatever differs.
    #[must_use]
    pub fn is(&self, token: &str) -> bool {
        bool::from(hash(token).as_bytes().ct_eq(self.hash.as_bytes()))
    }
}

fn check<'a>(text: &'a str, place: &str) -> Result<&'a str> {
    let token = text.trim();
    if token.len() < 16 {
        return Err(Error::invalid(format!(
            "admin token: that in {place} has fewer than 16 characters; use a long random one"
        )));
    }
    Ok(token)
}

#[cfg(test)]
mod tests;
