//! The API's paths and methods.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, Request, State};
use axum::http::{StatusCode, Uri};
use axum::middleware;
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::get;
use time::OffsetDateTime;
use uuid::Uuid;

use super::Gateway;
use super::accept::{Answered, Publishing, accept};
use super::body::{OrderId, read_order, read_reason};
use super::decide::Wanted;
use super::guard::{self, Client};
use super::incoming::{self, Incoming};
use super::look::{self, undisturbed};
use super::problem::Problem;
use super::store::KeyUse;
use super::{attend, idempotency, query};

type Shared = State<Arc<Gateway>>;
type PathId = Result<Path<String>, PathRejection>;

/// Everything that is answered.
pub(super) fn router(gateway: Arc<Gateway>) -> Router {
    let orders = Router::new()
        .route("/v1/orders", get(list).post(place))
        .route("/v1/orders/{order_id}", get(show).put(put).delete(cancel))
        .route("/v1/orders/{order_id}/pay", axum::routing::post(pay))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_path)
        .layer(middleware::from_fn_with_state(Arc::clone(&gateway), guard::admit));
    let health = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .method_not_allowed_fallback(wrong_method);
    health
        .merge(orders)
        .layer(middleware::from_fn_with_state(Arc::clone(&gateway), attend::attend))
        .with_state(gateway)
}

async fn readyz(State(gateway): Shared) -> Response {
    gateway.health.readyz()
}

async fn metrics(State(gateway): Shared) -> String {
    gateway.health.metrics()
}

async fn unknown_path(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {}; the orders are at /v1/orders", uri.path()))
}

async fn wrong_method() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "This can't be done here",
        "the header Allow lists the methods of this path",
    )
}

async fn place(
    State(gateway): Shared,
    Extension(client): Extension<Client>,
    request: Request,
) -> Result<Response, Problem> {
    let incoming = gateway.read(request).await?;
    incoming.require_json()?;
    let key = key_of(&client, &incoming)?;
    let draft = read_order(&incoming.body, OrderId::Made).map_err(Problem::of_body)?;
    let content =
        draft.content(Uuid::now_v7(), OffsetDateTime::now_utc()).map_err(Problem::of_body)?;
    gateway.accept(&incoming, Some(key), Wanted::Place(content)).await
}

async fn put(State(gateway): Shared, path: PathId, request: Request) -> Result<Response, Problem> {
    let order_id = id_of(path)?;
    let incoming = gateway.read(request).await?;
    incoming.require_json()?;
    let draft = read_order(&incoming.body, OrderId::Given(order_id)).map_err(Problem::of_body)?;
    let wanted = Wanted::Put { order_id, draft, now: OffsetDateTime::now_utc() };
    gateway.accept(&incoming, None, wanted).await
}

async fn pay(
    State(gateway): Shared,
    Extension(client): Extension<Client>,
    path: PathId,
    request: Request,
) -> Result<Response, Problem> {
    let order_id = id_of(path)?;
    let incoming = gateway.read(request).await?;
    if !incoming.body.is_empty() {
        incoming.require_json()?;
    }
    let key = key_of(&client, &incoming)?;
    let reason = read_reason(&incoming.body).map_err(Problem::of_body)?;
    gateway.accept(&incoming, Some(key), Wanted::Pay { order_id, reason }).await
}

async fn cancel(
    State(gateway): Shared,
    path: PathId,
    request: Request,
) -> Result<Response, Problem> {
    let order_id = id_of(path)?;
    let incoming = gateway.read(request).await?;
    gateway.accept(&incoming, None, Wanted::Cancel { order_id }).await
}

async fn show(State(gateway): Shared, path: PathId) -> Result<Response, Problem> {
    let order_id = id_of(path)?;
    let order = undisturbed(look::order(gateway.pool.clone(), order_id)).await?;
    Ok(Json(order.ok_or_else(Problem::no_order)?).into_response())
}

async fn list(State(gateway): Shared, uri: Uri) -> Result<Response, Problem> {
    let page = query::page(uri.query().unwrap_or(""))?;
    let orders = undisturbed(look::orders(gateway.pool.clone(), page)).await?;
    Ok(Json(orders).into_response())
}

fn id_of(path: PathId) -> Result<Uuid, Problem> {
    // A path that is no text has no UUID in it.
    incoming::order_id(&path.map_or_else(|_| String::new(), |Path(text)| text))
}

fn key_of(client: &Client, incoming: &Incoming) -> Result<KeyUse, Problem> {
    Ok(KeyUse {
        client: client.name.clone(),
        key: idempotency::key_of(&incoming.parts.headers)?,
        fingerprint: incoming.fingerprint(),
    })
}

impl Gateway {
    async fn read(&self, request: Request) -> Result<Incoming, Problem> {
        let (bytes_max, timeout) = self.guard.body_limits();
        Incoming::read(request, bytes_max, timeout).await
    }

    async fn accept(
        &self,
        incoming: &Incoming,
        key: Option<KeyUse>,
        wanted: Wanted,
    ) -> Result<Response, Problem> {
        let traceparent = incoming::traceparent(&incoming.parts.headers);
        let publishing = Publishing { traceparent, ..self.publishing.clone() };
        let work = accept(self.pool.clone(), publishing, key, wanted);
        Ok(match undisturbed(work).await? {
            Answered::First(answer) => answer.into_response(),
            Answered::Replayed(answer) => answer.replayed(),
        })
    }
}
