//! A connection to the gateway that hides nothing: which way a request failed is what it is about.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A request that may be sent any number of times.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) key: Option<String>,
    pub(super) body: Option<Vec<u8>>,
}

/// A whole answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// `Idempotency-Replayed`.
    pub(super) is_replayed: bool,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Vec<u8>,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nobody listens.
    Refused,
    /// The connection ended before the answer did; the request may have been done.
    Cut,
    /// Nothing came in time; the request may have been done, or may still be.
    TimedOut,
}

/// Kept from one request to the next, as clients do.
pub(super) struct Connection<'a> {
    address: &'a str,
    authorization: &'a str,
    stream: Option<BufReader<TcpStream>>,
}

impl<'a> Connection<'a> {
    pub(super) fn to(address: &'a str, authorization: &'a str) -> Self {
        Self { address, authorization, stream: None }
    }

    /// Sends a request and waits for all of its answer.
    pub(super) async fn ask(
        &mut self,
        request: &Request,
        limit: Duration,
    ) -> Result<Answer, Failure> {
        let kept = self.stream.take();
        let asked = async {
            let mut stream = if let Some(stream) = kept {
                stream
            } else {
                let stream = TcpStream::connect(self.address).await;
                BufReader::new(stream.map_err(|_| Failure::Refused)?)
            };
            let answer = exchange(&mut stream, &self.bytes(request)).await;
            answer.map(|answer| (answer, stream)).map_err(|_| Failure::Cut)
        };
        let (answer, stream) = timeout(limit, asked).await.map_err(|_| Failure::TimedOut)??;
        self.stream = Some(stream);
        Ok(answer)
    }

    fn bytes(&self, request: &Request) -> Vec<u8> {
        let Request { method, path, key, body } = request;
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.address);
        let mut header = |name: &str, value: &str| {
            head.extend([name, ": ", value, "\r\n"]);
        };
        if !self.authorization.is_empty() {
            header("authorization", self.authorization);
        }
        if let Some(key) = key {
            header("idempotency-key", key);
        }
        if body.is_some() {
            header("content-type", "application/json");
        }
        let body = body.as_deref().unwrap_or_default();
        header("content-length", &body.len().to_string());
        [head.as_bytes(), b"\r\n", body].concat()
    }
}

/// One request, one answer. An answer of the gateway names its length.
async fn exchange(stream: &mut BufReader<TcpStream>, request: &[u8]) -> io::Result<Answer> {
    stream.write_all(request).await?;
    let mut answer = Answer::default();
    let status = line(stream).await?;
    let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
    answer.status = code.ok_or(io::ErrorKind::InvalidData)?;
    let mut length = None;
    loop {
        let line = line(stream).await?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok(),
            "idempotency-replayed" => answer.is_replayed = value == "true",
            "retry-after" => answer.retry_after = value.parse().ok().map(Duration::from_secs),
            _ => {}
        }
    }
    answer.body = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
    stream.read_exact(&mut answer.body).await?;
    Ok(answer)
}

/// A line without its end. Empty is the end of the head; none at all is a connection that was cut.
async fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    const LONGEST: u64 = 8 * 1024;
    let mut line = String::new();
    stream.take(LONGEST).read_line(&mut line).await?;
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(20);

    fn get() -> Request {
        Request { method: "GET", path: "/".to_owned(), key: None, body: None }
    }

    /// A server that answers a request with these bytes, and then closes.
    async fn answering(bytes: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(bytes).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn an_answer_counts_only_when_it_is_whole() {
        let whole =
            b"HTTP/1.1 201 Created\r\nIdempotency-Replayed: true\r\ncontent-length: 2\r\n\r\n{}";
        let address = answering(whole).await;
        let answer = Connection::to(&address, "").ask(&get(), LIMIT).await.unwrap();
        assert_eq!((answer.status, answer.is_replayed), (201, true));
        assert_eq!(answer.body, b"{}");
        for end in [0, 10, 30, whole.len() - 1] {
            let address = answering(&whole[..end]).await;
            let answer = Connection::to(&address, "").ask(&get(), LIMIT).await;
            assert_eq!(answer.unwrap_err(), Failure::Cut, "{end} bytes");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_gone_and_one_that_is_silent_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let silent = Connection::to(&address, "").ask(&get(), Duration::from_millis(50)).await;
        assert_eq!(silent.unwrap_err(), Failure::TimedOut);
        drop(listener);
        let gone = Connection::to(&address, "").ask(&get(), LIMIT).await;
        assert_eq!(gone.unwrap_err(), Failure::Refused);
    }
}
