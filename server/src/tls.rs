//! TLS of both edges: 1.3 alone; certificates are read again when their files change; sites may show one of their own.

use std::{path::Path, sync::Arc, time::Duration};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use sha2::{Digest as _, Sha256};
use x509_parser::{extensions::GeneralName, prelude::FromDer as _};

use crate::{
    config::{ClientCertificates, Tls},
    error::{Code, Error, Result},
    pki,
    round::Millis,
};

/// How often files are looked at, for a certificate that took another's place.
const LOOK: Duration = Duration::from_secs(10);

/// An edge's TLS settings, as the files stand now.
///
/// # Errors
/// Which file cannot be used, and why.
pub(crate) fn server_config(tls: &Tls, alpn: &[&[u8]], sites: bool) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates("tls.cert_file", &tls.cert_file)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key_file)
        .map_err(|error| unusable("tls.key_file", &tls.key_file, &error))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::internal)?;
    if tls.client_certificates == ClientCertificates::Required && tls.client_ca_file.is_none() {
        return Err(Error::invalid(
            "tls.client_certificates: \"required\" needs tls.client_ca_file, the authority that signs them",
        ));
    }
    let builder = match &tls.client_ca_file {
        Some(path) if sites => builder.with_client_cert_verifier(verifier(tls, path, provider)?),
        _ => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Error::invalid(format!(
                "tls: the key in {} (tls.key_file) is not of the certificate in {} (tls.cert_file); give the one that was made with it",
                tls.key_file.display(),
                tls.cert_file.display()
            )),
            error => Error::invalid(format!("tls: the certificate or key cannot be used: {error}")),
        })?;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Whether an edge can have these settings.
///
/// # Errors
/// Which file cannot be used, and why.
pub(crate) fn check(tls: &Tls) -> Result<()> {
    server_config(tls, &[], true).map(|_| ())
}

fn verifier(
    tls: &Tls,
    path: &Path,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls.client_ca_file", path)? {
        roots.add(certificate).map_err(|error| unusable("tls.client_ca_file", path, &error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match tls.client_certificates {
        ClientCertificates::Accepted => builder.allow_unauthenticated(),
        ClientCertificates::Required => builder,
    };
    builder.build().map_err(|error| unusable("tls.client_ca_file", path, &error))
}

/// All certificates of a PEM file, one at least.
///
/// # Errors
/// The file cannot be read, or holds none; the message names the setting.
pub(crate) fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(setting, path, &error))?;
    if found.is_empty() {
        return Err(unusable(setting, path, &"no certificate in it"));
    }
    Ok(found)
}

fn unusable(setting: &str, path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::invalid(format!("{setting}: cannot use {}: {error}", path.display()))
}

/// Gives the newest settings to an edge whenever a file changed; a file that cannot be used is said in the log, and the settings
/// before it stay.
pub(crate) async fn keep_current(tls: Tls, alpn: &[&[u8]], sites: bool, apply: impl Fn(Arc<ServerConfig>)) {
    let mut taken = stamp(&tls);
    let mut refused = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = stamp(&tls);
        if now == taken {
            continue;
        }
        match server_config(&tls, alpn, sites) {
            Ok(config) => {
                apply(config);
                (taken, refused) = (now, None);
                tracing::info!(tls.cert_file = %tls.cert_file.display(), "the certificate was read again");
            }
            // Tried at each look, for a file may become readable without being written; said once.
            Err(error) if refused.as_ref() != Some(&now) => {
                tracing::error!(
                    error.message = error.message(),
                    "a certificate changed and cannot be used; the one before stays in use"
                );
                refused = Some(now);
            }
            Err(_) => {}
        }
    }
}

/// What changes when a file does.
fn stamp(tls: &Tls) -> Vec<Option<(std::time::SystemTime, u64)>> {
    let files = [Some(&tls.cert_file), Some(&tls.key_file), tls.client_ca_file.as_ref()];
    files
        .into_iter()
        .flatten()
        .map(|path| std::fs::metadata(path).and_then(|found| Ok((found.modified()?, found.len()))).ok())
        .collect()
}

/// A site's certificate, which a known authority signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Whom it names.
    pub(crate) site: String,
    /// SHA-256 of the part that its authority signed, hex. Not of the whole: an ECDSA signature can be written in two ways, so that its
    /// holder could give a revoked certificate another one.
    pub(crate) fingerprint: String,
    /// When it expires.
    pub(crate) expires_at_ms: Millis,
}

impl Peer {
    /// What a certificate says of its holder.
    ///
    /// # Errors
    /// [`Code::Unauthenticated`] where it names no site, or several.
    pub(crate) fn of(certificate: &[u8]) -> Result<Self> {
        let refused = |what: &str| {
            let advice = "take the one that `fedbasin-server pki issue` made";
            Error::new(Code::Unauthenticated, format!("the client certificate {what}; {advice}"))
        };
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate)
            .map_err(|_| refused("cannot be read"))?;
        let names = parsed.subject_alternative_name().map_err(|_| refused("names several lists of names"))?;
        let names = names.map_or(&[][..], |names| names.value.general_names.as_slice());
        let mut sites = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix(&pki::identity_uri("")),
            _ => None,
        });
        let (Some(site), None) = (sites.next(), sites.next()) else {
            return Err(refused("does not name one site"));
        };
        Ok(Self {
            site: site.to_owned(),
            fingerprint: hex::encode(Sha256::digest(parsed.tbs_certificate.as_ref())),
            expires_at_ms: parsed.validity().not_after.timestamp().saturating_mul(1000),
        })
    }
}

/// When the server's certificate expires.
///
/// # Errors
/// The file cannot be used.
pub(crate) fn expires_at(tls: &Tls) -> Result<Millis> {
    validity(tls).map(|(_, end)| end)
}

/// From when to when the server's certificate is valid.
///
/// # Errors
/// The file cannot be used.
pub(crate) fn validity(tls: &Tls) -> Result<(Millis, Millis)> {
    let (setting, path) = ("tls.cert_file", &tls.cert_file);
    let chain = certificates(setting, path)?;
    let leaf = chain.first().map_or(&[][..], |leaf| leaf);
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(leaf)
        .map_err(|error| unusable(setting, path, &error))?;
    let begin = parsed.validity().not_before.timestamp().saturating_mul(1000);
    Ok((begin, end_of(setting, path, leaf)?))
}

/// When the authority of sites' certificates expires; of several the one that ends first, for its sites need others before. Nothing
/// where the settings name none.
///
/// # Errors
/// The file cannot be used.
pub(crate) fn authority_expires_at(tls: &Tls) -> Result<Option<Millis>> {
    let Some(path) = &tls.client_ca_file else { return Ok(None) };
    let mut first: Option<Millis> = None;
    for certificate in certificates("tls.client_ca_file", path)? {
        let end = end_of("tls.client_ca_file", path, &certificate)?;
        first = Some(first.map_or(end, |before| before.min(end)));
    }
    Ok(first)
}

fn end_of(setting: &str, path: &Path, certificate: &[u8]) -> Result<Millis> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate)
        .map_err(|error| unusable(setting, path, &error))?;
    Ok(parsed.validity().not_after.timestamp().saturating_mul(1000))
}
