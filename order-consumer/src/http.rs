//! `/livez`, `/readyz` and `/metrics`, for orchestrators and Prometheus.

use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use idempotent_consumer::{Health, observe};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Upper ends of a histogram's buckets, for times and for numbers of messages: summaries of several
/// processes could not be added up.
const SECONDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 20.0];
const MESSAGES: [f64; 8] = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0];

/// Answers until `stop` fires.
///
/// # Errors
/// The address is taken.
pub(crate) async fn serve(
    listen: SocketAddr,
    health: Arc<Health>,
    stop: CancellationToken,
) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Suffix("_messages".to_owned()), &MESSAGES)
        })
        .and_then(PrometheusBuilder::install_recorder)
        .context("cannot install the metrics recorder")?;
    observe::describe();
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!(
            "cannot listen on {listen}; another consumer on this machine? give each its own \
             --listen address, or port 0 for any"
        )
    })?;
    tracing::info!("health and metrics on http://{}", listener.local_addr()?);
    let of_metrics = Arc::clone(&health);
    let app = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(move || ready(readyz(&health))))
        .route("/metrics", get(move || ready(render(&metrics, &of_metrics))));
    Ok(tokio::spawn(async move {
        let stopped = async move { stop.cancelled().await };
        if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stopped).await {
            tracing::warn!(%error, "health and metrics");
        }
    }))
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

fn render(metrics: &PrometheusHandle, health: &Health) -> String {
    let ready = if health.reasons().is_empty() { 1.0 } else { 0.0 };
    metrics::gauge!("idempotent_consumer_ready").set(ready);
    metrics.run_upkeep();
    metrics.render()
}
