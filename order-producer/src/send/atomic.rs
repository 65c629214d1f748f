//! A file in one Kafka transaction: all of its lines are seen, or none.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use clap::builder::{BoolishValueParser, NonEmptyStringValueParser};
use idempotent_consumer::cli::parse_transaction_timeout;
use idempotent_consumer::publish::{
    Delivery, DeliveryError, Transaction, TransactionError, Transactional, TransactionalPublisher,
};
use uuid::Uuid;

use super::file::{Prepared, TICK, prepare};
use super::lines;
use super::spool::{Entry, Spool};
use crate::Exit;
use crate::cli::{App, Connection, Format};
use crate::message::Message;
use crate::output::{Note, Printer, say};
use crate::session::{Ends as _, Outcome, WINDOW};

/// `--atomic` and what goes with it.
#[derive(Args)]
pub struct AtomicArgs {
    /// Publish the whole file in one Kafka transaction, or nothing if a line is refused
    #[arg(
        long,
        env = "ORDER_PRODUCER_ATOMIC",
        value_parser = BoolishValueParser::new(),
        hide_env_values = true
    )]
    pub(super) atomic: bool,

    /// With --atomic, how long the transaction may take; brokers allow up to 15m by default. After a
    /// kill readers with read_committed wait as long behind what was sent
    #[arg(
        long,
        env = "ORDER_PRODUCER_TRANSACTION_TIMEOUT",
        default_value = "60s",
        value_name = "DURATION",
        value_parser = parse_transaction_timeout,
        hide_env_values = true
    )]
    transaction_timeout: Duration,

    /// With --atomic, a name for Kafka; the next run under it ends at once what a killed one left
    /// open, and two at a time end each other. By default a new one at each run
    #[arg(
        long,
        env = "ORDER_PRODUCER_TRANSACTIONAL_ID",
        value_name = "NAME",
        value_parser = NonEmptyStringValueParser::new(),
        hide_env_values = true
    )]
    transactional_id: Option<String>,
}

pub(super) fn run(
    path: &Path,
    input: Box<dyn Read + Send>,
    args: &AtomicArgs,
    connection: &Connection,
    app: &App,
) -> anyhow::Result<Exit> {
    let settings = connection.settings()?;
    connection.prepare_topic(app, &settings)?;
    let spool = Spool::new().context("cannot keep what is sent in a temporary file")?;
    // Unbounded, but never holds more than the window.
    let (sender, reports) = channel();
    let transactional = Transactional {
        id: args
            .transactional_id
            .clone()
            .unwrap_or_else(|| format!("order-producer-{}", Uuid::now_v7())),
        timeout: args.transaction_timeout,
    };
    let mut publisher = TransactionalPublisher::connect(
        &settings,
        &connection.publisher_options(),
        transactional,
        connection.delivery_timeout,
        move |delivery| {
            // Fails only once nobody asks for ends any more.
            let _ = sender.send(delivery);
        },
    )
    .context("nothing was published")?;
    let sending = Sending {
        transaction: publisher.begin().context("nothing was published")?,
        topic: &connection.topic,
        reports,
        is_refused: false,
        pending: HashMap::new(),
        spool,
        next_token: 0,
        deadline: None,
        timeout: args.transaction_timeout,
    };
    let stdout = std::io::stdout();
    let mut printer = Printer::new(stdout.lock(), connection, true);
    let end = send_lines(input, sending, connection, app, &mut printer);
    let refused = printer.counts().refused;
    let exit = match end {
        Ok(End::Sent(sending)) => commit(sending, connection, &mut printer)?,
        Ok(End::Refused) => {
            let lines = if refused == 1 { "line" } else { "lines" };
            say!("nothing was published: {refused} {lines} refused");
            Exit::Incomplete
        }
        Ok(End::Signal) => {
            say!("stopped by a signal: nothing was published");
            Exit::Incomplete
        }
        Err(error) => {
            printer.finish()?;
            return Err(error.context(format!("nothing was published of {}", path.display())));
        }
    };
    printer.finish()?;
    Ok(exit)
}

/// How it went up to the commit.
enum End<'a> {
    /// Kafka has every line. Nobody sees them yet.
    Sent(Sending<'a>),
    Refused,
    Signal,
}

