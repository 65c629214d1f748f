//! What can go wrong, each with what to do next.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use crate::kind::Kind;

/// Why a stack could not be started, stopped or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StackError {
    /// Neither `JAVA_HOME` nor `PATH` leads to a Java.
    #[error(
        "Kafka needs Java {min} or later, and none was found in JAVA_HOME or PATH.\n\
         Install one (Debian: apt-get install openjdk-17-jre-headless; macOS: brew install \
         openjdk@17) or set JAVA_HOME.",
        min = crate::java::OLDEST
    )]
    JavaMissing,
    /// The first Java found is older than Kafka needs.
    #[error(
        "Kafka needs Java {min} or later, but {path} is version {version}.\n\
         Install a newer one or point JAVA_HOME to it.",
        min = crate::java::OLDEST, path = path.display()
    )]
    JavaTooOld {
        /// The `java` that was asked.
        path: PathBuf,
        /// What it said.
        version: String,
    },
    /// Maven is needed once, for the download.
    #[error(
        "the first start downloads Kafka and PostgreSQL with Maven, and there is no `mvn` in PATH.\n\
         Install it (Debian: apt-get install maven; macOS: brew install maven). Later starts do \
         without it."
    )]
    MavenMissing,
    /// Maven ended without the files.
    #[error(
        "Maven could not download Kafka and PostgreSQL:\n{detail}\n\
         Check the network and Maven's settings.xml (mirror, proxy), then start again. Whole \
         output: {log}",
        log = log.display()
    )]
    DownloadFailed {
        /// Maven's whole output.
        log: PathBuf,
        /// Its error lines.
        detail: String,
    },
    /// There is no build of PostgreSQL for this machine.
    #[error(
        "there is no packaged PostgreSQL for {os} on {arch}. Run both servers yourself and set \
         KAFKA_BOOTSTRAP_SERVERS and DATABASE_URL."
    )]
    UnsupportedPlatform {
        /// As in `std::env::consts::OS`.
        os: &'static str,
        /// As in `std::env::consts::ARCH`.
        arch: &'static str,
    },
    /// PostgreSQL refuses to run as root and there is nobody else to run it as.
    #[error(
        "PostgreSQL refuses to run as root, and this machine has neither a user `nobody` nor \
         `postgres` to run it as. Start again as an ordinary user."
    )]
    NoUnprivilegedUser,
    /// Programs from such a folder are better not run.
    #[error(
        "{folder} belongs to another account. Remove it, or set LOCAL_STACK_HOME to a folder of \
         your own.",
        folder = .0.display()
    )]
    ForeignFolder(PathBuf),
    /// As root, PostgreSQL runs under another account, and that one has no way to the folder.
    #[error(
        "as root, PostgreSQL runs under another account, which cannot reach {folder}: a folder \
         above it is closed to others.\nSet LOCAL_STACK_HOME to a folder that is open to others, \
         or start again as an ordinary user.",
        folder = .0.display()
    )]
    Unreachable(PathBuf),
    /// Something else listens on the port that was asked for.
    #[error("{}", crate::ports::busy_message(*server, *port))]
    PortBusy {
        /// Who wanted it.
        server: Kind,
        /// On 127.0.0.1.
        port: u16,
    },
    /// A stack of that name runs already.
    #[error(
        "the stack `{name}` is already up ({by}). `cargo stack status --name {name}` shows it, \
         `cargo stack down --name {name}` stops it."
    )]
    AlreadyUp {
        /// The stack's name.
        name: String,
        /// Who runs it.
        by: String,
    },
    /// The name cannot be a folder's.
    #[error("`{name}` cannot name a stack: use 1 to 60 letters, digits, `-` and `_`.")]
    BadName {
        /// As given.
        name: String,
    },
    /// Nothing runs under that name.
    #[error("no stack `{name}` is up. Start it with `cargo stack up --name {name}`.")]
    NotUp {
        /// The stack's name.
        name: String,
    },
    /// One server of a stack that has an owner was to be stopped or started by somebody else.
    #[error(
        "the stack `{name}` is in the hands of process {owner_pid}, which would take a server that \
         somebody else stops for a failure. Only servers of a stack in the background (`cargo stack \
         up` without --foreground) can be stopped and started one by one."
    )]
    HasOwner {
        /// The stack's name.
        name: String,
        /// Who runs it.
        owner_pid: u32,
    },
    /// The server to be stopped or used does not run.
    #[error(
        "{server} of the stack `{name}` is not running. `cargo stack start {word} --name {name}` \
         starts it, `cargo stack status --name {name}` shows how both are.",
        word = server.word()
    )]
    NotRunning {
        /// Which one.
        server: Kind,
        /// The stack's name.
        name: String,
    },
    /// The server to be started runs.
    #[error("{server} of the stack `{name}` is running already.")]
    AlreadyRunning {
        /// Which one.
        server: Kind,
        /// The stack's name.
        name: String,
    },
    /// The server ended before it was ready.
    #[error(
        "{server} ended while starting ({status}). The last lines of {log}:\n{tail}",
        log = log.display()
    )]
    ExitedDuringStart {
        /// Which one.
        server: Kind,
        /// How it ended.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// The server ended by itself while the stack was up.
    #[error(
        "{server} ended ({status}). The last lines of {log}:\n{tail}",
        log = log.display()
    )]
    Ended {
        /// Which one.
        server: Kind,
        /// How it ended.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// The server runs, but did not get ready in time.
    #[error(
        "{server} was not ready after {waited_s} s. Is the machine overloaded? The last lines of \
         {log}:\n{tail}",
        log = log.display()
    )]
    NotReady {
        /// Which one.
        server: Kind,
        /// Seconds.
        waited_s: u64,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// A step of the preparation by a program that we call failed.
    #[error("{doing} failed:\n{detail}")]
    Preparation {
        /// What was tried.
        doing: &'static str,
        /// What the program said.
        detail: String,
    },
    /// PostgreSQL refused a statement or a connection.
    #[error("{doing}: {source}")]
    Database {
        /// What was tried.
        doing: String,
        /// The driver's error.
        #[source]
        source: sqlx::Error,
    },
    /// A file, folder or process could not be used.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried, with the path.
        doing: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Says what was tried and with which file when the system refuses.
pub(crate) trait IoContext<T> {
    fn doing(self, verb: &str, path: &Path) -> Result<T, StackError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn doing(self, verb: &str, path: &Path) -> Result<T, StackError> {
        self.map_err(|source| StackError::Io {
            doing: format!("{verb} {}", path.display()),
            source,
        })
    }
}
