//! A TCP proxy before PostgreSQL that can cut, fall silent, and cut at a COMMIT.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::poll::{runtime, wait};

/// Listens as long as it lives.
pub(crate) struct Proxy {
    port: u16,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

/// Where a connection is cut when its client sends a COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CutCommit {
    /// The server never sees it.
    BeforeTheServer,
    /// The server has committed, and its answer is lost.
    BeforeTheClient,
}

struct State {
    server: SocketAddr,
    silent: watch::Sender<bool>,
    cut: watch::Sender<u64>,
    /// For each COMMIT to come, whether to cut there.
    commits: Mutex<VecDeque<Option<CutCommit>>>,
    commits_cut: AtomicUsize,
}

impl Proxy {
    /// Before the server of that URL.
    pub(crate) fn before(database_url: &str) -> Self {
        let address = database_url.split('@').nth(1).unwrap().split('/').next().unwrap();
        let state = Arc::new(State {
            server: address.parse().unwrap(),
            silent: watch::Sender::new(false),
            cut: watch::Sender::new(0),
            commits: Mutex::default(),
            commits_cut: AtomicUsize::new(0),
        });
        let listener = wait(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = Arc::clone(&state);
        let task = runtime().spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&serving);
                tokio::spawn(async move {
                    let mut cut = state.cut.subscribe();
                    tokio::select! {
                        _ = cut.changed() => {}
                        _ = pass(&state, client) => {}
                    }
                });
            }
        });
        Self { port, state, task }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Cuts every connection there is. New ones are welcome.
    pub(crate) fn cut(&self) {
        self.state.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Falls silent without closing anything, or goes on.
    pub(crate) fn silence(&self, silent: bool) {
        self.state.silent.send_replace(silent);
    }

    /// What to do at the COMMITs to come.
    pub(crate) fn at_commits(&self, plan: impl IntoIterator<Item = Option<CutCommit>>) {
        self.state.commits.lock().unwrap().extend(plan);
    }

    /// How many COMMITs have been cut.
    pub(crate) fn commits_cut(&self) -> usize {
        self.state.commits_cut.load(Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

/// Passes on in both directions until either side ends or the plan says to cut.
async fn pass(state: &State, mut client: TcpStream) -> io::Result<()> {
    let mut silent = state.silent.subscribe();
    let mut server = TcpStream::connect(state.server).await?;
    let (mut from_client, mut from_server) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut messages = Messages::default();
    let mut answer_is_lost = false;
    loop {
        let _ = silent.wait_for(|silent| !silent).await;
        tokio::select! {
            read = client.read(&mut from_client) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                messages.bytes.extend_from_slice(&from_client[..read]);
                while let Some(message) = messages.next() {
                    let cut = is_commit(&message)
                        .then(|| state.commits.lock().unwrap().pop_front().flatten())
                        .flatten();
                    if cut == Some(CutCommit::BeforeTheServer) {
                        state.commits_cut.fetch_add(1, Relaxed);
                        return Ok(());
                    }
                    answer_is_lost |= cut.is_some();
                    server.write_all(&message).await?;
                }
            }
            read = server.read(&mut from_server) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                if answer_is_lost {
                    state.commits_cut.fetch_add(1, Relaxed);
                    return Ok(());
                }
                let _ = silent.wait_for(|silent| !silent).await;
                client.write_all(&from_server[..read]).await?;
            }
        }
    }
}

/// Splits what a client sends into messages of PostgreSQL's protocol.
#[derive(Default)]
struct Messages {
    bytes: Vec<u8>,
    started: bool,
}

impl Messages {
    const SSL_REQUEST: [u8; 4] = 80_877_103_u32.to_be_bytes();

    fn next(&mut self) -> Option<Vec<u8>> {
        // The first messages have no type before their length.
        let length_at = usize::from(self.started);
        let length = self.bytes.get(length_at..length_at + 4)?;
        let length = length_at + u32::from_be_bytes(length.try_into().ok()?) as usize;
        if self.bytes.len() < length {
            return None;
        }
        let rest = self.bytes.split_off(length);
        let message = std::mem::replace(&mut self.bytes, rest);
        self.started |= message.get(4..8) != Some(&Self::SSL_REQUEST);
        Some(message)
    }
}

fn is_commit(message: &[u8]) -> bool {
    message.first() == Some(&b'Q') && message.get(5..) == Some(b"COMMIT\0")
}
