//! How to reach the brokers, and which client properties a user may not change.

use std::fmt;

use rdkafka::ClientConfig;

/// Brokers and any further librdkafka property (TLS, SASL, tuning).
///
/// `Debug` never prints a property's value, since passwords are among them.
#[derive(Clone)]
pub struct KafkaSettings {
    bootstrap_servers: String,
    properties: Vec<(String, String)>,
}

/// Why a property was refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The promise depends on this property, so the engine sets it.
    #[error(
        "the property {0} is set by the engine, since the guarantee depends on it; leave it out"
    )]
    Reserved(String),
    /// librdkafka does not know the property or refuses its value.
    #[error("the Kafka client refuses the property {name}: {reason}")]
    Refused {
        /// Name of the property.
        name: String,
        /// What the client said.
        reason: String,
    },
}

/// What the engine sets itself. Another value of any of these would lose, double or reorder.
const RESERVED: [&str; 19] = [
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.protocol",
    "isolation.level",
    "message.timeout.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "partitioner",
    "request.required.acks",
    "statistics.interval.ms",
    "transaction.timeout.ms",
    "transactional.id",
];

/// Properties of consumers only, and of producers only, out of those a user may set: a client of
/// the other kind warns of each.
const CONSUMERS_ONLY: [&str; 18] = [
    "auto.commit.enable",
    "auto.commit.interval.ms",
    "check.crcs",
    "coordinator.query.interval.ms",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "group.instance.id",
    "group.protocol.type",
    "heartbeat.interval.ms",
    "max.partition.fetch.bytes",
    "max.poll.interval.ms",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "session.timeout.ms",
];
const PRODUCERS_ONLY: [&str; 15] = [
    "batch.num.messages",
    "batch.size",
    "compression.codec",
    "compression.level",
    "compression.type",
    "enable.gapless.guarantee",
    "linger.ms",
    "message.send.max.retries",
    "queue.buffering.backpressure.threshold",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "request.timeout.ms",
    "retries",
    "sticky.partitioning.linger.ms",
];

/// Of what the engine has a default for: names that the client knows the same property by.
const ALIASES: [(&str, &str); 3] = [
    ("compression.type", "compression.codec"),
    ("fetch.message.max.bytes", "max.partition.fetch.bytes"),
    ("linger.ms", "queue.buffering.max.ms"),
];

/// Sets what the user has not.
pub(super) fn set_default(config: &mut ClientConfig, name: &str, value: impl Into<String>) {
    let other_names = ALIASES.iter().filter(|(known, _)| *known == name).map(|(_, other)| *other);
    if other_names.chain([name]).all(|name| config.get(name).is_none()) {
        config.set(name, value);
    }
}

impl KafkaSettings {
    /// Brokers as `host:port[,host:port…]`.
    pub fn new(bootstrap_servers: impl Into<String>) -> Self {
        Self { bootstrap_servers: bootstrap_servers.into(), properties: Vec::new() }
    }

    /// Adds a librdkafka property.
    ///
    /// # Errors
    /// The property is one that the engine sets, or the client refuses it.
    pub fn property(
        mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Self, SettingsError> {
        let (name, value) = (name.into(), value.into());
        if RESERVED.contains(&name.as_str()) {
            return Err(SettingsError::Reserved(name));
        }
        let mut probe = ClientConfig::new();
        probe.set(&name, &value);
        if let Err(error) = probe.create_native_config() {
            // The client's own text may quote the value, and that may be a password.
            let reason = error.to_string().replace(&value, "…");
            return Err(SettingsError::Refused { name, reason });
        }
        self.properties.push((name, value));
        Ok(self)
    }

    /// The brokers, as given.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// The configuration of a consumer, to be added to: by `set` what is reserved, by
    /// [`set_default`] everything else.
    pub(crate) fn consumer_config(&self) -> ClientConfig {
        self.config_without(&PRODUCERS_ONLY)
    }

    /// The configuration of a producer, likewise.
    pub(crate) fn producer_config(&self) -> ClientConfig {
        self.config_without(&CONSUMERS_ONLY)
    }

    fn config_without(&self, others: &[&str]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.software.name", "idempotent-consumer")
            .set("allow.auto.create.topics", "false")
            .set("log.connection.close", "false")
            // Its default of 10 s is a long time for a broker that is back.
            .set("reconnect.backoff.max.ms", "2000");
        for (name, value) in &self.properties {
            if !others.contains(&name.as_str()) {
                config.set(name, value);
            }
        }
        config
    }
}

impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettings")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("properties", &self.properties.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_the_guarantee_depends_on_is_refused_by_name() {
        for (name, value) in
            [("enable.auto.offset.store", "true"), ("transaction.timeout.ms", "9000")]
        {
            let error = KafkaSettings::new("x:1").property(name, value).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn the_client_is_built_with_what_managed_brokers_ask_for() {
        for (protocol, mechanism) in [
            ("SASL_SSL", "PLAIN"),
            ("SASL_SSL", "SCRAM-SHA-256"),
            ("SASL_PLAINTEXT", "SCRAM-SHA-512"),
        ] {
            let settings = KafkaSettings::new("localhost:1")
                .property("security.protocol", protocol)
                .and_then(|settings| settings.property("sasl.mechanism", mechanism))
                .and_then(|settings| settings.property("sasl.username", "orders"))
                .and_then(|settings| settings.property("sasl.password", "secret"))
                .and_then(|settings| settings.property("compression.type", "zstd"))
                .unwrap();
            let client: Result<rdkafka::producer::BaseProducer, _> =
                settings.producer_config().create();
            assert!(client.is_ok(), "{protocol} {mechanism}: {:?}", client.err());
        }
    }

    #[test]
    fn a_client_gets_the_properties_of_its_kind_only() {
        let settings = KafkaSettings::new("x:1")
            .property("session.timeout.ms", "9000")
            .and_then(|settings| settings.property("linger.ms", "3"))
            .and_then(|settings| settings.property("ssl.ca.pem", "x"))
            .unwrap();
        let (consumer, producer) = (settings.consumer_config(), settings.producer_config());
        assert_eq!(consumer.get("session.timeout.ms"), Some("9000"));
        assert_eq!((consumer.get("linger.ms"), producer.get("linger.ms")), (None, Some("3")));
        assert_eq!(producer.get("session.timeout.ms"), None);
        assert_eq!(
            (consumer.get("ssl.ca.pem"), producer.get("ssl.ca.pem")),
            (Some("x"), Some("x"))
        );
    }

    #[test]
    fn an_unknown_property_is_refused_and_no_value_is_ever_printed() {
        let error = KafkaSettings::new("x:1").property("sasl.pasword", "hunter2").unwrap_err();
        assert!(error.to_string().contains("sasl.pasword"), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
        let settings = KafkaSettings::new("x:1").property("sasl.password", "hunter2").unwrap();
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
