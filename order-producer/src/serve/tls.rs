//! TLS by the gateway itself: its certificate, read at the start and again on SIGHUP.

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use idempotent_consumer::cli::WrongUse;
use openssl::asn1::Asn1Time;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{
    AlpnError, Ssl, SslAcceptor, SslMethod, SslOptions, SslVersion, select_next_proto,
};
use openssl::x509::X509;
use tokio::net::TcpStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_openssl::SslStream;
use tokio_util::sync::CancellationToken;

/// A handshake has to be done by then.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// HTTP/1.1, as ALPN writes it.
const PROTOCOLS: &[u8] = b"\x08http/1.1";

/// HTTPS in place of HTTP.
#[derive(Args)]
pub(crate) struct TlsArgs {
    /// Certificate in PEM, then its chain: HTTPS in place of HTTP; read again on SIGHUP
    #[arg(
        long,
        env = "ORDER_PRODUCER_TLS_CERT",
        requires = "tls_key",
        value_name = "FILE",
        hide_env_values = true
    )]
    tls_cert: Option<PathBuf>,

    /// The certificate's private key in PEM, without a passphrase
    #[arg(
        long,
        env = "ORDER_PRODUCER_TLS_KEY",
        requires = "tls_cert",
        value_name = "FILE",
        hide_env_values = true
    )]
    tls_key: Option<PathBuf>,
}

impl TlsArgs {
    /// Reads the files and listens for SIGHUP from now on; `None` without files.
    pub(super) fn start(&self) -> anyhow::Result<Option<(Tls, Renewal)>> {
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else { return Ok(None) };
        let files = Files { cert: cert.clone(), key: key.clone() };
        let acceptor = files.read().map_err(|error| WrongUse(format!("TLS: {error:#}")))?;
        let (sender, receiver) = watch::channel(acceptor);
        let hangups = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        Ok(Some((Tls(receiver), Renewal { files, sender, hangups })))
    }
}

/// Shakes hands, under the certificate that was read last.
#[derive(Clone)]
pub(super) struct Tls(watch::Receiver<SslAcceptor>);

impl Tls {
    /// # Errors
    ///
    /// The client speaks something else, or went away, or took too long.
    pub(super) async fn accept(&self, stream: TcpStream) -> anyhow::Result<SslStream<TcpStream>> {
        let ssl = Ssl::new(self.0.borrow().context())?;
        let mut stream = SslStream::new(ssl, stream)?;
        let handshake = Pin::new(&mut stream).accept();
        tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake)
            .await
            .context("the handshake took too long")??;
        Ok(stream)
    }
}

/// Takes renewed files over.
pub(super) struct Renewal {
    files: Files,
    sender: watch::Sender<SslAcceptor>,
    hangups: Signal,
}

impl Renewal {
    /// With each SIGHUP, until stopped. Files that cannot be used change nothing.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                hangup = self.hangups.recv() => if hangup.is_none() { return },
            }
            let files = self.files.clone();
            let read = tokio::task::spawn_blocking(move || files.read()).await;
            match read.map_err(anyhow::Error::from).flatten() {
                Ok(acceptor) => {
                    self.sender.send_replace(acceptor);
                }
                Err(error) => {
                    tracing::error!("TLS: {error:#}; the certificate from before stays in use");
                }
            }
        }
    }
}

#[derive(Clone)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
}

impl Files {
    /// # Errors
    ///
    /// A file that cannot be read or used, by its name.
    fn read(&self) -> anyhow::Result<SslAcceptor> {
        let chain = chain(&self.cert)?;
        let (leaf, issuers) = chain.split_first().context("it has at least one")?;
        let key = key(&self.key)?;
        let cert = self.cert.display();
        ensure!(
            leaf.public_key().is_ok_and(|public| public.public_eq(&key)),
            "the key in {} is not that of the first certificate in {cert}",
            self.key.display(),
        );
        let (from, until) = (leaf.not_before(), leaf.not_after());
        let now = Asn1Time::days_from_now(0)?;
        ensure!(*until > now, "the certificate in {cert} expired at {until}");
        ensure!(*from <= now, "the certificate in {cert} is not valid before {from}");
        let acceptor = acceptor(leaf, issuers, &key)
            .with_context(|| format!("the certificate in {cert} cannot be used"))?;
        tracing::info!("TLS: the certificate in {cert} is valid until {until}");
        Ok(acceptor)
    }
}

fn chain(file: &Path) -> anyhow::Result<Vec<X509>> {
    let pem = read(file)?;
    let chain = X509::stack_from_pem(&pem)
        .with_context(|| format!("{} has a certificate that cannot be read", file.display()))?;
    ensure!(!chain.is_empty(), "{} has no certificate in PEM", file.display());
    Ok(chain)
}

fn key(file: &Path) -> anyhow::Result<PKey<Private>> {
    let pem = read(file)?;
    // Without this, OpenSSL would ask for a passphrase at the terminal.
    let no_passphrase = |_: &mut [u8]| Ok(0);
    PKey::private_key_from_pem_callback(&pem, no_passphrase).ok().with_context(|| {
        format!("{} has no private key in PEM, or one with a passphrase", file.display())
    })
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// As Mozilla advises for clients of any age that is not too old: TLS 1.2 and 1.3.
fn acceptor(
    leaf: &X509,
    issuers: &[X509],
    key: &PKey<Private>,
) -> Result<SslAcceptor, openssl::error::ErrorStack> {
    let mut tls = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    tls.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    tls.set_options(SslOptions::NO_RENEGOTIATION);
    tls.set_alpn_select_callback(|_, offered| {
        select_next_proto(PROTOCOLS, offered).ok_or(AlpnError::NOACK)
    });
    tls.set_certificate(leaf)?;
    for issuer in issuers {
        tls.add_extra_chain_cert(issuer.clone())?;
    }
    tls.set_private_key(key)?;
    Ok(tls.build())
}
