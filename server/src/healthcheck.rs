//! Asks a running server whether it is ready: the image has no other tool to ask with.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};

use crate::error::{Code, Error, Result};

const WAIT: Duration = Duration::from_secs(5);

/// A bare HTTP/1.1 request for `/readyz`; over TLS where the server's `certificate` (PEM) is named.
///
/// # Errors
/// It does not answer, is not ready, or has another certificate.
pub(crate) fn healthcheck(address: SocketAddr, certificate: Option<&Path>) -> Result<()> {
    let tls = certificate.map(client).transpose()?;
    let failed = |error: io::Error| {
        Error::new(Code::Unavailable, format!("healthcheck: {address} does not answer: {error}"))
    };
    let stream = TcpStream::connect_timeout(&address, WAIT).map_err(failed)?;
    stream.set_read_timeout(Some(WAIT)).map_err(failed)?;
    stream.set_write_timeout(Some(WAIT)).map_err(failed)?;
    let line = match tls {
        Some(tls) => ask(StreamOwned::new(tls, stream)),
        None => ask(stream),
    };
    let line = line.map_err(failed)?;
    if line.starts_with("HTTP/1.1 200") {
        return Ok(());
    }
    Err(Error::new(Code::Unavailable, format!("healthcheck: {address} is not ready: it answered {line:?}")))
}

/// Sends the request; returns the first line of the answer.
fn ask(mut stream: impl Read + Write) -> io::Result<String> {
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    stream.flush()?;
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < 256 && stream.read(&mut byte)? == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

fn client(certificate: &Path) -> Result<ClientConnection> {
    let bad = |error: &dyn std::fmt::Display| {
        Error::invalid(format!("tls.cert_file: cannot use {}: {error}", certificate.display()))
    };
    let mut chain = CertificateDer::pem_file_iter(certificate).map_err(|error| bad(&error))?;
    let certificate = match chain.next() {
        Some(certificate) => certificate.map_err(|error| bad(&error))?,
        None => return Err(bad(&"no certificate in it")),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Pinned { certificate, provider: Arc::clone(&provider) });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::internal)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").map_err(Error::internal)?;
    ClientConnection::new(Arc::new(config), name).map_err(Error::internal)
}

/// Trusts one certificate, whatever its names, dates and authority: it is the server's own, and the question is only
/// whether that server answers.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
