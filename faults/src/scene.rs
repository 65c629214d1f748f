//! Where plans take place: a private stack, a proxy between each pair, a small mount.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use anyhow::Context as _;
use local_stack::{Options, Stack};

use crate::children::Programs;
use crate::fault::{Kind, Link};
use crate::frames::Protocol;
use crate::proxy::Proxy;

/// The stack and what is around it; used by one plan after the other.
pub struct Scene {
    /// A file system of a few MiB for a database. First, since it lies in the stack's folder.
    pub mount: Option<Mount>,
    /// Both servers.
    pub stack: Stack,
    /// Both programs.
    pub programs: Programs,
    /// Why kinds cannot be had on this machine.
    pub missing: Vec<(Kind, String)>,
    /// Held by whoever stops or sets back PostgreSQL.
    pub database: tokio::sync::Mutex<()>,
    /// Held by whoever stops Kafka.
    pub broker: tokio::sync::Mutex<()>,
    consumer_to_database: Proxy,
    consumer_to_broker: Proxy,
    producer_to_broker: Proxy,
}

impl Scene {
    /// Builds the programs and starts the servers.
    pub async fn set_up() -> anyhow::Result<Self> {
        let programs = Programs::build().await?;
        let (to_database, consumers, producers) =
            (Proxy::listen().await?, Proxy::listen().await?, Proxy::listen().await?);
        let (consumer_port, producer_port) = (free_port(31_000)?, free_port(31_500)?);
        let options = Options::private("faults")
            .kafka_listener("CONSUMERS", consumer_port, consumers.port)
            .kafka_listener("PRODUCERS", producer_port, producers.port)
            .kafka_property("group.min.session.timeout.ms", "500")
            .kafka_property(
                "authorizer.class.name",
                "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            )
            .kafka_property("allow.everyone.if.no.acl.found", "true");
        // Blocks, also for a download.
        let stack = tokio::task::spawn_blocking(move || Stack::start(options)).await??;
        let programs = programs.kept_in(&stack.folder().join("programs"))?;
        let database_port = stack.postgres().port();
        let mut missing = Vec::new();
        let mount = match Mount::new(&stack) {
            Ok(mount) => Some(mount),
            Err(error) => {
                missing.push((Kind::DiskFull, format!("mounting is refused: {error}")));
                None
            }
        };
        Ok(Self {
            stack,
            programs,
            missing,
            mount,
            database: tokio::sync::Mutex::default(),
            broker: tokio::sync::Mutex::default(),
            consumer_to_database: to_database.pass_to(database_port, Protocol::Postgres),
            consumer_to_broker: consumers.pass_to(consumer_port, Protocol::Kafka),
            producer_to_broker: producers.pass_to(producer_port, Protocol::Kafka),
        })
    }

    /// The proxy between that pair.
    pub fn proxy(&self, link: Link) -> &Proxy {
        match link {
            Link::ConsumerToDatabase => &self.consumer_to_database,
            Link::ConsumerToBroker => &self.consumer_to_broker,
            Link::ProducerToBroker => &self.producer_to_broker,
        }
    }

    /// Every link is as if nothing had been.
    pub fn heal_links(&self) {
        for link in [Link::ConsumerToDatabase, Link::ConsumerToBroker, Link::ProducerToBroker] {
            self.proxy(link).heal();
        }
    }

    /// The URL of a database behind the consumers' proxy.
    pub fn through_proxy(&self, database_url: &str) -> String {
        let own = format!("127.0.0.1:{}", self.stack.postgres().port());
        database_url.replace(&own, &format!("127.0.0.1:{}", self.consumer_to_database.port()))
    }
}

/// A free port that no outgoing connection gets.
pub(crate) fn free_port(from: u16) -> anyhow::Result<u16> {
    let spread = u16::try_from(std::process::id() % 400).unwrap_or(0);
    (from + spread..from + 500)
        .chain(from..from + spread)
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .context("no free port")
}

/// A tmpfs of a few MiB, for a tablespace.
pub struct Mount {
    folder: PathBuf,
}

impl Mount {
    fn new(stack: &Stack) -> anyhow::Result<Self> {
        let folder = stack.folder().join("small");
        std::fs::create_dir_all(&folder)?;
        let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
        let size = Some(c"size=40m,mode=0755");
        rustix::mount::mount("faults", &folder, "tmpfs", flags, size)?;
        let mount = Self { folder };
        let owner = std::fs::metadata(stack.folder().join("postgres/data"))?;
        std::fs::create_dir(mount.space())?;
        std::os::unix::fs::chown(mount.space(), Some(owner.uid()), Some(owner.gid()))?;
        Ok(mount)
    }

    /// For `CREATE TABLESPACE`.
    pub fn space(&self) -> PathBuf {
        self.folder.join("space")
    }

    /// Takes all the room there is.
    pub fn fill(&self) -> std::io::Result<()> {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.folder.join("filler"))?;
        loop {
            match file.write_all(&[0; 4096]) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives it back.
    pub fn empty(&self) -> std::io::Result<()> {
        match std::fs::remove_file(self.folder.join("filler")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Detached: PostgreSQL may still have files open there.
        let _ = rustix::mount::unmount(&self.folder, rustix::mount::UnmountFlags::DETACH);
    }
}
