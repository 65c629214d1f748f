//! What a caller may choose.

use std::sync::atomic::{AtomicU32, Ordering};

/// How to start a [`Stack`](crate::Stack).
///
/// `Options::default()` is what a test wants: free ports, a name of its own, data removed at the
/// end.
#[derive(Debug, Clone)]
pub struct Options {
    /// Of its folder, and for messages. Only one stack of a name runs at a time.
    pub name: String,
    /// On 127.0.0.1; `None` takes a free one.
    pub kafka_port: Option<u16>,
    /// On 127.0.0.1; `None` takes a free one.
    pub postgres_port: Option<u16>,
    /// Whether the data is there again at the next start under this name.
    pub keep_data: bool,
    /// Added to the broker's `server.properties`.
    pub kafka_properties: Vec<(String, String)>,
    /// Further addresses of the broker, each advertised as another one: that of a proxy.
    pub kafka_listeners: Vec<Listener>,
    /// Added to `postgresql.conf`.
    pub postgres_settings: Vec<(String, String)>,
}

/// A further address of the broker.
#[derive(Debug, Clone)]
pub struct Listener {
    /// In capitals, as Kafka wants it.
    pub name: String,
    /// Where the broker listens.
    pub port: u16,
    /// What it tells clients.
    pub advertised_port: u16,
}

impl Default for Options {
    fn default() -> Options {
        Options::private("stack")
    }
}

impl Options {
    /// A stack that nobody else sees: the label only makes its folder recognisable.
    pub fn private(label: &str) -> Options {
        static COUNTER: AtomicU32 = AtomicU32::new(1);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        Options {
            name: format!("{label}-{}-{number}", std::process::id()),
            kafka_port: None,
            postgres_port: None,
            keep_data: false,
            kafka_properties: Vec::new(),
            kafka_listeners: Vec::new(),
            postgres_settings: Vec::new(),
        }
    }

    /// A stack whose data is kept for the next start under the same name.
    pub fn named(name: &str) -> Options {
        Options { name: name.to_owned(), keep_data: true, ..Options::default() }
    }

    /// Adds a line to the broker's `server.properties`.
    #[must_use]
    pub fn kafka_property(mut self, name: &str, value: &str) -> Options {
        self.kafka_properties.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has the broker listen on a further port of 127.0.0.1, and tell clients that come by it to
    /// come to another one: where a proxy before the former listens.
    #[must_use]
    pub fn kafka_listener(mut self, name: &str, port: u16, advertised_port: u16) -> Options {
        self.kafka_listeners.push(Listener { name: name.to_owned(), port, advertised_port });
        self
    }

    /// Adds a line to `postgresql.conf`.
    #[must_use]
    pub fn postgres_setting(mut self, name: &str, value: &str) -> Options {
        self.postgres_settings.push((name.to_owned(), value.to_owned()));
        self
    }
}
