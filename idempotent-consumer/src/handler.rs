//! What an application writes: a [`Handler`], and a [`Decoder`] if its messages are not JSON.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use sqlx::PgConnection;

use crate::failure::{FailureClass, class_of_any, database_error, sqlstate};
use crate::message::{Headers, MessageId, Record};
use crate::trace_context::TraceContext;

/// Turns a record into what the handler works on. Runs before any SQL.
pub trait Decoder: Send + Sync + 'static {
    /// What comes out.
    type Body: Send + Sync + 'static;

    /// Decodes and validates.
    ///
    /// # Errors
    /// [`Poison`]: the record can never be applied. It becomes a dead letter. Must not panic.
    fn decode(&self, record: &Record) -> Result<Decoded<Self::Body>, Poison>;
}

/// What a record turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<B> {
    /// A message for the handler.
    Message(B),
    /// Of a kind this application passes over: claimed with outcome `skipped`, and counted.
    Skip,
}

/// Why a record can never be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {text}")]
pub struct Poison {
    /// Stable and machine-readable, such as `invalid_json`.
    pub code: Cow<'static, str>,
    /// For people: what is wrong, and where.
    pub text: String,
}

/// JSON values into any type that serde reads. A null value is poison (`tombstone`).
pub struct Json<B>(PhantomData<fn() -> B>);

impl<B> Default for Json<B> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<B: DeserializeOwned + Send + Sync + 'static> Decoder for Json<B> {
    type Body = B;

    fn decode(&self, record: &Record) -> Result<Decoded<B>, Poison> {
        let value = record.value.as_deref().ok_or_else(|| Poison {
            code: "tombstone".into(),
            text: "the value is null".to_owned(),
        })?;
        serde_json::from_slice(value)
            .map(Decoded::Message)
            .map_err(|error| Poison { code: "invalid_json".into(), text: error.to_string() })
    }
}

/// A message that nobody has applied yet.
#[derive(Debug)]
pub struct Message<B> {
    /// What it is known by; `processed_messages.message_id`.
    pub id: MessageId,
    /// CloudEvents type, if it has one.
    pub event_type: Option<String>,
    /// What the decoder made of it.
    pub body: B,
    /// The record as it was read: key, value, headers, place in the log.
    pub record: Record,
    /// The span of its being processed, if there is one; see [`trace`](Self::trace).
    pub(crate) trace: Option<Box<TraceContext>>,
}

impl<B> Message<B> {
    /// The trace that its effects belong to: what is published or sent for it names this as its cause.
    /// It is the span of its being processed, or else what the record's `traceparent` names.
    pub fn trace(&self) -> Option<TraceContext> {
        let given = || self.record.headers.get_str("traceparent").and_then(TraceContext::parse);
        self.trace.as_deref().copied().or_else(given)
    }
}

/// What the handler says of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its effect is written.
    Applied,
    /// It must not be applied, now or ever: a dead letter, with this code and text.
    Rejected(Cow<'static, str>, String),
    /// Not now: try it again later, up to the limit, and those behind it with its key after it. The
    /// reason is for people.
    Retry(String),
}

impl Answer {
    /// A rejection. `code` is stable and machine-readable, such as `order_not_found`.
    pub fn rejected(code: impl Into<Cow<'static, str>>, text: impl Into<String>) -> Self {
        Self::Rejected(code.into(), text.into())
    }
}

/// Applies messages. Everything it writes through [`Context::connection`] commits together with
/// the claims of the messages, or not at all.
///
/// The contract, which [`test_kit`](crate::test_kit) checks: one answer for each message, in order;
/// nothing is written for a message that is not answered with [`Answer::Applied`]; the transaction
/// is left open; and running again after a rollback gives the same.
pub trait Handler: Send + Sync + 'static {
    /// What the decoder hands over.
    type Body: Send + Sync + 'static;

    /// Applies the messages in their order. They are distinct, and none has been applied before.
    ///
    /// For a hundred messages and more PostgreSQL plans each statement anew (`plan_cache_mode`), which is
    /// meant for one statement for all of them.
    ///
    /// # Errors
    /// Nothing of this call is kept. The class of the error decides what happens next, see
    /// [`failure`](crate::failure); a batch that fails because of one message is bisected.
    fn handle(
        &self,
        context: &mut Context<'_>,
        batch: &[&Message<Self::Body>],
    ) -> impl Future<Output = Result<Vec<Answer>, HandlerError>> + Send;

    /// What a message is about, such as an order's id: it stands in lines of the log that tell what
    /// became of the message, so nothing personal.
    fn subject(&self, _body: &Self::Body) -> Option<String> {
        None
    }
}

