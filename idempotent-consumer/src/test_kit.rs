//! Checks a handler against its contract, see [`Handler`].
//!
//! Everything happens in one transaction that is rolled back, so that times like `now()` are equal
//! in all runs and the database is left as it was.

use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;

use crate::handler::{Answer, Context, Handler, HandlerError, Message, Outgoing};
use crate::message::{Headers, MessageId, PartitionKey, Record};

/// What a handler did wrong.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    /// There has to be one answer for each message.
    #[error("{got} answers for {expected} messages")]
    WrongAnswers {
        /// Messages.
        expected: usize,
        /// Answers.
        got: usize,
    },
    /// The handler committed or rolled back.
    #[error("the handler ended the transaction it was given")]
    TransactionEnded,
    /// Leaving out the messages that were not applied changes what is written or published.
    #[error("something is written or published for messages that are not applied: {0}")]
    WritesForUnapplied(String),
    /// The same batch gives something else after a rollback.
    #[error("running again after a rollback gives something else: {0}")]
    NotRepeatable(String),
    /// Applied one by one, the messages have another effect than in one batch.
    #[error("the effect depends on how messages are cut into batches: {0}")]
    DependsOnBatches(String),
    /// The handler failed.
    #[error("the handler failed: {0}")]
    Failed(#[from] HandlerError),
    /// The database failed.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
}

/// A message with this body, as if it had been read from a topic called `test`.
pub fn message<B>(id: Uuid, body: B) -> Message<B> {
    let record = Record {
        source: PartitionKey { topic: "test".into(), partition: 0 },
        offset: 0,
        timestamp_ms: None,
        key: None,
        value: None,
        headers: Headers::new(),
    };
    Message { id: MessageId(id), event_type: None, body, record, trace: None }
}

/// Runs the handler on the messages in all the ways the engine may, and compares. Returns its
/// answers.
///
/// # Errors
/// The first [`Violation`] found.
pub async fn check<H: Handler>(
    handler: &H,
    pool: &PgPool,
    messages: &[Message<H::Body>],
) -> Result<Vec<Answer>, Violation> {
    let mut connection = pool.acquire().await?;
    let mut transaction = connection.begin().await?;
    let all: Vec<&Message<H::Body>> = messages.iter().collect();

    let first = run(handler, &mut transaction, &[&all]).await?;
    let again = run(handler, &mut transaction, &[&all]).await?;
    if let Some(difference) = first.difference(&again) {
        return Err(Violation::NotRepeatable(difference));
    }
    let applied: Vec<&Message<H::Body>> = all
        .iter()
        .zip(&first.answers)
        .filter(|(_, answer)| **answer == Answer::Applied)
        .map(|(message, _)| *message)
        .collect();
    let only_applied = run(handler, &mut transaction, &[&applied]).await?;
    if let Some(difference) = first.difference_in_effect(&only_applied) {
        return Err(Violation::WritesForUnapplied(difference));
    }
    let one_by_one: Vec<&[&Message<H::Body>]> = applied.chunks(1).collect();
    let one_by_one = run(handler, &mut transaction, &one_by_one).await?;
    if let Some(difference) = first.difference_in_effect(&one_by_one) {
        return Err(Violation::DependsOnBatches(difference));
    }
    transaction.rollback().await?;
    Ok(first.answers)
}

/// What a run did.
struct Run {
    answers: Vec<Answer>,
    /// Each table and a digest of its rows.
    tables: Vec<(String, Option<String>)>,
    outgoing: Vec<Outgoing>,
}

impl Run {
    fn difference(&self, other: &Self) -> Option<String> {
        if self.answers != other.answers {
            return Some(format!("answers {:?} and {:?}", self.answers, other.answers));
        }
        self.difference_in_effect(other)
    }

    fn difference_in_effect(&self, other: &Self) -> Option<String> {
        let mut tables = self.tables.iter().zip(&other.tables);
        if let Some(((table, _), _)) = tables.find(|(one, two)| one != two) {
            return Some(format!("the rows of {table} differ"));
        }
        (self.outgoing != other.outgoing).then(|| "the published records differ".to_owned())
    }
}

/// Runs the handler on each batch, reads all tables, and undoes it.
async fn run<H: Handler>(
    handler: &H,
    connection: &mut PgConnection,
    batches: &[&[&Message<H::Body>]],
) -> Result<Run, Violation> {
    sqlx::query("SAVEPOINT test_kit").execute(&mut *connection).await?;
    let before = transaction_id(connection).await?;
    let (mut answers, mut outgoing) = (Vec::new(), Vec::new());
    for batch in batches {
        if batch.is_empty() {
            continue;
        }
        let mut context = Context::new(&mut *connection);
        let given = handler.handle(&mut context, batch).await?;
        outgoing.append(&mut context.outgoing);
        if given.len() != batch.len() {
            return Err(Violation::WrongAnswers { expected: batch.len(), got: given.len() });
        }
        answers.extend(given);
    }
    if transaction_id(connection).await? != before {
        return Err(Violation::TransactionEnded);
    }
    let tables = digests(connection).await?;
    sqlx::query("ROLLBACK TO SAVEPOINT test_kit").execute(&mut *connection).await?;
    Ok(Run { answers, tables, outgoing })
}

async fn transaction_id(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_current_xact_id()::text").fetch_one(connection).await
}

/// A digest of the rows of every table that the connection sees without a schema's name.
async fn digests(
    connection: &mut PgConnection,
) -> Result<Vec<(String, Option<String>)>, sqlx::Error> {
    let tables: Vec<String> = sqlx::query_scalar(
        r"
        SELECT oid::regclass::text
          FROM pg_class
         WHERE relkind IN ('r', 'p')
           AND relnamespace = ANY(current_schemas(false)::regnamespace[])
         ORDER BY 1
        ",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut digests = Vec::new();
    for table in tables {
        // The catalogue has quoted the name where it has to be.
        let query = format!(
            "SELECT md5(string_agg(row_text, E'\\n' ORDER BY row_text)) \
               FROM (SELECT t::text AS row_text FROM {table} AS t) AS rows"
        );
        let digest =
            sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&mut *connection).await?;
        digests.push((table, digest));
    }
    Ok(digests)
}
