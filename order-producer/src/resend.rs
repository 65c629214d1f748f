//! The command that sends a message again, the same down to its bytes, so that a consumer
//! recognises it whether or not the first one arrived.

use order_events::OrderEvent;
use time::format_description::well_known::Rfc3339;

use crate::cli::{self, Connection};

/// Repeats an event that was given by flags.
pub(crate) fn by_flags(connection: &Connection, event: &OrderEvent, message_id: &str) -> String {
    let mut line = CommandLine::new("order-producer");
    let (order_id, customer_id) = (event.order_id().to_string(), event.customer_id().as_str());
    match event {
        OrderEvent::Placed(order) | OrderEvent::Amended(order) => {
            line.word("send");
            line.option("--customer", customer_id);
            for item in order.items() {
                let (sku, quantity, price) = (item.sku(), item.quantity(), item.unit_price());
                line.option("--item", &format!("{sku}:{quantity}:{price}"));
            }
            line.option("--currency", order.currency().as_str());
            line.option("--order-id", &order_id);
            let placed_at = order.placed_at().format(&Rfc3339);
            line.option("--placed-at", &placed_at.expect("the contract keeps times to RFC 3339"));
        }
        OrderEvent::Paid(change)
        | OrderEvent::Fulfilled(change)
        | OrderEvent::Cancelled(change) => {
            line.word(match event {
                OrderEvent::Paid(_) => "pay",
                OrderEvent::Fulfilled(_) => "fulfill",
                _ => "cancel",
            });
            line.word(&order_id);
            line.option("--customer", customer_id);
            if let Some(reason) = &change.reason {
                line.option("--reason", reason.as_str());
            }
        }
    }
    line.option("--message-id", message_id);
    line.connection(connection);
    line.text
}

/// Repeats an event that was given as a line of a file.
pub(crate) fn by_line(
    connection: &Connection,
    event_type: &str,
    message_id: &str,
    data: &[u8],
) -> String {
    // Text came in as such, and serialising text can't fail.
    let id = serde_json::Value::from(message_id);
    let data = String::from_utf8_lossy(data);
    let json = format!(r#"{{"type":"{event_type}","id":{id},"data":{data}}}"#);
    let mut line = CommandLine::new("printf");
    line.word("%s\\n");
    line.word(&json);
    line.text.push_str(" | order-producer send --file -");
    line.connection(connection);
    line.text
}

struct CommandLine {
    text: String,
}

impl CommandLine {
    fn new(program: &str) -> Self {
        Self { text: program.to_owned() }
    }

    fn word(&mut self, word: &str) {
        self.text.push(' ');
        self.text.push_str(&quote(word));
    }

    fn option(&mut self, name: &str, value: &str) {
        // A value with a leading dash would be taken for an option.
        if value.starts_with('-') {
            self.word(&format!("{name}={value}"));
        } else {
            self.word(name);
            self.word(value);
        }
    }

    /// What differs from the defaults, since the other shell may lack this one's variables.
    fn connection(&mut self, connection: &Connection) {
        let servers = &connection.kafka.bootstrap_servers;
        for (name, value, default) in [
            ("--bootstrap-servers", servers, "localhost:9092"),
            ("--topic", &connection.topic, cli::DEFAULT_TOPIC),
            ("--source", &connection.source, cli::DEFAULT_SOURCE),
        ] {
            if value != default {
                self.option(name, value);
            }
        }
        if !connection.kafka.properties.is_empty() {
            // Their values may be secret.
            self.text.push_str("  # and the same -X options");
        }
    }
}

/// A word for a POSIX shell.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.,:/@%+=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(quote("TEA-1:2:450"), "TEA-1:2:450");
        assert_eq!(quote("changed my mind"), "'changed my mind'");
        assert_eq!(quote("it's $5"), r"'it'\''s $5'");
        assert_eq!(quote(""), "''");
    }
}
