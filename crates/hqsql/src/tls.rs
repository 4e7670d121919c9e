//! TLS to PostgreSQL by the URL's `sslmode`, with libpq's meaning of it.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::{Error, Result};

/// `sslmode` of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS where the server offers it; the certificate is not looked at.
    Prefer,
    /// TLS or no connection; with a CA file the certificate must be signed by it, whatever its name.
    Require,
    /// TLS with a certificate of a known authority and of the host's name.
    VerifyFull,
}

impl SslMode {
    /// Takes `sslmode` out of a URL, since the client library knows no more than three of its values.
    pub(crate) fn split(url: &str) -> Result<(String, Self)> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(Error::Config(
                "a database URL starts with postgres:// or postgresql://".to_owned(),
            ));
        }
        let Some((address, query)) = url.split_once('?') else {
            return Ok((url.to_owned(), Self::Prefer));
        };
        let mut mode = Self::Prefer;
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.strip_prefix("sslmode=") {
                None => rest.push(pair),
                Some("disable") => mode = Self::Disable,
                Some("prefer") => mode = Self::Prefer,
                Some("require") => mode = Self::Require,
                Some("verify-full") => mode = Self::VerifyFull,
                Some(other) => {
                    return Err(Error::Config(format!(
                        "sslmode is {other}, but must be disable, prefer, require or verify-full"
                    )));
                }
            }
        }
        let url = if rest.is_empty() {
            address.to_owned()
        } else {
            format!("{address}?{}", rest.join("&"))
        };
        Ok((url, mode))
    }

    /// What the client library is told; verification is the connector's business.
    pub(crate) fn negotiation(self) -> tokio_postgres::config::SslMode {
        match self {
            Self::Disable => tokio_postgres::config::SslMode::Disable,
            Self::Prefer => tokio_postgres::config::SslMode::Prefer,
            Self::Require | Self::VerifyFull => tokio_postgres::config::SslMode::Require,
        }
    }
}

/// The connector for a mode. The provider is named here, so that it does not matter what else is linked.
pub(crate) fn connector(mode: SslMode, ca_file: Option<&Path>) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Config(format!("TLS: {error}")))?;
    let config = match (mode, ca_file) {
        (SslMode::VerifyFull, _) => builder.with_root_certificates(roots(ca_file)?).with_no_client_auth(),
        (SslMode::Require, Some(_)) => {
            let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(ca_file)?), provider)
                .build()
                .map_err(|error| Error::Config(format!("TLS: {error}")))?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyName { inner }))
                .with_no_client_auth()
        }
        (SslMode::Disable | SslMode::Prefer | SslMode::Require, _) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unchecked { provider }))
            .with_no_client_auth(),
    };
    Ok(MakeRustlsConnect::new(config))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let unreadable =
                |error: rustls::pki_types::pem::Error| Error::Config(format!("CA file {}: {error}", path.display()));
            for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
                roots
                    .add(certificate.map_err(unreadable)?)
                    .map_err(|error| Error::Config(format!("CA file {}: {error}", path.display())))?;
            }
            if roots.is_empty() {
                return Err(Error::Config(format!(
                    "CA file {} holds no certificate",
                    path.display()
                )));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(Error::Config(
                    "sslmode=verify-full needs certificates of authorities: the system has none, set ca_file"
                        .to_owned(),
                ));
            }
        }
    }
    Ok(roots)
}

/// `require` with a CA file: everything about the certificate counts but its name.
#[derive(Debug)]
struct AnyName {
    inner: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self
            .inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        {
            // The name is looked at last, when the chain has proved good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// `prefer`, and `require` without a CA file: the line is encrypted, but nobody asks who is at its other end.
#[derive(Debug)]
struct Unchecked {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sslmode_is_taken_out_of_the_url() {
        for (url, rest, mode) in [
            ("postgres://h/d", "postgres://h/d", SslMode::Prefer),
            ("postgres://h/d?sslmode=disable", "postgres://h/d", SslMode::Disable),
            (
                "postgres://h/d?a=b&sslmode=require&c=d",
                "postgres://h/d?a=b&c=d",
                SslMode::Require,
            ),
            (
                "postgresql://h/d?sslmode=verify-full",
                "postgresql://h/d",
                SslMode::VerifyFull,
            ),
        ] {
            assert_eq!(SslMode::split(url).unwrap(), (rest.to_owned(), mode), "{url}");
        }
        assert!(SslMode::split("postgres://h/d?sslmode=verify-ca").is_err());
        assert!(SslMode::split("host=h dbname=d").is_err());
    }

    #[test]
    fn a_ca_file_must_hold_a_certificate() {
        assert!(matches!(
            connector(SslMode::VerifyFull, Some(Path::new("/does/not/exist"))),
            Err(Error::Config(_))
        ));
        assert!(matches!(
            connector(SslMode::Require, Some(Path::new("/dev/null"))),
            Err(Error::Config(_))
        ));
        assert!(connector(SslMode::Prefer, None).is_ok());
    }
}
