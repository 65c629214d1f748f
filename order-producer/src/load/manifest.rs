//! The manifest: what became of each message, a line of JSON each, for the auditor.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use order_events::EventKind;
use uuid::Uuid;

use crate::session::Outcome;

/// What a message was meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A new order, or a status event of one.
    Order,
    /// A message sent before, again.
    Duplicate,
    /// Broken.
    Poison,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Duplicate => "duplicate",
            Self::Poison => "poison",
        }
    }
}

/// A message as the manifest names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// The message id, unless the record carries none.
    pub(super) id: Option<Uuid>,
    pub(super) event: Option<EventKind>,
    pub(super) order: Option<Uuid>,
    pub(super) kind: Kind,
}

pub(super) struct Manifest {
    out: BufWriter<File>,
    flushed: Instant,
}

/// How much of the manifest a load that is killed may take along.
const FLUSH_AFTER: Duration = Duration::from_millis(200);

impl Manifest {
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path)
            .with_context(|| format!("cannot write the manifest {}", path.display()))?;
        Ok(Self { out: BufWriter::with_capacity(256 * 1024, file), flushed: Instant::now() })
    }

    /// Lines stand in the order in which messages ended. None of the texts needs an escape.
    pub(super) fn write(&mut self, entry: &Entry, outcome: &Outcome) -> std::io::Result<()> {
        let out = &mut self.out;
        out.write_all(b"{\"id\":")?;
        text(out, entry.id)?;
        out.write_all(b",\"type\":")?;
        text(out, entry.event.map(EventKind::as_str))?;
        out.write_all(b",\"order\":")?;
        text(out, entry.order)?;
        match outcome {
            Outcome::Acknowledged { partition, offset } => {
                write!(out, ",\"partition\":{partition},\"offset\":{offset}")?;
            }
            Outcome::Refused { .. } | Outcome::Unconfirmed { .. } => {
                out.write_all(b",\"partition\":null,\"offset\":null")?;
            }
        }
        let (kind, outcome) = (entry.kind.as_str(), outcome.as_str());
        writeln!(out, ",\"kind\":\"{kind}\",\"outcome\":\"{outcome}\"}}")?;
        if self.flushed.elapsed() > FLUSH_AFTER {
            self.out.flush()?;
            self.flushed = Instant::now();
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        self.out.flush().context("cannot write the manifest")
    }
}

fn text(out: &mut impl Write, value: Option<impl std::fmt::Display>) -> std::io::Result<()> {
    match value {
        Some(value) => write!(out, "\"{value}\""),
        None => out.write_all(b"null"),
    }
}
