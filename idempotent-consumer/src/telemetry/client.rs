//! The HTTP client that spans are sent by: a connection a request, TLS by the system's OpenSSL.

use async_trait::async_trait;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::net::TcpStream;

/// A collector says little.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Client;

#[async_trait]
impl HttpClient for Client {
    /// Whoever calls it sets the limit of time.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let uri = request.uri();
        let is_tls = uri.scheme_str() == Some("https");
        let host = uri.host().ok_or("the URL names no host")?;
        // Of an IPv6 address the brackets are the URL's.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        if is_tls {
            let tls = tokio_native_tls::TlsConnector::from(native_tls::TlsConnector::new()?);
            exchange(tls.connect(&host, stream).await?, request).await
        } else {
            exchange(stream, request).await
        }
    }
}

async fn exchange<S>(stream: S, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError>
where
    TokioIo<S>: Read + Write + Unpin + Send + 'static,
    S: Send,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async move {
        let response = sender.send_request(by_path(request)?).await?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok::<_, HttpError>(Response::from_parts(parts, body))
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // What came before it was closed is still to be had.
        _ = connection => answer.await,
    }
}

/// A request as a server wants it: the host in a header.
fn by_path(mut request: Request<Bytes>) -> Result<Request<Full<Bytes>>, HttpError> {
    let uri = request.uri();
    let host = uri.authority().ok_or("the URL names no host")?;
    // A name and a password in the URL are not for this header.
    let host = host.as_str().rsplit('@').next().unwrap_or_default();
    let host = HeaderValue::from_str(host)?;
    let path = uri.path_and_query().cloned();
    request.headers_mut().insert(HOST, host);
    *request.uri_mut() = path.unwrap_or_else(|| PathAndQuery::from_static("/")).into();
    Ok(request.map(Full::new))
}
