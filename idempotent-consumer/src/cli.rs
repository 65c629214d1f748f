//! Command line arguments that any application of this library wants, for its `clap` parser.

mod database;
mod process;

use std::io::IsTerminal as _;
use std::time::Duration;

use crate::KafkaSettings;
#[cfg(feature = "otlp")]
pub use crate::telemetry::args::TraceArgs;

pub use database::{DatabaseArgs, DatabaseError, check_pooler, pool};
pub use process::{SignalError, WrongUse, parse, run, stop_on_signals};

/// How logs are written: to stderr, as much as `RUST_LOG` says.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct LogArgs {
    /// Logs as lines to read, or each as a JSON object
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t, global = true)]
    pub log_format: LogFormat,
}

/// What a line of the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text, with colours on a terminal unless `NO_COLOR` is set.
    #[default]
    Text,
    /// A JSON object with `timestamp`, `level`, `target` and the fields of the event.
    Json,
}

impl LogArgs {
    /// Starts the log of this process. `default` counts where `RUST_LOG` is not set or no filter.
    /// Once a process: a second time panics.
    pub fn start(self, default: &str) {
        let filter = tracing_subscriber::EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        match self.log_format {
            LogFormat::Json => log.json().flatten_event(true).init(),
            LogFormat::Text => {
                let colours = std::io::stderr().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
                log.with_ansi(colours).init();
            }
        }
    }
}

/// How to reach Kafka.
#[derive(Clone, Debug, clap::Args)]
pub struct KafkaArgs {
    /// Kafka brokers, host:port[,host:port…]
    #[arg(
        short,
        long,
        env = "KAFKA_BOOTSTRAP_SERVERS",
        default_value = "localhost:9092",
        value_name = "HOST:PORT"
    )]
    pub bootstrap_servers: String,

    /// Any librdkafka property, as name=value, or name=@FILE to keep a secret off the command line
    #[arg(short = 'X', value_name = "NAME=VALUE", value_parser = parse_property)]
    pub properties: Vec<Property>,
}

impl KafkaArgs {
    /// The settings these arguments stand for.
    ///
    /// # Errors
    /// A property is reserved to the engine or refused by the client.
    pub fn settings(&self) -> Result<KafkaSettings, crate::SettingsError> {
        self.properties
            .iter()
            .try_fold(KafkaSettings::new(&self.bootstrap_servers), |settings, property| {
                settings.property(&property.name, &property.value)
            })
    }
}

/// What to do about an error whose own text does not say: the database's user lacks a right.
pub fn advice(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    (crate::failure::sqlstate(error)? == "42501").then_some(
        "the database's user lacks a right: grant it this program's role (docs/security.md), or use \
         the tables' owner. If the table is new, `migrate` of this version gives the roles their rights",
    )
}

/// One `-X name=value`. `Debug` does not print the value.
#[derive(Clone)]
pub struct Property {
    name: String,
    value: String,
}

impl std::fmt::Debug for Property {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}=…", self.name)
    }
}

fn parse_property(text: &str) -> Result<Property, String> {
    let Some((name, value)) = text.split_once('=') else {
        return Err("expected name=value or name=@FILE".to_owned());
    };
    let value = match value.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {path} for {name}: {error}"))?
            .trim_end_matches(['\n', '\r'])
            .to_owned(),
        None => value.to_owned(),
    };
    Ok(Property { name: name.trim().to_owned(), value })
}

/// How long a Kafka transaction may be open: the client's shortest, and more than any broker is set to
/// allow.
///
/// # Errors
/// The text is no duration from 1s to 24h; the message says so.
pub fn parse_transaction_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        timeout if timeout < Duration::from_secs(1) => Err("must be at least 1s".to_owned()),
        timeout if timeout > Duration::from_hours(24) => Err("must be at most 24h".to_owned()),
        timeout => Ok(timeout),
    }
}

/// A duration as `500ms`, `30s`, `7d`.
///
/// # Errors
/// The text is not a duration; the message shows the form.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a duration as 500ms, 30s, 5m or 7d"))
}

/// A share between 0 and 1.
///
/// # Errors
/// The text is none; the message says so.
pub fn parse_ratio(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("must be a share between 0 and 1".to_owned()),
    }
}

/// Says on stderr what `migrate` did: what [`Migrations::apply`](crate::migrate::Migrations::apply)
/// returns.
pub fn tell_applied(migrations: &[String]) {
    if migrations.is_empty() {
        eprintln!("the database is up to date");
    }
    for migration in migrations {
        eprintln!("applied {migration}");
    }
}

/// Says on stderr which roles of the database `migrate` could not make, and who can: nothing if none is
/// `missing`. `command` is what gives them their rights, once they are there.
pub fn tell_missing_roles(missing: &[String], command: &str) {
    if missing.is_empty() {
        return;
    }
    let create: String =
        missing.iter().flat_map(|role| ["  CREATE ROLE ", role, " NOLOGIN;\n"]).collect();
    eprintln!(
        "left out: the roles {}, since this database user may not create roles. Nothing else needs \
         them: the programs work as the tables' owner. To have them, let somebody who may\n\
         {create}and run `{command}` again, which gives them their rights",
        missing.join(", ")
    );
}
