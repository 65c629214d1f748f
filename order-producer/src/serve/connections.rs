//! The connections under the requests: how many, and how long one may take over its handshake and over a
//! request's head. By itself axum bounds none of them, so a few clients that never come to the point could
//! use up everything.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use super::tls::Tls;

/// A head has to be whole by then, also the next one on a connection that is kept open.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// How long to wait where the system has no room for another connection.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(200);

/// Answers until stopped, and then until every request that has begun is answered.
pub(super) async fn serve(
    listener: TcpListener,
    app: Router,
    connections_max: usize,
    tls: Option<Tls>,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(connections_max));
    let open = GracefulShutdown::new();
    loop {
        // Taken before a connection is: those beyond the limit wait at the door.
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let (stream, address) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Most of these are of a client that has gone again.
                    tracing::debug!(%error, "a connection can't be taken");
                    tokio::time::sleep(NO_ROOM_PAUSE).await;
                    continue;
                }
            },
        };
        // An answer is written whole; nothing would be gained by waiting for more of it.
        let _ = stream.set_nodelay(true);
        let conversation = Conversation { app: app.clone(), address, watcher: open.watcher() };
        let (tls, stop) = (tls.clone(), stop.clone());
        // The place is taken as long as the connection is, its handshake included.
        tokio::spawn(async move {
            let _place = place;
            let Some(tls) = tls else { return conversation.hold(stream).await };
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = tls.accept(stream) => accepted,
            };
            match accepted {
                Ok(stream) => conversation.hold(stream).await,
                Err(error) => tracing::debug!("no TLS with {address}: {error:#}"),
            }
        });
    }
    drop(listener);
    open.shutdown().await;
}

/// What a client is talked to with.
struct Conversation {
    app: Router,
    address: SocketAddr,
    watcher: Watcher,
}

impl Conversation {
    /// Answers what comes in by this stream, until its end.
    async fn hold<S: AsyncRead + AsyncWrite + Unpin + 'static>(self, stream: S) {
        let Self { app, address, watcher } = self;
        let service = service_fn(move |request| answer(app.clone(), address, request));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        let connection = http.serve_connection(TokioIo::new(stream), service);
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, %address, "a connection ended badly");
        }
    }
}

async fn answer(
    mut app: Router,
    address: SocketAddr,
    mut request: hyper::Request<Incoming>,
) -> Result<Response, Infallible> {
    request.extensions_mut().insert(ConnectInfo(address));
    app.call(request).await
}
