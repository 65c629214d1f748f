//! A client that hides nothing: bytes out, bytes in.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::described;

const TIMEOUT: Duration = Duration::from_secs(30);
/// An answer that has no body, and says nothing of its length.
pub(crate) const NO_CONTENT: u16 = 204;

/// An answer as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// It is this, or the test ends with all of it.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{:?}\n{text}", self.headers);
        self
    }

    /// It is a problem of this code, in the form of RFC 9457.
    #[track_caller]
    pub(crate) fn problem(self, status: u16, code: &str) -> Value {
        let answer = self.expect(status);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        let problem = answer.json();
        assert_eq!(problem["code"], code, "{problem:#}");
        assert_eq!(problem["status"], status, "{problem:#}");
        for field in ["type", "title", "detail"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{problem:#}");
        }
        problem
    }
}

/// The answer to a request that is sent again while the gateway says to come again: another one with its key
/// is under way, perhaps of a process that was killed, or the database is slow.
pub(crate) fn at_last(send: impl Fn() -> Option<Answer>) -> Option<Answer> {
    let deadline = Instant::now() + 3 * TIMEOUT;
    loop {
        let answer = send()?;
        let comes_again = answer.status == 503
            || (answer.status == 409 && answer.json()["code"] == "request_in_flight");
        if !comes_again || Instant::now() > deadline {
            return Some(answer);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Sends these bytes and reads until the server closes. `None`: there is no whole answer.
pub(crate) fn exchange(address: &str, request: &[u8]) -> Option<Answer> {
    let stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    converse(stream, request)
}

/// Likewise on a connection that is there.
pub(crate) fn converse(mut stream: impl Read + Write, request: &[u8]) -> Option<Answer> {
    stream.write_all(request).ok()?;
    let mut bytes = Vec::new();
    // A server that was killed resets the connection; what came before still counts.
    let _ = stream.read_to_end(&mut bytes);
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let answer = Answer { status, headers, body: bytes[end + 4..].to_vec() };
    if answer.status == NO_CONTENT {
        return answer.body.is_empty().then_some(answer);
    }
    let length: usize = answer.header("content-length")?.parse().ok()?;
    (answer.body.len() == length).then_some(answer)
}

/// A request to be sent.
pub(crate) struct Request<'a> {
    method: &'a str,
    path: &'a str,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

pub(crate) fn request<'a>(method: &'a str, path: &'a str) -> Request<'a> {
    Request { method, path, headers: Vec::new(), body: Vec::new() }
}

impl Request<'_> {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string().as_bytes())
    }

    pub(crate) fn body(self, content_type: &str, body: &[u8]) -> Self {
        let mut request = self.header("content-type", content_type);
        request.body = body.to_vec();
        request
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: test\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let length = self.body.len();
        let _ = write!(head, "content-length: {length}\r\nconnection: close\r\n\r\n");
        [head.as_bytes(), &self.body].concat()
    }

    /// The answer, or none if the server died before it was whole.
    #[track_caller]
    pub(crate) fn try_send(&self, address: &str) -> Option<Answer> {
        let answer = exchange(address, &self.bytes())?;
        described::check(self.method, self.path, &answer);
        Some(answer)
    }

    #[track_caller]
    pub(crate) fn send(&self, address: &str) -> Answer {
        let answer = self.try_send(address);
        answer.unwrap_or_else(|| panic!("no answer to {} {}", self.method, self.path))
    }
}