/// Sends lines until one is refused; from then on they are only checked.
fn send_lines<'a, W: Write>(
    input: Box<dyn Read + Send>,
    sending: Sending<'a>,
    connection: &Connection,
    app: &App,
    printer: &mut Printer<'_, W>,
) -> anyhow::Result<End<'a>> {
    let batches = lines::read(input);
    let mut sending = Some(sending);
    loop {
        let batch = match batches.recv_timeout(TICK) {
            Ok(batch) => batch.inspect_err(|_| abort(sending.take())),
            Err(RecvTimeoutError::Timeout) => Ok(Vec::new()),
            Err(RecvTimeoutError::Disconnected) => break,
        }?;
        for line in batch {
            let number = line.number;
            match prepare(line, &connection.source) {
                Ok(prepared) => progress(&mut sending, printer, app, |sending, printer| {
                    sending.send(prepared, app, printer)
                })?,
                Err(refusal) => {
                    abort(sending.take());
                    printer.refuse_line(number, refusal.code(), &refusal.to_string())?;
                }
            }
            if app.interrupt.requested() {
                break;
            }
        }
        progress(&mut sending, printer, app, Sending::poll)?;
        if app.interrupt.requested() {
            abort(sending.take());
            return Ok(End::Signal);
        }
    }
    progress(&mut sending, printer, app, |sending, printer| sending.settle(app, printer))?;
    if app.interrupt.requested() {
        abort(sending.take());
        return Ok(End::Signal);
    }
    Ok(sending.map_or(End::Refused, End::Sent))
}

/// Goes on with what is being sent, if it is; aborts it if that fails, or Kafka refuses a line.
fn progress<'a, W: Write>(
    sending: &mut Option<Sending<'a>>,
    printer: &mut Printer<'_, W>,
    app: &App,
    go_on: impl FnOnce(&mut Sending<'a>, &mut Printer<'_, W>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Some(open) = sending else { return Ok(()) };
    let gone_on = go_on(open, printer);
    if gone_on.is_err() || (printer.counts().refused > 0 && !app.interrupt.requested()) {
        abort(sending.take());
    }
    gone_on
}

/// Tells Kafka. Nobody sees any of it, whatever comes of that.
fn abort(sending: Option<Sending<'_>>) {
    let Some(Sending { transaction, timeout, .. }) = sending else { return };
    if let Err(error) = transaction.abort() {
        say!(
            "Kafka could not be told to abort ({error}); it does so by itself within {} s or so, and \
             until then readers with read_committed wait behind what was sent",
            timeout.as_secs()
        );
    }
}

/// An open transaction, and the lines in it.
struct Sending<'a> {
    transaction: Transaction<'a>,
    topic: &'a str,
    reports: Receiver<Delivery>,
    /// Kafka refused a line. The others get their ends only by an abort.
    is_refused: bool,
    /// Lines without an end, and whether their ids were made here.
    pending: HashMap<u64, (Note, bool)>,
    spool: Spool,
    next_token: u64,
    /// Set with the first line: Kafka's time runs from there.
    deadline: Option<Instant>,
    timeout: Duration,
}

