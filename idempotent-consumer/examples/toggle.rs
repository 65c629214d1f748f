//! Light switches: a flip is not idempotent, and only a message id tells a repeat from a second press.
//!
//! ```text
//! cargo stack up && eval "$(cargo stack env)"
//! cargo run --example toggle
//! ```
//! Messages are `{"lamp": "hall"}`, which flips, or `{"lamp": "hall", "on": true}`, which says what
//! shall be. It applies them with the engine's claim, and then shows what all deliveries would make
//! without it: in a transaction that it rolls back.

mod support;

use idempotent_consumer::{Answer, Context, HandlerError, Message, MessageHandler};
use serde::Deserialize;
use sqlx::PgConnection;
use support::samples;

pub(crate) const TABLES: &str =
    "CREATE TABLE IF NOT EXISTS lamps (lamp text PRIMARY KEY, is_on boolean NOT NULL)";

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Press {
    pub(crate) lamp: String,
    pub(crate) on: Option<bool>,
}

/// Whether the lamp is on now.
pub(crate) async fn flip(connection: &mut PgConnection, lamp: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        r"
        INSERT INTO lamps (lamp, is_on) VALUES ($1, true)
            ON CONFLICT (lamp) DO UPDATE SET is_on = NOT lamps.is_on
        RETURNING is_on
        ",
    )
    .bind(lamp)
    .fetch_one(connection)
    .await
}

/// The same switch as an idempotent operation: it says what shall be, not what shall change.
pub(crate) async fn set(
    connection: &mut PgConnection,
    lamp: &str,
    on: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        r"
        INSERT INTO lamps (lamp, is_on) VALUES ($1, $2)
            ON CONFLICT (lamp) DO UPDATE SET is_on = excluded.is_on
        ",
    )
    .bind(lamp)
    .bind(on)
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn apply(connection: &mut PgConnection, press: &Press) -> Result<(), sqlx::Error> {
    match press.on {
        Some(on) => set(connection, &press.lamp, on).await,
        None => flip(connection, &press.lamp).await.map(drop),
    }
}

/// The lamps that are on.
pub(crate) async fn lit(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT lamp FROM lamps WHERE is_on ORDER BY lamp")
        .fetch_all(connection)
        .await
}

struct Switches;

impl MessageHandler for Switches {
    type Body = Press;

    async fn handle(
        &self,
        context: &mut Context<'_>,
        message: &Message<Press>,
    ) -> Result<Answer, HandlerError> {
        apply(context.connection(), &message.body).await?;
        Ok(Answer::Applied)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let kafka = support::kafka()?;
    let topic = support::topic(&kafka, "toggle", &samples::TOGGLE).await?;
    let pool = support::database(TABLES).await?;
    support::consume(&kafka, &topic, Switches, &pool).await?;

    let mut transaction = pool.begin().await?;
    println!("with the claim these are lit: {}", lit(&mut transaction).await?.join(" "));
    sqlx::query("DELETE FROM lamps").execute(&mut *transaction).await?;
    for press in support::deliveries::<Press>(&kafka, &topic).await? {
        apply(&mut transaction, &press).await?;
    }
    println!("without it: {}", lit(&mut transaction).await?.join(" "));
    transaction.rollback().await?;
    Ok(())
}