/// Applies messages one by one: the simple form. Wrap it in [`OneByOne`].
pub trait MessageHandler: Send + Sync + 'static {
    /// What the decoder hands over.
    type Body: Send + Sync + 'static;

    /// Applies one message.
    ///
    /// # Errors
    /// As for [`Handler::handle`].
    fn handle(
        &self,
        context: &mut Context<'_>,
        message: &Message<Self::Body>,
    ) -> impl Future<Output = Result<Answer, HandlerError>> + Send;

    /// As [`Handler::subject`].
    fn subject(&self, _body: &Self::Body) -> Option<String> {
        None
    }
}

/// Makes a [`Handler`] of a [`MessageHandler`]. The messages of a batch still share a transaction.
pub struct OneByOne<H>(pub H);

impl<H: MessageHandler> Handler for OneByOne<H> {
    type Body = H::Body;

    async fn handle(
        &self,
        context: &mut Context<'_>,
        batch: &[&Message<H::Body>],
    ) -> Result<Vec<Answer>, HandlerError> {
        let mut answers = Vec::with_capacity(batch.len());
        for message in batch {
            let published = context.outgoing.len();
            let answer = self.0.handle(context, message).await?;
            if answer != Answer::Applied {
                context.outgoing.truncate(published);
            }
            answers.push(answer);
        }
        Ok(answers)
    }

    fn subject(&self, body: &H::Body) -> Option<String> {
        self.0.subject(body)
    }
}

/// What a handler works with: the transaction, and the outbox.
pub struct Context<'a> {
    connection: &'a mut PgConnection,
    pub(crate) outgoing: Vec<Outgoing>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(connection: &'a mut PgConnection) -> Self {
        Self { connection, outgoing: Vec::new() }
    }

    /// The open transaction that holds the claims. Do not commit or roll it back.
    pub fn connection(&mut self) -> &mut PgConnection {
        self.connection
    }

    /// Publishes a record through the outbox: it is sent if and only if this transaction commits,
    /// at least once, in order within its topic and key.
    pub fn publish(&mut self, record: Outgoing) {
        self.outgoing.push(record);
    }
}

/// A record to publish: through the outbox, or by a [pipe](crate::pipe).
/// [`EngineConfig::publishes_to`](crate::EngineConfig::publishes_to) has its topic made sure of beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Topic.
    pub topic: String,
    /// Partition; `None` lets the key decide (murmur2, as the Java client).
    pub partition: Option<i32>,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value.
    pub value: Option<Vec<u8>>,
    /// Headers.
    pub headers: Headers,
}

/// A failure of a handler.
pub struct HandlerError {
    source: Box<dyn Error + Send + Sync>,
    class: FailureClass,
}

impl HandlerError {
    /// An error whose class is that of the database error inside it; infrastructure if there is
    /// none.
    pub fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let source = source.into();
        let class = class_of_any(source.as_ref());
        Self { source, class }
    }

    /// An error of a class that the handler knows better.
    pub fn with_class(
        class: FailureClass,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { source: source.into(), class }
    }

    /// What it means.
    pub fn class(&self) -> FailureClass {
        self.class
    }

    /// SQLSTATE of the database error inside it.
    pub fn sqlstate(&self) -> Option<String> {
        sqlstate(self.source.as_ref())
    }

    /// The database error inside it.
    pub(crate) fn database_error(&self) -> Option<&sqlx::Error> {
        database_error(self.source.as_ref())
    }

    pub(crate) fn keeps_connection(&self) -> bool {
        self.database_error().is_none_or(crate::failure::keeps_connection)
    }
}

impl From<sqlx::Error> for HandlerError {
    fn from(error: sqlx::Error) -> Self {
        Self::new(error)
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        let mut next = self.source.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}

/// Its text holds those of its sources already, so it names none.
impl Error for HandlerError {}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerError")
            .field("class", &self.class)
            .field("source", &self.source)
            .finish()
    }
}
