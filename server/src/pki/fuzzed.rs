//! A site's signing request, for fuzzing.

use std::sync::OnceLock;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer as _};

use super::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, Peer, answer,
    new_key,
};

/// What DER of a sequence begins with.
const DER: u8 = 0x30;

/// A request as `fedbasin site request` makes it (PEM), or the bytes within one (DER, which begins with a sequence).
///
/// # Panics
/// Where a certificate is given out that is not the site's, for the key of the request, signed by this authority.
#[must_use]
pub fn signing_request(bytes: &[u8]) -> bool {
    static AUTHORITY: OnceLock<(Issuer<'static, KeyPair>, Vec<u8>)> = OnceLock::new();
    let (issuer, authority) = AUTHORITY.get_or_init(|| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = new_key().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").der().to_vec();
        (Issuer::new(params, key), certificate)
    });
    let pem = match bytes.first() {
        Some(&DER) => {
            let name = "CERTIFICATE REQUEST";
            format!("-----BEGIN {name}-----\n{}\n-----END {name}-----\n", STANDARD.encode(bytes))
        }
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => return false,
        },
    };
    let Ok(made) = answer(&pem, "a", 90, issuer) else { return false };
    let (_, parsed) = x509_parser::parse_x509_certificate(made.der()).expect("a certificate");
    let (_, authority) = x509_parser::parse_x509_certificate(authority).expect("a certificate");
    parsed.verify_signature(Some(authority.public_key())).expect("signed by this authority");
    assert_eq!(Peer::of(made.der()).expect("names a site").site, "a");
    assert!(!parsed.is_ca());
    let usage = parsed.extended_key_usage().expect("one").expect("said").value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any, "{usage:?}");
    let (_, asked) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("it was read before");
    let (_, asked) = X509CertificationRequest::from_der(&asked.contents).expect("it was read before");
    let asked = &asked.certification_request_info.subject_pki;
    assert_eq!(parsed.public_key().raw, asked.raw, "for the key of the request");
    true
}
