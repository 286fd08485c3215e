//! A private authority, as files: it signs the server's certificate and one for each site. Nothing here is asked while the server
//! runs; the authority's key need not lie on its machine.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fedbasin_proof::PublicKeys;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SubjectPublicKeyInfo,
};
use rustls::pki_types::{CertificateDer, DnsName};
use time::{Duration, OffsetDateTime};
use x509_parser::{
    certificate::X509Certificate, certification_request::X509CertificationRequest, prelude::FromDer as _,
};

use crate::{
    error::{Error, Result},
    files::{Readers, replace, write_new},
    model::check_id,
    tls::{self, Peer},
};

/// An authority lives so long, in days; what it signs, much shorter.
const AUTHORITY_DAYS: i64 = 3650;

/// Clocks of machines differ: what is signed now was valid a little before.
const BEFORE: Duration = Duration::minutes(10);

/// A folder that holds an authority.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
}

/// What a site is told besides its certificate.
#[derive(Debug, Clone)]
pub struct Kit {
    /// The server's gRPC address, `https://…`.
    pub server: String,
    /// The run that the site takes part in.
    pub run: Option<String>,
    /// The server's public keys, so that the site knows whom to believe.
    pub keys: Option<PublicKeys>,
    /// Other authorities that the server's certificate may be of, while one takes another's place.
    pub authorities: Vec<CertificateDer<'static>>,
}

impl Authority {
    /// Makes an authority in a folder that has none.
    ///
    /// # Errors
    /// One is there already, or the folder cannot be written.
    pub fn init(folder: &Path, name: &str) -> Result<Self> {
        let authority = Self { folder: folder.to_owned() };
        if authority.certificate().exists() || authority.key().exists() {
            return Err(Error::invalid(format!(
                "--dir: {} holds an authority already; what it signed would be worth nothing with another one",
                folder.display()
            )));
        }
        private_folder(folder)?;
        let mut params = params(name, AUTHORITY_DAYS)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = new_key()?;
        let certificate = params.self_signed(&key).map_err(Error::internal)?;
        write_new(&authority.key(), &key.serialize_pem(), Readers::Owner)?;
        write_new(&authority.certificate(), &certificate.pem(), Readers::All)?;
        Ok(authority)
    }

    /// Takes the authority of a folder.
    ///
    /// # Errors
    /// There is none.
    pub fn open(folder: &Path) -> Result<Self> {
        let authority = Self { folder: folder.to_owned() };
        if !authority.certificate().exists() {
            return Err(Error::invalid(format!(
                "--dir: there is no authority in {}; `fedbasin-server pki init` makes one",
                folder.display()
            )));
        }
        Ok(authority)
    }

    /// Where its certificate is.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("authority.pem")
    }

    fn key(&self) -> PathBuf {
        self.folder.join("authority.key")
    }

    /// Keeps a line of each certificate, so that one that no server ever saw can be revoked, too.
    fn note(&self, site: &str, fingerprint: &str, days: i64) -> Result<()> {
        let path = self.folder.join("issued.txt");
        let expires = OffsetDateTime::now_utc() + Duration::days(days);
        let write = || {
            let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
            writeln!(file, "{fingerprint} {site} expires {}", expires.date())?;
            file.sync_all()
        };
        write().map_err(|error| Error::invalid(format!("{}: cannot be written: {error}", path.display())))
    }

    /// Its own certificate, the first of its file, and any others that were put beside it.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>> {
        tls::certificates("--dir", &self.certificate())
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>> {
        let bad = |path: PathBuf| {
            move |error: rcgen::Error| Error::invalid(format!("{}: cannot be used: {error}", path.display()))
        };
        let key = KeyPair::from_pem(&read(&self.key())?).map_err(bad(self.key()))?;
        let all = self.certificates()?;
        let own = all.first().map_or(&[][..], |own| own);
        let is_own = X509Certificate::from_der(own)
            .is_ok_and(|(_, own)| *own.public_key().subject_public_key.data == *key.public_key_raw());
        if !is_own {
            return Err(Error::invalid(format!(
                "{}: the first certificate in it is not of the key in {}; what that key signs, nobody would trust",
                self.certificate().display(),
                self.key().display()
            )));
        }
        Issuer::from_ca_cert_der(&own.into(), key).map_err(bad(self.certificate()))
    }

    /// Signs a certificate for a server that is reached by these names or addresses, and writes it and its key into the authority's
    /// folder, in the place of earlier ones. Gives both paths.
    ///
    /// # Errors
    /// A name that is none, or files that cannot be written.
    pub fn issue_server(&self, hosts: &[String], days: i64) -> Result<(PathBuf, PathBuf)> {
        let mut params = params("fedbasin-server", days)?;
        params.subject_alt_names = names(hosts)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = new_key()?;
        let certificate = params.signed_by(&key, &self.issuer()?).map_err(Error::internal)?;
        let (cert_file, key_file) = (self.folder.join("server.pem"), self.folder.join("server.key"));
        replace(&key_file, &key.serialize_pem(), Readers::Owner)?;
        replace(&cert_file, &certificate.pem(), Readers::All)?;
        Ok((cert_file, key_file))
    }

    /// Makes a folder that holds all that a site needs: its certificate, its key (unless the site made one and sent a request), the
    /// authorities to trust, and where the server is. Gives the certificate's fingerprint, by which it is revoked.
    ///
    /// # Errors
    /// A malformed id or request, or a folder that is there already.
    pub fn issue_site(
        &self,
        site: &str,
        kit: &Kit,
        request: Option<&str>,
        days: i64,
        folder: &Path,
    ) -> Result<String> {
        check_id("site", site)?;
        kit.check()?;
        let trusted = pem_of(self.certificates()?, &kit.authorities);
        if folder.exists() {
            return Err(Error::invalid(format!(
                "--output: {} is there already; name another folder",
                folder.display()
            )));
        }
        let issuer = self.issuer()?;
        let (certificate, key): (Certificate, Option<KeyPair>) = match request {
            Some(request) => (answer(request, site, days, &issuer)?, None),
            None => {
                let key = new_key()?;
                let own = site_params(site, days)?;
                (own.signed_by(&key, &issuer).map_err(Error::internal)?, Some(key))
            }
        };
        let fingerprint = Peer::of(certificate.der())?.fingerprint;
        self.note(site, &fingerprint, days)?;
        new_private_folder(folder)?;
        write_new(&folder.join("authority.pem"), &trusted, Readers::All)?;
        write_new(&folder.join("site.pem"), &certificate.pem(), Readers::All)?;
        if let Some(key) = key {
            write_new(&folder.join("site.key"), &key.serialize_pem(), Readers::Owner)?;
        }
        if let Some(keys) = &kit.keys {
            write_new(&folder.join("server-keys.pem"), &keys.to_pem(), Readers::All)?;
        }
        write_new(&folder.join("kit.toml"), &kit.to_toml(site), Readers::All)?;
        Ok(fingerprint)
    }
}

