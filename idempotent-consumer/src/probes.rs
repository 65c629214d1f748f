//! `/livez`, `/readyz` and `/metrics`, for orchestrators and Prometheus.

use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Health, observe};

/// Upper ends of a histogram's buckets, for times and for numbers of messages: summaries of several
/// processes could not be added up.
const SECONDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 20.0];
const MESSAGES: [f64; 9] = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0];

/// How long answers that are under way at the end may take.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Why there are no probes.
#[derive(Debug, thiserror::Error)]
pub enum ProbesError {
    /// There is a metrics recorder in this process already.
    #[error("cannot install the metrics recorder")]
    Recorder(#[from] BuildError),
    /// The address is taken.
    #[error(
        "cannot listen on {listen}; another consumer on this machine? give each its own --listen \
         address, or port 0 for any"
    )]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

/// The process's metrics recorder, as `/metrics` shows it.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Installs it. Histograms whose name ends with `_seconds` or `_messages` have buckets.
    ///
    /// # Errors
    /// There is one already.
    pub fn install() -> Result<Self, ProbesError> {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
            .set_buckets_for_metric(Matcher::Suffix("_messages".to_owned()), &MESSAGES)?;
        Ok(Self(builder.install_recorder()?))
    }

    /// Installs it with summaries in the place of histograms.
    ///
    /// # Errors
    /// There is one already.
    pub fn install_with_summaries() -> Result<Self, ProbesError> {
        Ok(Self(PrometheusBuilder::new().install_recorder()?))
    }

    /// All metrics in Prometheus's text format.
    pub fn render(&self) -> String {
        self.0.run_upkeep();
        self.0.render()
    }
}

/// Answers on `listen` for as long as `work` goes on; returns what came of it.
///
/// # Errors
/// The address is taken, or there is a metrics recorder already; then `work` has not begun.
pub async fn beside<T>(
    listen: SocketAddr,
    health: Arc<Health>,
    work: impl Future<Output = T>,
) -> Result<T, ProbesError> {
    let metrics = Metrics::install()?;
    observe::describe();
    let refused = |source| ProbesError::Listen { listen, source };
    let listener = TcpListener::bind(listen).await.map_err(refused)?;
    tracing::info!("health and metrics on http://{}", listener.local_addr().map_err(refused)?);
    let done = CancellationToken::new();
    let stop = done.clone();
    let server = tokio::spawn(async move {
        let stopped = async move { stop.cancelled().await };
        let server = axum::serve(listener, router(health, metrics));
        if let Err(error) = server.with_graceful_shutdown(stopped).await {
            tracing::warn!(%error, "health and metrics");
        }
    });
    let ended = work.await;
    done.cancel();
    let _ = tokio::time::timeout(LAST_ANSWERS, server).await;
    Ok(ended)
}

fn router(health: Arc<Health>, metrics: Metrics) -> Router {
    let of_metrics = Arc::clone(&health);
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(move || ready(readyz(&health))))
        .route("/metrics", get(move || ready(render(&metrics, &of_metrics))))
}

fn readyz(health: &Health) -> impl IntoResponse + use<> {
    let reasons: Vec<_> = health
        .reasons()
        .into_iter()
        .map(|(what, why)| serde_json::json!({ "what": what, "why": why }))
        .collect();
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(serde_json::json!({ "ready": ready, "reasons": reasons })))
}

fn render(metrics: &Metrics, health: &Health) -> String {
    let ready = if health.reasons().is_empty() { 1.0 } else { 0.0 };
    metrics::gauge!("idempotent_consumer_ready").set(ready);
    metrics.render()
}
