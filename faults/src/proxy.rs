//! A TCP proxy between a pair, on loopback: it delays, throttles, falls silent, shuts one
//! direction, cuts, cuts exactly at a COMMIT of PostgreSQL or a Produce of Kafka, and hides Kafka's
//! brokers.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::frames::{self, Frames, Protocol};

/// What a link suffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// It passes everything on.
    None,
    /// Each chunk waits.
    Delayed {
        /// For so long.
        ms: u64,
    },
    /// Little at a time.
    Throttled {
        /// In each direction of each connection.
        kib_per_s: u64,
    },
    /// Nothing passes, nothing closes.
    Silent,
    /// The server's bytes no longer arrive: the client reads an end.
    ToClientClosed,
    /// The client's bytes no longer arrive: the server reads an end.
    ToServerClosed,
}

/// Where a connection is cut when its client asks for what may not be done twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The server never sees it.
    BeforeTheServer,
    /// The server has done it, and its answer is lost.
    BeforeTheClient,
}

/// Listens as long as it lives.
pub struct Proxy {
    port: u16,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

struct State {
    server_port: u16,
    protocol: Protocol,
    harm: watch::Sender<Harm>,
    cut: watch::Sender<u64>,
    /// What to do at the next COMMITs or Produces.
    cuts: Mutex<VecDeque<Option<Cut>>>,
    hides_brokers: AtomicBool,
    /// Answers that named no broker.
    hidden: AtomicU64,
}

impl Proxy {
    /// Takes a free port. Where the server is may be said later.
    pub async fn listen() -> io::Result<Listening> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        Ok(Listening { port: listener.local_addr()?.port(), listener })
    }

    /// Where clients come.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on, for connections there are and new ones.
    pub fn harm(&self, harm: Harm) {
        self.state.harm.send_replace(harm);
    }

    /// Cuts every connection there is. New ones are welcome.
    pub fn cut(&self) {
        self.state.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Cuts at the next COMMITs or Produces.
    pub fn cut_at_next(&self, cut: Cut, times: u32) {
        self.cut_at((0..times).map(|_| Some(cut)));
    }

    /// Whether Kafka's answers to who the brokers are name none, as those of a broker that has just
    /// started, for a moment.
    pub fn hide_brokers(&self, hides: bool) {
        self.state.hides_brokers.store(hides, Ordering::Relaxed);
    }

    /// How many answers have named none.
    pub fn hidden(&self) -> u64 {
        self.state.hidden.load(Ordering::Relaxed)
    }

    /// For each COMMIT or Produce to come, whether to cut there.
    pub fn cut_at(&self, plan: impl IntoIterator<Item = Option<Cut>>) {
        let mut cuts = self.state.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        cuts.extend(plan);
    }

    /// How many of those are still to come; they are called off.
    pub fn call_cuts_off(&self) -> usize {
        let mut cuts = self.state.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        cuts.drain(..).flatten().count()
    }

    /// As if nothing had been.
    pub fn heal(&self) {
        self.call_cuts_off();
        self.hide_brokers(false);
        self.harm(Harm::None);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

/// A proxy that does not yet know its server.
pub struct Listening {
    /// Where clients come.
    pub port: u16,
    listener: TcpListener,
}

impl Listening {
    /// Begins to pass on to that port of 127.0.0.1.
    pub fn pass_to(self, server_port: u16, protocol: Protocol) -> Proxy {
        let state = Arc::new(State {
            server_port,
            protocol,
            harm: watch::Sender::new(Harm::None),
            cut: watch::Sender::new(0),
            cuts: Mutex::default(),
            hides_brokers: AtomicBool::new(false),
            hidden: AtomicU64::new(0),
        });
        let Self { port, listener } = self;
        let serving = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&serving);
                tokio::spawn(async move {
                    let mut cut = state.cut.subscribe();
                    tokio::select! {
                        _ = cut.changed() => {}
                        // Either side may be gone: that is what the proxy is for.
                        _ = pass(&state, client) => {}
                    }
                });
            }
        });
        Proxy { port, state, task }
    }
}

