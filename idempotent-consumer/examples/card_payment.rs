//! Card payments at a provider outside of the database: no transaction spans both, so the same
//! request may have to be sent again, and always with the same idempotency key.
//!
//! ```text
//! cargo stack up && eval "$(cargo stack env)"
//! cargo run --example card_payment
//! ```
//! Messages are `{"payment": "p-1", "card": "visa", "cents": 450}`. First the handler writes down the
//! intent, `pending`, with the claim. Then a worker asks the provider, in no transaction, and
//! writes down the answer. Whatever dies in between leaves a row that is pending, and its key.

pub(crate) mod support;

use std::net::SocketAddr;
use std::time::Duration;

use idempotent_consumer::{Answer, Context, HandlerError, Message, MessageHandler};
use serde::Deserialize;
use sqlx::{PgPool, types::Uuid};
use support::provider::{self, Verdict};
use support::samples;
use tokio_util::sync::CancellationToken;

/// A key is of use for as long as the provider keeps it, often 24 h. What has no answer after 23 h or
/// ten attempts is `unclear`: a person looks it up, since another request could charge again.
pub(crate) const TABLES: &str = r"
CREATE TABLE IF NOT EXISTS payments (
    payment text PRIMARY KEY, idempotency_key uuid NOT NULL UNIQUE,
    card text NOT NULL, cents bigint NOT NULL, status text NOT NULL DEFAULT 'pending',
    attempts int NOT NULL DEFAULT 0, first_sent_at timestamptz,
    next_attempt_at timestamptz NOT NULL DEFAULT now()
);
CREATE OR REPLACE VIEW payments_to_send AS
    SELECT * FROM payments
     WHERE status = 'pending' AND attempts < 10
       AND coalesce(first_sent_at, now()) > now() - interval '23 hours';
";

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Intent {
    pub(crate) payment: String,
    /// The provider's token for it, never its number.
    pub(crate) card: String,
    pub(crate) cents: i64,
}

/// Writes down what is to be paid, and calls nobody: a batch may be rolled back and run again.
pub(crate) struct Intents;

impl MessageHandler for Intents {
    type Body = Intent;

    async fn handle(
        &self,
        context: &mut Context<'_>,
        message: &Message<Intent>,
    ) -> Result<Answer, HandlerError> {
        let Intent { payment, card, cents } = &message.body;
        if *cents <= 0 {
            return Ok(Answer::rejected("not_positive", "a payment is more than nothing"));
        }
        let sql = r"
            INSERT INTO payments (payment, idempotency_key, card, cents) VALUES ($1, $2, $3, $4)
                ON CONFLICT (payment) DO NOTHING";
        let insert = sqlx::query(sql).bind(payment).bind(message.id.0).bind(card).bind(cents);
        let written = insert.execute(context.connection()).await?;
        // The customer pressed twice, and each press became a message with an id of its own.
        if written.rows_affected() == 0 {
            return Ok(Answer::rejected("payment_exists", payment));
        }
        Ok(Answer::Applied)
    }
}

/// What to ask the provider: key, card, cents. The attempt is written down before anything is sent,
/// so that it is known when the key was first used. The row is locked for this statement only: a
/// worker that takes long may find another one at the same payment, and the provider folds that.
pub(crate) async fn next(pool: &PgPool) -> Result<Option<(Uuid, String, i64)>, sqlx::Error> {
    let sql = r"
        UPDATE payments
           SET attempts = attempts + 1, first_sent_at = coalesce(first_sent_at, now()),
               next_attempt_at = now() + interval '2 s' * power(2, attempts)
         WHERE payment = (SELECT payment FROM payments_to_send WHERE next_attempt_at <= now()
                           ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING idempotency_key, card, cents";
    sqlx::query_as(sql).fetch_optional(pool).await
}

/// Writes down the answer.
pub(crate) async fn settle(pool: &PgPool, key: Uuid, verdict: &Verdict) -> Result<(), sqlx::Error> {
    let sql = "UPDATE payments SET status = $2 WHERE idempotency_key = $1 AND status = 'pending'";
    sqlx::query(sql).bind(key).bind(verdict.status()).execute(pool).await?;
    Ok(())
}

/// Has everything charged, until no more comes in and nothing is left that may be sent.
pub(crate) async fn work(
    pool: PgPool,
    provider: SocketAddr,
    is_last: CancellationToken,
) -> Result<(), sqlx::Error> {
    loop {
        let no_more = is_last.is_cancelled();
        if let Some((key, card, cents)) = next(&pool).await? {
            match provider::charge(provider, Some(&key.to_string()), &card, cents).await {
                Ok(verdict) => settle(&pool, key, &verdict).await?,
                Err(error) => eprintln!("{key}: {error}; later again, with the same key"),
            }
            continue;
        }
        let left = "SELECT EXISTS (SELECT FROM payments_to_send)";
        if no_more && !sqlx::query_scalar::<_, bool>(left).fetch_one(&pool).await? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let kafka = support::kafka()?;
    let topic = support::topic(&kafka, "card-payments", &samples::CARD_PAYMENTS).await?;
    let pool = support::database(TABLES).await?;
    let provider = provider::from_environment().await?;
    let is_last = CancellationToken::new();
    let worker = tokio::spawn(work(pool.clone(), provider, is_last.clone()));
    support::consume(&kafka, &topic, Intents, &pool).await?;
    is_last.cancel();
    worker.await??;

    let states = r"
        SELECT format('%s: %s of %s cents', replace(status, 'pending', 'unclear'), count(*), sum(cents))
          FROM payments GROUP BY status ORDER BY status";
    let states: Vec<String> = sqlx::query_scalar(states).fetch_all(&pool).await?;
    println!("{}", states.join("\n"));
    let provider = provider::totals(provider).await?;
    println!("the provider charged {} of {} cents", provider.charges, provider.cents);
    Ok(())
}
