//! Events from an NDJSON file: `{"type":…,"id":…?,"data":{…}}` a line.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use anyhow::Context as _;
use order_events::{
    Envelope, EventError, EventKind, FieldError, check_message_id, encode_headers, parse_event,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use uuid::Uuid;

use super::atomic::{self, AtomicArgs};
use super::lines::{self, LINE_BYTES_MAX, Line};
use crate::Exit;
use crate::cli::{App, Connection};
use crate::message::Message;
use crate::output::{Note, Printer, Resend};
use crate::session::{Flow, Session};

/// How often a silent input leaves room for ends and signals.
pub(super) const TICK: Duration = Duration::from_millis(50);

pub(super) fn run(
    path: &Path,
    args: &AtomicArgs,
    connection: &Connection,
    app: &App,
) -> anyhow::Result<Exit> {
    let input: Box<dyn Read + Send> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(path).with_context(|| format!("cannot read {}", path.display()))?)
    };
    if args.atomic {
        return atomic::run(path, input, args, connection, app);
    }
    let settings = connection.settings()?;
    connection.prepare_topic(app, &settings)?;
    let mut session = connection.session(app, &settings)?;
    let stdout = std::io::stdout();
    let mut printer = Printer::new(stdout.lock(), connection, true);
    let sent = send_lines(input, connection, app, &mut session, &mut printer);
    // Whatever ended the input, what was handed over gets its end.
    session.finish(&mut printer)?;
    let counts = printer.finish()?;
    crate::output::say!(
        "{} acknowledged, {} refused, {} unconfirmed",
        counts.acknowledged,
        counts.refused,
        counts.unconfirmed
    );
    match sent.with_context(|| format!("stopped reading {}", path.display()))? {
        End::Input => Ok(counts.exit()),
        End::Signal { next_line } => {
            crate::output::say!(
                "stopped by a signal: line {next_line} and what follows was not sent"
            );
            Ok(Exit::Incomplete)
        }
    }
}

enum End {
    Input,
    Signal { next_line: u64 },
}

fn send_lines<W: std::io::Write>(
    input: Box<dyn Read + Send>,
    connection: &Connection,
    app: &App,
    session: &mut Session<Note>,
    printer: &mut Printer<'_, W>,
) -> anyhow::Result<End> {
    let batches = lines::read(input);
    let mut next_line = 1;
    loop {
        let batch = match batches.recv_timeout(TICK) {
            Ok(batch) => batch?,
            Err(RecvTimeoutError::Timeout) => Vec::new(),
            Err(RecvTimeoutError::Disconnected) => return Ok(End::Input),
        };
        session.poll(printer)?;
        for line in batch {
            next_line = line.number;
            match prepare(line, &connection.source) {
                Ok(Prepared { message, note, .. }) => {
                    if session.send(&message, note, printer)? == Flow::Stop {
                        return Ok(End::Signal { next_line });
                    }
                }
                Err(refusal) => {
                    printer.refuse_line(next_line, refusal.code(), &refusal.to_string())?;
                }
            }
            next_line += 1;
        }
        if app.interrupt.requested() {
            return Ok(End::Signal { next_line });
        }
    }
}

/// A line about to be sent.
pub(super) struct Prepared {
    pub(super) message: Message,
    pub(super) note: Note,
    /// The line has no id: this one was made for it.
    pub(super) is_new_id: bool,
}

/// Why a line is not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the line is longer than {LINE_BYTES_MAX} bytes; split the order")]
    TooLong,
    #[error("the line is not of the form {{\"type\":…,\"id\":…,\"data\":{{…}}}}: {0}")]
    Form(String),
    #[error("/id: {0}")]
    Id(FieldError),
    #[error(transparent)]
    Event(#[from] EventError),
}

impl Refusal {
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::TooLong => "line_too_long",
            Self::Form(_) => "invalid_line",
            Self::Id(_) => "invalid_field",
            Self::Event(error) => error.code(),
        }
    }
}

#[derive(Deserialize)]
struct LineJson<'a> {
    #[serde(rename = "type", borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Checks a line and makes its record. The payload is published as it stands in the line, so