/// Passes on in both directions until either side ends or the plan says to cut.
async fn pass(state: &State, mut client: TcpStream) -> io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", state.server_port)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let asked = Mutex::default();
    let up = Direction { state, to_server: true, asked: &asked };
    let down = Direction { state, to_server: false, asked: &asked };
    tokio::select! {
        ended = up.run(&mut from_client, &mut to_server) => ended,
        ended = down.run(&mut from_server, &mut to_client) => ended,
    }
}

struct Direction<'a> {
    state: &'a State,
    to_server: bool,
    asked: &'a Mutex<Asked>,
}

/// Requests by what their answers are known by.
#[derive(Default)]
struct Asked {
    /// Its answer is lost.
    lost: Option<u32>,
    /// Who the brokers are.
    brokers: HashSet<u32>,
}

impl Direction<'_> {
    async fn run(
        &self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        let mut harm = self.state.harm.subscribe();
        let mut frames = Frames::new(self.state.protocol, self.to_server);
        let mut buffer = vec![0; 32 * 1024];
        let mut is_shut = false;
        loop {
            let now = *harm.borrow_and_update();
            let shut = if self.to_server { Harm::ToServerClosed } else { Harm::ToClientClosed };
            if now == shut && !is_shut {
                is_shut = true;
                to.shutdown().await?;
            }
            if now == Harm::Silent {
                let _ = harm.changed().await;
                continue;
            }
            let room = match now {
                Harm::Throttled { kib_per_s } => {
                    usize::try_from(kib_per_s * 1024 / 10).unwrap_or(1)
                }
                _ => buffer.len(),
            };
            let read = tokio::select! {
                _ = harm.changed() => continue,
                read = from.read(&mut buffer[..room.min(32 * 1024)]) => read?,
            };
            if read == 0 {
                return Ok(());
            }
            match now {
                Harm::Delayed { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
                Harm::Throttled { .. } => tokio::time::sleep(Duration::from_millis(100)).await,
                _ => {}
            }
            let _ = harm.wait_for(|harm| *harm != Harm::Silent).await;
            if is_shut {
                continue;
            }
            frames.push(&buffer[..read]);
            while let Some(frame) = frames.next() {
                if self.is_to_be_cut(&frames, &frame) {
                    return Ok(());
                }
                let frame = self.hiding(&frames, frame)?;
                to.write_all(&frame).await?;
            }
        }
    }

    /// Whether the connection ends before this frame is passed on.
    fn is_to_be_cut(&self, frames: &Frames, frame: &[u8]) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.to_server {
            return asked.lost.is_some_and(|request| frames.answers(frame, request));
        }
        let Some(request) = frames.decisive_request(frame) else { return false };
        let mut cuts = self.state.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        match cuts.pop_front().flatten() {
            Some(Cut::BeforeTheServer) => true,
            Some(Cut::BeforeTheClient) => {
                asked.lost = Some(request);
                false
            }
            None => false,
        }
    }

    /// The frame, without brokers if they are to be hidden.
    fn hiding(&self, frames: &Frames, frame: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if self.to_server {
            asked.brokers.extend(frames.question_for_brokers(&frame));
            return Ok(frame);
        }
        let answered =
            asked.brokers.iter().copied().find(|request| frames.answers(&frame, *request));
        if !answered.is_some_and(|request| asked.brokers.remove(&request))
            || !self.state.hides_brokers.load(Ordering::Relaxed)
        {
            return Ok(frame);
        }
        let hiding = frames::without_brokers(&frame)
            .ok_or_else(|| io::Error::other("an answer that cannot be taken apart"))?;
        self.state.hidden.fetch_add(1, Ordering::Relaxed);
        Ok(hiding)
    }
}
