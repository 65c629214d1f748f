//! A payment provider over HTTP that counts its charges, and the client for it. It keeps the answer
//! of each `Idempotency-Key`, as those of real providers do for a day or so.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{env, io};

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::http::{call, header, read};

/// What became of a charge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub(crate) enum Verdict {
    Charged { charge: u64 },
    Declined,
}

impl Verdict {
    pub(crate) fn status(&self) -> &'static str {
        match self {
            Self::Charged { .. } => "charged",
            Self::Declined => "declined",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Charge {
    card: String,
    cents: i64,
}

/// How many charges, of how much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub(crate) charges: u64,
    pub(crate) cents: i64,
}

#[derive(Default)]
struct Books {
    totals: Totals,
    answers: HashMap<String, (Charge, Verdict)>,
}

/// Where a request is, for [`start`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing is done yet.
    Received,
    /// It is in the books, and the client does not know.
    Booked,
}

/// Starts a provider. At each stage of a charge it asks whether to go on, and drops the connection
/// if not.
pub(crate) async fn start(
    go_on: impl Fn(Stage) -> bool + Send + Sync + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (books, go_on) = (Arc::<Mutex<Books>>::default(), Arc::new(go_on));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (books, go_on) = (Arc::clone(&books), Arc::clone(&go_on));
            tokio::spawn(async move { serve(stream, &books, &*go_on).await });
        }
    });
    Ok(address)
}

/// The provider of the variable `PROVIDER`, or one that is careless: it charges, and then drops every
/// second connection without an answer.
pub(crate) async fn from_environment() -> anyhow::Result<SocketAddr> {
    if let Ok(address) = env::var("PROVIDER") {
        return Ok(address.parse()?);
    }
    let calls = AtomicU32::new(0);
    let is_second = move || calls.fetch_add(1, Ordering::Relaxed) % 2 == 1;
    Ok(start(move |stage| stage == Stage::Received || is_second()).await?)
}

async fn serve(
    mut stream: TcpStream,
    books: &Mutex<Books>,
    go_on: &(impl Fn(Stage) -> bool + Send + Sync),
) -> io::Result<()> {
    let (head, body) = read(&mut stream).await?;
    let (status, answer) = if head.starts_with("GET ") {
        let totals = books.lock().unwrap_or_else(PoisonError::into_inner).totals;
        (200, serde_json::to_string(&totals)?)
    } else if let Ok(wanted) = serde_json::from_slice(&body) {
        if !go_on(Stage::Received) {
            return Ok(());
        }
        let key = header(&head, "idempotency-key");
        let verdict = books.lock().unwrap_or_else(PoisonError::into_inner).charge(key, wanted);
        if !go_on(Stage::Booked) {
            return Ok(());
        }
        match verdict {
            Some(verdict) => (200, serde_json::to_string(&verdict)?),
            None => (422, r#""another charge has this key""#.to_owned()),
        }
    } else {
        (400, r#""not a charge""#.to_owned())
    };
    let length = answer.len();
    let answer = format!("HTTP/1.1 {status} -\r\nContent-Length: {length}\r\n\r\n{answer}");
    stream.write_all(answer.as_bytes()).await
}

impl Books {
    /// `None`: the key belongs to another charge. Without a key each request is a charge.
    fn charge(&mut self, key: Option<&str>, wanted: Charge) -> Option<Verdict> {
        if let Some((charge, verdict)) = key.and_then(|key| self.answers.get(key)) {
            return (*charge == wanted).then(|| verdict.clone());
        }
        let verdict = if wanted.card == "empty" {
            Verdict::Declined
        } else {
            self.totals.charges += 1;
            self.totals.cents = self.totals.cents.saturating_add(wanted.cents);
            Verdict::Charged { charge: self.totals.charges }
        };
        if let Some(key) = key {
            self.answers.insert(key.to_owned(), (wanted, verdict.clone()));
        }
        Some(verdict)
    }
}

/// Asks for a charge. An error means that it is not known whether there was one: ask again, with the
/// same key.
pub(crate) async fn charge(
    provider: SocketAddr,
    key: Option<&str>,
    card: &str,
    cents: i64,
) -> io::Result<Verdict> {
    let body = serde_json::to_string(&Charge { card: card.to_owned(), cents })?;
    let key = key.map_or(String::new(), |key| format!("Idempotency-Key: {key}\r\n"));
    let head = format!("POST /charges HTTP/1.1\r\n{key}Content-Length: {}\r\n\r\n", body.len());
    Ok(serde_json::from_slice(&call(provider, &(head + &body)).await?)?)
}

/// What the provider has charged so far.
pub(crate) async fn totals(provider: SocketAddr) -> io::Result<Totals> {
    Ok(serde_json::from_slice(&call(provider, "GET /charges HTTP/1.1\r\n\r\n").await?)?)
}
