//! A Redis of our own, and the lock in it.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::LazyLock;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use anyhow::Context as _;
use local_stack::Watchdog;
use rdkafka::consumer::Consumer as _;
use redis::aio::MultiplexedConnection;
use tokio::process::{Child, Command};
use uuid::Uuid;

use crate::worker::Worker;

/// How to get what is missing.
pub(crate) const INSTALL: &str =
    "there is no redis-server; on Debian: apt-get install redis-server";

const POLL: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(30);

/// Of this run: a server of somebody else's may hold locks of an earlier one.
static RUN: LazyLock<Uuid> = LazyLock::new(Uuid::new_v4);

/// A server on a free port of 127.0.0.1, without a file, that ends with this; or the one of
/// `REDIS_URL`.
pub(crate) struct RedisServer {
    // Dropped before the child is reaped: it must not fire at a number that is free.
    _watchdog: Option<Watchdog>,
    _child: Option<Child>,
    pub(crate) url: String,
}

impl RedisServer {
    /// `None` if it is not installed.
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Option<Self>> {
        if let Ok(url) = std::env::var("REDIS_URL") {
            // Without the URL: there may be a password in it.
            connect(&url).await.context("the Redis of REDIS_URL does not answer")?;
            return Ok(Some(Self { _watchdog: None, _child: None, url }));
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let started = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let child = match started {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context("cannot start redis-server"),
        };
        let pid = child.id().context("redis-server ended at once")?;
        let watchdog = Some(Watchdog::over_child(pid)?);
        let url = format!("redis://127.0.0.1:{port}/");
        let server = Self { _watchdog: watchdog, _child: Some(child), url };
        let answers = async {
            while connect(&server.url).await.is_err() {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(PATIENCE, answers).await.context("redis-server does not answer")?;
        Ok(Some(server))
    }
}

async fn connect(url: &str) -> redis::RedisResult<MultiplexedConnection> {
    redis::Client::open(url)?.get_multiplexed_async_connection().await
}

/// Locks that expire.
pub(crate) struct Locks {
    redis: MultiplexedConnection,
    prefix: String,
}

/// One that was acquired, and may have expired since.
pub(crate) struct Lock {
    key: String,
    owner: String,
}

impl Locks {
    pub(crate) async fn connect(worker: &Worker) -> anyhow::Result<Self> {
        let url = worker.place.redis_url.as_ref().context(INSTALL)?;
        Ok(Self { redis: connect(url).await?, prefix: format!("{}:{}", *RUN, worker.place.group) })
    }

    /// Tries until it has it.
    pub(crate) async fn acquire(&mut self, worker: &mut Worker, id: &str) -> anyhow::Result<Lock> {
        let lock = Lock { key: format!("{}:{id}", self.prefix), owner: Uuid::new_v4().to_string() };
        let ttl_ms = u64::try_from(worker.role.lock_ttl.as_millis())?;
        let waits = &worker.consumer.context().waits;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let mut set = redis::cmd("SET");
            set.arg(&lock.key).arg(&lock.owner).arg("NX").arg("PX").arg(ttl_ms);
            let answer: Option<String> = set.query_async(&mut self.redis).await?;
            worker.counts.requests += 1;
            if answer.is_some() {
                waits.store(false, SeqCst);
                return Ok(lock);
            }
            waits.store(true, SeqCst);
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "the lock is never free");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Gives it back if it is still ours.
    pub(crate) async fn release(&mut self, worker: &mut Worker, lock: Lock) -> anyhow::Result<()> {
        const COMPARE_AND_DELETE: &str = "
            if redis.call('GET', KEYS[1]) == ARGV[1] then
                return redis.call('DEL', KEYS[1])
            end
            return 0";
        let mut eval = redis::cmd("EVAL");
        eval.arg(COMPARE_AND_DELETE).arg(1).arg(&lock.key).arg(&lock.owner);
        let _: i64 = eval.query_async(&mut self.redis).await?;
        worker.counts.requests += 1;
        Ok(())
    }

    /// A fencing token: greater than all before.
    pub(crate) async fn next_token(&mut self, worker: &mut Worker) -> anyhow::Result<i64> {
        let mut increment = redis::cmd("INCR");
        increment.arg(format!("{}:token", self.prefix));
        worker.counts.requests += 1;
        Ok(increment.query_async(&mut self.redis).await?)
    }
}
