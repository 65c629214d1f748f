//! A broker that wants TLS and a password, and lets nobody do what no ACL allows.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use local_stack::{Certificate, Options, Stack};

use super::world::World;
use super::{Place, unique};

/// What each SCRAM user's password is.
const PASSWORD: &str = "correct horse";

pub(crate) struct Secure {
    stack: Stack,
    folder: PathBuf,
    port: u16,
    expired_port: u16,
}

/// One for all tests.
pub(crate) fn secure() -> &'static Secure {
    static SECURE: LazyLock<Secure> = LazyLock::new(Secure::start);
    &SECURE
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Secure {
    fn start() -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(unique("secure"));
        fs::create_dir_all(&folder).unwrap();
        let (port, expired_port) = (free_port(), free_port());
        let mut options = Options::private("secure")
            .kafka_listener("SECURE", port, port)
            .kafka_listener("EXPIRED", expired_port, expired_port)
            .kafka_property(
                "listener.security.protocol.map",
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL,EXPIRED:SASL_SSL",
            )
            .kafka_property(
                "authorizer.class.name",
                "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            )
            // The broker itself, and the tests' own hands.
            .kafka_property("super.users", "User:ANONYMOUS");
        for (name, is_expired) in [("secure", false), ("expired", true)] {
            let (key_store, trusted) =
                (folder.join(format!("{name}.p12")), folder.join(format!("{name}.pem")));
            Certificate { key_store: &key_store, trusted: &trusted, is_expired }.make().unwrap();
            let property = |name: &str| name.to_owned();
            for (what, value) in [
                ("sasl.enabled.mechanisms", property("SCRAM-SHA-512")),
                (
                    "scram-sha-512.sasl.jaas.config",
                    property("org.apache.kafka.common.security.scram.ScramLoginModule required;"),
                ),
                ("ssl.keystore.type", property("PKCS12")),
                ("ssl.keystore.location", key_store.display().to_string()),
                ("ssl.keystore.password", property("secret")),
                ("ssl.key.password", property("secret")),
            ] {
                options = options.kafka_property(&format!("listener.name.{name}.{what}"), &value);
            }
        }
        fs::write(folder.join("password"), PASSWORD).unwrap();
        Self { stack: Stack::start(options).unwrap(), folder, port, expired_port }
    }

    /// A world with topics, of which the broker's super user takes care.
    pub(crate) fn world(&self, what: &str) -> World {
        World::on(Box::leak(Box::new(self.stack.endpoints().clone())), what, 1)
    }

    /// A new user without any ACL.
    pub(crate) fn user(&self) -> String {
        let user = unique("user");
        let config = format!("SCRAM-SHA-512=[iterations=4096,password={PASSWORD}]");
        let arguments =
            ["--alter", "--add-config", &config, "--entity-type", "users", "--entity-name", &user];
        self.stack.kafka_tool("kafka.admin.ConfigCommand", &arguments).unwrap();
        user
    }

    /// Gives the user an ACL for each operation on each resource, such as `--topic orders`.
    pub(crate) fn allow(&self, user: &str, operations: &[&str], resources: &[&str]) {
        self.acl("--add", user, operations, resources);
    }

    /// Takes one away.
    pub(crate) fn deny(&self, user: &str, operations: &[&str], resources: &[&str]) {
        self.acl("--remove", user, operations, resources);
    }

    fn acl(&self, what: &str, user: &str, operations: &[&str], resources: &[&str]) {
        let principal = format!("User:{user}");
        let mut arguments = vec![what, "--force", "--allow-principal", &principal];
        arguments.extend(operations.iter().flat_map(|operation| ["--operation", operation]));
        arguments.extend(resources);
        self.stack.kafka_tool("org.apache.kafka.tools.AclCommand", &arguments).unwrap();
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// The properties of that user, for `-X`, with what goes before other settings of a name.
    fn properties(&self, user: &str, other: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = [
            ("security.protocol", "SASL_SSL".to_owned()),
            ("sasl.mechanism", "SCRAM-SHA-512".to_owned()),
            ("sasl.username", user.to_owned()),
            ("sasl.password", PASSWORD.to_owned()),
            ("ssl.ca.location", self.file("secure.pem")),
        ];
        own.into_iter()
            .map(|(name, value)| {
                let given = other.iter().find(|(known, _)| *known == name);
                (name.to_owned(), given.map_or(value, |(_, value)| (*value).to_owned()))
            })
            .collect()
    }

    /// The place's command as that user, over TLS.
    pub(crate) fn command(&self, place: &Place, user: &str, line: &[&str]) -> Command {
        self.command_with(place, user, line, &[])
    }

    pub(crate) fn command_with(
        &self,
        place: &Place,
        user: &str,
        line: &[&str],
        other: &[(&str, &str)],
    ) -> Command {
        let mut command = place.command(line[0], &line[1..]);
        self.secured(&mut command, user, other);
        command
    }

    /// Has a program come over TLS as that user.
    pub(crate) fn secured(&self, command: &mut Command, user: &str, other: &[(&str, &str)]) {
        command.env("KAFKA_BOOTSTRAP_SERVERS", format!("127.0.0.1:{}", self.port));
        for (name, value) in self.properties(user, other) {
            // As documented: a password is no part of the command line.
            let is_password = name == "sasl.password" && value == PASSWORD;
            let value = if is_password { format!("@{}", self.file("password")) } else { value };
            command.args(["-X", &format!("{name}={value}")]);
        }
    }

    /// Where the broker's certificate has expired.
    pub(crate) fn expired_address(&self) -> String {
        format!("127.0.0.1:{}", self.expired_port)
    }

    /// The certificate of the listener where it has expired, which is trusted but for that.
    pub(crate) fn expired_certificate(&self) -> String {
        self.file("expired.pem")
    }
}