/// that fields which this version does not know reach consumers that do.
pub(super) fn prepare(line: Line, source: &str) -> Result<Prepared, Refusal> {
    let content = line.content.map_err(|_| Refusal::TooLong)?;
    let json: LineJson<'_> = serde_json::from_slice(&content)
        .map_err(|error| Refusal::Form(short(&error.to_string())))?;
    let kind = EventKind::from_type(&json.event_type)?;
    let data = json.data.get().as_bytes();
    let event = parse_event(kind, data, "/data")?;
    let is_new_id = json.id.is_none();
    let message_id = match json.id {
        Some(id) => {
            check_message_id(&id).map_err(Refusal::Id)?;
            id.into_owned()
        }
        None => Uuid::now_v7().to_string(),
    };
    let envelope = Envelope {
        id: message_id,
        source: source.to_owned(),
        time: OffsetDateTime::now_utc(),
        traceparent: None,
    };
    let message = Message {
        key: Some(event.customer_id().as_str().as_bytes().to_vec()),
        value: Some(data.to_vec()),
        headers: encode_headers(kind, &envelope).into_iter().collect(),
    };
    let note = Note {
        line: Some(line.number),
        message_id: envelope.id,
        event_type: kind.as_str(),
        order_id: event.order_id().to_string(),
        resend: Resend::Data(data.to_vec()),
    };
    Ok(Prepared { message, note, is_new_id })
}

/// The parser's text may quote the line.
fn short(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    if text.chars().count() <= CHARS_MAX {
        return text.to_owned();
    }
    text.chars().take(CHARS_MAX).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: &str =
        r#"{"order_id":"0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3","customer_id":"c-17","later":[1]}"#;

    fn line(text: &str) -> Line {
        Line { number: 7, content: Ok(text.as_bytes().to_vec()) }
    }

    fn refusal(text: &str) -> Refusal {
        prepare(line(text), "/test").err().expect("the line is refused")
    }

    #[test]
    fn a_line_keeps_its_id_and_the_bytes_of_its_data() {
        let text = format!(r#"{{ "id":"m 1" , "data": {DATA} ,"type":"order.paid"}}"#);
        let Prepared { message, note, .. } = prepare(line(&text), "/test").ok().unwrap();
        assert_eq!(message.value.as_deref(), Some(DATA.as_bytes()));
        assert_eq!(message.key.as_deref(), Some(&b"c-17"[..]));
        assert_eq!(message.headers.get_str("ce_id"), Some("m 1"));
        assert_eq!(message.headers.get_str("ce_type"), Some("order.paid"));
        assert_eq!((note.line, note.message_id.as_str()), (Some(7), "m 1"));
    }

    #[test]
    fn a_line_without_id_gets_a_version_7_uuid() {
        for id in ["", r#""id":null,"#] {
            let text = format!(r#"{{{id}"type":"order.paid","data":{DATA}}}"#);
            let Prepared { note, is_new_id, .. } = prepare(line(&text), "/test").ok().unwrap();
            assert!(is_new_id);
            assert_eq!(note.message_id.parse::<Uuid>().unwrap().get_version_num(), 7);
        }
    }

    #[test]
    fn each_refusal_has_its_code() {
        let with = |kind: &str, id: &str, data: &str| {
            refusal(&format!(r#"{{"type":"{kind}","id":{id},"data":{data}}}"#)).code()
        };
        assert_eq!(with("order.lost", "null", DATA), "unknown_type");
        assert_eq!(with("order.paid", "\"\"", DATA), "invalid_field");
        assert_eq!(with("order.paid", "7", DATA), "invalid_line");
        assert_eq!(with("order.paid", "null", "{}"), "missing_field");
        assert_eq!(with("order.placed", "null", DATA), "missing_field");
        assert_eq!(refusal("{").code(), "invalid_line");
        assert_eq!(refusal(r#"{"type":"order.paid"}"#).code(), "invalid_line");
        assert_eq!(refusal(&"[".repeat(100_000)).code(), "invalid_line");
        assert!(refusal(&format!("\"{}\"", "x".repeat(100_000))).to_string().len() < 400);
        let too_long = Line { number: 1, content: Err(lines::LineTooLong) };
        assert_eq!(prepare(too_long, "/test").err().unwrap().code(), "line_too_long");
    }

    #[test]
    fn an_error_points_into_the_data() {
        let error =
            refusal(&format!(r#"{{"type":"order.paid","data":{}}}"#, DATA.replace("c-17", "c 17")));
        assert!(error.to_string().starts_with("/data/customer_id: contains ' '"), "{error}");
    }
}
