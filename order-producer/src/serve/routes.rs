//! The API's paths and methods: what answers, and how the document describes it. This list is the only
//! one; the router and the OpenAPI document are both made of it.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, Request, State};
use axum::handler::Handler;
use axum::http::{Method, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Gateway;
use super::accept::{self, Answered, Publishing};
use super::body::{OrderId, read_order, read_reason};
use super::code::Code;
use super::decide::Wanted;
use super::guard::{self, Client};
use super::incoming::{self, Incoming};
use super::look::{self, undisturbed};
use super::openapi::Operation;
use super::problem::Problem;
use super::store::KeyUse;
use super::{attend, idempotency, operations, pages, query};

type Shared = State<Arc<Gateway>>;
type PathId = Result<Path<String>, PathRejection>;

/// A method of a path.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) operation: Operation,
    handler: MethodRouter<Arc<Gateway>>,
}

impl Route {
    fn new<H: Handler<T, Arc<Gateway>>, T: 'static>(
        method: Method,
        path: &'static str,
        handler: H,
        operation: Operation,
    ) -> Self {
        let filter =
            MethodFilter::try_from(method.clone()).expect("routes have HTTP's own methods");
        Self { method, path, operation, handler: on(filter, handler) }
    }
}

/// What is counted, and takes a key.
fn orders() -> Vec<Route> {
    let (all, one) = ("/v1/orders", "/v1/orders/{order_id}");
    vec![
        Route::new(Method::GET, all, list, operations::LIST),
        Route::new(Method::POST, all, place, operations::PLACE),
        Route::new(Method::GET, one, show, operations::SHOW),
        Route::new(Method::PUT, one, put, operations::PUT),
        Route::new(Method::DELETE, one, cancel, operations::CANCEL),
        Route::new(Method::POST, "/v1/orders/{order_id}/pay", pay, operations::PAY),
    ]
}

/// What anybody may ask for at any time.
fn open() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/livez", async || "alive\n", operations::LIVEZ),
        Route::new(Method::GET, "/readyz", readyz, operations::READYZ),
        Route::new(Method::GET, "/metrics", metrics, operations::METRICS),
        Route::new(Method::GET, "/", pages::orders, operations::ORDERS),
        Route::new(Method::GET, "/openapi.json", openapi, operations::OPENAPI),
        Route::new(Method::GET, "/docs", pages::docs, operations::DOCS),
        Route::new(Method::GET, "/assets/{file}", pages::asset, operations::ASSET),
    ]
}

/// Every route.
pub(super) fn all() -> Vec<Route> {
    orders().into_iter().chain(open()).collect()
}

fn router_of(routes: Vec<Route>) -> Router<Arc<Gateway>> {
    let add = |router: Router<_>, route: Route| router.route(route.path, route.handler);
    routes.into_iter().fold(Router::new(), add).method_not_allowed_fallback(wrong_method)
}

/// Everything that is answered.
pub(super) fn router(gateway: Arc<Gateway>) -> Router {
    let orders = router_of(orders())
        .fallback(unknown_path)
        .layer(middleware::from_fn_with_state(Arc::clone(&gateway), guard::admit));
    router_of(open())
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

async fn openapi(State(gateway): Shared) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], gateway.openapi.clone()).into_response()
}

async fn unknown_path(uri: Uri) -> Problem {
    let detail = format!("there is nothing at {}; the orders are at /v1/orders", uri.path());
    Problem::new(Code::NotFound, detail)
}

async fn wrong_method() -> Problem {
    Problem::new(Code::MethodNotAllowed, "the header Allow lists the methods of this path")
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
    let now = now();
    let content = draft.content(Uuid::now_v7(), now).map_err(Problem::of_body)?;
    let order = accept::new_order(&gateway.publishing(&incoming), key, content, now);
    let gateway = Arc::clone(&gateway);
    answered(async move { gateway.together.place(order).await }).await
}

async fn put(State(gateway): Shared, path: PathId, request: Request) -> Result<Response, Problem> {
    let order_id = id_of(path)?;
    let incoming = gateway.read(request).await?;
    incoming.require_json()?;
    let draft = read_order(&incoming.body, OrderId::Given(order_id)).map_err(Problem::of_body)?;
    let wanted = Wanted::Put { order_id, draft, now: now() };
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
        let work = accept::accept(self.pool.clone(), self.publishing(incoming), key, wanted);
        answered(Box::pin(work)).await
    }

    fn publishing(&self, incoming: &Incoming) -> Publishing {
        let trace = incoming.parts.extensions.get().copied();
        Publishing { trace, ..self.publishing.clone() }
    }
}

async fn answered(
    work: impl Future<Output = Result<Answered, Problem>> + Send + 'static,
) -> Result<Response, Problem> {
    Ok(match undisturbed(work).await? {
        Answered::First(answer) => answer.into_response(),
        Answered::Replayed(answer) => answer.replayed(),
    })
}

/// The time, as exact as the database keeps it.
fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(now.nanosecond() / 1000 * 1000).unwrap_or(now)
}