impl Sending<'_> {
    fn send<W: Write>(
        &mut self,
        prepared: Prepared,
        app: &App,
        printer: &mut Printer<'_, W>,
    ) -> anyhow::Result<()> {
        let Prepared { message, note, is_new_id } = prepared;
        while self.pending.len() >= WINDOW && !self.is_over(app) {
            self.wait(printer)?;
        }
        self.deadline.get_or_insert_with(|| Instant::now() + self.timeout);
        let token = self.next_token;
        self.next_token += 1;
        while !self.is_over(app) {
            match self.try_send(&message, token) {
                Ok(true) => {
                    self.pending.insert(token, (note, is_new_id));
                    return self.poll(printer);
                }
                Ok(false) => self.wait(printer)?,
                Err(error) => return self.fail(note, error, printer),
            }
        }
        Ok(())
    }

    /// Whether there is no use in waiting for further ends.
    fn is_over(&self, app: &App) -> bool {
        self.is_refused || app.interrupt.requested()
    }

    fn try_send(&self, message: &Message, token: u64) -> Result<bool, DeliveryError> {
        self.transaction.try_send(&message.publication(self.topic), token)
    }

    /// Takes the ends that have arrived.
    fn poll<W: Write>(&mut self, printer: &mut Printer<'_, W>) -> anyhow::Result<()> {
        while let Ok(delivery) = self.reports.try_recv() {
            self.take(delivery, printer)?;
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            anyhow::bail!(
                "the file took longer than --transaction-timeout ({} s); give it more (the brokers' \
                 transaction.max.timeout.ms is the limit, 15 minutes by default), or split the file",
                self.timeout.as_secs()
            );
        }
        Ok(())
    }

    fn wait<W: Write>(&mut self, printer: &mut Printer<'_, W>) -> anyhow::Result<()> {
        if let Ok(delivery) = self.reports.recv_timeout(TICK) {
            self.take(delivery, printer)?;
        }
        self.poll(printer)
    }

    /// Waits until every line has its end.
    fn settle<W: Write>(&mut self, app: &App, printer: &mut Printer<'_, W>) -> anyhow::Result<()> {
        while !self.pending.is_empty() && !self.is_over(app) {
            self.wait(printer)?;
        }
        Ok(())
    }

    fn take<W: Write>(
        &mut self,
        delivery: Delivery,
        printer: &mut Printer<'_, W>,
    ) -> anyhow::Result<()> {
        let Some((note, is_new_id)) = self.pending.remove(&delivery.token) else { return Ok(()) };
        match delivery.outcome {
            Ok(at) => self.spool.add(&Entry::new(&note, is_new_id, at.partition, at.offset)),
            Err(error) => self.fail(note, error, printer),
        }
    }

    fn fail<W: Write>(
        &mut self,
        note: Note,
        error: DeliveryError,
        printer: &mut Printer<'_, W>,
    ) -> anyhow::Result<()> {
        match error {
            DeliveryError::Refused { too_large, .. } => {
                self.is_refused = true;
                if too_large {
                    say!(
                        "Kafka refuses a batch as a whole, and the line named is the first of one: if \
                         it is small itself, try again with -X batch.size= below the topic's \
                         max.message.bytes"
                    );
                }
                printer.end(note, error.into())
            }
            // Others fail with it.
            DeliveryError::Unconfirmed(_) if self.is_refused => Ok(()),
            DeliveryError::Unconfirmed(_) => match self.refused_besides() {
                Some((note, refusal)) => self.fail(note, refusal, printer),
                None => Err(error.into()),
            },
        }
    }

    /// Of lines that fail together, one that Kafka refused: its end may be about to come.
    fn refused_besides(&mut self) -> Option<(Note, DeliveryError)> {
        while let Ok(Delivery { token, outcome }) = self.reports.recv_timeout(TICK) {
            let pending = self.pending.remove(&token);
            if let (Some((note, _)), Err(refusal @ DeliveryError::Refused { .. })) =
                (pending, outcome)
            {
                return Some((note, refusal));
            }
        }
        None
    }
}

/// Makes all lines seen, and prints their ends.
fn commit<W: Write>(
    sending: Sending<'_>,
    connection: &Connection,
    printer: &mut Printer<'_, W>,
) -> anyhow::Result<Exit> {
    let Sending { transaction, mut spool, topic, .. } = sending;
    let lines = spool.len();
    // What goes wrong with the temporary file goes wrong while nothing is published.
    spool.flush().context("cannot keep what is sent in a temporary file: nothing was published")?;
    let reason = match transaction.commit() {
        Ok(()) => {
            // Said first: whatever comes of printing the ends, they are published.
            say!("{lines} acknowledged, in one transaction");
            spool
                .each(|entry| {
                    let (partition, offset) = (entry.partition, entry.offset);
                    printer.end(entry.note()?, Outcome::Acknowledged { partition, offset })
                })
                .context("the file is published; its ends cannot be printed")?;
            return Ok(Exit::Done);
        }
        Err(error @ TransactionError::Abortable(_)) => {
            return Err(anyhow::Error::from(error).context("nothing was published"));
        }
        Err(error) => error.to_string(),
    };
    say!("unconfirmed: all of the {lines} lines are in {topic}, or none is: {reason}");
    let mut new_ids = 0_u64;
    spool.each(|entry| {
        if entry.is_new_id {
            new_ids += 1;
            if connection.output == Format::Table {
                say!("line {} was given the id {}", entry.line, entry.message_id);
            }
        }
        printer.end(entry.note()?, Outcome::Unconfirmed { reason: reason.clone() })
    })?;
    say!(
        "send the file again, and each line that has an id of its own is applied once in either case"
    );
    if new_ids > 0 {
        say!(
            "{new_ids} lines have none, and were given new ones: write those into the file first, or \
             the lines are other messages the next time"
        );
    }
    Ok(Exit::Incomplete)
}
