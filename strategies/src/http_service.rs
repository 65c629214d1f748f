//! A service behind HTTP that books each order it is told of. It knows no idempotency key, like most.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use sqlx::PgPool;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::effect;
use crate::stream::{Body, Order};

/// Ends when this is dropped.
#[derive(Debug)]
pub(crate) struct HttpService {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl HttpService {
    pub(crate) async fn start(database: PgPool) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let app = Router::new().route("/orders", post(book)).with_state(Arc::new(database));
        let task = tokio::spawn(async move {
            // Ends with the cell.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { address, _task: AbortOnDropHandle::new(task) })
    }

    /// Tells it of an order; it is booked when this returns.
    pub(crate) async fn post(&self, order: &Order) -> anyhow::Result<()> {
        let body = serde_json::to_string(&order.body)?;
        let request = format!(
            "POST /orders HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        let mut connection = TcpStream::connect(self.address).await.context("no service")?;
        connection.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        anyhow::ensure!(answer.starts_with("HTTP/1.1 204 "), "the service answered {answer:?}");
        Ok(())
    }
}

async fn book(
    State(database): State<Arc<PgPool>>,
    Json(body): Json<Body>,
) -> Result<StatusCode, (StatusCode, String)> {
    let order = Order { message_id: String::new(), body, partition: 0, offset: 0 };
    let booked = async {
        let mut transaction = database.begin().await?;
        effect::apply(&mut transaction, &order).await?;
        transaction.commit().await
    };
    match booked.await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}
