//! Counts page views, each exactly once, and tells the world about every hundredth.
//!
//! ```text
//! cargo stack up && eval "$(cargo stack env)"
//! cargo run --example page_views
//! ```
//! Messages are JSON like `{"page": "/tea"}`, with an id of their own in the header `ce_id`.
//! Counting is not idempotent: without the claim, each redelivery would count once more.

use std::env;
use std::time::Duration;

use idempotent_consumer::{
    Answer, Context, Engine, EngineConfig, HandlerError, Headers, KafkaSettings, Message,
    MessageHandler, OneByOne, Outgoing, migrate,
};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

#[derive(serde::Deserialize)]
struct View {
    page: String,
}

struct CountViews;

impl MessageHandler for CountViews {
    type Body = View;

    async fn handle(
        &self,
        context: &mut Context<'_>,
        message: &Message<View>,
    ) -> Result<Answer, HandlerError> {
        if !message.body.page.starts_with('/') {
            return Ok(Answer::rejected("not_a_path", "a page begins with a slash"));
        }
        let views: i64 = sqlx::query_scalar(
            r"
            INSERT INTO page_views (page, views) VALUES ($1, 1)
                ON CONFLICT (page) DO UPDATE SET views = page_views.views + 1
            RETURNING views
            ",
        )
        .bind(&message.body.page)
        .fetch_one(context.connection())
        .await?;
        if views % 100 == 0 {
            context.publish(Outgoing {
                topic: env::var("MILESTONES_TOPIC").unwrap_or("milestones".to_owned()),
                partition: None,
                key: Some(message.body.page.clone().into_bytes()),
                value: Some(views.to_string().into_bytes()),
                headers: Headers::new(),
            });
        }
        Ok(Answer::Applied)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let servers = env::var("KAFKA_BOOTSTRAP_SERVERS").unwrap_or("localhost:9092".to_owned());
    let topic = env::var("TOPIC").unwrap_or("page-views".to_owned());
    let pool = PgPool::connect(&env::var("DATABASE_URL")?).await?;
    migrate::apply(&pool).await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS page_views (page text PRIMARY KEY, views bigint)")
        .execute(&pool)
        .await?;

    let mut config = EngineConfig::new(KafkaSettings::new(servers), topic, "page-views");
    config.exit_when_idle = Some(Duration::from_secs(2));
    let summary =
        Engine::new(config, OneByOne(CountViews), pool).run(CancellationToken::new()).await?;
    println!("{} counted, {} seen before", summary.applied, summary.duplicates);
    Ok(())
}
