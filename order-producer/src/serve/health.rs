//! `/livez`, `/readyz` and `/metrics`.
//!
//! Ready means that orders are accepted, for which PostgreSQL is enough. Kafka's absence is told, with
//! how far behind the outbox is, and does not take the gateway out of service.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use idempotent_consumer::Health;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::json;
use sqlx::PgPool;

/// How long `/readyz` waits for the database.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// What waits in the outbox.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Backlog {
    pub(super) rows: i64,
    pub(super) oldest_seconds: f64,
    pub(super) refused: i64,
}

/// The backlog as it was last seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Behind(Arc<Mutex<Backlog>>);

impl Behind {
    pub(super) fn set(&self, backlog: Backlog) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = backlog;
        metrics::gauge!("order_producer_outbox_rows").set(backlog.rows as f64);
        metrics::gauge!("order_producer_outbox_oldest_seconds").set(backlog.oldest_seconds);
    }

    fn get(&self) -> Backlog {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn install_metrics() -> anyhow::Result<PrometheusHandle> {
    PrometheusBuilder::new().install_recorder().context("cannot install the metrics recorder")
}

/// What the health pages are made of.
pub(super) struct GatewayHealth {
    relay: Arc<Health>,
    behind: Behind,
    metrics: PrometheusHandle,
}

impl GatewayHealth {
    pub(super) fn new(relay: Arc<Health>, behind: Behind, metrics: PrometheusHandle) -> Self {
        Self { relay, behind, metrics }
    }

    pub(super) async fn readyz(&self, pool: &PgPool) -> Response {
        let mut reasons = Vec::new();
        if let Some(why) = unreachable(pool).await {
            reasons.push(json!({ "what": "database", "why": why }));
        }
        let degraded: Vec<_> = self
            .relay
            .reasons()
            .into_iter()
            .map(|(what, why)| json!({ "what": what, "why": why }))
            .collect();
        let Backlog { rows, oldest_seconds, refused } = self.behind.get();
        let ready = reasons.is_empty();
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = json!({
            "ready": ready,
            "reasons": reasons,
            "degraded": degraded,
            "outbox": { "rows": rows, "oldest_seconds": oldest_seconds, "refused": refused },
        });
        (status, Json(body)).into_response()
    }

    pub(super) fn metrics(&self) -> String {
        self.metrics.run_upkeep();
        self.metrics.render()
    }
}

/// Why the database can't be used. Asked in a task of its own, since a question must not be dropped in
/// its middle.
async fn unreachable(pool: &PgPool) -> Option<String> {
    let pool = pool.clone();
    let asked = tokio::spawn(async move {
        let mut connection = pool.acquire().await?;
        sqlx::query("SELECT FROM accepted_orders LIMIT 0").execute(&mut *connection).await
    });
    match tokio::time::timeout(ASK_TIMEOUT, asked).await {
        Ok(Ok(Ok(_))) => None,
        Ok(Ok(Err(error))) => Some(error.to_string()),
        Ok(Err(_)) => Some("the question failed".to_owned()),
        Err(_) => Some(format!("no answer within {} s", ASK_TIMEOUT.as_secs())),
    }
}
