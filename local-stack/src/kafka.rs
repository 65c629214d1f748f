//! One broker that is its own controller (KRaft, combined mode).

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::dist::Dist;
use crate::error::{IoContext, StackError};
use crate::files;
use crate::kind::Kind;
use crate::log;
use crate::options::Listener;
use crate::server::{Launch, Server};

/// What differs between brokers.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
    pub(crate) controller_port: u16,
    pub(crate) properties: &'a [(String, String)],
    pub(crate) listeners: &'a [Listener],
}

/// Prepares the folder (data that is there stays) and returns the broker, not yet started.
pub(crate) fn prepare(dist: &Dist, setup: &Setup<'_>) -> Result<Server, StackError> {
    prepare_with(dist, setup, &dist.class_archive_flags())
}

/// The same, with other flags for Java's class archive.
pub(crate) fn prepare_with(
    dist: &Dist,
    setup: &Setup<'_>,
    class_archive_flags: &[OsString],
) -> Result<Server, StackError> {
    files::create_folder(&setup.folder)?;
    files::create_folder(&setup.folder.join("tmp"))?;
    let data = setup.folder.join("data");
    if !data.exists() {
        files::copy_folder(&dist.kafka_template(), &data, None)?;
    }
    let properties = setup.folder.join("server.properties");
    fs::write(&properties, self::properties(setup)).doing("cannot write", &properties)?;
    server(dist, &setup.folder, setup.port, class_archive_flags)
}

/// The broker of a folder that was prepared before, with the settings it has there.
pub(crate) fn prepared(dist: &Dist, folder: &Path, port: u16) -> Result<Server, StackError> {
    server(dist, folder, port, &dist.class_archive_flags())
}

fn server(
    dist: &Dist,
    folder: &Path,
    port: u16,
    class_archive_flags: &[OsString],
) -> Result<Server, StackError> {
    Ok(Server::new(Launch {
        kind: Kind::Kafka,
        program: dist.java().path.clone(),
        arguments: arguments(dist, folder, class_archive_flags),
        // Sorted, where `libs/*` is in the order of the folder: the archive of loaded classes
        // holds for this very list only.
        environment: vec![("CLASSPATH", dist.class_path()?)],
        user: None,
        folder: folder.to_owned(),
        port,
        is_ready,
    }))
}

/// The arguments of `java` for a broker with that folder.
fn arguments(dist: &Dist, folder: &Path, flags: &[OsString]) -> Vec<OsString> {
    // Ready in a third of the time by the class archive, and with less work for the compiler:
    // the machine has the tests to run.
    let tuning = ["-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];
    let mut arguments: Vec<OsString> = tuning.iter().map(OsString::from).collect();
    arguments.extend_from_slice(flags);
    // A killed broker would leave unpacked native libraries and counters in the system's /tmp.
    arguments.push("-XX:-UsePerfData".into());
    arguments.push(property("java.io.tmpdir", &folder.join("tmp")));
    arguments.push(property("log4j2.configurationFile", &dist.log4j_settings()));
    arguments.push("-Djava.awt.headless=true".into());
    arguments.push("kafka.Kafka".into());
    arguments.push(folder.join("server.properties").into());
    arguments
}

fn property(name: &str, value: &Path) -> OsString {
    let mut property = OsString::from(format!("-D{name}="));
    property.push(value);
    property
}

fn is_ready(folder: &Path, log_from: u64, _pid: u32) -> bool {
    // Said once the broker is registered and unfenced; the port answers long before that.
    log::since(&log::path(folder), log_from).contains("Kafka Server started")
}

fn properties(setup: &Setup<'_>) -> String {
    let Setup { folder, port, controller_port, properties, listeners } = setup;
    let data = folder.join("data");
    let data = data.display();
    let mut text = format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.num.partitions=5
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=5
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# After SIGKILL the broker may come back only when its old session is over: by default 9 s.
broker.session.timeout.ms=3000
# Tests that kill consumers want them to be taken for dead before 6 s have passed.
group.min.session.timeout.ms=500
broker.heartbeat.interval.ms=500
"
    );
    if !listeners.is_empty() {
        let (mut own, mut advertised, mut protocols) =
            (String::new(), String::new(), String::new());
        for Listener { name, port, advertised_port } in *listeners {
            write!(own, ",{name}://127.0.0.1:{port}").expect("writing to a String cannot fail");
            write!(advertised, ",{name}://127.0.0.1:{advertised_port}")
                .expect("writing to a String cannot fail");
            write!(protocols, ",{name}:PLAINTEXT").expect("writing to a String cannot fail");
        }
        writeln!(
            text,
            "listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}{own}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{advertised}
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}"
        )
        .expect("writing to a String cannot fail");
    }
    for (name, value) in *properties {
        // Of two lines for one name the last one counts.
        writeln!(text, "{name}={}", value.replace('\\', "\\\\"))
            .expect("writing to a String cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_given_by_the_caller_come_last_so_that_they_count() {
        let own = [("message.max.bytes".to_owned(), "2000000".to_owned())];
        let text = properties(&Setup {
            folder: "/stacks/one/kafka".into(),
            port: 9092,
            controller_port: 20_001,
            properties: &own,
            listeners: &[],
        });
        assert!(text.ends_with("message.max.bytes=2000000\n"));
        assert!(text.contains("\nlisteners=PLAINTEXT://127.0.0.1:9092,"));
        assert!(text.contains("\nlog.dirs=/stacks/one/kafka/data\n"));
    }
}
