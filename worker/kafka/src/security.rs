//! How brokers are reached: addresses, TLS, and time-outs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use crate::error::KafkaError;
use crate::sasl::Sasl;

/// How a cluster is reached.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port` of some of the brokers; the others are learnt from these.
    pub bootstrap: Vec<String>,
    /// What the brokers' logs and quotas call us.
    pub client_id: String,
    /// `None`: unencrypted.
    pub tls: Option<Certificates>,
    /// Who we are, if the brokers ask.
    pub sasl: Option<Sasl>,
    /// The longest wait for an answer, beside what a request asks the broker to wait.
    pub request_timeout: Duration,
    /// The longest wait for a connection, with TLS and SASL.
    pub connect_timeout: Duration,
    /// How long a call is tried again before it fails.
    pub call_timeout: Duration,
    /// The first wait before a call is tried again; it doubles up to [`Self::retry_wait_max`].
    pub retry_wait: Duration,
    /// The longest wait between two tries.
    pub retry_wait_max: Duration,
}

impl Settings {
    /// These brokers, unencrypted, with Kafka's own time-outs.
    pub fn new(bootstrap: Vec<String>) -> Self {
        Self {
            bootstrap,
            client_id: "weir".to_string(),
            tls: None,
            sasl: None,
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_mins(1),
            retry_wait: Duration::from_millis(100),
            retry_wait_max: Duration::from_secs(1),
        }
    }
}

/// The files of TLS, in PEM. They are read anew for each client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificates {
    /// Whom we trust; none: the machine's own list.
    pub authorities: Option<PathBuf>,
    /// Our certificate and its key, for brokers that ask; one file may hold both.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The broker's certificate must bear its host's name.
    pub check_name: bool,
}

impl Default for Certificates {
    fn default() -> Self {
        Self { authorities: None, identity: None, check_name: true }
    }
}

impl Certificates {
    pub(crate) fn connector(&self) -> Result<TlsConnector, KafkaError> {
        let provider = CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(ring::default_provider()));
        let roots = Arc::new(self.roots()?);
        let unusable = |error: TlsError| KafkaError::refused(format!("the certificates cannot be used: {error}"));
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(unusable)?;
        let builder = if self.check_name {
            builder.with_root_certificates(roots)
        } else {
            let inner = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider).build();
            let inner =
                inner.map_err(|error| KafkaError::refused(format!("the authorities cannot be used: {error}")))?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName { inner, roots }))
        };
        let config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let certificates = certificates(chain)?;
                let key =
                    PrivateKeyDer::from_pem_file(key).map_err(|_| unreadable(key, "private key, not encrypted,"))?;
                builder.with_client_auth_cert(certificates, key).map_err(unusable)?
            }
        };
        Ok(TlsConnector::from(Arc::new(config)))
    }

    fn roots(&self) -> Result<RootCertStore, KafkaError> {
        let mut roots = RootCertStore::empty();
        match &self.authorities {
            Some(file) => {
                for certificate in certificates(file)? {
                    let added = roots.add(certificate);
                    added.map_err(|error| KafkaError::refused(format!("{}: {error}", file.display())))?;
                }
            }
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        if roots.is_empty() {
            return Err(KafkaError::refused(
                "this machine has no list of authorities: name a file in 'properties.ssl.truststore.location'",
            ));
        }
        Ok(roots)
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, KafkaError> {
    let text = fs::read(file).map_err(|error| not_there(file, &error))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or_else(|| unreadable(file, "certificate"))
}

fn not_there(file: &Path, error: &io::Error) -> KafkaError {
    KafkaError::refused(format!("{} cannot be read: {error}", file.display()))
}

fn unreadable(file: &Path, what: &str) -> KafkaError {
    KafkaError::refused(format!(
        "{} does not hold a {what} in PEM form; convert a JKS or PKCS12 store with keytool and openssl",
        file.display()
    ))
}

/// Trusts the authorities, for whatever name: `ssl.endpoint.identification.algorithm` is empty.
#[derive(Debug)]
struct AnyName {
    inner: Arc<WebPkiServerVerifier>,
    roots: Arc<RootCertStore>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = ring::default_provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
