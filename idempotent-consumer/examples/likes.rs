//! Likes, one a user and post: an UPSERT keyed by both is idempotent, a counter is not.
//!
//! ```text
//! cargo stack up && eval "$(cargo stack env)"
//! cargo run --example likes
//! ```
//! Messages are `{"user": "a@x.org", "post": "tea", "like": true}`. It applies them with the engine's
//! claim, and then shows what all deliveries would make without it: in a transaction that it
//! rolls back.

mod support;

use idempotent_consumer::{Answer, Context, HandlerError, Message, MessageHandler};
use serde::Deserialize;
use sqlx::PgConnection;
use support::samples;

pub(crate) const TABLES: &str = r"
CREATE TABLE IF NOT EXISTS likes (user_name text, post text, PRIMARY KEY (post, user_name));
CREATE TABLE IF NOT EXISTS like_counters (post text PRIMARY KEY, likes bigint NOT NULL);
";

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Opinion {
    pub(crate) user: String,
    pub(crate) post: String,
    pub(crate) like: bool,
}

/// The key has one spelling, or one user likes twice.
pub(crate) fn normalise(email: &str) -> String {
    email.trim().to_lowercase()
}

/// Whether it is a new like. The row is there in both cases.
pub(crate) async fn like(
    connection: &mut PgConnection,
    user: &str,
    post: &str,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "INSERT INTO likes (user_name, post) VALUES ($1, $2) ON CONFLICT (post, user_name) DO NOTHING",
    )
    .bind(normalise(user))
    .bind(post)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Whether there was a like. There is none in both cases.
pub(crate) async fn unlike(
    connection: &mut PgConnection,
    user: &str,
    post: &str,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query("DELETE FROM likes WHERE user_name = $1 AND post = $2")
        .bind(normalise(user))
        .bind(post)
        .execute(connection)
        .await?;
    Ok(done.rows_affected() == 1)
}

pub(crate) async fn apply(
    connection: &mut PgConnection,
    opinion: &Opinion,
) -> Result<bool, sqlx::Error> {
    let Opinion { user, post, like: likes } = opinion;
    if *likes { like(connection, user, post).await } else { unlike(connection, user, post).await }
}

/// The wrong way: adds for every delivery, whether the like is new or not.
pub(crate) async fn count_up(
    connection: &mut PgConnection,
    opinion: &Opinion,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        r"
        INSERT INTO like_counters (post, likes) VALUES ($1, $2)
            ON CONFLICT (post) DO UPDATE SET likes = like_counters.likes + excluded.likes
        ",
    )
    .bind(&opinion.post)
    .bind(if opinion.like { 1_i64 } else { -1 })
    .execute(connection)
    .await?;
    Ok(())
}

/// The right way: the number is derived from the rows. Posts and their likes.
pub(crate) async fn likes(
    connection: &mut PgConnection,
) -> Result<Vec<(String, i64)>, sqlx::Error> {
    sqlx::query_as("SELECT post, count(*) FROM likes GROUP BY post ORDER BY post")
        .fetch_all(connection)
        .await
}

struct Likes;

impl MessageHandler for Likes {
    type Body = Opinion;

    async fn handle(
        &self,
        context: &mut Context<'_>,
        message: &Message<Opinion>,
    ) -> Result<Answer, HandlerError> {
        apply(context.connection(), &message.body).await?;
        Ok(Answer::Applied)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let kafka = support::kafka()?;
    let topic = support::topic(&kafka, "likes", &samples::LIKES).await?;
    let pool = support::database(TABLES).await?;
    support::consume(&kafka, &topic, Likes, &pool).await?;

    let mut transaction = pool.begin().await?;
    println!("with the claim: {:?}", likes(&mut transaction).await?);
    sqlx::raw_sql("DELETE FROM likes; DELETE FROM like_counters")
        .execute(&mut *transaction)
        .await?;
    for opinion in support::deliveries::<Opinion>(&kafka, &topic).await? {
        apply(&mut transaction, &opinion).await?;
        count_up(&mut transaction, &opinion).await?;
    }
    println!("without it: {:?}", likes(&mut transaction).await?);
    let counters: Vec<(String, i64)> =
        sqlx::query_as("SELECT post, likes FROM like_counters ORDER BY post")
            .fetch_all(&mut *transaction)
            .await?;
    println!("by a counter: {counters:?}");
    transaction.rollback().await?;
    Ok(())
}
