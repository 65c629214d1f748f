//! Prints the end of each send: results to stdout, what went wrong to stderr.

use std::io::{ErrorKind, Write};

use serde::Serialize;

use crate::Exit;
use crate::cli::{Connection, Format};
use crate::resend;
use crate::session::{Ends, Outcome};

/// A line on stderr. Unlike `eprintln!` it does not panic when nobody reads stderr any more.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}
pub(crate) use say;

/// What is remembered of a record until its end.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    /// Line of the file, from 1, if it came from one.
    pub(crate) line: Option<u64>,
    pub(crate) message_id: String,
    pub(crate) event_type: &'static str,
    pub(crate) order_id: String,
    pub(crate) resend: Resend,
}

/// How to send a record again if its end stays unknown.
#[derive(Debug, Clone)]
pub(crate) enum Resend {
    /// This command.
    Command(String),
    /// The line of the file, with these bytes as its data.
    Data(Vec<u8>),
    /// The whole file, of which it is part in one transaction. Whoever sends it says so once.
    WithItsFile,
}

/// One element of the output. The field names are part of the command line's contract.
#[derive(Serialize, Default)]
struct Report<'a> {
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    event_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resend: Option<&'a str>,
}

/// How many sends ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    pub(crate) unconfirmed: u64,
}

impl Counts {
    pub(crate) fn exit(self) -> Exit {
        if self.refused + self.unconfirmed == 0 { Exit::Done } else { Exit::Incomplete }
    }
}

/// Prints ends as they come, so that any number of them takes no memory.
pub(crate) struct Printer<'a, W> {
    out: W,
    connection: &'a Connection,
    with_lines: bool,
    started: bool,
    last_resend: String,
    counts: Counts,
}

impl<'a, W: Write> Printer<'a, W> {
    /// `with_lines` if records come from the lines of a file.
    pub(crate) fn new(out: W, connection: &'a Connection, with_lines: bool) -> Self {
        Self {
            out,
            connection,
            with_lines,
            started: false,
            last_resend: String::new(),
            counts: Counts::default(),
        }
    }

    /// A line that never became a record.
    pub(crate) fn refuse_line(
        &mut self,
        line: u64,
        code: &str,
        reason: &str,
    ) -> anyhow::Result<()> {
        self.counts.refused += 1;
        crate::output::say!("line {line} refused: {reason}");
        self.element(&Report {
            outcome: "refused",
            line: Some(line),
            code: Some(code),
            reason: Some(reason),
            ..Report::default()
        })
    }

    /// How many sends ended how, so far.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Ends the output.
    pub(crate) fn finish(mut self) -> anyhow::Result<Counts> {
        if self.connection.output == Format::Json {
            let end = if self.started { "\n]\n" } else { "[]\n" };
            self.write(end.as_bytes())?;
        }
        Ok(self.counts)
    }

    fn print(&mut self, note: &Note, outcome: &Outcome) -> anyhow::Result<()> {
        let connection = self.connection;
        let mut report = Report {
            outcome: outcome.as_str(),
            line: note.line,
            message_id: Some(&note.message_id),
            event_type: Some(note.event_type),
            order_id: Some(&note.order_id),
            topic: Some(&connection.topic),
            ..Report::default()
        };
        let resend;
        match outcome {
            Outcome::Acknowledged { partition, offset } => {
                self.counts.acknowledged += 1;
                report.partition = Some(*partition);
                report.offset = Some(*offset);
                if self.connection.output == Format::Table {
                    return self.row(note, *partition, *offset);
                }
            }
            Outcome::Refused { reason } => {
                self.counts.refused += 1;
                crate::output::say!("{}refused: {reason}", at_line(note));
                report.code = Some("kafka_refused");
                report.reason = Some(reason);
            }
            Outcome::Unconfirmed { reason } => {
                self.counts.unconfirmed += 1;
                report.reason = Some(reason);
                resend = match &note.resend {
                    Resend::WithItsFile => return self.element(&report),
                    Resend::Command(command) => command.clone(),
                    Resend::Data(data) => {
                        resend::by_line(connection, note.event_type, &note.message_id, data)
                    }
                };
                crate::output::say!("{}unconfirmed, perhaps in the log: {reason}", at_line(note));
                // A repeated message has the same command every time.
                if resend != self.last_resend {
                    crate::output::say!("send it again with the same ids by:\n  {resend}");
                    self.last_resend.clone_from(&resend);
                }
                report.resend = Some(&resend);
            }
        }
        self.element(&report)
    }

    fn row(&mut self, note: &Note, partition: i32, offset: i64) -> anyhow::Result<()> {
        let topic = &self.connection.topic;
        let width = topic.len().max("TOPIC".len());
        let (id, order) = (&note.message_id, &note.order_id);
        if !self.started {
            self.started = true;
            let line = if self.with_lines { "LINE      " } else { "" };
            let head = format!(
                "{line}{:36}  {:36}  {:width$}  PARTITION  OFFSET\n",
                "MESSAGE ID", "ORDER ID", "TOPIC"
            );
            self.write(head.as_bytes())?;
        }
        let line = note.line.map_or_else(String::new, |line| format!("{line:<8}  "));
        let row = format!("{line}{id:36}  {order:36}  {topic:width$}  {partition:<9}  {offset}\n");
        self.write(row.as_bytes())
    }

    fn element(&mut self, report: &Report<'_>) -> anyhow::Result<()> {
        let before: &[u8] = match self.connection.output {
            Format::Table => return Ok(()),
            Format::Jsonl => b"",
            Format::Json if self.started => b",\n  ",
            Format::Json => b"[\n  ",
        };
        let mut text = before.to_vec();
        self.started = true;
        serde_json::to_writer(&mut text, report)?;
        if self.connection.output == Format::Jsonl {
            text.push(b'\n');
        }
        self.write(&text)
    }

    /// A reader that went away (`| head`) is no reason to stop publishing.
    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        match self.out.write_all(bytes).and_then(|()| self.out.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            result => Ok(result?),
        }
    }
}

fn at_line(note: &Note) -> String {
    note.line.map_or_else(String::new, |line| format!("line {line} "))
}

impl<W: Write> Ends<Note> for Printer<'_, W> {
    fn end(&mut self, note: Note, outcome: Outcome) -> anyhow::Result<()> {
        self.print(&note, &outcome)
    }
}

/// A line on stdout.
pub(crate) fn print_line(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
