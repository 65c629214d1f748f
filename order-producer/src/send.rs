//! The commands that publish the user's own events.

pub mod atomic;
pub mod file;
mod lines;
pub mod order;
mod spool;
pub mod status;

use std::path::PathBuf;

use clap::Args;
use idempotent_consumer::KafkaSettings;
use idempotent_consumer::cli::WrongUse;
use order_events::{Envelope, OrderEvent, encode};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Exit;
use crate::cli::{App, Connection};
use crate::message::Message;
use crate::output::{Note, Printer, Resend};
use crate::resend;
use crate::session::{Ends as _, Flow, Outcome};

/// Most times that one message is repeated by `--repeat`.
const REPEAT_MAX: u32 = 1_000_000;

/// `order-producer send`
#[derive(Args)]
#[command(after_help = "\
Examples:
  order-producer send --customer c-17 --item TEA-1:2:450
  order-producer send --customer c-17 --item TEA-1:2:450 --item MUG-3:1:1290 --currency USD
  order-producer send --customer c-17 --item TEA-1:2:450 --repeat 3      # one order, three records
  order-producer send --file events.ndjson -o jsonl
  zcat events.ndjson.gz | order-producer send --file -
  order-producer send --file events.ndjson --atomic      # all of it, or nothing

A line of a file is {\"type\":\"order.placed\",\"id\":\"any text, optional\",\"data\":{...}}. Lines that are
refused are reported by number, the others are sent, and the exit code is 4; with --atomic nothing is.
What is sent with --atomic is seen all at once, by readers with isolation.level=read_committed.")]
pub struct SendArgs {
    #[command(flatten)]
    order: order::OrderArgs,

    /// Publish the events of this NDJSON file instead; - is stdin
    #[arg(
        long,
        value_name = "FILE",
        env = "ORDER_PRODUCER_FILE",
        hide_env_values = true,
        conflicts_with_all = ["customer", "item", "order_id", "message_id", "repeat", "placed_at"]
    )]
    file: Option<PathBuf>,

    #[command(flatten)]
    atomic: atomic::AtomicArgs,

    #[command(flatten, next_help_heading = "Kafka and output")]
    connection: Connection,
}

impl SendArgs {
    pub(crate) fn run(&self, app: &App) -> anyhow::Result<Exit> {
        if let Some(path) = &self.file {
            return file::run(path, &self.atomic, &self.connection, app);
        }
        if self.atomic.atomic {
            return Err(WrongUse("--atomic is for the lines of a --file".to_owned()).into());
        }
        publish(app, &self.connection, &self.order.event()?, &self.order.identity)
    }
}

/// Under which id, and how many times.
#[derive(Args)]
pub struct Identity {
    /// Message id, any text; a new version 7 UUID by default
    #[arg(
        long,
        value_name = "ID",
        env = "ORDER_PRODUCER_MESSAGE_ID",
        hide_env_values = true,
        value_parser = parse_message_id
    )]
    message_id: Option<String>,

    /// Publish the same message so many times, under the same id
    #[arg(
        long,
        value_name = "N",
        env = "ORDER_PRODUCER_REPEAT",
        hide_env_values = true,
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(REPEAT_MAX))
    )]
    repeat: u32,
}

fn parse_message_id(text: &str) -> Result<String, order_events::FieldError> {
    order_events::check_message_id(text)?;
    Ok(text.to_owned())
}

/// Publishes one event, `--repeat` times, and prints each end.
fn publish(
    app: &App,
    connection: &Connection,
    event: &OrderEvent,
    identity: &Identity,
) -> anyhow::Result<Exit> {
    let message_id = identity.message_id.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
    let note = Note {
        line: None,
        message_id: message_id.clone(),
        event_type: event.kind().as_str(),
        order_id: event.order_id().to_string(),
        resend: Resend::Command(resend::by_flags(connection, event, &message_id)),
    };
    let envelope = Envelope {
        id: message_id,
        source: connection.source.clone(),
        time: OffsetDateTime::now_utc(),
        traceparent: None,
    };
    let message = Message::from(encode(event, &envelope));
    let settings = connection.settings()?;
    let stdout = std::io::stdout();
    let mut printer = Printer::new(stdout.lock(), connection, false);
    match connection.prepare_topic(app, &settings) {
        Ok(()) => {}
        // The user's next step is the same as for a record whose confirmation got lost.
        Err(error) if error.is_unreachable() => {
            printer.end(note, Outcome::Unconfirmed { reason: error.to_string() })?;
            return Ok(printer.finish()?.exit());
        }
        Err(error) => return Err(error.into()),
    }
    let complete = send_repeatedly(
        app,
        connection,
        &settings,
        &message,
        &note,
        identity.repeat,
        &mut printer,
    )?;
    let counts = printer.finish()?;
    Ok(if complete { counts.exit() } else { Exit::Incomplete })
}

fn send_repeatedly<W: std::io::Write>(
    app: &App,
    connection: &Connection,
    settings: &KafkaSettings,
    message: &Message,
    note: &Note,
    repeat: u32,
    printer: &mut Printer<'_, W>,
) -> anyhow::Result<bool> {
    let mut session = connection.session(app, settings)?;
    let mut complete = true;
    for sent in 0..repeat {
        if session.send(message, note.clone(), printer)? == Flow::Stop {
            crate::output::say!("stopped by a signal: {} of {repeat} were not sent", repeat - sent);
            complete = false;
            break;
        }
    }
    session.finish(printer)?;
    Ok(complete)
}
