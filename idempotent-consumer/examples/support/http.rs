//! As much of HTTP as the provider needs. A real client is a library's.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long a call may take.
const CALL: Duration = Duration::from_secs(2);
/// Bytes of a request or an answer, at most.
const LIMIT: u64 = 64 * 1024;

/// Sends a request, and returns the body of the answer if its status is 200.
pub(super) async fn call(provider: SocketAddr, request: &str) -> io::Result<Vec<u8>> {
    let exchange = async {
        let mut stream = TcpStream::connect(provider).await?;
        stream.write_all(request.as_bytes()).await?;
        read(&mut stream).await
    };
    let (head, body) = tokio::time::timeout(CALL, exchange).await??;
    if head.starts_with("HTTP/1.1 200 ") {
        Ok(body)
    } else {
        Err(io::Error::other(head.lines().next().unwrap_or_default()))
    }
}

/// Head and body of a request or an answer.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let (mut bytes, mut stream) = (Vec::new(), stream.take(LIMIT));
    loop {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = header(&head, "content-length").map_or(Ok(0), str::parse::<usize>);
            let length = length.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            if bytes.len() - end - 4 >= length {
                return Ok((head, bytes[end + 4..][..length].to_vec()));
            }
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The value of a header.
pub(super) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}
