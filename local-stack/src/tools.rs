//! Kafka's own command line tools, and Java's for certificates, from the same places as the servers.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use crate::background;
use crate::dist::Dist;
use crate::error::StackError;
use crate::home::Home;
use crate::java::Java;
use crate::kind::Kind;
use crate::stack::Stack;

impl Stack {
    /// Runs one of Kafka's tools by the name of its class, such as `org.apache.kafka.tools.AclCommand`,
    /// for this broker; returns what it printed. Takes one or two seconds.
    pub fn kafka_tool(&self, class: &str, arguments: &[&str]) -> Result<String, StackError> {
        let dist = Dist::ensure(&Home::find()?)?;
        let mut command = tool_of(&dist, class, self.bootstrap_servers())?;
        run("running a tool of Kafka", command.args(arguments))
    }
}

/// One of Kafka's tools, by the name of its class, for the broker of the stack of that name: to be
/// given its arguments and run.
pub fn kafka_tool(name: &str, class: &str) -> Result<Command, StackError> {
    let Some(status) = background::status(name)? else {
        return Err(StackError::NotUp { name: name.to_owned() });
    };
    if status.kafka_pid.is_none() {
        // It would go on trying.
        return Err(StackError::NotRunning { server: Kind::Kafka, name: name.to_owned() });
    }
    tool_of(&Dist::ensure(&Home::find()?)?, class, &status.endpoints.bootstrap_servers)
}

fn tool_of(dist: &Dist, class: &str, bootstrap_servers: &str) -> Result<Command, StackError> {
    let mut command = Command::new(&dist.java().path);
    command
        .env("CLASSPATH", dist.class_path()?)
        .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData"])
        .args([class, "--bootstrap-server", bootstrap_servers]);
    Ok(command)
}

/// A key for a server on 127.0.0.1 with a certificate of its own making.
#[derive(Debug, Clone, Copy)]
pub struct Certificate<'a> {
    /// PKCS #12, password `secret`, as a broker's `ssl.keystore.location` wants it.
    pub key_store: &'a Path,
    /// The certificate as PEM, for those who are to trust it.
    pub trusted: &'a Path,
    /// Whether it has expired yesterday.
    pub is_expired: bool,
}

impl Certificate<'_> {
    /// Writes both files with Java's `keytool`.
    pub fn make(&self) -> Result<(), StackError> {
        let keytool = Java::find()?.path.with_file_name("keytool");
        let start = if self.is_expired { "-3d" } else { "-1d" };
        let days = if self.is_expired { "2" } else { "30" };
        let mut make = Command::new(&keytool);
        make.args(["-genkeypair", "-alias", "server", "-keyalg", "EC", "-groupname", "secp256r1"])
            .args(["-dname", "CN=127.0.0.1", "-ext", "san=ip:127.0.0.1,dns:localhost"])
            .args(["-startdate", start, "-validity", days, "-storetype", "PKCS12"])
            .args(["-storepass", "secret", "-keystore"])
            .arg(self.key_store);
        run("making a key", &mut make)?;
        let mut export = Command::new(&keytool);
        export
            .args(["-exportcert", "-rfc", "-alias", "server", "-storepass", "secret", "-keystore"])
            .args([self.key_store.as_os_str(), OsStr::new("-file"), self.trusted.as_os_str()]);
        run("exporting a certificate", &mut export)?;
        Ok(())
    }
}

fn run(doing: &'static str, command: &mut Command) -> Result<String, StackError> {
    let output =
        command.output().map_err(|source| StackError::Io { doing: doing.to_owned(), source })?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() {
        Ok(said)
    } else {
        Err(StackError::Preparation { doing, detail: said })
    }
}
