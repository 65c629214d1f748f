//! Command line arguments that any application of this library wants, for its `clap` parser.

use std::time::Duration;

use crate::KafkaSettings;

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
