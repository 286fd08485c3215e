//! An authority of the tests' own, and certificates of it that no authority should sign, or no server take.

use std::{fs, path::PathBuf, process::Command, sync::Arc};

use fedbasin_tests::{Options, server_binary};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

/// A chain and its key.
pub(crate) struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// What the authority is made to sign, or somebody else signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As it should be.
    Right,
    Expired,
    NotYetValid,
    OfAnotherAuthority,
    SelfSigned,
    /// Signed by a site's own certificate, with that behind it.
    OfASite,
    /// For servers, not for clients.
    ForServers,
    /// The name is only where a person reads it.
    NameInWords,
    NameOfAHost,
    TwoNames,
    AnotherDomain,
    Named(&'static str),
}

/// The authority's folder.
pub(crate) struct Authority {
    folder: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let authority = Self { folder: tempfile::tempdir().expect("a folder") };
        let mut program = Command::new(server_binary());
        program.args(["pki", "init", "--dir"]).arg(authority.path(""));
        let made = program.args(["--host", "localhost", "--host", "127.0.0.1"]).output();
        assert!(made.expect("it runs").status.success());
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("pki").join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("a file")
    }

    pub(crate) fn pem(&self) -> String {
        self.read("authority.pem")
    }

    /// A server with its certificate, that takes those of sites or wants them.
    pub(crate) fn options(&self, required: bool) -> Options {
        let certificates = if required { "required" } else { "accepted" };
        let authority = self.path("authority.pem");
        Options {
            tls: Some((self.path("server.pem"), self.path("server.key"))),
            more_tls: format!("client_ca_file = {authority:?}\nclient_certificates = \"{certificates}\"\n"),
            ..Options::default()
        }
    }

    fn issuer(&self) -> Issuer<'static, KeyPair> {
        let key = KeyPair::from_pem(&self.read("authority.key")).expect("a key");
        Issuer::from_ca_cert_pem(&self.pem(), key).expect("an authority")
    }

    /// The server's own certificate, or the authority's own.
    pub(crate) fn own(&self, name: &str) -> Shown {
        let chain =
            vec![CertificateDer::from_pem_file(self.path(&format!("{name}.pem"))).expect("a certificate")];
        Shown { chain, key: PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).expect("a key") }
    }

    /// A certificate for a site.
    pub(crate) fn make(&self, site: &str, kind: Kind) -> Shown {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, site);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(2024, 1, 1);
        params.not_after = date_time_ymd(2124, 1, 1);
        let uri = |text: String| SanType::URI(text.as_str().try_into().expect("ASCII"));
        let name = |site: &str| uri(format!("spiffe://fedbasin/site/{site}"));
        params.subject_alt_names = vec![name(site)];
        match kind {
            Kind::Expired => params.not_after = date_time_ymd(2024, 2, 1),
            Kind::NotYetValid => params.not_before = date_time_ymd(2123, 1, 1),
            Kind::ForServers => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            Kind::NameInWords => params.subject_alt_names = Vec::new(),
            Kind::NameOfAHost => {
                params.subject_alt_names = vec![SanType::DnsName(site.try_into().expect("ASCII"))];
            }
            Kind::TwoNames => params.subject_alt_names.push(name("h")),
            Kind::AnotherDomain => {
                params.subject_alt_names = vec![uri(format!("spiffe://elsewhere/site/{site}"))];
            }
            Kind::Named(site) => params.subject_alt_names = vec![name(site)],
            _ => {}
        }
        let key = KeyPair::generate().expect("a key");
        let mut behind = Vec::new();
        let certificate = match kind {
            Kind::SelfSigned => params.self_signed(&key),
            Kind::OfAnotherAuthority => {
                let mut other = CertificateParams::default();
                other.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                params.signed_by(&key, &Issuer::new(other, KeyPair::generate().expect("a key")))
            }
            Kind::OfASite => {
                let (own, own_key) = (CertificateParams::default(), KeyPair::generate().expect("a key"));
                let parent = own.signed_by(&own_key, &self.issuer()).expect("a certificate");
                behind.push(parent.der().clone());
                params.signed_by(&key, &Issuer::new(own, own_key))
            }
            _ => params.signed_by(&key, &self.issuer()),
        };
        let chain = [vec![certificate.expect("a certificate").der().clone()], behind].concat();
        Shown { chain, key: PrivateKeyDer::Pkcs8(key.serialize_der().into()) }
    }

    /// TLS of a client that trusts this authority and shows that.
    pub(crate) fn client(
        &self,
        shown: Option<&Shown>,
        version: &'static SupportedProtocolVersion,
        alpn: &[&[u8]],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem().as_bytes()).expect("PEM")).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let builder = builder.expect("a version").with_root_certificates(roots);
        let mut config = match shown {
            Some(shown) => builder
                .with_client_auth_cert(shown.chain.clone(), shown.key.clone_key())
                .expect("a certificate and its key"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }
}