/// The certificate of a site that made its own key and sent a request. Of the request only the key counts: what the certificate says
/// is decided here.
fn answer(request: &str, site: &str, days: i64, issuer: &Issuer<'_, KeyPair>) -> Result<Certificate> {
    fn unusable(why: impl std::fmt::Display) -> Error {
        Error::invalid(format!("--request: cannot be used: {why}"))
    }
    let (_, pem) = x509_parser::pem::parse_x509_pem(request.as_bytes()).map_err(unusable)?;
    // It is signed: whoever sends it has the key.
    CertificateSigningRequestParams::from_der(&pem.contents.as_slice().into()).map_err(unusable)?;
    // rcgen takes the kind of the key from that signature, which may be over another hash than the key's size has it.
    let (_, asked) = X509CertificationRequest::from_der(&pem.contents).map_err(unusable)?;
    let key = SubjectPublicKeyInfo::from_der(asked.certification_request_info.subject_pki.raw);
    site_params(site, days)?.signed_by(&key.map_err(unusable)?, issuer).map_err(Error::internal)
}

/// What a site's certificate says.
fn site_params(site: &str, days: i64) -> Result<CertificateParams> {
    let mut params = params(site, days)?;
    params.subject_alt_names =
        vec![SanType::URI(identity_uri(site).as_str().try_into().map_err(Error::internal)?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// Names and addresses of a server, as a certificate holds them.
///
/// # Errors
/// One that is neither.
pub fn names(hosts: &[String]) -> Result<Vec<SanType>> {
    let name = |host: &String| {
        let bad = || Error::invalid(format!("--host: {host:?} is neither a name nor an address"));
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(SanType::IpAddress(address));
        }
        DnsName::try_from(host.as_str()).map_err(|_| bad())?;
        Ok(SanType::DnsName(host.as_str().try_into().map_err(|_| bad())?))
    };
    hosts.iter().map(name).collect()
}

impl Kit {
    /// Whether a site can do anything with it.
    fn check(&self) -> Result<()> {
        let host = self.server.strip_prefix("https://").unwrap_or_default();
        if host.is_empty() || host.starts_with(['/', ':']) {
            return Err(Error::invalid(format!("--server: {:?} is not https://HOST:PORT", self.server)));
        }
        self.run.as_ref().map_or(Ok(()), |run| check_id("run", run))
    }

    fn to_toml(&self, site: &str) -> String {
        // TOML's basic strings are quoted as JSON's are.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut text = format!("site = {}\nserver = {}\n", quoted(site), quoted(&self.server));
        if let Some(run) = &self.run {
            text.push_str(&format!("run = {}\n", quoted(run)));
        }
        text
    }
}

/// Certificates as PEM, none of them twice.
fn pem_of(own: Vec<CertificateDer<'static>>, others: &[CertificateDer<'static>]) -> String {
    let mut all = own;
    for other in others {
        if !all.contains(other) {
            all.push(other.clone());
        }
    }
    let mut text = String::new();
    for certificate in all {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let base64 = STANDARD.encode(&certificate);
        for (at, letter) in base64.chars().enumerate() {
            if at > 0 && at % 64 == 0 {
                text.push('\n');
            }
            text.push(letter);
        }
        text.push_str("\n-----END CERTIFICATE-----\n");
    }
    text
}

/// How a certificate names a site.
#[must_use]
pub fn identity_uri(site: &str) -> String {
    format!("spiffe://fedbasin/site/{site}")
}

fn new_key() -> Result<KeyPair> {
    KeyPair::generate().map_err(Error::internal)
}

fn params(name: &str, days: i64) -> Result<CertificateParams> {
    if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
        return Err(Error::invalid(format!("{name:?} is not a name of 1 to 64 bytes")));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BEFORE;
    params.not_after = now + Duration::days(days);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn private_folder(folder: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| Error::invalid(format!("{}: cannot be made: {error}", folder.display())))
}

/// One that nobody else can have made in the meantime.
fn new_private_folder(folder: &Path) -> Result<()> {
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        private_folder(parent)?;
    }
    fs::DirBuilder::new()
        .mode(0o700)
        .create(folder)
        .map_err(|error| Error::invalid(format!("{}: cannot be made: {error}", folder.display())))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path)
        .map_err(|error| Error::invalid(format!("{}: cannot be read: {error}", path.display())))
}

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzed;
#[cfg(test)]
mod tests;
